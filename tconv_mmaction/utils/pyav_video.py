"""A second decoder, PyAV (FFmpeg's libraries in a wheel: ``pip install av``): its frames are those of ffmpeg.

decord 0.6 is faster, but it carries an FFmpeg of 2019: it opens no AV1, counts frames by what the container says, and
in some MPEG-4 and MPEG-1 files a seek leads to another frame than asked for. Here frame n is the n-th one that comes
out of the decoder when the file is read from its start, as ``ffmpeg -flags bitexact -i FILE -vsync passthrough`` has
it: edit lists are applied, frames that do not decode do not count, and the picture is turned if the file says so (as
decord does).

To know how many frames there are, and where, the packets of the file are read without decoding them; that is enough for
MP4, MOV, Matroska and WebM of codecs whose packets are one frame each, with time stamps on all and a key frame first.
Any other file is decoded once to count. Frames are recognised by their time stamps after a seek; if the one that is
wanted does not come, the file is read from its start.
"""
import math
from bisect import bisect_right
from fractions import Fraction
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import numpy as np

INSTALL = 'install it with: pip install av'
COUNTED_BY_PACKETS = ('h264', 'hevc', 'av1', 'vp9', 'mpeg4', 'mjpeg', 'ffv1', 'prores')
CONTAINERS = ('mov', 'matroska')
READ_ON = 12  # frames that are decoded for nothing rather than seek


def load_av() -> Any:
    """The module ``av``.

    Raises:
        ModuleNotFoundError: with what to do, if PyAV is not installed.
    """
    try:
        import av
        import av.filter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"decoder='pyav' needs PyAV, which is not installed: {INSTALL}; or leave decoder "
                                  "out, then decord reads the videos.", name='av') from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file is said in an error that names it
    return av


class UndecodableFrameError(RuntimeError):
    """A frame that should be in the file does not come out of the decoder."""


class FrameIndex(NamedTuple):
    """Time stamps of all frames in order and of the key frames, in units of the stream; by packets or by decoding."""
    stamps: List[Optional[int]]
    keys: List[int]
    decoded: bool


class Batch(np.ndarray):
    """An array with the one method of decord's arrays that is called on it."""

    def asnumpy(self) -> np.ndarray:
        return np.asarray(self)


