"""Clips played backwards.

Manttari, Broome et al., "Interpreting Video Features" (ACCV 2020), Table 1, rows "(rev.)": the same network, tested on
the same clips in reversed order. A network whose score does not drop does not use the direction of time.
"""
import numpy as np
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform


@TRANSFORMS.register_module()
class ReverseFrames(BaseTransform):
    """Reverse the frames of every clip; the order of several clips stays.

    It may stand right after the sampling, where it reverses the indices, or anywhere between decoding and
    ``FormatShape``, where it reverses the images too. Keep it in a test pipeline with ``enabled=False`` and switch it
    on for the reversed evaluation:

        tools/test.py CONFIG CHECKPOINT --cfg-options test_dataloader.dataset.pipeline.2.enabled=True

    Required Keys: frame_inds, clip_len or num_clips. Modified Keys: frame_inds, and imgs where there are any.

    Args:
        enabled: False leaves everything as it is.

    Raises:
        ValueError: if the frames do not divide into the clips, or the images are already one array.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def transform(self, results: dict) -> dict:
        """Reverse one sample."""
        if not self.enabled:
            return results
        shape = np.shape(results['frame_inds'])
        order = np.arange(np.prod(shape, dtype=int))
        # Some samplers give more clips than num_clips says (twice_sample): the length of a clip is what counts.
        clip_len, num_clips = results.get('clip_len'), results.get('num_clips')
        if clip_len is None:
            clip_len = len(order) // num_clips if num_clips and len(order) % num_clips == 0 else 0
        if clip_len < 1 or len(order) % clip_len:
            clips = f'clips of {clip_len} frames' if 'clip_len' in results else f'{num_clips} clips'
            raise ValueError(f'ReverseFrames: {len(order)} frames do not divide into {clips}.')
        order = order.reshape(-1, clip_len)[:, ::-1].ravel()
        results['frame_inds'] = np.ravel(results['frame_inds'])[order].reshape(shape)
        if 'imgs' in results:
            if not isinstance(results['imgs'], list) or len(results['imgs']) != len(order):
                raise ValueError(f'ReverseFrames needs imgs as a list of {len(order)} frames, which they are between '
                                 'decoding and FormatShape (and before crops that multiply them).')
            results['imgs'] = [results['imgs'][i] for i in order]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(enabled={self.enabled})'
