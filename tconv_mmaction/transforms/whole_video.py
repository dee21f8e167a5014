"""The whole video in a fixed number of frames, always the same ones.

Manttari, Broome et al., "Interpreting Video Features" (ACCV 2020), sec. 4.1: all sequences are sub-sampled "to cover
the entire sequence" in 16 or 32 frames, and both networks get the same frames. Ras et al., "Temporal Factorization of
3D Convolutional Kernels" (arXiv:1912.04075), sec. 4: 30 frames; of longer videos frames are dropped at equal
intervals, of shorter ones "only the first and last frame are duplicated".

For n frames of video and L of clip, frame k of the clip is

    round(k * (n - 1) / (L - 1)),  k = 0 ... L-1        halves up; the first and the last frame are always in
"""
import numpy as np
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform


def whole_video_indices(num_frames: int, clip_len: int, short: str = 'repeat') -> np.ndarray:
    """The indices ``(clip_len,)`` of the formula above, from 0 and in order.

    A video with n < L frames repeats frames as the formula has it, evenly over the video (``short='repeat'``), or
    its first frame (L-n)//2 times more and its last frame for the rest (``short='duplicate_ends'``). ``clip_len=1``
    is the frame in the middle.
    """
    if num_frames < clip_len and short == 'duplicate_ends':
        return np.clip(np.arange(clip_len) - (clip_len - num_frames) // 2, 0, num_frames - 1)
    if clip_len == 1:
        return np.array([(num_frames - 1) // 2])
    steps = clip_len - 1
    return (2 * np.arange(clip_len) * (num_frames - 1) + steps) // (2 * steps)  # whole numbers: no rounding error


@TRANSFORMS.register_module()
class WholeVideoSampleFrames(BaseTransform):
    """Sample one clip that covers the whole video, the same frames in training and test.

    mmaction2's ``UniformSample`` and ``UniformSampleFrames`` cut the video into ``clip_len`` parts and draw a frame
    of each in training; in test mode they take those in the middle or a seeded draw, so the ends of the video may be
    left out. Here nothing is drawn and both ends are in.

    Required Keys: total_frames, start_index (optional, 0). Added Keys: frame_inds, clip_len, frame_interval (None,
    since it varies), num_clips (1).

    Args:
        clip_len: number of frames L.
        short: what videos of fewer frames do, 'repeat' or 'duplicate_ends', see :func:`whole_video_indices`. The
            3TConv paper has 'duplicate_ends'; the other does not say.

    Raises:
        ValueError: if ``clip_len`` is no positive integer, ``short`` another word, or a video has no frames.
    """

    def __init__(self, clip_len: int, short: str = 'repeat') -> None:
        if not isinstance(clip_len, int) or isinstance(clip_len, bool) or clip_len < 1:
            raise ValueError(f'WholeVideoSampleFrames: clip_len must be a positive integer, got {clip_len!r}.')
        if short not in ('repeat', 'duplicate_ends'):
            raise ValueError(f"WholeVideoSampleFrames: short must be 'repeat' or 'duplicate_ends', got {short!r}.")
        self.clip_len, self.short = clip_len, short

    def transform(self, results: dict) -> dict:
        """Add the indices of one video."""
        total = results['total_frames']
        if total < 1:
            name = results.get('filename') or results.get('frame_dir') or 'a video'
            raise ValueError(f'WholeVideoSampleFrames: {name} has {total} frames. Take it out of the list, or make it '
                             'readable.')
        indices = whole_video_indices(total, self.clip_len, self.short) + results.get('start_index', 0)
        results.update(frame_inds=indices.astype(np.int32), clip_len=self.clip_len, frame_interval=None, num_clips=1)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(clip_len={self.clip_len}, short={self.short!r})'
