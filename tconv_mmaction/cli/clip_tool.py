"""What the tools that look at clips share: arguments, the model, and a loop that outlives an odd clip.

A clip that cannot be read or analysed (corrupt, one frame, another number of colours, ...) is reported with its reason
and skipped; the others are done. Exit code: 0 all done, 1 some skipped, 2 nothing done or wrong arguments.
"""
import argparse
import re
import sys
import traceback
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import DictAction

from ..interpret import temporal_parameters
from ..interpret.access import targets
from ..interpret.access.balanced import balanced_order
from ..interpret.access.clips import Clip, ClipReader, load_recognizer
from ..interpret.access.modules import find_layer
from ..interpret.comparison.mask_metrics import Summary
from ..utils import atomic_write_text
from ..utils.distinct_names import distinct_names
from .clip_labels import FOLDER, video_labels
from .figure_options import add_figure_arguments

MISTAKES = (ValueError, TypeError, KeyError, IndexError, FileNotFoundError, ImportError)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, CHECKPOINT, --out, --device and --cfg-options."""
    parser.add_argument('config', help='config of a 2D or 3D recognizer')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='folder for the results')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='default: CUDA if there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='override settings of the config: key=value pairs, lists as key="[a,b]"')


TARGET = ("class that is explained: its name or index, 'label' (with --dataset or --labels) or 'prediction' (default)")


def add_clip_arguments(parser: argparse.ArgumentParser, target: str = TARGET) -> None:
    """What chooses clips, names their classes and says which class is explained."""
    parser.add_argument('videos', nargs='*', help='video files, read by the test pipeline of the config')
    parser.add_argument('--dataset', choices=('train', 'val', 'test'), help="clips of the config's data set instead")
    parser.add_argument('--indices', type=int, nargs='+', help='with --dataset: these entries, from 0')
    parser.add_argument('--limit', type=int, default=8, help='with --dataset, without --indices: so many clips, as '
                        'many of each class as can be, drawn at random (default 8)')
    parser.add_argument('--sample-seed', type=int, default=0, help='of that draw (default 0)')
    parser.add_argument('--view', type=int, help='which crop or clip, of several (default: the middle one)')
    parser.add_argument('--classes', help='file with one class name per line (default: the names that the data set or '
                        'the checkpoint has)')
    parser.add_argument('--labels', metavar='LIST', help="true classes of video files: a list with lines 'video class' "
                        f"or the word '{FOLDER}', where each class has a folder")
    parser.add_argument('--target', default='prediction', help=target)


def clip_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the model\'s arguments and those that choose clips and the class that is explained."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_clip_arguments(parser)
    add_figure_arguments(parser, films=True)
    parser.add_argument('--fps', type=float, default=8., help='frames per second of the films (default 8)')
    return parser


def target_of(target: Union[str, int], clip: Clip, names: Optional[Sequence[str]] = None) -> Union[str, int]:
    """What --target, read by :class:`ClipLoop`, says for this clip: a class index or 'prediction'."""
    return targets.target_of(target, clip.classes, names or ())


Read = Callable[[ClipReader], Clip]


def jobs_of(reader: ClipReader, args: argparse.Namespace, names: Sequence[str]) -> List[Tuple[str, Read]]:
    """(name that no other clip has, how a model's reader reads it) for every video or entry asked for."""
    if bool(args.videos) == bool(args.dataset):
        raise ValueError('give video files or --dataset, one of the two.')
    if args.videos:
        if args.indices is not None:
            raise ValueError('--indices needs --dataset.')
        labels = video_labels(args.labels, args.videos, names) if args.labels else [()] * len(args.videos)
        titles, stems = distinct_names(args.videos), distinct_names(args.videos, suffix=False)
        return [(title, _video(path, stem, label)) for title, path, stem, label in
                zip(titles, args.videos, stems, labels)]
    if args.labels:
        raise ValueError('--labels is for video files; the clips of a data set have the labels of its list.')
    if args.limit < 1:
        raise ValueError(f'--limit must be at least 1, got {args.limit}.')
    indices = args.indices
    if indices is None:
        indices = sorted(balanced_order(reader.labels(args.dataset), args.sample_seed)[:args.limit])
    return [(f'{args.dataset} {i}', lambda reader, i=i: _entry(reader, args.dataset, i)) for i in indices]


def _video(path: str, name: str, labels: Tuple[int, ...]) -> Read:
    def read(reader: ClipReader) -> Clip:
        return reader.video(path)._replace(name=name, label=labels[0] if len(labels) == 1 else None, labels=labels)
    return read


def _entry(reader: ClipReader, split: str, index: int) -> Clip:
    size = len(reader.dataset(split))
    if not 0 <= index < size:
        raise IndexError(f'the {split} data set has {size} clips (0 to {size - 1}), there is no clip {index}.')
    return reader.sample(split, index)


def titles_of(pairs: Sequence[Tuple[str, str]]) -> List[str]:
    """The configs' names, or the checkpoints' where all are of one config, or as much of both as tells them apart."""
    configs, checkpoints = ([pair[i] for pair in pairs] for i in (0, 1))
    one_config = len(set(configs)) == 1 and len(set(checkpoints)) == len(pairs)
    candidates = ([Path(config).stem for config in configs],
                  distinct_names(checkpoints, suffix=False) if one_config else [],
                  distinct_names(configs, suffix=False) if len(set(configs)) == len(pairs) else [],
                  [f'{Path(config).stem} {Path(checkpoint).stem}' for config, checkpoint in pairs],
                  [f'{Path(config).stem} {checkpoint}' for config, checkpoint in pairs])
    for titles in candidates:
        if len(set(titles)) == len(pairs):
            return titles
    raise ValueError(f'the same config and checkpoint are given twice: {[" ".join(pair) for pair in pairs]}.')


def unique(name: str, taken: set) -> str:
    """A file name of the clip's name that no other clip has."""
    name = re.sub(r'[^\w.-]+', '_', name) or 'clip'
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f'{name}_{number}', number + 1
    taken.add(candidate)
    return candidate


class ClipLoop:
    """``loop(work)`` reads every clip and calls ``work(file name, clip)``; after an error the next clip is done.

    ``names`` are those of the classes. ``args.target`` is read here: afterwards it is a word or a class index.
    """

    def __init__(self, reader: ClipReader, args: argparse.Namespace) -> None:
        self.reader = reader
        self.names = reader.class_names(args.classes, args.dataset)
        args.target = self.target = targets.read_target(args.target, self.names)
        self.jobs = jobs_of(reader, args, self.names)
        self.done: List[str] = []
        self.skipped: List[Tuple[str, str]] = []

    def target_of(self, clip: Clip) -> Union[str, int]:
        """The class that is explained of this clip, or 'prediction'."""
        return target_of(self.target, clip, self.names)

    def __call__(self, work: Callable[[str, Clip], None]) -> None:
        taken: set = set()
        for title, read in self.jobs:
            try:
                clip = read(self.reader)
                name = unique(clip.name, taken)
                work(name, clip)
            except Exception as error:  # whatever it is: the other clips are still to be done
                reason = error.args[0] if isinstance(error, KeyError) and error.args else error
                self.skipped.append((title, f'{type(error).__name__}: {reason}'))
                print(f'skipped {title}: {self.skipped[-1][1]}', file=sys.stderr)
                if not isinstance(error, MISTAKES):
                    traceback.print_exc()
            else:
                self.done.append(title)
                print(f'[{len(self.done) + len(self.skipped)}/{len(self.jobs)}] {title}')

    def exit_code(self) -> int:
        if self.skipped:
            print(f'{len(self.skipped)} of {len(self.jobs)} clip(s) skipped:', file=sys.stderr)
            for title, reason in self.skipped:
                print(f'  {title}: {reason}', file=sys.stderr)
        return 0 if not self.skipped else (1 if self.done else 2)


def write_summary(path: Path, summary: Dict[str, Summary], counted: str) -> None:
    """Write means and standard deviations as csv, one line per measure, and print them; ``counted`` are the values."""
    lines = [f'{name},{value.mean},{value.std},{value.count}' for name, value in summary.items()]
    atomic_write_text(path, '\n'.join([f'metric,mean,std,{counted}', *lines]) + '\n')
    for name, value in summary.items():
        print(f'{name}: {value}')
    print(f'written to {path.parent}')


def open_model(args: argparse.Namespace):
    """(model, reader) for the tools that look at clips."""
    model = load_recognizer(args.config, args.checkpoint, args.device, args.cfg_options)
    return model, ClipReader(model, args.view)


def open_loop(args: argparse.Namespace):
    """(model, :class:`ClipLoop`, class names) for tools with ``--layer``; a name of no layer is said at once."""
    model, reader = open_model(args)
    if args.layer is not None:
        find_layer(model, args.layer)
    loop = ClipLoop(reader, args)
    return model, loop, loop.names


def fitted_parameters(model, clip_shape=None) -> dict:
    """``temporal_parameters(model, fit=True)``, with a line per layer while it works."""
    return temporal_parameters(model, fit=True, clip_shape=clip_shape, progress=lambda name, number, count: print(
        f'fitted {number} of {count}: {name}', flush=True))


def run(analyse: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv) -> int:
    """Parse, analyse, and turn a user's mistake into one line and exit code 2."""
    args = parser.parse_args(argv)
    try:
        return analyse(args)
    except MISTAKES as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f'error: {reason}', file=sys.stderr)
        return 2
