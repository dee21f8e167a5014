"""Annotation lists of Jester from its csv files.

    FOLDER/jester-v1-labels.csv            one class per line; line number = label
    FOLDER/jester-v1-train.csv             "34870;Drumming Fingers"
    FOLDER/jester-v1-validation.csv
    FRAMES/34870/00001.jpg, ...            the extracted archives

    OUT/jester_train_list_rawframes.txt    "34870 37 5" (folder, frames, label), mmaction2's RawframeDataset form
    OUT/jester_val_list_rawframes.txt
    OUT/classes.txt                        line number = label

The frames of every video are counted on the disk, and must be 00001.jpg to the last without a gap. The lists are
written together, when both are whole; with --allow-missing without the videos that are not there, which are named.
"""
import argparse
import csv
import os
import re
import sys
from pathlib import Path
from typing import Dict, List, Tuple

from tconv_mmaction.cli.video_lists import check_complete, write_lists
from tconv_mmaction.utils.text_files import read_lines, read_text

SPLITS = dict(train='jester-v1-train.csv', val='jester-v1-validation.csv')


def read_labels(path: Path) -> Dict[str, int]:
    """{class name: label}."""
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if len(set(names)) != len(names):
        raise ValueError(f'{path} names a class twice: {sorted({n for n in names if names.count(n) > 1})}.')
    return {name: label for label, name in enumerate(names)}


def read_split(path: Path, labels: Dict[str, int]) -> List[Tuple[str, int]]:
    """[(video id, label)] of "id;class" lines.

    Raises:
        ValueError: with the line, if it is none, its class is not in ``labels``, or its video was there before.
    """
    entries, seen = [], set()
    read_text(path)  # says with the file's name if it is no text
    with open(path, encoding='utf-8', newline='') as file:
        try:
            rows = list(csv.reader(file, delimiter=';'))
        except csv.Error as error:
            raise ValueError(f'{path} is no csv file: {error}. Is a quotation mark open?') from error
    for row in filter(None, rows):
        if len(row) != 2 or row[1].strip() not in labels:
            raise ValueError(f'{path}: {";".join(row)!r:.200} is not "id;class" with one of the {len(labels)} classes '
                             'of the labels file.')
        if row[0] in seen:
            raise ValueError(f'{path}: video {row[0]:.80} comes twice.')
        seen.add(row[0])
        entries.append((row[0], labels[row[1].strip()]))
    return entries


def count_frames(folder: Path) -> int:
    """Number of frames 00001.jpg, 00002.jpg, ...; 0 if there is no such folder.

    Raises:
        ValueError: if a number is missing in between.
    """
    if not folder.is_dir():
        return 0
    numbers = sorted(int(name[:5]) for name in os.listdir(folder) if re.fullmatch(r'\d{5}\.jpg', name))
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f'{folder} has {len(numbers)} frames, and their numbers do not go from 00001 to '
                         f'{len(numbers):05d}. Extract it again.')
    return len(numbers)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder with the three csv files')
    parser.add_argument('frames', type=Path, help='folder with one sub-folder of frames per video')
    parser.add_argument('--out-dir', type=Path, help='where the lists go (default: FOLDER)')
    parser.add_argument('--allow-missing', action='store_true', help='leave out videos without frames')
    args = parser.parse_args(argv)
    out = args.out_dir or args.folder
    try:
        labels = read_labels(args.folder / 'jester-v1-labels.csv')
        lists, missing = {}, []
        for split, name in SPLITS.items():
            counted = [(video, count_frames(args.frames / video), label)
                       for video, label in read_split(args.folder / name, labels)]
            lists[split] = [f'{video} {frames} {label}\n' for video, frames, label in counted if frames]
            missing += [f'{split} {video}' for video, frames, _ in counted if not frames]
        check_complete(lists, missing, args.allow_missing, f'have no frames below {args.frames}',
                       f'has frames below {args.frames}', 'Extract all archives')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    write_lists(out, labels, lists, 'jester_{split}_list_rawframes.txt', missing, 'no frames')
    return 0


if __name__ == '__main__':
    sys.exit(main())
