r"""Annotation lists for a folder of videos, one sub-folder per class.

    videos/wave/a.mp4
    videos/wave/b.mp4
    videos/point/c.mp4   ->   train.txt, val.txt, test.txt ("wave/a.mp4 1"), classes.txt (line number = label)

    python tools/data/class_folders.py videos --config work_dirs/mine.py
    python tools/train.py work_dirs/mine.py

The lists are in mmaction2's VideoDataset form, relative to the folder. Every class is split by the same shares; files
that are no videos by their ending are named, and a class that cannot fill all the lists is an error, not a gap.

    python tools/data/class_folders.py videos --groups '/person([0-9]+)_' --folds 5 --model 3d --frames 16 \
        --size 112 192 --config work_dirs/mine.py --pack data/packed

keeps every person in one list, writes five splits, and configs of a 3D-ResNet18 that read decoded videos. Paths in the
config are relative to the working directory where they are below it.
"""
import argparse
import random
import re
import runpy
import shlex
import sys
from pathlib import Path

from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tconv_mmaction.cli.folder_config import LSTM_LAYERS, RECIPES, Clip, config_text, lstm_layers, shown
from tconv_mmaction.interpret.temporal_reach import dead_slices_of
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.split_videos import deal, folds, group_of, split_class

ENDINGS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.mpg', '.mpeg', '.m4v', '.wmv', '.flv', '.3gp')


def find_videos(folder: Path):
    """{class name: sorted relative paths}, and the files left out because of their ending."""
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder. Give the folder that holds one sub-folder per class.')
    classes, left_out = {}, []
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.')):
        files = sorted(p for p in sub.rglob('*') if p.is_file())
        classes[sub.name] = [p.relative_to(folder).as_posix() for p in files if p.suffix.lower() in ENDINGS]
        left_out += [p for p in files if p.suffix.lower() not in ENDINGS]
    left_out += sorted(p for p in folder.iterdir() if p.is_file())
    if len(classes) < 2:
        raise ValueError(f'{folder} holds {len(classes)} sub-folder(s); a classifier needs at least two classes, one '
                         'sub-folder each.')
    return classes, left_out


def list_line(video: str, label: int, delimiter: str) -> str:
    """"video label" as VideoDataset reads it back; ValueError if it could not."""
    line = f'{video}{delimiter}{label}'
    # VideoDataset strips the line and splits it; a name with the delimiter, a line break or a blank at its start fails.
    if not delimiter or line.strip().split(delimiter) != [video, str(label)] or set(line) & set('\n\r'):
        inside = delimiter and delimiter in video
        why = (f'contains {delimiter!r}, which separates name and label in the lists' if inside else
               f'and its label do not read back from the line {line!r}')
        raise ValueError(f"{video!r} {why}. Rename it, or choose another one here "
                         "and in the config: --delimiter ';' and dataset=dict(delimiter=';').")
    _check_encodable(video)
    return line


def check_class_name(name: str) -> None:
    """ValueError for a folder whose name does not fit on a line of classes.txt."""
    if name.strip().splitlines() != [name]:
        raise ValueError(f'the class {name!r} does not fit on one line of classes.txt (a line break, or a blank at its '
                         'start or end). Rename the folder.')
    _check_encodable(name)


def _check_encodable(name: str) -> None:
    try:
        name.encode('utf-8')
    except UnicodeEncodeError as error:
        raise ValueError(f'{name!r} is no UTF-8 name, so no list can hold it. Rename it.') from error


def lists_of(classes, args, rng):
    """{folder of the lists relative to --out-dir: {part: {class: videos}}}."""
    names = [video for videos in classes.values() for video in videos]
    groups = None
    if args.groups is not None:
        groups = {video: group_of(video, args.groups) for video in names}
    if args.folds is not None:
        made = folds(classes, args.folds, rng, args.val > 0, groups)
        return {f'fold{number}': lists for number, lists in enumerate(made, 1)}
    if groups is not None:
        return {'': deal(classes, dict(train=1 - args.val - args.test, val=args.val, test=args.test), rng, groups)}
    lists = {part: {} for part in ('train', 'val', 'test')}
    for name, videos in classes.items():
        for part, chosen in split_class(name, videos, dict(val=args.val, test=args.test), rng).items():
            lists[part][name] = chosen
    return {'': lists}


def say_reach(path: Path, clip: Clip) -> None:
    """Which slices of temporal kernels see no frame at this length."""
    init_default_scope('mmaction')
    cfg = Config.fromfile(path)
    backbone = MODELS.build(dict(cfg.model.backbone, pretrained=None) if 'pretrained' in cfg.model.backbone
                            else cfg.model.backbone)
    dead = dead_slices_of(backbone, (3, clip.frames, clip.height, clip.width))
    for layer, (kernel, slices) in dead.items():
        print(f'{layer}: of the {kernel} slices of its temporal kernel {slices} (from 0) see no frame of a clip of '
              f'{clip.frames}: they learn nothing. Take more --frames.')
    if not dead:
        print(f'every slice of every temporal kernel sees frames of a clip of {clip.frames}')


def pack(args, lists, folder: Path, clip: Clip) -> int:
    """Decode the videos of the lists; returns the exit code of tools/data/pack_clips.py."""
    width, height = clip.whole
    tool = runpy.run_path(str(Path(__file__).with_name('pack_clips.py')))
    return tool['main']([*map(str, lists), '--data-prefix', str(args.folder), '--out', str(folder), '--size',
                         str(width), str(height), '--delimiter', args.delimiter])


