"""mmaction2's ``DecordInit`` and ``DecordDecode``, with errors that name the file, and no crash on damaged files.

The registry's names ``DecordInit`` and ``DecordDecode`` stand for these classes, so every config uses them unchanged.
Two things differ from mmaction2 1.2.0, and no decoded frame does, until ``short_side`` or ``mode='forward'`` asks for
another way of decoding (docs/recipes.md, "Decoding"):

* mmaction2 hands decord the bytes of the whole file. On damaged files decord 0.6 may then crash the process (a
  truncated AVI does it always, see docs/reliability/bad_videos.md), which no ``except`` can catch. Given the path of
  the same file it never did. Local files are opened by their path here, others (``io_backend``) as before.
* What decord says of a bad file, e.g. "Check failed: st_nb >= 0", names no file. Here it becomes an
  :class:`UnreadableVideoError` that does, with the likely reason and the way out.
"""
import io
import os
import re
from typing import Any, List, Optional, Sequence, Tuple

import decord
import mmcv
import numpy as np
from mmaction.datasets.transforms import DecordDecode as _DecordDecode
from mmaction.datasets.transforms import DecordInit as _DecordInit
from mmaction.registry import TRANSFORMS
from mmengine.fileio import FileClient

from ..utils.pyav_video import PyAVVideo, load_av
from ..utils.video_file import CONVERT, Problem, find_problem, video_path

WAY_OUT = ("To list all such files and write a list without them: python tools/data/check_videos.py LIST --data-prefix "
           "FOLDER --out report.csv --clean-list CLEAN. To replace them in training: "
           "train_dataloader.dataset.type='TolerantVideoDataset'.")
# Frames whose padded rows are a whole multiple of their width (in bytes) pass for compact ones in decord 0.6.
WIDTHS_NOT_COPIED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 72)
# Frames that are decoded for nothing rather than seek: a seek costs 2 to 3 ms, a frame of 340x256 about 0.5 ms.
READ_ON = 5
DECODERS = ('decord', 'pyav', 'auto')


class UnreadableVideoError(RuntimeError):
    """A video that cannot be opened or decoded. The message names the file.

    Args:
        message: what is shown. It is enough by itself: PyTorch builds the error of a worker anew from it.
        filename, kind, reason: the parts, see :class:`tconv_mmaction.utils.video_file.Problem`.
    """

    def __init__(self, message: str, filename: str = '', kind: str = '', reason: str = '') -> None:
        super().__init__(message)
        self.filename, self.kind, self.reason = filename, kind, reason


def first_line(error: BaseException) -> str:
    """decord's message without clock, source line and C++ stack."""
    lines = re.sub(r'\[\d\d:\d\d:\d\d\] \S+?:\d+: ?', '', str(error)).strip().splitlines()
    return f'{type(error).__name__}: {lines[0][:160] if lines else ""}'


def diagnose(path: str, error: BaseException) -> Problem:
    """Why decord fails: what the file tells, but for what decord 0.6 itself has trouble with."""
    if 'from_size == to_size' in str(error):
        widths = ', '.join(map(str, WIDTHS_NOT_COPIED))
        return Problem('width', f'decord 0.6 cannot copy frames of this width ({widths} pixels are such): scale the '
                                'video, e.g. ffmpeg -i IN -vf scale=64:-2 OUT.mp4')
    problem = find_problem(path)
    if problem.kind == 'damaged' and 'Failed to measure' in str(error):
        return Problem('no count', 'decord cannot tell the number of frames (broken metadata, or a single frame in '
                                   f'Matroska): {CONVERT}')
    return problem


def unreadable(filename: str, step: str, error: BaseException) -> UnreadableVideoError:
    """The error for a file, with the likely reason."""
    problem = diagnose(video_path(filename), error)
    reason = f'{problem.text} ({step}: {first_line(error)})'
    return UnreadableVideoError(f'{filename} cannot be read: {reason}. {WAY_OUT}', filename, problem.kind, reason)


def reduced_shape(shape: Tuple[int, int], short_side: int) -> Tuple[int, int]:
    """(H, W) in pixels that mmaction2's ``Resize(scale=(-1, short_side))`` would make of ``shape``.

    ``shape`` itself where that would enlarge the frames or make them of a width that decord cannot copy.
    """
    height, width = shape
    if min(shape) <= short_side:
        return shape
    new_width, new_height = mmcv.rescale_size((width, height), (np.inf, short_side))
    return shape if new_width in WIDTHS_NOT_COPIED else (new_height, new_width)


def reading_order(wanted: Sequence[int], keys: Sequence[int]) -> List[int]:
    """The frames to ask decord for, so that it reads on to all ``wanted`` ones (ascending, no repeats).

    Asked for a frame behind a key frame, decord seeks to that key frame, unless the frame before it was the last one
    read. So both are asked for, too, where reading on costs at most ``READ_ON`` frames that a seek would leave out.
    """
    order, last = [], -1
    for frame in wanted:
        passed = [key for key in keys if last + 1 < key <= frame]
        if passed and passed[-1] - last - 1 <= READ_ON:
            order += sorted({near for key in passed for near in (key - 1, key) if last < near < frame})
        order.append(frame)
        last = frame
    return order


