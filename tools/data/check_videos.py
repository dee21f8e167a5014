"""Which videos of a list or folder cannot be read, and which have another number of frames than their header says.

    python tools/data/check_videos.py train.txt --data-prefix videos --out work_dirs/videos.csv --workers 4
    python tools/data/check_videos.py train.txt --data-prefix videos --out work_dirs/videos.csv --clean-list clean.txt
    python tools/data/check_videos.py train.txt --data-prefix videos --out work_dirs/videos.csv --counted-list true.txt

Every frame is decoded with decord, as in training, and counted with OpenCV. Each worker is a process of its own: a file
that crashes the decoder or does not end within --timeout seconds is one bad file. The report grows row by row; the
same command after an interruption goes on where it stopped, and checks again only files that changed since.

Exit code: 0 all readable, 1 bad files found (with --strict also frame counts that lie), 2 wrong call, 130 interrupted.
"""
import argparse
import csv
import io
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from mmengine.utils import ProgressBar

from tconv_mmaction.transforms.decord_video import diagnose, first_line
from tconv_mmaction.utils.atomic import atomic_write_bytes
from tconv_mmaction.utils.video_file import stated_size, video_path
from tconv_mmaction.utils.worker_pool import Failure, each

ENDINGS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.mpg', '.mpeg', '.m4v', '.wmv', '.flv', '.3gp')
COLUMNS = ('file', 'status', 'kind', 'header_frames', 'decord_frames', 'decodable_frames', 'width', 'height', 'bytes',
           'mtime_ns', 'mode', 'detail')
CHUNK = 16  # frames decoded at once


def count_with_opencv(path: str) -> Tuple[int, int]:
    """Frames that the header states (-1: nothing), and frames that come one after the other."""
    import cv2
    capture = cv2.VideoCapture(path)
    try:
        stated, frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else -1, 0
        while capture.grab():
            frames += 1
    finally:
        capture.release()
    return stated, frames