CONFIGS = Path(__file__).resolve().parents[2] / 'configs/recognition'


def regex(text: str) -> 're.Pattern[str]':
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no regular expression: {error}') from error


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder with one sub-folder of videos per class')
    parser.add_argument('--out-dir', type=Path, help='where the lists go (default: the folder itself)')
    parser.add_argument('--val', type=float, default=0.2, help='share of each class for validation (default 0.2)')
    parser.add_argument('--test', type=float, default=0.2, help='share of each class for the test (default 0.2)')
    parser.add_argument('--groups', type=regex, metavar='REGEX', help='what it finds in a path (its first group in '
                        'brackets) is the recording or person: no two lists share one')
    parser.add_argument('--folds', type=int, metavar='K', help='K splits in fold1 ... foldK, each video in the test of '
                        'one; val is the next fold, or none with --val 0')
    parser.add_argument('--delimiter', default=' ', help='between name and label (default: a blank)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--config', type=Path, help='also write a config that trains on these lists (with --folds one '
                        'per fold: NAME_fold1.py ...)')
    parser.add_argument('--model', choices=list(RECIPES), default='3t', help='its network (default: 3t)')
    parser.add_argument('--frames', type=int, default=16, help='of a clip, spread over the whole video (default 16)')
    parser.add_argument('--size', type=int, nargs='+', default=[112], metavar='PIXELS', help='of the frames: a '
                        'side, or height and width (default 112)')
    parser.add_argument('--base', type=Path, help='what that config starts from, instead of --model, --frames, --size')
    parser.add_argument('--pack', type=Path, metavar='FOLDER', help='decode all videos once into this folder '
                        '(tools/data/pack_clips.py), and have the config read that')
    return parser


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not (args.val >= 0 and args.test >= 0 and args.val + args.test < 1):  # NaN is none of them
        parser.error(f'--val {args.val} and --test {args.test} must be shares that leave something for training.')
    if args.folds is not None and args.folds < (3 if args.val else 2):
        parser.error(f'--folds {args.folds}: a fold each for the test{" and for val" if args.val else ""} leaves none '
                     f'for training; take at least {3 if args.val else 2}.')
    if len(args.size) > 2 or min(args.size) < 8 or args.frames < 1:
        parser.error(f'--frames {args.frames} must be at least 1, and --size {args.size} one or two numbers of at '
                     'least 8 pixels.')
    if args.pack is not None and args.config is None:
        parser.error('--pack makes what a config reads: give --config, too.')
    if args.pack is not None and args.base is not None:
        parser.error('--pack needs to know the size of the frames, which --base leaves open: call '
                     'tools/data/pack_clips.py on the lists.')


def write_configs(args, folders, num_classes: int, out: Path) -> int:
    clip = Clip(args.frames, args.size[0], args.size[-1])
    args.config.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for name, lists in folders.items():
        path = args.config if not name else args.config.with_name(f'{args.config.stem}_{name}.py')
        empty = [part for part in ('val', 'test') if not any(lists[part].values())]
        atomic_write_text(path, config_text(path, CONFIGS, args.model, clip, num_classes, out / name, args.folder,
                                            args.delimiter, args.pack, args.base, empty))
        written.append(path)
    if args.base is None:
        say_reach(written[0], clip)
        if args.model == 'clstm' and lstm_layers(clip)[0] < LSTM_LAYERS:
            print(f'of the {LSTM_LAYERS} layers of the C-LSTM {lstm_layers(clip)[0]} are taken: the others would have '
                  f'no pixel left of {clip.height}x{clip.width}. Larger frames (--size) have room for all.')
    code = 0
    if args.pack is not None:
        lists = [out / name / f'{part}.txt' for name in list(folders)[:1] for part in ('train', 'val', 'test')
                 if any(folders[name][part].values())]
        code = pack(args, lists, args.pack, clip)
    for path in written:
        print(f'train with: python tools/train.py {shlex.quote(shown(path))}')
    return code


def main(argv=None) -> int:
    parser = options()
    args = parser.parse_args(argv)
    check_options(parser, args)
    try:
        classes, left_out = find_videos(args.folder)
        for name in classes:
            check_class_name(name)
        lines = {video: list_line(video, label, args.delimiter)
                 for label, videos in enumerate(classes.values()) for video in videos}
        folders = lists_of(classes, args, random.Random(args.seed))
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    out = args.out_dir or args.folder
    for folder, lists in folders.items():
        for part, by_class in lists.items():
            text = ''.join(f'{line}\n' for line in sorted(lines[v] for videos in by_class.values() for v in videos))
            atomic_write_text(out / folder / f'{part}.txt', text)
    atomic_write_text(out / 'classes.txt', ''.join(f'{name}\n' for name in classes))
    for path in left_out:
        if path.name not in {'train.txt', 'val.txt', 'test.txt', 'classes.txt'}:
            print(f'left out (no video by its ending): {path}')
    print(f'{len(classes)} classes: ' + ', '.join(f'{name} ({len(v)})' for name, v in classes.items()))
    for folder, lists in folders.items():
        print(f'{out / folder}: ' + ', '.join(f'{part}.txt {sum(map(len, by_class.values()))}'
                                              for part, by_class in lists.items()))
    print(f'{out / "classes.txt"}: line k is label k - 1')
    return 0 if args.config is None else write_configs(args, folders, len(classes), out)


if __name__ == '__main__':
    sys.exit(main())
