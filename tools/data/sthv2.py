"""Annotation lists of Something-Something V2 from its json files.

    FOLDER/labels.json                              {"Approaching something with your camera": "0", ...}
    FOLDER/train.json, FOLDER/validation.json       [{"id": "78687", "template": "Holding [something] next to ..."}]
                                                    (also under their full names, something-something-v2-*.json)
    VIDEOS/78687.webm

    OUT/sthv2_train_list_videos.txt                 "78687.webm 41", mmaction2's VideoDataset form, relative to VIDEOS
    OUT/sthv2_val_list_videos.txt
    OUT/classes.txt                                 line number = label

The class of a video is its template without the brackets. The lists are written together, when both are whole; with
--allow-missing without the videos that are not there, which are named. The test split has no labels.
"""
import argparse
import sys
from pathlib import Path
from typing import Dict, List, Tuple

from tconv_mmaction.cli.video_lists import check_complete, write_lists
from tconv_mmaction.utils.text_files import parse_label, read_json

SPLITS = dict(train='train', val='validation')


def find_json(folder: Path, name: str) -> Path:
    """``name``.json under its short or full name."""
    tried = [folder / f'{prefix}{name}.json' for prefix in ('', 'something-something-v2-')]
    for path in tried:
        if path.is_file():
            return path
    raise FileNotFoundError(f'neither {tried[0]} nor {tried[1].name} is there.')


def read_labels(path: Path) -> Dict[str, int]:
    """{template without brackets: label}; labels are 0 to K-1."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no object {{"class": "label"}}, but {content!r:.80}.')
    labels = {name: parse_label(str(label), len(content)) for name, label in content.items()}
    bad = {name: content[name] for name, label in labels.items() if label is None}
    if bad:
        raise ValueError(f'{path}: the labels of {len(content)} classes are not 0 to {len(content) - 1}: {bad!r:.200}.')
    if sorted(labels.values()) != list(range(len(labels))):
        raise ValueError(f'{path}: the labels of {len(labels)} classes are not 0 to {len(labels) - 1}.')
    return labels


def read_split(path: Path, labels: Dict[str, int]) -> List[Tuple[str, int]]:
    """[(video id, label)].

    Raises:
        ValueError: with the video, if it has no template, its class is not in ``labels``, or it comes twice.
    """
    entries, seen = [], set()
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f'{path} holds no list of videos, but {content!r:.80}.')
    for entry in content:
        if (not isinstance(entry, dict) or not isinstance(entry.get('id'), (str, int))
                or not isinstance(entry.get('template'), str)):
            raise ValueError(f'{path}: {entry!r:.200} has no id and template. The test split has no labels; train.json '
                             'and validation.json have.')
        name = entry['template'].replace('[', '').replace(']', '')
        if name not in labels:
            raise ValueError(f'{path}: the class {name!r} of video {entry["id"]} is not in labels.json.')
        video = str(entry['id'])
        if video in seen:
            raise ValueError(f'{path}: video {video} comes twice.')
        seen.add(video)
        entries.append((video, labels[name]))
    return entries


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder with the json files')
    parser.add_argument('videos', type=Path, help='folder with the videos')
    parser.add_argument('--out-dir', type=Path, help='where the lists go (default: FOLDER)')
    parser.add_argument('--ending', default='.webm', help='of the videos (default .webm)')
    parser.add_argument('--allow-missing', action='store_true', help='leave out videos that are not there')
    args = parser.parse_args(argv)
    out = args.out_dir or args.folder
    try:
        labels = read_labels(find_json(args.folder, 'labels'))
        if not args.videos.is_dir():
            raise FileNotFoundError(f'{args.videos} is no folder.')
        there = {path.name for path in args.videos.iterdir()}
        lists, missing = {}, []
        for split, name in SPLITS.items():
            entries = [(video + args.ending, label) for video, label in
                       read_split(find_json(args.folder, name), labels)]
            lists[split] = [f'{video} {label}\n' for video, label in entries if video in there]
            missing += [f'{split} {video}' for video, _ in entries if video not in there]
        check_complete(lists, missing, args.allow_missing, f'are not in {args.videos}', f'is in {args.videos}',
                       'Extract all archives (or name another --ending)')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    write_lists(out, sorted(labels, key=labels.get), lists, 'sthv2_{split}_list_videos.txt', missing, 'no file')
    return 0


if __name__ == '__main__':
    sys.exit(main())
