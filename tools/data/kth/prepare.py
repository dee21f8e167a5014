"""KTH actions: one clip per sequence of the published sequence file, and lists for subjects 1-16 and 17-25.

    FOLDER/.../person01_boxing_d1_uncomp.avi     the six archives of https://www.csc.kth.se/cvap/actions/, extracted
    FOLDER/00sequences.txt                       "person01_boxing_d1   frames   1-95, 96-185, 186-245, 246-360"

    OUT/clips/person01_boxing_d1_1.mkv           frames 1 to 95, grey, lossless (FFV1), every frame a key frame
    OUT/train.txt, OUT/test.txt                  "clips/person01_boxing_d1_1.mkv 0", mmaction2's VideoDataset form
    OUT/val.txt                                  with --val-subjects, taken out of train
    OUT/classes.txt                              line number = label, alphabetical

Schuldt et al., "Recognizing human actions: a local SVM approach" (ICPR 2004): 25 subjects, 6 actions, 4 settings, of
which person13_handclapping_d3 is missing; 2391 sequences, 863 of subjects 17-25. The split is that of Manttari, Broome
et al., "Interpreting Video Features" (ACCV 2020). Frames count from 1 and both ends belong to a range. A video that
ends before its range does (person01_boxing_d4 is damaged) gives the frames there are, and the tool says so.

Lists are written at the end, and only if everything is there. A run that was interrupted goes on where it stopped.
"""
import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import cv2
import decord
import numpy as np
from mmengine.utils import ProgressBar

from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.lossless_video import write_video

ACTIONS = ('boxing', 'handclapping', 'handwaving', 'jogging', 'running', 'walking')
TRAIN_SUBJECTS, TEST_SUBJECTS = range(1, 17), range(17, 26)
PUBLISHED = dict(videos=599, sequences=2391, test=863)
NAME = re.compile(r'person(\d\d)_([a-z]+)_d([1-4])')
Range = Tuple[int, int]


class Sequence(NamedTuple):
    """One line of a list: a clip file, its label and the subject."""
    path: str
    label: int
    subject: int


