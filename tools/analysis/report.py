"""One HTML page of what networks do with time in given clips; it opens from the disk and loads nothing.

    python tools/analysis/report.py CONFIG CKPT VIDEO... --out report/
    python tools/analysis/report.py CONFIG CKPT VIDEO... --compare OTHER_CONFIG OTHER_CKPT --out report/
    python tools/analysis/report.py CONFIG CKPT --dataset test --indices 0 7 9 --out report/

Per clip, with a slider: the frames, Grad-CAM, the temporal mask with the scores of the clip as it is, frozen and
reversed, the class scores and, for 3T models, the channels that the clip excites most, with saliency and motion path;
with --fit also for plain 3D convolutions, read as the 3T kernels nearest to them (docs/fit.md).
Several models explain one class of each clip, so that their maps can be compared: --target, or by default the true
class where it is known (--dataset, --labels), else the one with the highest mean score. A single model explains its
prediction.
--out is a folder, for index.html, or the name of an .html file. A clip that a model cannot analyse is skipped with its
reason on the page and on stderr. Exit code: 0 all done, 1 some skipped, 2 nothing done or wrong arguments.
"""
import argparse
import sys
import traceback
from typing import Dict, List, Optional, Sequence

import torch

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.report_classes import Explained, choose_class, in_other_classes, read_report_target
from tconv_mmaction.interpret import RecognizerScores
from tconv_mmaction.interpret.access.clips import Clip, ClipReader, load_recognizer
from tconv_mmaction.interpret.access.modules import find_layer, frozen
from tconv_mmaction.interpret.comparison.method_scores import read_scores
from tconv_mmaction.interpret.report import analyse_clip
from tconv_mmaction.interpret.report.page import ClipReport, ModelInfo, render_report
from tconv_mmaction.utils import atomic_write_text
from tconv_mmaction.utils.distinct_names import distinct_names


def one_per_model(values: List, count: int, option: str) -> List:
    """None for all, one for all, or one for each."""
    values = values or [None]
    if len(values) not in (1, count):
        raise ValueError(f'{option}: one for all, or one for each of the {count} models; got {len(values)}.')
    return values * count if len(values) == 1 else values


def short_names(paths: Sequence[str]) -> Dict[str, str]:
    """Path -> the name that tells it from the others."""
    several = list(dict.fromkeys(paths))
    return dict(zip(several, distinct_names(several)))


def skip(title: str, error: Exception) -> str:
    reason = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f'skipped {title}: {type(error).__name__}: {reason}', file=sys.stderr)
    if not isinstance(error, clip_tool.MISTAKES):
        traceback.print_exc()
    return f'{type(error).__name__}: {reason}'


def check_same_clips(readers: List[ClipReader], models: List[ModelInfo], args: argparse.Namespace) -> None:
    """ValueError if an entry of the data set is another clip for another model."""
    if not args.dataset or len(readers) == 1:
        return
    first, *others = (reader.file_names(args.dataset) for reader in readers)
    for model, files in zip(models[1:], others):
        if first != files:
            i = next((i for i, pair in enumerate(zip(first, files)) if pair[0] != pair[1]), None)
            what = f'{len(first)} and {len(files)} entries' if i is None else f'entry {i} is {first[i]} and {files[i]}'
            raise ValueError(f'the {args.dataset} data sets of {models[0].title} and {model.title} are not the same '
                             f'clips in the same order: {what}. Give the configs the same list, or video files.')


def read_clips(name: str, read: clip_tool.Read, readers: List[ClipReader], models: List[ModelInfo]) -> List:
    """The clip of every model, and why one could not read it."""
    found = []
    for reader, model in zip(readers, models):
        try:
            found.append(read(reader))
        except Exception as error:  # decoders have errors of their own
            found.append(skip(name if len(models) == 1 else f'{name} by {model.title}', error))
    return found


def class_of(clips: List, readers: List[ClipReader], models: List[ModelInfo], args: argparse.Namespace) -> Explained:
    """Which class the models explain of a clip."""
    there = [(reader, clip) for reader, clip in zip(readers, clips) if isinstance(clip, Clip)]
    scores, names = [], [model.classes for model in models]
    labels: Sequence[int] = there[0][1].classes if there else ()
    if there and args.dataset and there[0][0] is not readers[0]:  # in the numbering of the first model
        own = names[readers.index(there[0][0])]
        labels = [k for k in (in_other_classes(label, own, names[0]) for label in labels) if k is not None]
    for reader, clip in zip(readers, clips):
        if isinstance(clip, Clip):
            with frozen(reader.model), torch.no_grad():
                scores.append(RecognizerScores(reader.model)(clip.inputs)[0].cpu().numpy())
        else:
            scores.append(None)
    return choose_class(args.target, labels, scores, names)


def with_own_label(clip: Clip, models: List[ModelInfo], model: ModelInfo, args: argparse.Namespace) -> Clip:
    """The clip with its true class as this model counts classes; --labels is read as the first one counts them."""
    if args.dataset or clip.label is None:
        return clip
    return clip._replace(label=in_other_classes(clip.label, models[0].classes, model.classes))