def check_video(path: str, quick: bool) -> Dict[str, Any]:
    """The columns of one file, but for its name and version. Called in a process that may die of it."""
    import decord
    row, total = dict.fromkeys(COLUMNS, ''), None
    try:
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1)
        total = len(reader)
        indices = sorted({0, total // 2, total - 1}) if quick else range(total)
        for start in range(0, len(indices), CHUNK):
            part = indices[start:start + CHUNK]
            frames = reader.get_batch(part)
            row.update(height=frames.shape[1], width=frames.shape[2])
    except Exception as error:  # decord raises RuntimeError, AssertionError and errors of its own
        problem = diagnose(path, error)
        detail = f'{problem.text} ({first_line(error)})'
        row.update(status='bad', kind=problem.kind, detail=detail)
        if total is not None:
            row.update(decord_frames=total, detail=f'decord opens it and fails within its {total} frames; {detail}')
            if not quick:  # decord decodes ahead in a thread: which frame is the first that fails varies by one or two
                row['header_frames'], row['decodable_frames'] = count_with_opencv(path)
        return row
    row.update(status='ok', decord_frames=total)
    if quick:
        return row
    stated, counted = count_with_opencv(path)
    row.update(header_frames=stated, decodable_frames=counted)
    if not stated == total == counted:
        cut = (stated_size(path) or 0) > os.path.getsize(path)
        counts = f'the header states {stated} frames, decord {total}, and {counted} come one after the other'
        row.update(status='lies', kind='truncated' if cut else 'frame count',
                   detail=f'the file was cut off; {counts}' if cut else counts)
    return row


class Check:
    """What a worker does with a path; the process it runs in may die of it."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick

    def __call__(self) -> Callable[[str], Dict[str, Any]]:
        return lambda path: check_video(path, self.quick)


def check_all(files: Dict[str, str], workers: int, timeout: float, quick: bool) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """(name, row) of every file, in the order in which they are done."""
    for name, row in each(files, Check(quick), workers, timeout):
        yield name, dict(status='bad', kind=row.kind, detail=row.reason) if isinstance(row, Failure) else row


def read_list(path: Path, delimiter: str) -> List[Tuple[str, str]]:
    """(line, file name) of every line that is not empty."""
    lines = path.read_bytes().decode('utf-8-sig', 'surrogateescape').replace('\r\n', '\n').split('\n')
    return [(line, line.strip().split(delimiter)[0]) for line in lines if line.strip()]


def version(path: str) -> Tuple[str, str]:
    """Size and time of change as the report has them; empty for a missing file."""
    try:
        status = os.stat(path)
    except OSError:
        return '', ''
    return str(status.st_size), str(status.st_mtime_ns)


def finished_rows(report: Path, files: Dict[str, str], quick: bool) -> Dict[str, Dict[str, str]]:
    """Rows of an earlier call that still hold; the report is cut behind its last whole row."""
    if not report.exists():
        return {}
    data = report.read_bytes()
    header = ','.join(COLUMNS).encode() + b'\r\n'
    if not data.startswith(header):
        raise ValueError(f'{report} exists and is no report of this tool. Give another --out, or remove it.')
    whole = data[:data.rfind(b'\r\n') + 2]  # names are quoted by csv, and a row ends with CR LF outside of quotes only
    if len(whole) < len(data):
        os.truncate(report, len(whole))
    rows = {}
    for row in csv.DictReader(io.StringIO(whole.decode('utf-8', 'surrogateescape'), newline='')):
        name = row['file']
        if name in files and (row['bytes'], row['mtime_ns']) == version(files[name]) and (
                row['mode'] == 'full' or quick):
            rows[name] = row
        else:
            rows.pop(name, None)
    return rows


def collect(args: argparse.Namespace) -> Tuple[Dict[str, str], List[Tuple[str, str]]]:
    """{name in the report: path}, and the lines of the list ([] for a folder)."""
    if args.source.is_dir():
        paths = sorted(p for p in args.source.rglob('*') if p.is_file() and p.suffix.lower() in ENDINGS)
        if not paths:
            raise ValueError(f'{args.source} holds no file that ends like a video ({", ".join(ENDINGS)}).')
        return {p.relative_to(args.source).as_posix(): str(p) for p in paths}, []
    if not args.source.exists():
        raise FileNotFoundError(f'{args.source} does not exist. Give an annotation list or a folder of videos.')
    lines = read_list(args.source, args.delimiter)
    if not lines:
        raise ValueError(f'{args.source} names no video.')
    return {name: video_path(os.path.join(args.data_prefix, name)) for _, name in lines}, lines


def run(args: argparse.Namespace) -> int:
    files, lines = collect(args)
    rows = finished_rows(args.out, files, args.quick)
    todo = {name: path for name, path in files.items() if name not in rows}
    print(f'{len(files)} videos, {len(rows)} of them already in {args.out}', file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    new = not args.out.exists()
    mode, synced = 'quick' if args.quick else 'full', time.monotonic()
    with open(args.out, 'a', encoding='utf-8', errors='surrogateescape', newline='') as report:
        writer = csv.DictWriter(report, COLUMNS)
        if new:
            writer.writeheader()
            report.flush()
        bar = ProgressBar(len(todo), file=sys.stderr) if todo else None
        for name, row in check_all(todo, args.workers, args.timeout, args.quick):
            size, changed = version(todo[name])
            rows[name] = dict(row, file=name, bytes=size, mtime_ns=changed, mode=mode)
            writer.writerow(rows[name])
            report.flush()  # in the kernel: no kill of this process loses it
            if time.monotonic() > synced + 1:
                os.fsync(report.fileno())
                synced = time.monotonic()
            bar.update()
    if todo:
        print(file=sys.stderr)
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows[name] for name in files)  # one row per file, in the order of the list
    atomic_write_bytes(args.out, text.getvalue().encode('utf-8', 'surrogateescape'))
    bad = [name for name in files if rows[name]['status'] == 'bad']
    lies = [name for name in files if rows[name]['status'] == 'lies']
    for name in bad + lies:
        print(f'{rows[name]["status"]}: {name}: {rows[name]["detail"]}')
    print(f'{len(files)} videos: {len(files) - len(bad) - len(lies)} ok, {len(bad)} bad, {len(lies)} whose frame count '
          f'lies; {args.out}')
    left_out = set(bad + lies if args.strict else bad)
    if args.clean_list is not None:
        kept = [line for line, name in lines if name not in left_out]
        atomic_write_bytes(args.clean_list, ''.join(f'{line}\n' for line in kept).encode('utf-8', 'surrogateescape'))
        print(f'{args.clean_list}: {len(kept)} of {len(lines)} lines')
    if args.counted_list is not None:
        counted = [f'{name}{args.delimiter}{rows[name]["decodable_frames"]}{line.strip()[len(name):]}'
                   for line, name in lines if name not in left_out]
        atomic_write_bytes(args.counted_list,
                           ''.join(f'{line}\n' for line in counted).encode('utf-8', 'surrogateescape'))
        print(f'{args.counted_list}: {len(counted)} of {len(lines)} lines, with the frames that decode')
    return 1 if left_out else 0


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='annotation list ("PATH LABEL" per line) or folder of videos')
    parser.add_argument('--data-prefix', default='', help='folder that the names of the list are relative to')
    parser.add_argument('--out', type=Path, required=True, help='CSV report; an unfinished one is continued')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes (default: all cores)')
    parser.add_argument('--timeout', type=float, default=120., help='seconds for one file (default 120)')
    parser.add_argument('--quick', action='store_true', help='decode three frames of each file and count none')
    parser.add_argument('--delimiter', default=' ', help='between name and label (default: a blank)')
    parser.add_argument('--clean-list', type=Path, help='write the list without the bad files')
    parser.add_argument('--counted-list', type=Path, help='write the list without the bad files and with the number of '
                        'frames that decode: "PATH FRAMES LABEL", for TolerantVideoDataset(counted=True)')
    parser.add_argument('--strict', action='store_true', help='treat frame counts that lie as bad files')
    args = parser.parse_args(argv)
    if args.workers < 1 or args.timeout <= 0:
        parser.error(f'--workers {args.workers} and --timeout {args.timeout:g} must be positive.')
    for name in ('clean_list', 'counted_list'):
        if getattr(args, name) is not None and args.source.is_dir():
            parser.error(f'--{name.replace("_", "-")} needs an annotation list, and {args.source} is a folder.')
    if args.counted_list is not None and args.quick:
        parser.error('--counted-list needs the frames to be counted, and --quick counts none.')
    try:
        return run(args)
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'\ninterrupted; the same command goes on with {args.out}', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
