"""Annotation lists for a folder of videos, one sub-folder per class.

    videos/wave/a.mp4
    videos/wave/b.mp4
    videos/point/c.mp4   ->   train.txt, val.txt, test.txt ("wave/a.mp4 1"), classes.txt (line number = label)

    python tools/data/class_folders.py videos --config work_dirs/mine.py
    python tools/train.py work_dirs/mine.py

The lists are in mmaction2's VideoDataset form, relative to the folder. Every class is split by the same shares; files
that are no videos by their ending are named, and a class that cannot fill all the lists is an error, not a gap.
"""
import argparse
import os
import random
import shlex
import sys
from pathlib import Path

from tconv_mmaction.utils.atomic import atomic_write_text

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


def split_class(name, videos, fractions, rng):
    """Shuffled parts of one class, in the order of ``fractions`` (name -> share of the videos)."""
    counts = {part: round(share * len(videos)) if share else 0 for part, share in fractions.items()}
    counts = {part: max(count, 1) if fractions[part] else 0 for part, count in counts.items()}
    train = len(videos) - sum(counts.values())
    if train < 1:
        raise ValueError(f'class {name!r} has {len(videos)} video(s), too few for one in train and each of '
                         f'{[p for p, c in counts.items() if c]}. Add videos, or set --val or --test to 0.')
    videos = rng.sample(videos, len(videos))
    parts, start = {'train': videos[:train]}, train
    for part, count in counts.items():
        parts[part] = videos[start:start + count]
        start += count
    return parts


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


BASE = Path(__file__).parents[2] / 'configs/recognition/tconv3/resnet18-3t_scratch_1xb8-16x1x1-30e_folder-rgb.py'


def config_text(path: Path, base: Path, folder: Path, lists: Path, num_classes: int, delimiter: str) -> str:
    """A config that is ``base`` with these lists and this number of classes."""
    lines = [f'_base_ = {os.path.relpath(base.resolve(), path.resolve().parent)!r}', '',
             f'model = dict(cls_head=dict(num_classes={num_classes}))']
    for part in ('train', 'val', 'test'):
        lines.append(f'{part}_dataloader = dict(dataset=dict(\n'
                     f'    ann_file={str(lists.resolve() / part)!r} + \'.txt\',\n'
                     f'    data_prefix=dict(video={str(folder.resolve())!r}),\n'
                     f'    delimiter={delimiter!r}))')
    return '\n'.join(lines) + '\n'


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder with one sub-folder of videos per class')
    parser.add_argument('--out-dir', type=Path, help='where the lists go (default: the folder itself)')
    parser.add_argument('--val', type=float, default=0.2, help='share of each class for validation (default 0.2)')
    parser.add_argument('--test', type=float, default=0.2, help='share of each class for the test (default 0.2)')
    parser.add_argument('--delimiter', default=' ', help='between name and label (default: a blank)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--config', type=Path, help='also write a config that trains on these lists')
    parser.add_argument('--base', type=Path, default=BASE, help=f'what that config starts from (default: {BASE.name})')
    args = parser.parse_args(argv)
    if not (args.val >= 0 and args.test >= 0 and args.val + args.test < 1):  # NaN is none of them
        parser.error(f'--val {args.val} and --test {args.test} must be shares that leave something for training.')
    try:
        classes, left_out = find_videos(args.folder)
        rng = random.Random(args.seed)
        lists = {'train': [], 'val': [], 'test': []}
        for label, (name, videos) in enumerate(classes.items()):
            check_class_name(name)
            lines = {video: list_line(video, label, args.delimiter) for video in videos}
            for part, names in split_class(name, videos, dict(val=args.val, test=args.test), rng).items():
                lists[part] += [lines[v] for v in names]
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    out = args.out_dir or args.folder
    out.mkdir(parents=True, exist_ok=True)
    for part, lines in lists.items():
        atomic_write_text(out / f'{part}.txt', ''.join(f'{line}\n' for line in sorted(lines)))
    if args.config is not None:
        args.config.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(args.config, config_text(args.config, args.base, args.folder, out, len(classes),
                                                   args.delimiter))
    atomic_write_text(out / 'classes.txt', ''.join(f'{name}\n' for name in classes))
    for path in left_out:
        if path.name not in {'train.txt', 'val.txt', 'test.txt', 'classes.txt'}:
            print(f'left out (no video by its ending): {path}')
    print(f'{len(classes)} classes: ' + ', '.join(f'{name} ({len(v)})' for name, v in classes.items()))
    print(f'{out}: ' + ', '.join(f'{part}.txt {len(lines)}' for part, lines in lists.items()) + ', classes.txt')
    if args.config is not None:
        print(f'train with: python tools/train.py {shlex.quote(str(args.config))}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