def analyse_job(name: str, read: clip_tool.Read, readers: List[ClipReader], models: List[ModelInfo], layers: List,
                fitted: List, args: argparse.Namespace) -> ClipReport:
    """One clip by every model; what a model cannot do is the reason instead."""
    analyses = read_clips(name, read, readers, models)
    if not any(isinstance(clip, Clip) for clip in analyses):
        return ClipReport(name, analyses)
    try:
        explained = class_of(analyses, readers, models, args)
    except ValueError as error:  # the clip has no such class; the other clips are still to be done
        return ClipReport(name, [skip(name, error)] * len(models))
    for i, (reader, model, target) in enumerate(zip(readers, models, explained.targets)):
        if isinstance(analyses[i], str):
            continue
        try:
            found = analyse_clip(
                reader.model, with_own_label(analyses[i], models, model, args),
                'prediction' if target is None else target, layers[i], args.channel_layers, args.channels,
                args.iterations, args.threshold, fitted[i], args.moving_first)
        except Exception as error:  # whatever it is: the other clips are still to be done
            found = skip(name if len(models) == 1 else f'{name} by {model.title}', error)
        else:
            if target is None and any(one is not None for one in explained.targets):
                found.notes.append('This model has no class of that name: its own prediction is explained.')
            for note in found.notes:
                print(f'{name}: {note}', file=sys.stderr)
        analyses[i] = found
    return ClipReport(name, analyses, explained.sentence)


def analyse(args: argparse.Namespace) -> int:
    pairs = [(args.config, args.checkpoint), *map(tuple, args.compare)]
    titles = args.titles or clip_tool.titles_of(pairs)
    if len(titles) != len(pairs):
        raise ValueError(f'--titles: {len(pairs)} model(s) need as many names, got {len(titles)}.')
    if not args.fps > 0:
        raise ValueError(f'--fps must be positive, got {args.fps}.')
    layers = one_per_model(args.layer, len(pairs), '--layer')
    scores: List[Optional[dict]] = [read_scores(path) for path in args.scores or []] or [None] * len(pairs)
    if len(scores) != len(pairs):
        raise ValueError(f'--scores: one file for each of the {len(pairs)} model(s), got {len(scores)}.')
    readers = [ClipReader(load_recognizer(*pair, args.device, args.cfg_options), args.view) for pair in pairs]
    for reader, layer in zip(readers, layers):
        for name in filter(None, [layer, *(args.channel_layers or [])]):
            find_layer(reader.model, name)
    configs, checkpoints = (short_names([str(pair[i]) for pair in pairs]) for i in (0, 1))
    models = [ModelInfo(title, configs[str(config)], checkpoints[str(checkpoint)],
                        reader.class_names(args.classes, args.dataset), score)
              for title, (config, checkpoint), reader, score in zip(titles, pairs, readers, scores)]
    check_same_clips(readers, models, args)
    args.target = read_report_target(args.target, len(models), models[0].classes)
    jobs = clip_tool.jobs_of(readers[0], args, models[0].classes)
    fitted = [clip_tool.fitted_parameters(reader.model) if args.fit else None for reader in readers]
    clips, skipped, done = [], 0, 0
    for number, (name, read) in enumerate(jobs, 1):
        clip = analyse_job(name, read, readers, models, layers, fitted, args)
        failures = sum(isinstance(found, str) for found in clip.analyses)
        skipped, done = skipped + (failures > 0), done + (failures < len(models))
        clips.append(clip)
        print(f'[{number}/{len(jobs)}] {name}', flush=True)
    page = args.out if args.out.suffix.lower() in ('.html', '.htm') else args.out / 'index.html'
    atomic_write_text(page, render_report(args.title, models, clips, args.fps))
    print(f'{page}: {len(clips)} clip(s), {page.stat().st_size / 1e6:.1f} MB')
    if skipped:
        print(f'{skipped} of {len(clips)} clip(s) skipped, at least by one model.', file=sys.stderr)
    return 0 if not skipped else (1 if done else 2)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    clip_tool.add_model_arguments(parser)
    clip_tool.add_clip_arguments(parser, target="class that is explained, for all models: its name or index, 'label' "
                                 "(with --dataset or --labels) or 'prediction', of each model its own (default: see "
                                 'above)')
    parser.set_defaults(target=None)
    parser.add_argument('--compare', nargs=2, action='append', default=[], metavar=('CONFIG', 'CKPT'),
                        help='a further model, shown beside; may be given several times')
    parser.add_argument('--titles', nargs='+', help='names of the models (default: from the file names)')
    parser.add_argument('--title', default='What networks do with time', help='of the page')
    parser.add_argument('--scores', nargs='+', metavar='JSON', help='how good the explanations of each model are: '
                        '{method: [auc_deletion, auc_insertion, [low, high]]}')
    parser.add_argument('--layer', nargs='+', help="of Grad-CAM: one for all models or one for each (default: the "
                        "backbone's last layer whose maps have several time steps and pixels)")
    parser.add_argument('--channel-layers', nargs='+', help='3T layers whose channels to show (default: the first and '
                        'the last)')
    parser.add_argument('--moving-first', action='store_true', help='of the channels of a 3T layer, show those that '
                        'move before those that hardly do')
    parser.add_argument('--channels', type=int, default=4, help='most active per 3T layer (default 4, 0: none)')
    parser.add_argument('--iterations', type=int, default=300, help='of the mask search, at most (default 300)')
    parser.add_argument('--threshold', type=float, default=0.1, help='from here a frame is in the mask (default 0.1)')
    parser.add_argument('--fps', type=float, default=8., help='frames per second when it plays (default 8)')
    parser.add_argument('--fit', action='store_true', help='read plain 3D convolutions as 3T kernels, too')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
