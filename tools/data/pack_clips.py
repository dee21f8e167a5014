"""Decode the videos of lists once, scaled to the training resolution, into files that are mapped into memory.

    python tools/data/pack_clips.py train.txt val.txt --data-prefix videos --out data/packed --short-side 128
    python tools/train.py CONFIG --cfg-options \\
        train_dataloader.dataset.type=PackedVideoDataset train_dataloader.dataset.data_prefix.video=data/packed

Give the scale of the first Resize of the training pipeline: --short-side 128 stands for Resize(scale=(-1, 128)),
--size 112 112 for Resize(scale=(112, 112), keep_ratio=False). The pixels are the same then. Without either frames keep
their size. --jpeg 95 takes a fraction of the room of raw frames and is no longer lossless.

Before it starts it says how large the pack gets, and refuses if the disk has less room. Each worker is a process of
its own: a video that crashes the decoder, hangs or cannot be read is listed in OUT/bad_videos.jsonl, and the rest is
packed.
The same command after an interruption, or with more lists, goes on with what is missing; videos that changed are packed
again.

Exit code: 0 all packed, 1 bad videos found, 2 wrong call or no room, 130 interrupted.
"""
import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
from mmengine.utils import ProgressBar

from tconv_mmaction.datasets.bad_video_list import FILE_NAME, BadVideoList, file_version
from tconv_mmaction.datasets.pack_worker import Full, Pack, Probe
from tconv_mmaction.utils.packed_frames import SETTINGS_FILE, PackReader, PackSettings, Row, read_index
from tconv_mmaction.utils.pyav_video import load_av
from tconv_mmaction.utils.text_files import read_lines
from tconv_mmaction.utils.video_file import video_path
from tconv_mmaction.utils.worker_pool import Failure, each

PROBED = 200  # videos that are opened to say how large the pack gets; of larger lists a sample, evenly spread
MIB = 1 << 20
SPARE = 64 * MIB  # of the disk, which nobody should fill to the last byte


def names_of(lists: List[Path], delimiter: str) -> List[str]:
    """The videos of all lists, each once, in order.

    Raises:
        FileNotFoundError, ValueError: a list that is not there, or names no video.
    """
    names: Dict[str, None] = {}
    for path in lists:
        if not path.is_file():
            raise FileNotFoundError(f'{path} is no annotation list: there is no such file.')
        lines = [line.strip() for line in read_lines(path) if line.strip()]
        if not lines:
            raise ValueError(f'{path} names no video.')
        names.update(dict.fromkeys(line.split(delimiter)[0] for line in lines))
    return list(names)


def size(count: float) -> str:
    return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.1f} MB'


def estimate(files: Dict[str, str], settings: PackSettings, workers: int, timeout: float) -> int:
    """Bytes that ``files`` will take; of many a sample is opened."""
    names = list(files)
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(PROBED, len(names))).round().astype(int))]
    found = [0 if isinstance(result, Failure) else result
             for _, result in each({name: files[name] for name in chosen}, Probe(settings), workers, timeout)]
    return round(sum(found) / len(chosen) * len(files))


def settings_of(args: argparse.Namespace) -> PackSettings:
    """From the options; those of a pack that is there must be the same."""
    settings = PackSettings(args.short_side, tuple(args.size) if args.size else None, args.jpeg, args.decoder)
    if (args.out / SETTINGS_FILE).exists():
        there = PackSettings.load(args.out)
        if there != settings:
            raise ValueError(f'{args.out} holds a pack with other settings ({there.describe()}) than asked for '
                             f'({settings.describe()}). Give the same, or another --out.')
    elif args.out.is_dir() and any(args.out.iterdir()):
        raise ValueError(f'{args.out} is not empty and holds no pack. Give a new folder.')
    return settings