class PyAVVideo:
    """Reads frames of one video; has the methods of ``decord.VideoReader`` that mmaction2 calls.

    Args:
        source: path, or the content as a binary file.
        num_threads: of the decoder; 0: as many as FFmpeg likes.
        count: number of frames, where it is known (check_videos --counted-list); saves counting.

    Raises:
        ModuleNotFoundError: if PyAV is not installed.
        ValueError: if the file has no video, or no frame of it decodes.
        OSError, av.error.FFmpegError: if it cannot be opened.
    """

    def __init__(self, source: Union[str, BinaryIO], num_threads: int = 1, count: Optional[int] = None) -> None:
        self._av, self._source, self._threads = load_av(), source, num_threads
        self._frames: Optional[Iterator[Any]] = None
        self._to_rgb = ToRGB(self._av)
        self._position = -1  # of the frame that came last; -1 at the start
        self._index: Optional[FrameIndex] = None
        self._count = count
        self._open()

    def _open(self) -> None:
        if not isinstance(self._source, str):
            self._source.seek(0)
        self._container = self._av.open(self._source)
        if not self._container.streams.video:
            raise ValueError('the file has no video stream')
        # a picture that belongs to music (a cover) is a video stream of one frame
        self._stream = next((s for s in self._container.streams.video if 'attached_pic' not in str(s.disposition)),
                            self._container.streams.video[0])
        self._stream.thread_count = self._threads
        self._stream.thread_type = 'NONE' if self._threads == 1 else 'AUTO'
        # without it some processors round a few values of MPEG-4 the other way
        self._stream.codec_context.options = {'flags': 'bitexact'}
        self._restart()

    def _restart(self) -> None:
        """Decoding goes on at the start of the file."""
        self._position, self._frames = -1, self._decode()

    def _decode(self) -> Iterator[Any]:
        """Frames from where the file is; a packet that does not decode is passed over, as ffmpeg does."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, self._av.error.FFmpegError):  # the end, or nothing that is readable follows
                return
            try:
                yield from packet.decode()
            except self._av.error.FFmpegError:
                continue

    @property
    def index(self) -> FrameIndex:
        """Made when it is first needed."""
        if self._index is None:
            self._index = self._by_packets() or self._by_decoding()
        return self._index

    def _rewound(self) -> None:
        """Open anew: seeking to the start is not the same in all containers."""
        self._container.close()
        self._open()

    def _by_packets(self) -> Optional[FrameIndex]:
        """The index without decoding, or None for files where packets do not tell."""
        name = self._stream.codec_context.name.replace('libdav1d', 'av1').replace('libvpx-vp9', 'vp9')
        if name not in COUNTED_BY_PACKETS or self._container.format.name.split(',')[0] not in CONTAINERS:
            return None
        packets = [p for p in self._container.demux(self._stream) if p.size]
        shown = [p for p in packets if not p.is_discard]
        stamps = sorted(p.pts for p in shown) if all(p.pts is not None for p in shown) else []
        keys = sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None)
        sound = bool(stamps) and packets[0].is_keyframe and len(set(stamps)) == len(stamps) and keys[0] <= stamps[0] \
            and not any(p.is_corrupt for p in packets)
        self._rewound()
        return FrameIndex(stamps, keys, False) if sound else None

    def _by_decoding(self) -> FrameIndex:
        self._rewound()
        stamps, keys = [], []
        for frame in self._frames:
            stamps.append(frame.pts)
            if frame.key_frame and frame.pts is not None:
                keys.append(frame.pts)
        self._rewound()
        return FrameIndex(stamps, keys, True)

    def __len__(self) -> int:
        count = self._count if self._count is not None else len(self.index.stamps)
        if count == 0:
            raise ValueError('no frame of the video decodes')
        return count

    def get_avg_fps(self) -> float:
        """Frames per second; NaN where the file does not say."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else math.nan

    def get_frame_timestamp(self, indices: Sequence[int]) -> np.ndarray:
        """Seconds (n,) from the start of the stream's clock at which frames are shown; NaN where the file says none."""
        stamps = [self.index.stamps[i] for i in indices]
        return np.array([math.nan if s is None else float(s * self._stream.time_base) for s in stamps])

    def get_key_indices(self) -> List[int]:
        """Frames that can be decoded without others."""
        places = {stamp: i for i, stamp in enumerate(self.index.stamps)}
        return [places[key] for key in self.index.keys if key in places]

    def all_frames(self) -> Iterator[np.ndarray]:
        """Every frame (H, W, 3) uint8 RGB from the start, decoded once."""
        self._rewound()
        for frame in self._frames:
            self._position += 1
            yield self._to_rgb(frame)

    def get_batch(self, indices: Sequence[int]) -> Batch:
        """Frames (n, H, W, 3) uint8 RGB in the order of ``indices`` (n,).

        Raises:
            IndexError: for an index outside of -len ... len - 1.
            UndecodableFrameError: if the file is damaged, and ends before a frame that its packets promise.
        """
        count = len(self)
        wanted = [int(i) + count if i < 0 else int(i) for i in indices]
        if not wanted:
            return self.get_batch([0])[:0]
        if min(wanted) < 0 or max(wanted) >= count:
            raise IndexError(f'frames {min(wanted)} to {max(wanted)} of a video of {count}')
        found = self._read(sorted(set(wanted)))
        return np.stack([found[i] for i in wanted]).view(Batch)

    def _read(self, wanted: List[int]) -> Dict[int, np.ndarray]:
        try:
            return self._pass(wanted, seek=True)
        except _Lost:  # the seek led elsewhere, or packets promised a frame that does not decode
            self._index = self._by_decoding()
        if self._count is None and wanted[-1] >= len(self._index.stamps):
            raise UndecodableFrameError(f'frame {wanted[-1]} does not decode: {len(self._index.stamps)} frames do')
        try:
            return self._pass(wanted, seek=False)
        except _Lost as error:
            raise UndecodableFrameError(str(error)) from None

    def _pass(self, wanted: List[int], seek: bool) -> Dict[int, np.ndarray]:
        """Read ``wanted`` (ascending, each once) in one go through the file."""
        found: Dict[int, np.ndarray] = {}
        if wanted[0] <= self._position:
            self._rewound()
        for target in wanted:
            if seek and target - self._position > READ_ON:
                self._seek(target)
            while self._position < target:
                frame = next(self._frames, None)
                if frame is None:
                    raise _Lost(f'frame {target} does not decode: the file ends with frame {self._position}')
                self._position += 1
                self._expect(frame)
            found[target] = self._to_rgb(frame)
        return found

    def _expect(self, frame: Any) -> None:
        """_Lost if this is not the frame that the index has at this position."""
        if self._index is not None and self._position < len(self._index.stamps) and not self._index.decoded \
                and frame.pts != self._index.stamps[self._position]:
            raise _Lost('another frame came than the packets say')

    def _seek(self, target: int) -> None:
        """Go on at the key frame before ``target``, if that is ahead and time stamps tell which frame comes."""
        index = self.index
        if index.decoded or not index.keys:
            return
        key = index.keys[bisect_right(index.keys, index.stamps[target]) - 1]
        place = bisect_right(index.stamps, key) - 1
        if place - self._position <= READ_ON or index.stamps[place] != key:
            return
        self._container.seek(key, stream=self._stream, backward=True)
        self._frames = self._decode()
        for frame in self._frames:  # frames before the key frame, where they come at all
            if frame.pts == key:
                break
            if frame.pts is None or frame.pts > key:
                raise _Lost('the seek went past its key frame')
        else:
            raise _Lost('nothing comes after a seek')
        self._frames, self._position = _chain(frame, self._frames), place - 1


class _Lost(Exception):
    """What was read does not fit the index."""


def _chain(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


class ToRGB:
    """Converts frames with the filters that the program ffmpeg takes, which know where colours of half resolution lie.

    PyAV's ``to_ndarray(format='rgb24')`` gives the same for most 8-bit videos, others for 10-bit and interlaced ones.
    """

    def __init__(self, av: Any) -> None:
        self._av, self._graph, self._made_for = av, None, None

    def __call__(self, frame: Any) -> np.ndarray:
        """A frame of PyAV as (H, W, 3) uint8 RGB, turned by the quarters that the file asks for."""
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if kind != self._made_for:  # a stream may change its size
            self._graph, self._made_for = self._make(frame), kind
        self._graph.push(frame)
        image = self._graph.pull().to_ndarray()
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))

    def _make(self, frame: Any) -> Any:
        graph = self._av.filter.Graph()
        graph.threads = 1  # handing small frames to threads takes longer than converting them
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format,
                                  time_base=frame.time_base or Fraction(1, 1000))
        scale, sink = graph.add('scale', 'flags=bicubic'), graph.add('buffersink')
        rgb = graph.add('format', 'pix_fmts=rgb24')
        source.link_to(scale)
        scale.link_to(rgb)
        rgb.link_to(sink)
        graph.configure()
        return graph
