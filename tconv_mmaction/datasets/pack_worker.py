"""What a worker of tools/data/pack_clips.py does with one video: decode, scale, append to a shard.

Workers are processes (:mod:`tconv_mmaction.utils.worker_pool`), so what they get and give has to be importable.
"""
import errno
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Tuple

import mmcv
import numpy as np

from ..transforms.decord_video import diagnose, first_line
from ..utils.packed_frames import PackSettings, ShardWriter, encode_jpeg
from ..utils.sequential_frames import read_through
from .bad_video_list import file_version

NO_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


class Bad(NamedTuple):
    """What is wrong with a video."""
    kind: str
    reason: str


class Full(NamedTuple):
    """The disk is full, or another reason why nothing can be written any more."""
    reason: str


def packed_shape(shape: Tuple[int, int], settings: PackSettings) -> Tuple[int, int]:
    """(H, W) in pixels of the stored frames of a video of ``shape``, as mmaction2's Resize computes it."""
    if settings.size is not None:
        return settings.size[::-1]
    if settings.short_side is None:
        return tuple(shape)
    width, height = mmcv.rescale_size(tuple(shape[::-1]), (np.inf, settings.short_side))
    return height, width


def scaled(chunk: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Frames (t, H, W, 3) at ``shape``, with the function that mmaction2's Resize calls."""
    if chunk.shape[1:3] == tuple(shape):
        return chunk
    return np.stack([mmcv.imresize(frame, tuple(shape[::-1]), interpolation='bilinear') for frame in chunk])


class Probe:
    """How many bytes a video will take, without decoding it; for JPEG its first frames tell."""

    def __init__(self, settings: PackSettings) -> None:
        self.settings = settings

    def __call__(self) -> Callable[[str], Any]:
        return self.measure

    def measure(self, path: str) -> Any:
        try:
            video = read_through(path, self.settings.decoder)
            shape = packed_shape(video.shape, self.settings)
            if self.settings.quality is None:
                return video.frames * shape[0] * shape[1] * 3
            frames = scaled(next(video.chunks)[:3], shape)
            mean = np.mean([len(encode_jpeg(frame, self.settings.quality)) for frame in frames])
            return int(video.frames * (mean + 8)) + 8
        except Exception:  # said when it is packed
            return 0


class Pack:
    """Packs videos, one call each, into a shard that belongs to this process."""

    def __init__(self, folder: Path, settings: PackSettings, shard_bytes: int) -> None:
        self.folder, self.settings, self.shard_bytes = folder, settings, shard_bytes

    def __call__(self) -> Callable[[Any], Any]:
        self.writer = ShardWriter(self.folder, self.settings.quality, self.shard_bytes)
        return self.pack

    def pack(self, task: Any) -> Any:
        name, path = task
        version = file_version(path)
        try:
            video = read_through(path, self.settings.decoder)
            shape = packed_shape(video.shape, self.settings)
            chunks = _decoded(scaled(chunk, shape) for chunk in video.chunks)
            return self.writer.add(name, chunks, video.shape, video.fps, version)
        except OSError as error:
            if error.errno in NO_WRITING:
                return Full(f'{error.strerror} ({self.folder})')
            return self._bad(path, error)
        except Exception as error:  # what decoders raise
            return self._bad(path, error)

    @staticmethod
    def _bad(path: str, error: Exception) -> Bad:
        problem = diagnose(path, error.__cause__ or error)
        return Bad(problem.kind, f'{problem.text} ({first_line(error.__cause__ or error)})')


class DecodingError(RuntimeError):
    """A decoder failed within a video; an OSError of its own is not one of the disk that is written to."""


def _decoded(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from chunks
    except Exception as error:
        raise DecodingError(str(error)) from error
