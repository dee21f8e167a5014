"""A video data set that survives unreadable files in training, and says which they were.

MMEngine's data sets fetch another sample when a pipeline returns None (``BaseDataset.__getitem__``, ``max_refetch``),
but decord's errors end the run instead. Here a video that cannot be opened or decoded counts as such a None:

    --cfg-options train_dataloader.dataset.type=TolerantVideoDataset

Every such file is listed once in WORK_DIR/bad_videos.jsonl, and too many of them end the run. In test mode nothing is
replaced, since a score over other clips is another score: the first such file ends the test, or, if asked for, it stays
in the list and counts as wrong (:mod:`.unreadable_sample`).
"""
import logging
import os
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmaction.datasets import VideoDataset
from mmaction.registry import DATASETS
from mmengine.logging import print_log

from ..transforms.decord_video import WAY_OUT, UnreadableVideoError
from ..transforms.worker_rng import WorkerRNG
from ..utils.text_files import read_lines
from ..utils.video_file import video_path
from .bad_video_list import BadVideoList, file_version, in_work_dir
from .unreadable_sample import UnreadableSample


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
        unreadable_in_test: what an unreadable video does in test mode. 'error' ends the run. 'wrong' keeps the clip:
            a black one of the size of the other clips goes through the network in its place, and what comes out is
            replaced by a wrong score, so that every metric is over the whole list. It is listed as in training,
            ``max_bad_share`` holds, and UnreadableClipsHook adds the number and the names to the result.
        bad_videos_file: where files are listed, one JSON object per line. Default: bad_videos.jsonl in the work_dir
            of the running experiment.
        counted: the lines of the list are "PATH FRAMES LABEL", with the number of frames that decode, as
            ``tools/data/check_videos.py --counted-list`` writes them. Frames are then sampled from those, where the
            container says more (120 of 120 AVI files of one public set do).
        **kwargs: the other arguments of ``VideoDataset``, e.g. data_prefix, test_mode, delimiter.

    Raises:
        UnreadableVideoError: in test mode, unless it counts as wrong; outside of an experiment without
            ``bad_videos_file``; for the first video that cannot be read.
        TooManyBadVideosError: see ``max_bad_share`` and ``max_refetch``.
        ValueError: if ``max_bad_share`` is no share, a count is no integer >= 0, or ``unreadable_in_test`` is unknown.
    """

    def __init__(self, ann_file: str, pipeline: list, *, max_bad_share: float = 0.05, retries: int = 1,
                 max_refetch: int = 20, bad_videos_file: Union[str, Path, None] = None,
                 unreadable_in_test: str = 'error', counted: bool = False, **kwargs: Any) -> None:
        if not isinstance(max_bad_share, (int, float)) or isinstance(max_bad_share, bool) or not (
                0 <= max_bad_share <= 1):
            raise ValueError('TolerantVideoDataset: max_bad_share must be a share between 0 and 1, got '
                             f'{max_bad_share!r}.')
        for name, value in dict(retries=retries, max_refetch=max_refetch).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f'TolerantVideoDataset: {name} must be an integer >= 0, got {value!r}.')
        if unreadable_in_test not in ('error', 'wrong'):
            raise ValueError("TolerantVideoDataset: unreadable_in_test must be 'error' (the run ends) or 'wrong' (the "
                             f'clip counts as wrong), got {unreadable_in_test!r}.')
        self.unreadable_in_test, self.counted = unreadable_in_test, counted
        self.max_bad_share, self.retries, self.bad_videos_file = max_bad_share, retries, bad_videos_file
        self.bad_videos: Optional[BadVideoList] = None
        self._rng = WorkerRNG(type(self).__name__)
        self._failed_in_a_row = 0
        self._readable: Optional[str] = None  # a file whose clip tells the size of a black one
        super().__init__(ann_file, pipeline, max_refetch=max_refetch, **kwargs)

    def filter_data(self) -> list:
        """Called with the whole list at hand: look up what an earlier run in this work_dir found unreadable."""
        data_list = super().filter_data()
        path = None if self._strict else self.bad_videos_file or in_work_dir()
        if path is not None:
            self.bad_videos = BadVideoList(Path(path).resolve(), str(self.ann_file))
            self.bad_videos.read()
            self.bad_videos.forget_outdated((info['filename'] for info in data_list), video_path)
        return data_list

    def load_data_list(self) -> list:
        """The entries of the list; with ``counted`` each has 'counted_frames'."""
        if not self.counted:
            return super().load_data_list()
        entries = []
        for number, line in enumerate(read_lines(self.ann_file), 1):
            name, *rest = line.strip().split(self.delimiter)
            if not rest or not rest[0].isdecimal() or int(rest[0]) < 1 or not (self.multi_class or len(rest) == 2):
                raise ValueError(f'TolerantVideoDataset: {self.ann_file}, line {number}: with counted=True lines are '
                                 f'"PATH FRAMES LABEL", got {line[:80]!r}. Write the list with '
                                 'tools/data/check_videos.py --counted-list, or leave counted out.')
            labels = [int(label) for label in rest[1:]]
            if self.data_prefix['video'] is not None:
                name = os.path.join(self.data_prefix['video'], name)
            entries.append(dict(filename=name, label=labels if self.multi_class else labels[0],
                                counted_frames=int(rest[0])))
        return entries

    @property
    def _strict(self) -> bool:
        """Whether the first unreadable video ends the run."""
        return self.test_mode and self.unreadable_in_test == 'error'

    def _rand_another(self) -> int:
        return int(self._rng.get().randint(len(self)))

    def prepare_data(self, idx: int) -> Optional[dict]:
        """The sample of an index, or None where another one shall be taken (never in test mode)."""
        tries = 1 if self._strict else 1 + self.retries
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
        if self._strict:
            raise UnreadableVideoError(f'In test mode no video is replaced, and {failure} To test the others '
                                       "and count it as wrong: TolerantVideoDataset's unreadable_in_test='wrong'.",
                                       failure.filename, failure.kind, failure.reason) from failure
        if self.bad_videos is None:
            raise UnreadableVideoError('TolerantVideoDataset runs outside of an experiment and has no place to list '
                                       f'what it replaces: set bad_videos_file. {failure}', failure.filename,
                                       failure.kind, failure.reason) from failure
        self._skip(failure)
        return self._black(idx, failure) if self.test_mode else None

    def _black(self, idx: int, failure: UnreadableVideoError) -> dict:
        """A black clip as the pipeline makes it, with the label of ``idx``, whose prediction will be a wrong one.

        The size comes from the first video of the list that can be read, which is decoded in the place of ``idx``.
        """
        info = self.get_data_info(idx)
        others = [self._readable] if self._readable else (self.get_data_info(k)['filename'] for k in range(len(self)))
        for tried, other in enumerate(others):
            if tried > self.max_refetch:
                break
            try:
                data = self.pipeline(dict(info, filename=other))
            except UnreadableVideoError:
                continue
            if not isinstance(data.get('inputs'), torch.Tensor):
                raise TypeError("unreadable_in_test='wrong' needs a pipeline whose 'inputs' is one tensor "
                                f'(PackActionInputs), got {type(data.get("inputs")).__name__}.') from failure
            self._readable = other
            data['inputs'] = torch.zeros_like(data['inputs'])
            data['data_samples'] = UnreadableSample.of(data['data_samples'], failure.filename, failure.kind,
                                                       failure.reason, idx)
            return data
        raise TooManyBadVideosError(f'None of the first {min(self.max_refetch + 1, len(self))} videos of '
                                    f'{self.ann_file} can be read, so the size of a clip is unknown. {failure}'
                                    ) from failure

    def _skip(self, failure: UnreadableVideoError) -> None:
        """List the file, and stop when there are too many."""
        name = failure.filename
        new = self.bad_videos.add(dict(file=name, kind=failure.kind, reason=failure.reason,
                                       version=file_version(video_path(name))))
        bad = self.bad_videos.entries
        if new:
            fate = 'counts as wrong' if self.test_mode else 'is replaced by another sample'
            print_log(f'{name} cannot be read and {fate} ({len(bad)} of {len(self)} so far, see '
                      f'{self.bad_videos.path}): {failure.reason}', 'current', logging.WARNING)
        self._failed_in_a_row += 1
        if len(bad) / len(self) > self.max_bad_share:
            names = ', '.join(list(bad)[:5]) + (', ...' if len(bad) > 5 else '')
            raise TooManyBadVideosError(
                f'{len(bad)} of the {len(self)} videos of {self.ann_file} cannot be read, more than max_bad_share='
                f'{self.max_bad_share:g} allows: {names}. All are in {self.bad_videos.path}. Are data_prefix and the '
                f'download right? {WAY_OUT} To accept more: max_bad_share of the data set.') from failure
        if self._failed_in_a_row > self.max_refetch and not self.test_mode:
            raise TooManyBadVideosError(
                f'{self._failed_in_a_row} videos in a row cannot be read, more than max_refetch={self.max_refetch} '
                f'allows; the last one: {failure}') from failure
