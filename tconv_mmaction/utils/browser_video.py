"""Videos that browsers play, by OpenCV alone.

The wheels of opencv-python have no encoder for H.264, the codec of most .mp4 files, and their MPEG-4 (``mp4v``) plays
in no browser. They do have VP9, which today's browsers play in .mp4 and .webm alike. Where OpenCV was built with an
H.264 encoder, an .mp4 takes that. OpenCV writes pictures only, no sound.
"""
import contextlib
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Iterable, Iterator, Union

import cv2
import numpy as np

# ending -> codes of codecs, best first
CODECS = {'.mp4': ('avc1', 'vp09'), '.webm': ('VP90', )}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """FFmpeg's own complaints about an encoder that is not there go to the file descriptor, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def write_video(path: Union[str, Path], frames: Iterable[np.ndarray], fps: float) -> str:
    """Write RGB frames, one at a time; the file appears under its name when it is whole.

    Args:
        path: ends in .mp4 or .webm.
        frames: ``(H, W, 3)`` uint8, all of one size; odd sides gain a row or column at the end.
        fps: frames per second.

    Returns:
        The code of the codec: 'avc1' (H.264) or 'vp09', 'VP90' (VP9).

    Raises:
        ValueError: for another ending, a rate that is not positive, no frames, or frames of several sizes.
        RuntimeError: if OpenCV has none of the encoders, or what it wrote cannot be read back.
    """
    path = Path(path)
    if path.suffix.lower() not in CODECS:
        raise ValueError(f'browsers play {" and ".join(CODECS)}, got {path}.')
    if not fps > 0:
        raise ValueError(f'fps must be positive, got {fps!r}.')
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f'there are no frames for {path}.')
    height, width = (side + side % 2 for side in first.shape[:2])  # the codecs halve the colours' resolution
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}')  # the ending tells the container
    try:
        with _quiet():
            for code in CODECS[path.suffix.lower()]:
                writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), fps,
                                         (width, height))
                if writer.isOpened():
                    break
                unfinished.unlink(missing_ok=True)
            else:
                raise RuntimeError(f'OpenCV {cv2.__version__} cannot write {path}. Is the folder writable, and was '
                                   'OpenCV built with FFmpeg and VP9? The wheels of opencv-python are.')
        count = 0
        for frame in _with_first(first, frames):
            if frame.shape != first.shape:
                raise ValueError(f'frame {count} of {path} is {frame.shape}, the first one {first.shape}.')
            writer.write(cv2.copyMakeBorder(np.ascontiguousarray(frame[..., ::-1]), 0, height - frame.shape[0], 0,
                                            width - frame.shape[1], cv2.BORDER_REPLICATE))
            count += 1
        writer.release()
        _check(unfinished, count, path)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return code


def _with_first(first: np.ndarray, others: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from others


def _check(written: Path, count: int, path: Path) -> None:
    reader = cv2.VideoCapture(str(written))
    found = 0
    while reader.grab():
        found += 1
    reader.release()
    if found != count:
        raise RuntimeError(f'{path}: {count} frames were written and {found} are read back. Is the disk full?')
