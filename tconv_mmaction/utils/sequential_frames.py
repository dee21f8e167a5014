"""Every frame of a video from its start to its end, decoded once: what packing and counting need.

Nothing seeks here, so decord's seeks that miss (docs/data.md, "Decoders") play no part.
"""
import os
from typing import Iterator, NamedTuple, Tuple

import cv2
import decord
import numpy as np

from .pyav_video import PyAVVideo

CHUNK = 16  # frames at once


class Sequence(NamedTuple):
    """``frames``: how many there should be; ``shape``: (H, W) in pixels; ``chunks``: (t, H, W, 3) uint8 RGB each."""
    frames: int
    shape: Tuple[int, int]
    fps: float
    chunks: Iterator[np.ndarray]


def read_through(path: str, decoder: str = 'decord') -> Sequence:
    """Open ``path`` with 'decord' or 'pyav'.

    decord says as many frames as the container does, and repeats the last one where fewer decode. A file that ends with
    two equal frames is counted with OpenCV, and what is too many is left out.

    Raises:
        ModuleNotFoundError: if PyAV is asked for and not installed.
        Exception: what the decoder raises for a file that it cannot open, here or while the chunks are read.
    """
    if decoder == 'pyav':
        video = PyAVVideo(os.path.abspath(path))
        count = len(video)
        return Sequence(count, video.get_batch([0]).shape[1:3], video.get_avg_fps(), _in_chunks(video.all_frames()))
    reader = decord.VideoReader(os.path.abspath(path), num_threads=1)
    return Sequence(len(reader), tuple(reader.get_batch([]).shape[1:3]), reader.get_avg_fps(),
                    _decord_chunks(reader, path))


def _in_chunks(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    chunk = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == CHUNK:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def _decord_chunks(reader: decord.VideoReader, path: str) -> Iterator[np.ndarray]:
    total, last = len(reader), None
    starts = range(0, total, CHUNK)
    for start in starts:
        chunk = reader.get_batch(range(start, min(start + CHUNK, total))).asnumpy()
        if start == starts[-1]:
            before = chunk[-2] if len(chunk) > 1 else last
            if before is not None and np.array_equal(chunk[-1], before):
                chunk = chunk[:max(min(total, count_frames(path)) - start, 0)]
        else:
            last = chunk[-1].copy()
        if len(chunk):
            yield chunk


def count_frames(path: str) -> int:
    """Frames that come one after the other out of OpenCV's decoder."""
    capture, frames = cv2.VideoCapture(os.path.abspath(path)), 0
    try:
        while capture.grab():
            frames += 1
    finally:
        capture.release()
    return frames
