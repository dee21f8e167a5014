"""Decoded videos in large files that are mapped into memory: written once, read at any frames without decoding.

A pack is a folder:

    pack.json           what every video in it went through: PackSettings
    shard-00000.bin     the frames of one video after the other
    shard-00000.jsonl   one line per video, Row, written when its bytes are on the disk

Encoding 'raw' stores ``(T, H, W, 3)`` uint8 RGB as it is. 'jpeg' stores T JPEG images one after the other and behind
them T + 1 little-endian int64 offsets, from the first byte of the video, where each image starts and the last one ends.

A kill at any moment loses the video being written, no other: what a shard has behind its last line is cut off by
whoever writes to it next (:class:`ShardWriter`), and is not seen by readers.
"""
import json
import mmap
import os
import re
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from .atomic import atomic_write_text

try:
    import fcntl
except ImportError:  # Windows: every writer makes shards of its own there
    fcntl = None

FORMAT = 1
SETTINGS_FILE = 'pack.json'
OPEN_SHARDS = 32  # maps kept open per process: each holds a file descriptor
_SHARD = re.compile(r'shard-\d{5,}\.jsonl')


class PackSettings(NamedTuple):
    """What the videos of a pack went through.

    Args:
        short_side: pixels of the shorter side, as ``Resize(scale=(-1, short_side))`` makes it; None: not asked for.
        size: (width, height) in pixels, as ``Resize(scale=size, keep_ratio=False)``; None: not asked for.
        quality: of JPEG, 1 to 100; None: raw frames.
        decoder: which one read the videos.
    """
    short_side: Optional[int] = None
    size: Optional[Tuple[int, int]] = None
    quality: Optional[int] = None
    decoder: str = 'decord'

    def describe(self) -> str:
        """In words, for messages."""
        size = (f'{self.size[0]}x{self.size[1]}' if self.size else
                f'short side {self.short_side}' if self.short_side else 'own size')
        return f'{size}, {"raw" if self.quality is None else f"JPEG at quality {self.quality}"}, read by {self.decoder}'

    def save(self, folder: Path) -> None:
        text = json.dumps(dict(self._asdict(), format=FORMAT), indent=1)
        atomic_write_text(folder / SETTINGS_FILE, f'{text}\n')

    @classmethod
    def load(cls, folder: Path) -> 'PackSettings':
        """Those of a pack.

        Raises:
            FileNotFoundError: if the folder holds no pack.
            ValueError: if it was written by a later version of this package, or the file is damaged.
        """
        path = Path(folder) / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f'{folder} is no folder of packed videos: there is no {path}. Make it with '
                                    'tools/data/pack_clips.py, or give its folder.')
        try:
            values = json.loads(path.read_text(encoding='utf-8'))
            version = values.pop('format')
            settings = cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{path} is damaged ({type(error).__name__}: {error}). Pack the videos again.') from error
        if version != FORMAT:
            raise ValueError(f'{path} says format {version}, and this version of the package reads format {FORMAT}.')
        return settings._replace(size=tuple(settings.size) if settings.size else None)


class Row(NamedTuple):
    """One video of a shard.

    ``offset`` and ``bytes`` say where it lies; ``frames``, ``height`` and ``width`` (pixels) what is stored;
    ``video_height`` and ``video_width`` what the video has; ``fps`` its mean rate; ``crc`` is CRC-32 of its bytes;
    ``source`` the size in bytes and time of change in ns of the file that was read.
    """
    file: str
    offset: int
    bytes: int
    frames: int
    height: int
    width: int
    video_height: int
    video_width: int
    fps: float
    crc: int
    source: Tuple[Optional[int], Optional[int]]


def _rows(journal: bytes) -> Tuple[List[Row], int]:
    """The rows of the whole lines, and the number of bytes that these take."""
    whole = journal.rfind(b'\n') + 1
    return [Row(**json.loads(line)) for line in journal[:whole].splitlines()], whole