def run(args: argparse.Namespace) -> int:
    if args.decoder == 'pyav':
        load_av()
    settings, names = settings_of(args), names_of(args.lists, args.delimiter)
    files = {name: video_path(os.path.join(args.data_prefix, name)) for name in names}
    there = read_index(args.out) if args.out.is_dir() else {}
    bad = BadVideoList(args.out / FILE_NAME, 'pack')
    bad.read()
    bad.forget_outdated(names, lambda name: files[name])
    packed = {name for name in names if name in there and list(there[name][1].source) == file_version(files[name])}
    todo = {name: path for name, path in files.items() if name not in packed and name not in bad.entries}
    print(f'{len(names)} videos: {len(packed)} packed before, {len(set(bad.entries) & set(names))} known to be bad, '
          f'{len(todo)} to do; {settings.describe()}')
    if todo:
        needed = estimate(todo, settings, args.workers, args.timeout)
        folder = args.out.resolve()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        exact = settings.quality is None and len(todo) <= PROBED
        print(f'they take {"" if exact else "about "}{size(needed)}; {size(free)} are free in {folder}', flush=True)
        if needed + SPARE > free:
            raise ValueError(f'there is no room for {size(needed)} in {folder}: make room, choose a smaller '
                             '--short-side or --size, or --jpeg 95.')
    if args.dry_run:
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    settings.save(args.out)
    bar = ProgressBar(len(todo), file=sys.stderr) if todo else None
    pack = Pack(args.out, settings, round(args.shard_mib * MIB))
    tasks = {name: (name, path) for name, path in todo.items()}
    for name, result in each(tasks, pack, args.workers, args.timeout):
        if isinstance(result, Full):
            print(file=sys.stderr)
            raise ValueError(f'{result.reason}. What is packed so far stays; the same command goes on.')
        if not isinstance(result, Row):
            bad.add(dict(file=name, kind=result.kind, reason=result.reason, version=file_version(files[name])))
        bar.update()
    if todo:
        print(file=sys.stderr)
    return finish(args, names, bad)


def finish(args: argparse.Namespace, names: List[str], bad: BadVideoList) -> int:
    """Say what the pack holds."""
    index = read_index(args.out)
    if args.verify:
        reader = PackReader(args.out)
        damaged = [name for name, (shard, row) in index.items() if not reader.check(shard, row)]
        if damaged:
            raise ValueError(f'{len(damaged)} videos of {args.out} are not what was written: {", ".join(damaged[:5])}. '
                             f'Remove their shards ({", ".join(sorted({index[n][0] for n in damaged})[:5])}, and the '
                             '.jsonl of the same name) and pack again.')
        print(f'{len(index)} videos read back: as written')
    known = [name for name in names if name in bad.entries]
    for name in known:
        print(f'bad: {name}: {bad.entries[name]["reason"]}')
    rows = [index[name][1] for name in names if name in index and name not in bad.entries]
    print(f'{args.out}: {len(rows)} of {len(names)} videos, {sum(row.frames for row in rows)} frames, '
          f'{size(sum(row.bytes for row in rows))}'
          + (f'; {len(known)} bad ones are in {args.out / FILE_NAME}' if known else ''))
    print(f"use it with: dataset=dict(type='PackedVideoDataset', data_prefix=dict(video={str(args.out)!r}))")
    return 1 if known else 0


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('lists', type=Path, nargs='+', help='annotation lists ("PATH LABEL" per line)')
    parser.add_argument('--data-prefix', default='', help='folder that the names of the lists are relative to')
    parser.add_argument('--out', type=Path, required=True, help='folder of the pack')
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument('--short-side', type=int, metavar='PIXELS', help='scale the shorter side to this')
    frames.add_argument('--size', type=int, nargs=2, metavar=('WIDTH', 'HEIGHT'), help='scale to exactly this')
    parser.add_argument('--jpeg', type=int, metavar='QUALITY', help='store as JPEG, 1 to 100 (default: raw frames)')
    parser.add_argument('--decoder', choices=('decord', 'pyav'), default='decord', help='what reads the videos')
    parser.add_argument('--delimiter', default=' ', help='between name and label (default: a blank)')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes (default: all cores)')
    parser.add_argument('--timeout', type=float, default=300., help='seconds for one video (default 300)')
    parser.add_argument('--shard-mib', type=float, default=1024., help='a file that has as many MiB is full')
    parser.add_argument('--dry-run', action='store_true', help='only say how large the pack gets')
    parser.add_argument('--verify', action='store_true', help='read everything back and compare checksums')
    args = parser.parse_args(argv)
    if args.workers < 1 or not args.timeout > 0 or not args.shard_mib > 0:
        parser.error(f'--workers {args.workers}, --timeout {args.timeout:g} and --shard-mib {args.shard_mib:g} must be '
                     'positive.')
    if min([args.short_side or 1, *(args.size or [1])]) < 1 or args.short_side == 0:
        parser.error('--short-side and --size must be positive numbers of pixels.')
    if args.jpeg is not None and not 1 <= args.jpeg <= 100:
        parser.error(f'--jpeg must be a quality from 1 to 100, got {args.jpeg}.')
    try:
        return run(args)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'\ninterrupted; the same command goes on with {args.out}', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
