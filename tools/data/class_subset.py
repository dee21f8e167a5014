"""Lists of a random half of the classes: mini-SSv2, mini-Kinetics.

    class_subset.py data/mini-sthv2 --train data/sthv2/sthv2_train_list_videos.txt \\
        --val data/sthv2/sthv2_val_list_videos.txt --num-classes 174 --names data/sthv2/classes.txt

    OUT/train.txt, OUT/val.txt    the lines of these classes, with labels 0, 1, ... in the order of the old ones
    OUT/classes.txt               "NEW OLD NAME", which class became which

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), pick half of
the classes of SSv2 at random (after Chen et al., arXiv:2010.11757), and do not print which; a number measured on this
half is not one measured on theirs. Ours are Python's ``random.Random(seed).sample(range(K), K // 2)``, sorted, seed 0.

A line is "path label" or "path frames label": the last field is the label. Paths stay as they are.
"""
import argparse
import random
import sys
from pathlib import Path
from typing import List, Tuple

from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.text_files import parse_label, read_lines


def choose(num_classes: int, seed: int = 0, share: float = 0.5) -> List[int]:
    """The old labels of the subset, sorted; label of the subset = position in this list."""
    return sorted(random.Random(seed).sample(range(num_classes), int(num_classes * share)))


def read_list(path: Path, num_classes: int, delimiter: str) -> List[Tuple[str, int]]:
    """[(line without its label, label)], every line of it.

    Raises:
        ValueError: with the number of the line, if its label is none of the ``num_classes``, and if a class is empty.
    """
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        head, _, text = line.rpartition(delimiter)
        label = parse_label(text, num_classes)
        if not head or label is None:
            raise ValueError(f'{path}, line {number}: {line!r:.200} does not end in {delimiter!r} and a label from 0 '
                             f'to {num_classes - 1}.')
        entries.append((head, label))
    empty = sorted(set(range(num_classes)) - {label for _, label in entries})
    if empty:
        raise ValueError(f'{path} has no line of {len(empty)} of {num_classes} classes: {empty[:10]}'
                         f'{"..." if len(empty) > 10 else ""}. Is it the whole list, and --num-classes right?')
    return entries


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for the lists')
    parser.add_argument('--train', type=Path, required=True, help='training list of the whole data set')
    parser.add_argument('--val', type=Path, required=True, help='validation list of the whole data set')
    parser.add_argument('--num-classes', type=int, required=True, help='of the whole data set: 174, 400')
    parser.add_argument('--names', type=Path, help='class names, one per line')
    parser.add_argument('--share', type=float, default=0.5, help='share of the classes (default 0.5)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--delimiter', default=' ')
    args = parser.parse_args(argv)
    if not 0 < args.share <= 1 or int(args.num_classes * args.share) < 2:
        parser.error(f'--share {args.share} of {args.num_classes} classes is fewer than two classes, or more than all.')
    classes = choose(args.num_classes, args.seed, args.share)
    new = {old: label for label, old in enumerate(classes)}
    try:
        names = read_lines(args.names) if args.names else [''] * args.num_classes
        if len(names) != args.num_classes:
            raise ValueError(f'{args.names} has {len(names)} lines for {args.num_classes} classes.')
        lists = {split: read_list(path, args.num_classes, args.delimiter)
                 for split, path in dict(train=args.train, val=args.val).items()}
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    atomic_write_text(args.out / 'classes.txt', ''.join(f'{new[o]} {o} {names[o]}'.rstrip() + '\n' for o in classes))
    for split, entries in lists.items():
        kept = [f'{head}{args.delimiter}{new[label]}\n' for head, label in entries if label in new]
        atomic_write_text(args.out / f'{split}.txt', ''.join(kept))
        print(f'{args.out / split}.txt: {len(kept)} of {len(entries)} videos, {len(classes)} of {args.num_classes} '
              f'classes (seed {args.seed})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