def read_index(folder: Union[str, Path]) -> Dict[str, Tuple[str, Row]]:
    """{name of the video: (name of the shard, row)}. Of a video that was packed twice, the later one.

    Raises:
        ValueError: if a shard is shorter than its rows say, or a row cannot be read.
    """
    found: Dict[str, Tuple[str, Row]] = {}
    for journal in sorted(p for p in Path(folder).glob('shard-*.jsonl') if _SHARD.fullmatch(p.name)):
        try:
            rows, _ = _rows(journal.read_bytes())
        except (ValueError, TypeError) as error:
            raise ValueError(f'{journal} is damaged ({error}). Remove it and its .bin, and pack again: what is whole '
                             'stays.') from error
        shard = journal.with_suffix('.bin')
        size = shard.stat().st_size if shard.exists() else 0
        end = max((row.offset + row.bytes for row in rows), default=0)
        if size < end:
            raise ValueError(f'{shard} has {size} bytes and {end} are needed: it was cut off, or not copied whole. '
                             'Copy it again, or remove it and its .jsonl and pack again.')
        found.update((row.file, (shard.name, row)) for row in rows)
    return found


class ShardWriter:
    """Appends videos to a shard that no other process writes to, and takes another when it is full.

    Args:
        folder: of the pack.
        quality: of JPEG, or None for raw frames.
        shard_bytes: a shard that has as many is full.
    """

    def __init__(self, folder: Path, quality: Optional[int], shard_bytes: int) -> None:
        self.folder, self.quality, self.shard_bytes = Path(folder), quality, shard_bytes
        self._journal = self._data = None
        self._number = 0  # of the shard to try next: those before it are full, or belong to others

    def _take(self) -> None:
        """Lock the first shard that is neither full nor locked, and cut off what a killed writer left in it."""
        self.close()
        while True:
            path = self.folder / f'shard-{self._number:05d}.jsonl'
            self._number += 1
            if fcntl is None and path.exists():
                continue
            journal = open(path, 'a+b')
            try:
                if fcntl is not None:
                    fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                journal.seek(0)
                rows, whole = _rows(journal.read())
                end = max((row.offset + row.bytes for row in rows), default=0)
                if end < self.shard_bytes:
                    journal.truncate(whole)
                    data = open(path.with_suffix('.bin'), 'ab')
                    data.truncate(end)
                    data.seek(0, os.SEEK_END)
                    self._journal, self._data = journal, data
                    return
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    journal.close()
                    raise
            journal.close()

    def add(self, name: str, chunks: Iterable[np.ndarray], video_shape: Tuple[int, int], fps: float,
            source: Sequence[Optional[int]]) -> Row:
        """Write one video, given as arrays ``(t, H, W, 3)`` uint8 RGB of some frames each; it is there afterwards.

        Raises:
            ValueError: if it has no frames, or frames of two sizes.
            OSError: if there is no room; what is in the shard stays.
        """
        if self._data is None or self._data.tell() >= self.shard_bytes:
            self._take()
        start, crc, shape, ends = self._data.tell(), 0, None, [0]
        frames = 0
        try:
            for chunk in chunks:
                shape = shape or chunk.shape[1:]
                if chunk.shape[1:] != shape:
                    raise ValueError(f'{name} has frames of {shape[1]}x{shape[0]} and of {chunk.shape[2]}x'
                                     f'{chunk.shape[1]} pixels.')
                frames += len(chunk)
                for part in self._encode(chunk, ends):
                    crc = zlib.crc32(part, crc)
                    self._data.write(part)
            if frames == 0:
                raise ValueError(f'{name} has no frames.')
            if self.quality is not None:
                table = np.array(ends, '<i8').tobytes()
                crc = zlib.crc32(table, crc)
                self._data.write(table)
            self._data.flush()
            os.fsync(self._data.fileno())
        except BaseException:
            self._data.truncate(start)
            self._data.seek(0, os.SEEK_END)
            raise
        row = Row(name, start, self._data.tell() - start, frames, *map(int, shape[:2]), *map(int, video_shape),
                  float(fps), crc, tuple(source))
        self._journal.write(json.dumps(row._asdict()).encode() + b'\n')
        self._journal.flush()
        return row

    def _encode(self, chunk: np.ndarray, ends: List[int]) -> Iterable[Any]:
        if self.quality is None:
            yield np.ascontiguousarray(chunk).reshape(-1).data
            return
        for frame in chunk:
            image = encode_jpeg(frame, self.quality)
            ends.append(ends[-1] + len(image))
            yield image

    def close(self) -> None:
        """Give the shard free for others."""
        if self._data is not None:
            self._data.close()
            self._journal.close()
            self._journal = self._data = None


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """A frame (H, W, 3) uint8 RGB as JPEG, colours at full resolution: frames of a pack are small enough."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if hasattr(cv2, 'IMWRITE_JPEG_SAMPLING_FACTOR'):  # from OpenCV 4.7
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, image = cv2.imencode('.jpg', cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError(f'OpenCV cannot encode a frame of {frame.shape[1]}x{frame.shape[0]} pixels as JPEG.')
    return image.tobytes()


class PackReader:
    """Frames of packed videos. It can be pickled and forked: each process maps the shards that it reads by itself."""

    def __init__(self, folder: Union[str, Path]) -> None:
        self.folder = Path(folder)
        self.settings = PackSettings.load(self.folder)
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _maps=OrderedDict())

    def __deepcopy__(self, memo: dict) -> 'PackReader':
        return self  # a pipeline that copies its results needs no maps of its own

    def _map(self, shard: str) -> mmap.mmap:
        if shard not in self._maps:
            with open(self.folder / shard, 'rb') as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._maps) > OPEN_SHARDS:
                self._maps.popitem(last=False)  # closed when the last array that looks into it is gone
        self._maps.move_to_end(shard)
        return self._maps[shard]

    def frames(self, shard: str, row: Row, indices: Sequence[int]) -> np.ndarray:
        """The frames of a video at ``indices`` (n,), in that order: (n, H, W, 3) uint8 RGB, a copy.

        Raises:
            IndexError: if an index is none of 0 ... frames - 1.
            ValueError: if a JPEG image cannot be decoded, as in a damaged file.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < row.frames:
            raise IndexError(f'{row.file}: frames {indices.min()} to {indices.max()} are asked for, and {row.frames} '
                             f'(0 to {row.frames - 1}) are packed.')
        data = self._map(shard)
        if self.settings.quality is None:
            stored = np.frombuffer(data, np.uint8, row.frames * row.height * row.width * 3, row.offset)
            return stored.reshape(row.frames, row.height, row.width, 3)[indices]
        table = np.frombuffer(data, '<i8', row.frames + 1, row.offset + row.bytes - 8 * (row.frames + 1)) + row.offset
        out = np.empty((len(indices), row.height, row.width, 3), np.uint8)
        first = {}
        for place, index in enumerate(indices.tolist()):
            if index in first:
                out[place] = out[first[index]]
                continue
            first[index] = place
            image = cv2.imdecode(np.frombuffer(data, np.uint8, table[index + 1] - table[index], table[index]),
                                 cv2.IMREAD_COLOR)
            if image is None or image.shape != out.shape[1:]:
                raise ValueError(f'{row.file}: frame {index} in {self.folder / shard} is damaged. Remove that shard '
                                 'and its .jsonl, and pack again.')
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out[place])
        return out

    def check(self, shard: str, row: Row) -> bool:
        """Whether the bytes of a video are those that were written."""
        return zlib.crc32(memoryview(self._map(shard))[row.offset:row.offset + row.bytes]) == row.crc


class PackedVideo(NamedTuple):
    """One video of a pack, as a data set hands it to its pipeline."""
    reader: PackReader
    shard: str
    row: Row

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """See :meth:`PackReader.frames`."""
        return self.reader.frames(self.shard, self.row, indices)