def parse_sequences(text: str) -> Tuple[Dict[str, List[Range]], List[str]]:
    """{video: ranges of frames, from 1, both ends included}, and the videos that are marked as missing.

    Lines that do not start with the name of a video are the file's header.

    Raises:
        ValueError: if a video has no ranges and is not marked as missing, comes twice, has a range that is none, or
            is of an unknown action or subject, with the line.
    """
    videos, missing = {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        match = NAME.match(line.strip())
        if match is None:
            continue
        name, where = match.group(), f'line {number} ({line.strip()!r})'
        if match.group(2) not in ACTIONS or not 1 <= int(match.group(1)) <= 25:
            raise ValueError(f'{where}: no such action or subject; actions are {", ".join(ACTIONS)}, subjects 1 to 25.')
        if name in videos or name in missing:
            raise ValueError(f'{where}: {name} was there before.')
        rest = line.strip()[match.end():]
        if 'missing' in rest:
            missing.append(name)
            continue
        found = re.findall(r'(\d+)\s*-\s*(\d+)', rest)
        if any(len(number) > 9 for pair in found for number in pair):  # beyond any video, and beyond int() at 4300
            raise ValueError(f'{where:.200}: a frame number of more than nine digits.')
        videos[name] = [(int(first), int(last)) for first, last in found]
        if not videos[name]:
            raise ValueError(f'{where}: no ranges of frames, as in "frames 1-95, 96-185".')
        for first, last in videos[name]:
            if not 1 <= first <= last:
                raise ValueError(f'{where}: {first}-{last} is no range; frames count from 1.')
    if not videos:
        raise ValueError('no line starts with a name like person01_boxing_d1.')
    return videos, missing


def find_videos(folder: Path) -> Dict[str, Path]:
    """{video: file} for every AVI below the folder whose name is one of KTH's."""
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder. Give the one that holds the extracted archives.')
    found = {}
    for path in sorted(folder.rglob('*.avi')):
        match = re.fullmatch(NAME.pattern + r'(_uncomp)?\.avi', path.name)
        if match is None:
            continue
        name = NAME.match(path.name).group()
        if name in found:
            raise ValueError(f'{path} and {found[name]} are the same video; remove one.')
        found[name] = path
    return found


def read_grey(path: Path) -> Tuple[np.ndarray, int]:
    """All frames that decode, ``(T, H, W)`` uint8, and the largest difference between colour channels."""
    capture, frames, colour = cv2.VideoCapture(str(path)), [], 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        colour = max(colour, int(np.ptp(frame.astype(np.int16), axis=2).max()))
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    capture.release()
    return np.stack(frames) if frames else np.empty((0, 0, 0), np.uint8), colour


def cut(name: str, path: Path, ranges: List[Range], out: Path, notes: List[str]) -> List[Sequence]:
    """Write the clips of one video that are not there yet; what is unusual goes to ``notes``."""
    clips = [out / 'clips' / f'{name}_{i}.mkv' for i in range(1, len(ranges) + 1)]
    if not all(clip.is_file() and len(decord.VideoReader(str(clip))) == last - first + 1
               for clip, (first, last) in zip(clips, ranges)):
        frames, colour = read_grey(path)
        if colour > 32:
            notes.append(f'{name}: is in colour (channels differ by up to {colour} of 255); the clips are grey')
    else:
        frames = None  # nothing to do
    subject, action, _ = NAME.match(name).groups()
    written = []
    for clip, (first, last) in zip(clips, ranges):
        if frames is not None:
            part = frames[first - 1:last]
            if not len(part):
                notes.append(f'{name}: {first}-{last} left out, the video has only {len(frames)} frames that decode')
                continue
            if len(part) < last - first + 1:
                notes.append(f'{name}: {first}-{last} ends at frame {len(frames)}, the last that decodes')
            write_video(clip, part, fps=25.)
        written.append(Sequence(f'clips/{clip.name}', ACTIONS.index(action), int(subject)))
    return written


def prepare(folder: Path, sequence_file: Path, out: Path, val_subjects=(), allow_deviations: bool = False) -> List[str]:
    """Do it all; returns the lines of the report.

    Raises:
        ValueError, FileNotFoundError: before any list is written, if something is missing or not as published.
    """
    if not sequence_file.is_file():
        raise FileNotFoundError(f'{sequence_file} is no file. It is on the page of the data set as 00sequences.txt.')
    try:
        wanted, missing = parse_sequences(sequence_file.read_text(encoding='utf-8', errors='replace'))
    except ValueError as error:
        raise ValueError(f'{sequence_file}: {error}') from None
    outside = [s for s in val_subjects if s not in TRAIN_SUBJECTS]
    if outside:
        raise ValueError(f'--val-subjects {outside}: validation subjects are taken out of the training subjects 1-16.')
    sequences = sum(map(len, wanted.values()))
    in_test = sum(len(ranges) for name, ranges in wanted.items() if int(name[6:8]) in TEST_SUBJECTS)
    complete = len(wanted) == PUBLISHED['videos']
    report = [f'{sequence_file.name}: {len(wanted)} videos, {sequences} sequences, {in_test} of subjects 17-25']
    if (len(wanted), sequences, in_test) != tuple(PUBLISHED.values()):
        report[0] += ' (published: {videos}, {sequences} and {test})'.format(**PUBLISHED)
        if complete and not allow_deviations:
            raise ValueError(f'{report[0]}. Nothing was written. Is it the file of the data set as published? '
                             '--allow-deviations takes it as it is.')
    found = find_videos(folder)
    absent = sorted(set(wanted) - set(found))
    if absent and not allow_deviations:
        raise FileNotFoundError(
            f'{len(absent)} of {len(wanted)} videos of {sequence_file.name} are not below {folder}: '
            f'{", ".join(absent[:8])}{", ..." if len(absent) > 8 else ""}. Nothing was written. Extract all six '
            'archives, or take what is there with --allow-deviations.')
    report += [f'{name}: marked as missing in {sequence_file.name}' for name in missing]
    report += [f'{name}: no file, left out' for name in absent]
    report += [f'{name}: {found[name]} is not in {sequence_file.name}, left out'
               for name in sorted(set(found) - set(wanted))]
    (out / 'clips').mkdir(parents=True, exist_ok=True)
    present = sorted(set(wanted) & set(found))
    clips, progress = [], ProgressBar(len(present), file=sys.stdout)
    for name in present:
        clips += cut(name, found[name], wanted[name], out, report)
        progress.update()
    print()
    subjects = dict(train=set(TRAIN_SUBJECTS) - set(val_subjects), test=set(TEST_SUBJECTS))
    if val_subjects:
        subjects['val'] = set(val_subjects)
    lists = {split: [c for c in clips if c.subject in chosen] for split, chosen in subjects.items()}
    empty = [split for split, lines in lists.items() if not lines]
    if empty:
        raise ValueError(f'no sequence for {", ".join(empty)}: the folder has videos of subjects '
                         f'{sorted({c.subject for c in clips})} only. No list was written.')
    atomic_write_text(out / 'classes.txt', ''.join(f'{action}\n' for action in ACTIONS))
    for split, lines in lists.items():
        atomic_write_text(out / f'{split}.txt', ''.join(f'{c.path} {c.label}\n' for c in lines))
        counts = Counter(c.label for c in lines)
        report.append(f'{out / split}.txt: {len(lines)} sequences of {len({c.subject for c in lines})} subjects; '
                      + ', '.join(f'{action} {counts[i]}' for i, action in enumerate(ACTIONS)))
    return report


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder with the extracted AVI files, in sub-folders or not')
    parser.add_argument('out', type=Path, help='where clips and lists go; data/kth for the configs')
    parser.add_argument('--sequences', type=Path, help='the sequence file (default: FOLDER/00sequences.txt)')
    parser.add_argument('--val-subjects', type=int, nargs='+', default=(), help='of 1-16, for val.txt')
    parser.add_argument('--allow-deviations', action='store_true',
                        help='write lists though videos are missing or counts are not the published ones')
    args = parser.parse_args(argv)
    try:
        report = prepare(args.folder, args.sequences or args.folder / '00sequences.txt', args.out, args.val_subjects,
                         args.allow_deviations)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print('\n'.join(report))
    return 0


if __name__ == '__main__':
    sys.exit(main())
