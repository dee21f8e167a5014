"""What opens a video, which frames come, and how long it takes: decord, PyAV, and torchcodec if installed.

    python tools/benchmarks/decoders.py --videos FOLDER --out-dir docs/benchmarks

For every file and every decoder: 'exact' where the number of frames and all frames, read from the start on and asked
for one by one in random order, are those that the program ffmpeg decodes; 'near' where values differ by up to 3 of 255
(decoders round); else what is wrong: the number of frames, frames when reading on (of all), or asked for (of 16).
'other frames' are nearer to another frame of the video than to the right one; of 'other colours' the mean difference is
given.
``ms`` is the median time to open the file, count, and read 32 frames in its middle by number. Needs ffmpeg.

Without ``--videos`` two videos of MPEG-4 are made.
"""
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import decord
import numpy as np
from recipes import write_video

from tconv_mmaction.cli.timing import parser, report
from tconv_mmaction.utils.pyav_video import PyAVVideo

NEAR = 3  # of 255
CLIP, ASKED = 32, 16  # frames read for the time, and asked for one by one


class Decord:
    def __init__(self, path: str) -> None:
        self.reader = decord.VideoReader(path, num_threads=1)

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self.reader.get_batch(list(indices)).asnumpy()


class PyAV(Decord):
    def __init__(self, path: str) -> None:
        self.reader = PyAVVideo(path)


class TorchCodec:
    def __init__(self, path: str) -> None:
        from torchcodec.decoders import VideoDecoder
        self.reader = VideoDecoder(path, dimension_order='NHWC', num_ffmpeg_threads=1)

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self.reader.get_frames_at(list(indices)).data.numpy()


def offered() -> Dict[str, Callable]:
    """The decoders that this machine has; says which it lacks."""
    found: Dict[str, Callable] = {'decord': Decord, 'PyAV': PyAV, 'torchcodec': TorchCodec}
    for name, module in (('PyAV', 'av'), ('torchcodec', 'torchcodec.decoders')):
        try:
            __import__(module)
        except Exception as error:  # torchcodec raises RuntimeError where it finds no FFmpeg
            print(f'{name} is left out: {str(error).strip().splitlines()[0]}')
            del found[name]
    return found


def ffmpeg_frames(path: Path) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB."""
    base = ['-v', 'quiet', '-nostdin', '-threads', '1', '-flags', 'bitexact', '-i', str(path), '-map', '0:v:0']
    first = subprocess.run(['ffmpeg', *base, '-frames:v', '1', '-f', 'image2pipe', '-c:v', 'ppm', '-'],
                           capture_output=True, check=True).stdout
    width, height = map(int, first.split(b'\n')[1].split())  # as shown, turned if the file says so
    data = subprocess.run(['ffmpeg', *base, '-vsync', 'passthrough', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'],
                          capture_output=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


class Wrong(NamedTuple):
    """How many are another frame; the mean difference of others that are too far off; the largest of the rest."""
    frames: int
    colours: float
    near: int


def compare(given: np.ndarray, wanted: Sequence[int], expected: np.ndarray) -> Wrong:
    if given.shape[1:] != expected.shape[1:]:
        return Wrong(len(wanted), 0., 0)
    others, colours, near = 0, 0., 0
    for frame, index in zip(given.astype(np.int16), wanted):
        difference = np.abs(frame - expected[index])
        if difference.max() <= NEAR:
            near = max(near, int(difference.max()))
        elif np.abs(frame - expected).mean((1, 2, 3)).argmin() == index:
            colours = max(colours, float(difference.mean()))
        else:
            others += 1
    return Wrong(others, colours, near)


def verdict(kind: Callable, path: Path, expected: np.ndarray) -> str:
    """In a few words, see the head of this file."""
    try:
        video = kind(str(path))
        count = len(video)
    except Exception:
        return 'does not open'
    said = [] if count == len(expected) else [f'says {count} frames']
    usable, near = min(max(count, 0), len(expected)), 0
    rng = np.random.default_rng(0)
    for what, wanted in (('reading on', np.arange(usable)), ('asked for', rng.integers(0, max(usable, 1), ASKED))):
        try:
            if what == 'reading on':
                given = kind(str(path)).read(wanted.tolist())
            else:
                given = np.concatenate([video.read([index]) for index in wanted.tolist()])
        except Exception:
            said.append(f'{what}: stops')
            continue
        wrong = compare(given, wanted.tolist(), expected)
        near = max(near, wrong.near)
        if wrong.frames:
            said.append(f'{what}: {wrong.frames} of {len(wanted)} are other frames')
        elif wrong.colours and what == 'reading on':
            said.append(f'other colours (mean {wrong.colours:.1f})')
    return '; '.join(said) or ('exact' if near == 0 else f'near ({near})')


def milliseconds(kind: Callable, path: Path, frames: int, rounds: int) -> str:
    start = max(frames - CLIP, 0) // 2
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        try:
            video = kind(str(path))
            len(video)
            video.read(range(start, min(start + CLIP, frames)))
        except Exception:
            return '-'
        seconds.append(time.perf_counter() - begin)
    return f'{np.median(seconds) * 1e3:.0f}'


def rows(videos: Sequence[Path], rounds: int) -> List[dict]:
    kinds, found = offered(), []
    for path in videos:
        expected = ffmpeg_frames(path)
        row = dict(video=path.name, frames=len(expected))
        for name, kind in kinds.items():
            row[name] = verdict(kind, path.resolve(), expected)
            row[f'{name}_ms'] = milliseconds(kind, path.resolve(), len(expected), rounds)
        found.append(row)
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--videos', type=Path, nargs='+', help='folders or files')
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    if shutil.which('ffmpeg') is None:
        options.error('ffmpeg, which the frames are compared with, is not found: install it (Debian: apt-get install '
                      'ffmpeg).')
    with tempfile.TemporaryDirectory() as folder:
        given = args.videos or [write_video(Path(folder) / f'{width}.mp4', width, height, 60)
                                for width, height in ((170, 128), (340, 256))]
        videos = sorted(p for path in given for p in (path.iterdir() if path.is_dir() else [path]) if p.is_file())
        report('decoders', rows(videos, args.rounds), args, bars=False, how=f'ms: medians of {args.rounds} calls, load '
               f'of the machine {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    main()
