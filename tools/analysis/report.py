"""One HTML page of what networks do with time in given clips; it opens from the disk and loads nothing.

    python tools/analysis/report.py CONFIG CKPT VIDEO... --out report/
    python tools/analysis/report.py CONFIG CKPT VIDEO... --compare OTHER_CONFIG OTHER_CKPT --out report/
    python tools/analysis/report.py CONFIG CKPT --dataset test --indices 0 7 9 --out report/

Per clip, with a slider: the frames, Grad-CAM, the temporal mask with the scores of the clip as it is, frozen and
reversed, the class scores and, for 3T models, the channels that the clip excites most, with saliency and motion path;
with --fit also for plain 3D convolutions, read as the 3T kernels nearest to them (docs/fit.md).
--out is a folder, for index.html, or the name of an .html file. A clip that a model cannot analyse is skipped with its
reason on the page and on stderr. Exit code: 0 all done, 1 some skipped, 2 nothing done or wrong arguments.
"""
import argparse
import sys
import traceback
from pathlib import Path
from typing import Callable, List, Tuple, Union

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.interpret.access.clips import Clip, ClipReader, class_names, load_recognizer
from tconv_mmaction.interpret.access.modules import find_layer
from tconv_mmaction.interpret.report import ClipAnalysis, analyse_clip
from tconv_mmaction.interpret.report.page import ClipReport, ModelInfo, render_report
from tconv_mmaction.utils import atomic_write_text

Read = Callable[[ClipReader], Clip]


def read_sample(reader: ClipReader, split: str, index: int) -> Clip:
    size = len(reader.dataset(split))
    if not 0 <= index < size:
        raise IndexError(f'the {split} data set has {size} clips (0 to {size - 1}), there is no clip {index}.')
    return reader.sample(split, index)


def jobs_of(reader: ClipReader, args: argparse.Namespace) -> List[Tuple[str, Read]]:
    """(name on the page, how a model's reader reads it) of every clip asked for."""
    if bool(args.videos) == bool(args.dataset):
        raise ValueError('give video files or --dataset, one of the two.')
    if args.indices is not None and not args.dataset:
        raise ValueError('--indices needs --dataset.')
    if args.videos:
        names = [Path(path).name for path in args.videos]
        names = [name if names.count(name) == 1 else path for name, path in zip(names, args.videos)]
        return [(name, lambda reader, path=path: reader.video(path)) for name, path in zip(names, args.videos)]
    if args.limit < 1:
        raise ValueError(f'--limit must be at least 1, got {args.limit}.')
    indices = args.indices or range(min(args.limit, len(reader.dataset(args.dataset))))
    return [(f'{args.dataset} {i}', lambda reader, i=i: read_sample(reader, args.dataset, i)) for i in indices]


def one_per_model(values: List, count: int, option: str) -> List:
    """None for all, one for all, or one for each."""
    values = values or [None]
    if len(values) not in (1, count):
        raise ValueError(f'{option}: one for all, or one for each of the {count} models; got {len(values)}.')
    return values * count if len(values) == 1 else values


def classes_of(reader: ClipReader, args: argparse.Namespace) -> List[str]:
    """Names from --classes, or from the data set where clips come from one that has them."""
    count = reader.model.cls_head.num_classes
    if args.classes is None and args.dataset:
        names = getattr(reader.dataset(args.dataset), 'metainfo', {}).get('classes')
        if names is not None and len(names) == count:
            return [str(name) for name in names]
    return class_names(args.classes, count)


def skip(title: str, error: Exception) -> str:
    reason = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f'skipped {title}: {type(error).__name__}: {reason}', file=sys.stderr)
    if not isinstance(error, clip_tool.MISTAKES):
        traceback.print_exc()
    return f'{type(error).__name__}: {reason}'


def analyse(args: argparse.Namespace) -> int:
    pairs = [(args.config, args.checkpoint), *map(tuple, args.compare)]
    titles = args.titles or clip_tool.titles_of(pairs)
    if len(titles) != len(pairs):
        raise ValueError(f'--titles: {len(pairs)} model(s) need as many names, got {len(titles)}.')
    if not args.fps > 0:
        raise ValueError(f'--fps must be positive, got {args.fps}.')
    layers = one_per_model(args.layer, len(pairs), '--layer')
    readers = [ClipReader(load_recognizer(*pair, args.device, args.cfg_options), args.view) for pair in pairs]
    for reader, layer in zip(readers, layers):
        for name in filter(None, [layer, *(args.channel_layers or [])]):
            find_layer(reader.model, name)
    models = [ModelInfo(title, Path(config).name, Path(checkpoint).name, classes_of(reader, args))
              for title, (config, checkpoint), reader in zip(titles, pairs, readers)]
    fitted = [clip_tool.fitted_parameters(reader.model) if args.fit else None for reader in readers]
    clips, skipped, done = [], 0, 0
    jobs = jobs_of(readers[0], args)
    for number, (name, read) in enumerate(jobs, 1):
        analyses: List[Union[ClipAnalysis, str]] = []
        for reader, layer, model, parameters in zip(readers, layers, models, fitted):
            try:
                clip = read(reader)
                analyses.append(analyse_clip(
                    reader.model, clip, clip_tool.target_of(args.target, clip), layer, args.channel_layers,
                    args.channels, args.iterations, args.threshold, parameters))
            except Exception as error:  # whatever it is: the other clips are still to be done
                analyses.append(skip(name if len(models) == 1 else f'{name} by {model.title}', error))
            else:
                for note in analyses[-1].notes:
                    print(f'{name}: {note}', file=sys.stderr)
        failures = sum(isinstance(found, str) for found in analyses)
        skipped, done = skipped + (failures > 0), done + (failures < len(models))
        clips.append(ClipReport(name, analyses))
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
    parser.add_argument('videos', nargs='*', help='video files, read by the test pipeline of each config')
    parser.add_argument('--dataset', choices=('train', 'val', 'test'), help="clips of the configs' data set instead")
    parser.add_argument('--indices', type=int, nargs='+', help='with --dataset: these entries')
    parser.add_argument('--limit', type=int, default=8, help='with --dataset, without --indices: the first so many '
                        '(default 8)')
    parser.add_argument('--compare', nargs=2, action='append', default=[], metavar=('CONFIG', 'CKPT'),
                        help='a further model, shown beside; may be given several times')
    parser.add_argument('--titles', nargs='+', help='names of the models (default: from the file names)')
    parser.add_argument('--title', default='What networks do with time', help='of the page')
    parser.add_argument('--view', type=int, help='which crop or clip, of several (default: the middle one)')
    parser.add_argument('--classes', help='file with one class name per line')
    parser.add_argument('--target', default='prediction', help="class that is explained: an index, 'label' (with "
                        "--dataset) or 'prediction' (default)")
    parser.add_argument('--layer', nargs='+', help="of Grad-CAM: one for all models or one for each (default: the "
                        "backbone's last layer whose maps have several time steps and pixels)")
    parser.add_argument('--channel-layers', nargs='+', help='3T layers whose channels to show (default: the first and '
                        'the last)')
    parser.add_argument('--channels', type=int, default=4, help='most active per 3T layer (default 4, 0: none)')
    parser.add_argument('--iterations', type=int, default=300, help='of the mask search, at most (default 300)')
    parser.add_argument('--threshold', type=float, default=0.1, help='from here a frame is in the mask (default 0.1)')
    parser.add_argument('--fps', type=float, default=8., help='frames per second when it plays (default 8)')
    parser.add_argument('--fit', action='store_true', help='read plain 3D convolutions as 3T kernels, too')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
