"""The decode step of a pipeline on packed videos: frames come out of a mapped file, nothing is decoded."""
from typing import List

import numpy as np
from mmaction.datasets.transforms import Resize
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform


@TRANSFORMS.register_module()
class PackedDecode(BaseTransform):
    """Give the sampled frames of a video of :class:`~tconv_mmaction.datasets.PackedVideoDataset`.

    That data set puts it in the place of ``DecordDecode`` and the like by itself. What it leaves in the results is
    what ``DecordDecode`` and a ``Resize`` to the size of the pack would.

    Required Keys: packed, frame_inds. Added Keys: imgs, original_shape, img_shape; where the pack has smaller frames
    than the video also scale_factor. ``original_shape`` is (H, W) of the video in pixels.

    Raises:
        KeyError: if the results come from another data set.
        IndexError: if a frame is asked for that the video does not have.
    """

    def transform(self, results: dict) -> dict:
        """Add the frames of one video."""
        video = results.pop('packed', None)
        if video is None:
            raise KeyError("PackedDecode needs the key 'packed', which PackedVideoDataset gives. Another data set "
                           'needs its own decoding: DecordInit and DecordDecode, or RawFrameDecode.')
        row = video.row
        # (n, H, W, 3), a copy: transforms may work in place
        results['imgs'] = list(video.frames(np.asarray(results['frame_inds'])))
        results['img_shape'], results['original_shape'] = (row.height, row.width), (row.video_height, row.video_width)
        if results['img_shape'] != results['original_shape']:
            results['scale_factor'] = np.array([row.width / row.video_width, row.height / row.video_height],
                                               dtype=np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class PackedResize(Resize):
    """mmaction2's ``Resize`` right behind ``PackedDecode``: frames that have the size already stay as they are.

    ``Resize`` copies those, to the same pixels. :class:`~tconv_mmaction.datasets.PackedVideoDataset` puts this in its
    place by itself; arguments, keys and results are those of ``Resize``. Elsewhere in a pipeline ``Resize`` is right:
    its copies belong to nobody else, and transforms that follow may work in place.
    """

    def _resize_imgs(self, imgs: List[np.ndarray], new_w: int, new_h: int) -> List[np.ndarray]:
        if all(img.shape[:2] == (new_h, new_w) for img in imgs):
            return imgs
        return super()._resize_imgs(imgs, new_w, new_h)
