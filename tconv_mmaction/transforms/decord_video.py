"""mmaction2's ``DecordInit`` and ``DecordDecode``, with errors that name the file, and no crash on damaged files.

The registry's names ``DecordInit`` and ``DecordDecode`` stand for these classes, so every config uses them unchanged.
Two things differ from mmaction2 1.2.0, and no decoded frame does:

* mmaction2 hands decord the bytes of the whole file. On damaged files decord 0.6 may then crash the process (a
  truncated AVI does it always, see docs/reliability/bad_videos.md), which no ``except`` can catch. Given the path of
  the same file it never did. Local files are opened by their path here, others (``io_backend``) as before.
* What decord says of a bad file, e.g. "Check failed: st_nb >= 0", names no file. Here it becomes an
  :class:`UnreadableVideoError` that does, with the likely reason and the way out.
"""
import os
import re
from typing import Any

import decord
from mmaction.datasets.transforms import DecordDecode as _DecordDecode
from mmaction.datasets.transforms import DecordInit as _DecordInit
from mmaction.registry import TRANSFORMS

from ..utils.video_file import CONVERT, Problem, find_problem, video_path

WAY_OUT = ("To list all such files and write a list without them: python tools/data/check_videos.py LIST --data-prefix "
           "FOLDER --out report.csv --clean-list CLEAN. To replace them in training: "
           "train_dataloader.dataset.type='TolerantVideoDataset'.")


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
        return Problem('width', 'decord 0.6 cannot copy frames of this width (2, 4, 6, 8, 12, 16, 24 and 48 pixels are '
                                'such): scale the video, e.g. ffmpeg -i IN -vf scale=64:-2 OUT.mp4')
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


@TRANSFORMS.register_module(name='DecordInit', force=True)
class DecordInit(_DecordInit):
    """Open a video; arguments and keys are those of mmaction2's ``DecordInit``.

    Raises:
        UnreadableVideoError: if the file is missing or decord cannot open it.
    """

    def _get_video_reader(self, filename: str) -> Any:
        try:
            if self.io_backend in ('disk', 'local') and not self.kwargs:
                # An absolute path: FFmpeg takes what stands before a ':' in "a:b.mp4" for a protocol.
                return decord.VideoReader(os.path.abspath(video_path(filename)), num_threads=self.num_threads)
            return super()._get_video_reader(filename)
        except (OSError, RuntimeError, AssertionError, decord.DECORDError) as error:
            raise unreadable(filename, 'opening', error) from error


@TRANSFORMS.register_module(name='DecordDecode', force=True)
class DecordDecode(_DecordDecode):
    """Decode the sampled frames; arguments and keys are those of mmaction2's ``DecordDecode``.

    Raises:
        UnreadableVideoError: if decord cannot decode one of the frames, as in files whose header promises more
            frames than there are.
    """

    def transform(self, results: dict) -> dict:
        """Add the frames of one video."""
        try:
            return super().transform(results)
        except (RuntimeError, StopIteration, decord.DECORDError) as error:
            step = f'frames {results["frame_inds"].min()} to {results["frame_inds"].max()} of the stated ' \
                   f'{results.get("total_frames", "?")}'
            raise unreadable(results.get('filename', 'a video without filename'), step, error) from error
