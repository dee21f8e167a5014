"""Random sampling rate: the same clip played at another speed in every draw.

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), sec. 4.1,
eq. 8: frames s, s + r, ..., s + (T-1) r of a video, with r drawn for every video.
"""
import copy
from typing import Optional, Sequence

from mmaction.datasets.transforms import SampleFrames
from mmaction.registry import TRANSFORMS

from .worker_rng import WorkerRNG


@TRANSFORMS.register_module()
class RandomRateSampleFrames(SampleFrames):
    """mmaction2's ``SampleFrames`` with a frame interval that is drawn anew every time a video is sampled.

    In training the interval r is uniform over the integers ``frame_intervals[0]`` to ``frame_intervals[1]``, both
    included; all clips of one draw share it. With ``test_mode=True`` it is ``test_interval`` and the indices are
    those of ``SampleFrames(frame_interval=test_interval)``.

    A worker draws r from a generator of its own (:mod:`.worker_rng`), the main process from NumPy's global one.

    Required Keys: total_frames, start_index. Added Keys: frame_inds, clip_len, frame_interval (the drawn r),
    num_clips.

    Args:
        clip_len: number of frames T of a clip.
        frame_intervals: smallest and largest interval in frames.
        test_interval: interval in frames with ``test_mode=True``; the paper takes 2, near the mean of 1 to 4.
        num_clips, temporal_jitter, twice_sample, out_of_bound_opt, test_mode, keep_tail_frames, target_fps: as for
            ``SampleFrames``. Videos shorter than a clip's span are looped or their last frame is repeated.
        constant: what stays when r varies. 'clip_len': T frames, the span of r*T frames of video varies. 'duration':
            the span of ``clip_len * test_interval`` frames of video stays and the clip has ``span // r`` frames
            (open-mmlab/mmaction2#2208), which are ``clip_len`` at ``test_interval``. Clips of different lengths
            cannot share a batch: mmaction2's data preprocessor would fill the shorter ones up with black frames, so
            use ``batch_size=1`` (with ``accumulative_counts`` in ``optim_wrapper``).

    Raises:
        ValueError: if intervals are no positive integers in order, with ``constant='duration'`` the largest interval
            is longer than the span, ``temporal_jitter`` comes with ``target_fps``, or ``twice_sample`` with one clip.
    """

    def __init__(self, clip_len: int, frame_intervals: Sequence[int] = (1, 4), test_interval: int = 2,
                 num_clips: int = 1, temporal_jitter: bool = False, twice_sample: bool = False,
                 out_of_bound_opt: str = 'loop', test_mode: bool = False, keep_tail_frames: bool = False,
                 target_fps: Optional[int] = None, constant: str = 'clip_len') -> None:
        if isinstance(frame_intervals, int) or len(frame_intervals) != 2:
            raise ValueError('RandomRateSampleFrames: frame_intervals must be two integers (smallest, largest), got '
                             f'{frame_intervals!r}.')
        low, high = frame_intervals
        for name, value in dict(clip_len=clip_len, frame_intervals=low, test_interval=test_interval,
                                num_clips=num_clips).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f'RandomRateSampleFrames: {name} must be a positive integer, got {value!r}.')
        if not isinstance(high, int) or high < low:
            raise ValueError('RandomRateSampleFrames: frame_intervals must be two integers (smallest, largest), got '
                             f'{frame_intervals!r}.')
        if out_of_bound_opt not in ('loop', 'repeat_last'):
            raise ValueError("RandomRateSampleFrames: out_of_bound_opt must be 'loop' or 'repeat_last', got "
                             f'{out_of_bound_opt!r}.')
        if constant not in ('clip_len', 'duration'):
            raise ValueError(f"RandomRateSampleFrames: constant must be 'clip_len' or 'duration', got {constant!r}.")
        if constant == 'duration' and high > clip_len * test_interval:
            raise ValueError(f'RandomRateSampleFrames: an interval of {high} frames is longer than the span of '
                             f'clip_len * test_interval = {clip_len * test_interval} frames that stays constant.')
        if temporal_jitter and target_fps is not None:
            raise ValueError('RandomRateSampleFrames: temporal_jitter moves frames within the interval, and with '
                             f'target_fps={target_fps} there is none between them. Leave one of the two out.')
        if target_fps is not None and (not isinstance(target_fps, int) or target_fps < 1):
            raise ValueError(f'RandomRateSampleFrames: target_fps must be a positive integer or None, got '
                             f'{target_fps!r}.')
        if twice_sample and test_mode and num_clips == 1 and clip_len > 1:
            raise ValueError('RandomRateSampleFrames: twice_sample=True spreads clips over the video in test mode and '
                             f'needs num_clips >= 2 for clips of {clip_len} frames, got 1.')
        super().__init__(clip_len, test_interval, num_clips, temporal_jitter, twice_sample, out_of_bound_opt,
                         test_mode, keep_tail_frames, target_fps)
        self.frame_intervals, self.test_interval, self.constant = (low, high), test_interval, constant
        self._rng = WorkerRNG(type(self).__name__)

    def draw_interval(self) -> int:
        """One r, uniform over the integers of ``frame_intervals``."""
        low, high = self.frame_intervals
        return int(self._rng.get().randint(low, high + 1))

    def transform(self, results: dict) -> dict:
        """Sample the indices of one video."""
        sampler = copy.copy(self)  # the drawn values belong to this call, not to the transform
        if not self.test_mode:
            sampler.frame_interval = self.draw_interval()
            if self.constant == 'duration':
                sampler.clip_len = self.clip_len * self.test_interval // sampler.frame_interval
        return super(RandomRateSampleFrames, sampler).transform(results)

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(clip_len={self.clip_len}, frame_intervals={self.frame_intervals}, '
                f'test_interval={self.test_interval}, num_clips={self.num_clips}, '
                f'temporal_jitter={self.temporal_jitter}, twice_sample={self.twice_sample}, '
                f'out_of_bound_opt={self.out_of_bound_opt!r}, test_mode={self.test_mode}, '
                f'keep_tail_frames={self.keep_tail_frames}, target_fps={self.target_fps}, '
                f'constant={self.constant!r})')