@TRANSFORMS.register_module(name='DecordInit', force=True)
class DecordInit(_DecordInit):
    """Open a video; arguments and keys are those of mmaction2's ``DecordInit``, ``short_side`` and ``decoder``.

    Args:
        io_backend, num_threads: as in mmaction2.
        short_side: pixels. Larger frames are scaled to this shorter side while they are decoded, by FFmpeg (bicubic,
            with the pixels that are left out averaged in), to exactly the size that ``Resize(scale=(-1, short_side))``
            makes of them; that transform, left in its place, then finds nothing to do. Smaller videos are not enlarged,
            and those of which decord could not copy frames of the new width (1, 2, 3, 4, 6, 8, 12, 16, 24, 48 or 72
            pixels) keep their size. None: every video at its own size.
        decoder: 'decord', or 'pyav' (``pip install av``): slower, opens AV1, and gives the frames of ffmpeg where
            decord's seeks miss (docs/data.md, "Decoders"). Its frame count is that of the frames that decode.
            'auto': decord, and PyAV for the files that decord cannot open.
        kwargs: of the file client, as in mmaction2.

    Optional key: ``counted_frames``, the number of frames that decode, from a list that check_videos has counted
    (``TolerantVideoDataset(counted=True)``). It becomes ``total_frames`` where the decoder says another number.

    Added keys: ``video_shape``, (H, W) of the video in pixels, only where its frames are made smaller.

    Raises:
        UnreadableVideoError: if the file is missing or cannot be opened.
        ModuleNotFoundError: if ``decoder`` asks for PyAV, and it is not installed.
        ValueError: if ``short_side`` is no positive whole number, ``decoder`` another word, or both are set.
    """

    def __init__(self, io_backend: str = 'disk', num_threads: int = 1, short_side: Optional[int] = None,
                 decoder: str = 'decord', **kwargs) -> None:
        if short_side is not None and (isinstance(short_side, bool) or not isinstance(short_side, int)
                                       or short_side < 1):
            raise ValueError(f'short_side is a whole number of pixels of at least 1, or None, got {short_side!r}.')
        if decoder not in DECODERS:
            raise ValueError(f'decoder of DecordInit is one of {DECODERS}, got {decoder!r}.')
        if decoder != 'decord':
            if short_side is not None:
                raise ValueError(f'DecordInit: short_side={short_side} makes frames smaller while decord decodes them; '
                                 f'with decoder={decoder!r} leave it out, Resize does it.')
            load_av()
        super().__init__(io_backend, num_threads, **kwargs)
        self.short_side, self.decoder = short_side, decoder

    def _get_video_reader(self, filename: str, counted: Optional[int] = None) -> Any:
        try:
            return self._open_pyav(filename, counted) if self.decoder == 'pyav' else self._open(filename)
        except (OSError, RuntimeError, AssertionError, ValueError, decord.DECORDError) as error:
            if self.decoder == 'auto' and os.path.isfile(video_path(filename)):
                try:
                    return self._open_pyav(filename, counted)
                except (OSError, ValueError):
                    pass  # what decord said of it is more telling
            raise unreadable(filename, 'opening', error) from error

    def _open_pyav(self, filename: str, counted: Optional[int]) -> PyAVVideo:
        if self.io_backend in ('disk', 'local') and not self.kwargs:
            source: Any = os.path.abspath(video_path(filename))
        else:
            self.file_client = self.file_client or FileClient(self.io_backend, **self.kwargs)
            source = io.BytesIO(self.file_client.get(video_path(filename)))
        return PyAVVideo(source, self.num_threads, counted)

    def _open(self, filename: str) -> Any:
        """A reader; with ``short_side``, its ``video_shape`` is (H, W) of the video where its frames are smaller."""
        content = None
        if self.io_backend in ('disk', 'local') and not self.kwargs:
            # An absolute path: FFmpeg takes what stands before a ':' in "a:b.mp4" for a protocol.
            source = os.path.abspath(video_path(filename))
        elif self.short_side is None:
            return super()._get_video_reader(filename)
        else:
            self.file_client = self.file_client or FileClient(self.io_backend, **self.kwargs)
            content = self.file_client.get(video_path(filename))

        def reader(**size: int) -> Any:
            return decord.VideoReader(source if content is None else io.BytesIO(content),
                                      num_threads=self.num_threads, **size)

        whole = reader()
        if self.short_side is None:
            return whole
        shape = tuple(whole.get_batch([]).shape[1:3])  # an empty batch tells the size without decoding a frame
        height, width = reduced_shape(shape, self.short_side)
        if (height, width) == shape:
            return whole
        del whole
        reduced = reader(width=width, height=height)
        reduced.video_shape = shape
        return reduced

    def transform(self, results: dict) -> dict:
        """Open one video."""
        name, counted = results['filename'], results.get('counted_frames')
        reader = self._get_video_reader(name, counted)
        try:
            stated = len(reader)
        except ValueError as error:  # PyAV, which counts the frames that decode
            raise unreadable(name, 'counting', error) from error
        results.update(video_reader=reader, avg_fps=reader.get_avg_fps(),
                       total_frames=stated if counted is None else min(counted, stated))
        results.pop('video_shape', None)  # of another video, where a list of results is used again
        if getattr(results['video_reader'], 'video_shape', None) is not None:
            results['video_shape'] = results['video_reader'].video_shape
        return results

    def __repr__(self) -> str:
        more = '' if self.short_side is None else f', short_side={self.short_side}'
        more += '' if self.decoder == 'decord' else f', decoder={self.decoder!r}'
        return f'{super().__repr__()[:-1]}{more})'


