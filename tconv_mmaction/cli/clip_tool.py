"""What the tools that look at clips share: arguments, the model, and a loop that outlives an odd clip.

A clip that cannot be read or analysed (corrupt, one frame, another number of colours, ...) is reported with its reason
and skipped; the others are done. Exit code: 0 all done, 1 some skipped, 2 nothing done or wrong arguments.
"""
import argparse
import re
import sys
import traceback
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import torch
from mmengine.config import DictAction

from ..interpret import temporal_parameters
from ..interpret.access.clips import Clip, ClipReader, class_names, load_recognizer
from ..interpret.access.modules import find_layer
from ..interpret.comparison.mask_metrics import Summary
from ..utils import atomic_write_text
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


def clip_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the model\'s arguments and those that choose clips and the class that is explained."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument('videos', nargs='*', help='video files, read by the test pipeline of the config')
    parser.add_argument('--dataset', choices=('train', 'val', 'test'), help="clips of the config's data set instead")
    parser.add_argument('--limit', type=int, default=8, help='with --dataset: the first so many clips (default 8)')
    parser.add_argument('--view', type=int, help='which crop or clip, of several (default: the middle one)')
    parser.add_argument('--classes', help='file with one class name per line')
    parser.add_argument('--target', default='prediction', help="class index, 'label' (with --dataset) or 'prediction' "
                        '(default)')
    add_figure_arguments(parser, films=True)
    parser.add_argument('--fps', type=float, default=8., help='frames per second of the films (default 8)')
    return parser


def target_of(text: str, clip: Clip):
    """What --target says for this clip: a class index or 'prediction'."""
    if text == 'prediction':
        return text
    if text == 'label':
        if clip.label is None:
            raise ValueError("this clip has no label: --target label needs --dataset; or give 'prediction' or a class.")
        return clip.label
    if not re.fullmatch(r'-?\d{1,9}', text):  # a negative one gets IndexError's message, with the number of classes
        raise ValueError(f"--target must be a class index, 'label' or 'prediction', got {text!r}.")
    return int(text)


def jobs_of(reader: ClipReader, args: argparse.Namespace) -> List[Tuple[str, Callable[[], Clip]]]:
    """(name, function that reads the clip) for every video or entry asked for."""
    if bool(args.videos) == bool(args.dataset):
        raise ValueError('give video files or --dataset, one of the two.')
    if args.videos:
        return [(path, lambda path=path: reader.video(path)) for path in args.videos]
    if args.limit < 1:
        raise ValueError(f'--limit must be at least 1, got {args.limit}.')
    count = min(args.limit, len(reader.dataset(args.dataset)))
    return [(f'{args.dataset} {i}', lambda i=i: reader.sample(args.dataset, i)) for i in range(count)]


def titles_of(pairs: Sequence[Tuple[str, str]]) -> List[str]:
    """The configs' names, or the checkpoints' where all are of one config, or as much of both as tells them apart."""
    one_config = len({config for config, _ in pairs}) == 1
    candidates = ([Path(config).stem for config, _ in pairs],
                  [Path(checkpoint).stem for _, checkpoint in pairs] if one_config else [],
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
    """``loop(work)`` reads every clip and calls ``work(file name, clip)``; after an error the next clip is done."""

    def __init__(self, reader: ClipReader, args: argparse.Namespace) -> None:
        self.jobs = jobs_of(reader, args)
        self.done: List[str] = []
        self.skipped: List[Tuple[str, str]] = []

    def __call__(self, work: Callable[[str, Clip], None]) -> None:
        taken: set = set()
        for title, read in self.jobs:
            try:
                clip = read()
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
    return model, ClipLoop(reader, args), class_names(args.classes, model.cls_head.num_classes)


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
