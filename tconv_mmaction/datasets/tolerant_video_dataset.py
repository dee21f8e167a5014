"""A video data set that survives unreadable files in training, and says which they were.

MMEngine's data sets fetch another sample when a pipeline returns None (``BaseDataset.__getitem__``, ``max_refetch``),
but decord's errors end the run instead. Here a video that cannot be opened or decoded counts as such a None:

    --cfg-options train_dataloader.dataset.type=TolerantVideoDataset

Every such file is listed once in WORK_DIR/bad_videos.jsonl, and too many of them end the run. In test mode nothing is
replaced, since a score over other clips is another score.
"""
import logging
from pathlib import Path
from typing import Any, Optional, Union

from mmaction.datasets import VideoDataset
from mmaction.registry import DATASETS
from mmengine.logging import print_log

from ..transforms.decord_video import WAY_OUT, UnreadableVideoError
from ..transforms.worker_rng import WorkerRNG
from ..utils.video_file import video_path
from .bad_video_list import BadVideoList, file_version, in_work_dir


class TooManyBadVideosError(RuntimeError):
    """More videos are unreadable than the data set may have."""


@DATASETS.register_module()
class TolerantVideoDataset(VideoDataset):
    """mmaction2's ``VideoDataset``, where training goes on without the videos that cannot be read.

    A video fails when ``DecordInit`` or ``DecordDecode`` of its pipeline raises
    :class:`~tconv_mmaction.transforms.UnreadableVideoError`; all other errors of the pipeline are mistakes in the
    config or the code and end the run as always. A failed video is tried again ``retries`` times: the network disk may
    answer, and a transform that draws frames may draw ones that can be decoded. Then a sample drawn from the whole list
    stands in for it, with the random numbers of :class:`~tconv_mmaction.transforms.worker_rng.WorkerRNG`, so that the
    same seed gives the same stand-ins.

    Args:
        ann_file, pipeline: as for ``VideoDataset``.
        max_bad_share: the run ends when more than this share of the list is unreadable. Files are counted once, by
            their name in ``bad_videos_file``, over all workers, ranks and resumed runs; files that were taken from
            the list or changed since do not count.
        retries: how often a video is tried again before another one is taken.
        max_refetch: how many stand-ins in a row may be unreadable, too.
        bad_videos_file: where files are listed, one JSON object per line. Default: bad_videos.jsonl in the work_dir
            of the running experiment.
        **kwargs: the other arguments of ``VideoDataset``, e.g. data_prefix, test_mode, delimiter.

    Raises:
        UnreadableVideoError: in test mode, or outside of an experiment without ``bad_videos_file``, for the first
            video that cannot be read.
        TooManyBadVideosError: see ``max_bad_share`` and ``max_refetch``.
        ValueError: if ``max_bad_share`` is no share or a count is no integer >= 0.
    """

    def __init__(self, ann_file: str, pipeline: list, *, max_bad_share: float = 0.05, retries: int = 1,
                 max_refetch: int = 20, bad_videos_file: Union[str, Path, None] = None, **kwargs: Any) -> None:
        if not isinstance(max_bad_share, (int, float)) or isinstance(max_bad_share, bool) or not (
                0 <= max_bad_share <= 1):
            raise ValueError('TolerantVideoDataset: max_bad_share must be a share between 0 and 1, got '
                             f'{max_bad_share!r}.')
        for name, value in dict(retries=retries, max_refetch=max_refetch).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f'TolerantVideoDataset: {name} must be an integer >= 0, got {value!r}.')
        self.max_bad_share, self.retries, self.bad_videos_file = max_bad_share, retries, bad_videos_file
        self.bad_videos: Optional[BadVideoList] = None
        self._rng = WorkerRNG(type(self).__name__)
        self._failed_in_a_row = 0
        super().__init__(ann_file, pipeline, max_refetch=max_refetch, **kwargs)

    def filter_data(self) -> list:
        """Called with the whole list at hand: look up what an earlier run in this work_dir found unreadable."""
        data_list = super().filter_data()
        path = None if self.test_mode else self.bad_videos_file or in_work_dir()
        if path is not None:
            self.bad_videos = BadVideoList(Path(path).resolve(), str(self.ann_file))
            self.bad_videos.read()
            self.bad_videos.forget_outdated((info['filename'] for info in data_list), video_path)
        return data_list

    def _rand_another(self) -> int:
        return int(self._rng.get().randint(len(self)))

    def prepare_data(self, idx: int) -> Optional[dict]:
        """The sample of an index, or None where another one shall be taken."""
        tries = 1 if self.test_mode else 1 + self.retries
        for attempt in range(tries):
            try:
                data = super().prepare_data(idx)
            except UnreadableVideoError as error:
                failure = error
                continue
            if attempt:
                print_log(f'{failure.filename}: readable at try {attempt + 1}; before: {failure.reason}', 'current',
                          logging.WARNING)
            self._failed_in_a_row = 0
            return data
        if self.test_mode:
            raise UnreadableVideoError(f'In test mode no video is replaced, and {failure}', failure.filename,
                                       failure.kind, failure.reason) from failure
        if self.bad_videos is None:
            raise UnreadableVideoError('TolerantVideoDataset runs outside of an experiment and has no place to list '
                                       f'what it replaces: set bad_videos_file. {failure}', failure.filename,
                                       failure.kind, failure.reason) from failure
        self._skip(failure)
        return None

    def _skip(self, failure: UnreadableVideoError) -> None:
        """List the file, and stop when there are too many."""
        name = failure.filename
        new = self.bad_videos.add(dict(file=name, kind=failure.kind, reason=failure.reason,
                                       version=file_version(video_path(name))))
        bad = self.bad_videos.entries
        if new:
            print_log(f'{name} cannot be read and is replaced by another sample ({len(bad)} of {len(self)} so far, see '
                      f'{self.bad_videos.path}): {failure.reason}', 'current', logging.WARNING)
        self._failed_in_a_row += 1
        if len(bad) / len(self) > self.max_bad_share:
            names = ', '.join(list(bad)[:5]) + (', ...' if len(bad) > 5 else '')
            raise TooManyBadVideosError(
                f'{len(bad)} of the {len(self)} videos of {self.ann_file} cannot be read, more than max_bad_share='
                f'{self.max_bad_share:g} allows: {names}. All are in {self.bad_videos.path}. Are data_prefix and the '
                f'download right? {WAY_OUT} To accept more: train_dataloader.dataset.max_bad_share.') from failure
        if self._failed_in_a_row > self.max_refetch:
            raise TooManyBadVideosError(
                f'{self._failed_in_a_row} videos in a row cannot be read, more than max_refetch={self.max_refetch} '
                f'allows; the last one: {failure}') from failure