@TRANSFORMS.register_module(name='DecordDecode', force=True)
class DecordDecode(_DecordDecode):
    """Decode the sampled frames; arguments and keys are those of mmaction2's ``DecordDecode``, and ``mode='forward'``.

    Where ``DecordInit(short_side=...)`` made the frames smaller, ``original_shape`` is still that of the video and
    ``scale_factor`` says what happened, as after a ``Resize``. ``gt_bboxes`` and ``proposals`` come as fractions of
    the frame, which mmaction2 multiplies by the size of the decoded frames: they fit these.

    Args:
        mode: ``'accurate'`` and ``'efficient'`` as in mmaction2. ``'forward'`` gives the frames of ``'accurate'`` in
            the order asked for, but reads each once and in the order of the file, and reads on to the next key frame
            where that is near. decord seeks to the key frame before, again and again, where a frame lies before the
            one just read: in clips that overlap, or run backwards. In files where decord's seeks miss (some MPEG-4
            in AVI, MPEG-1 and HEVC files) the two may differ.

    Raises:
        UnreadableVideoError: if decord cannot decode one of the frames, as in files whose header promises more
            frames than there are.
        ValueError: if ``mode`` is none of these, or the results have keypoints, which are in pixels of the whole
            video, and frames made smaller.
    """

    def __init__(self, mode: str = 'accurate') -> None:
        if mode not in ('accurate', 'efficient', 'forward'):
            raise ValueError(f"mode of DecordDecode is 'accurate', 'efficient' or 'forward', got {mode!r}.")
        super().__init__('accurate' if mode == 'forward' else mode)
        self.mode = mode

    def _decord_load_frames(self, container: Any, frame_inds: np.ndarray) -> List[np.ndarray]:
        if isinstance(container, PyAVVideo):
            if self.mode == 'efficient':
                raise ValueError("DecordDecode: mode='efficient' gives key frames as decord seeks to them, and PyAV "
                                 "gives the frames asked for. Leave mode out, or decoder of DecordInit.")
            return list(np.asarray(container.get_batch(frame_inds)))  # in one go already
        if self.mode != 'forward':
            return super()._decord_load_frames(container, frame_inds)
        indices = np.where(frame_inds < 0, frame_inds + len(container), frame_inds)  # as get_batch counts
        wanted = np.unique(indices).tolist()
        if wanted[0] < 0 or wanted[-1] >= len(container):
            raise IndexError(f'Frames {wanted[0]} to {wanted[-1]} of a video of {len(container)}.')
        needed, frames = set(wanted), {}
        for index in reading_order(wanted, container.get_key_indices()):
            frame = container.get_batch([index]).asnumpy()[0]
            if index in needed:
                frames[index] = frame
        # A frame that comes twice is copied: transforms that work in place would otherwise change it twice.
        first = set(np.unique(indices, return_index=True)[1].tolist())
        return [frames[index] if at in first else frames[index].copy() for at, index in enumerate(indices.tolist())]

    def transform(self, results: dict) -> dict:
        """Add the frames of one video."""
        shape = results.get('video_shape')
        if shape is not None and 'keypoint' in results:
            raise ValueError(f'{results.get("filename", "A video")} has keypoints, in pixels of its '
                             f'{shape[1]}x{shape[0]}, and DecordInit(short_side=...) makes its frames smaller: leave '
                             'short_side out and use Resize, which scales both.')
        try:
            results = super().transform(results)
        except (RuntimeError, StopIteration, decord.DECORDError) as error:
            step = f'frames {results["frame_inds"].min()} to {results["frame_inds"].max()} of the stated ' \
                   f'{results.get("total_frames", "?")}'
            raise unreadable(results.get('filename', 'a video without filename'), step, error) from error
        if shape is not None:
            (height, width), results['original_shape'] = results['img_shape'], shape
            results['scale_factor'] = np.array([width / shape[1], height / shape[0]], dtype=np.float32)
        return results
