"""Random camera ego-motion: the crop drifts at a constant velocity through the clip.

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), sec. 4.2,
eq. 9: frame i is cropped at (x_0 + v_x i, y_0 + v_y i), with (v_x, v_y) ~ N(0, sigma) drawn once per clip.
"""
import math
from typing import Optional, Sequence, Tuple

import numpy as np
from mmaction.datasets.transforms import RandomCrop, RandomResizedCrop
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from .worker_rng import WorkerRNG


def moving_offsets(start: Tuple[int, int], velocity: np.ndarray, clip_len: int, room: Tuple[int, int]) -> np.ndarray:
    """Where the crop of every frame starts: ``(clips * clip_len, 2)`` whole pixels (x, y).

    Args:
        start: (x_0, y_0) of the first frame of every clip, pixels.
        velocity: ``(clips, 2)``, (v_x, v_y) in pixels per frame.
        clip_len: frames of a clip.
        room: largest (x, y) at which the crop is inside the image.

    The position is rounded to the nearest pixel (halves to the even one), frame by frame, so that errors do not add
    up, and then held at the border.
    """
    steps = np.rint(np.arange(clip_len)[:, None] * velocity[:, None, :]).astype(np.int64)  # clips, T, 2
    return np.clip(np.asarray(start, dtype=np.int64) + steps, 0, np.asarray(room, dtype=np.int64)).reshape(-1, 2)


@TRANSFORMS.register_module()
class EgoMotionCrop(BaseTransform):
    """mmaction2's ``RandomCrop`` or ``RandomResizedCrop`` whose box moves through the clip.

    The box of the first frame is drawn by mmaction2's transform, so ``sigma=0`` is that transform, bit by bit and
    random number by random number. All clips of a sample start at that box; each has a velocity of its own. The box
    keeps its size and stays at the border once it gets there.

    Velocities are in pixels per frame of the images that come in. With the usual ``Resize(scale=(-1, 256))`` and
    ``crop_size=224`` these are pixels of the network's input, as in the paper. When the crop is resized afterwards,
    say from a random-resized box of width w to 224, the motion is scaled with it, by 224/w.

    Optical flow moves like images do: a pair (x, y) is one frame, be it an image of two channels or two grey images
    in a row. The values of the flow are left as they are: the camera's own motion is not added to them.

    Required Keys: imgs or keypoint, img_shape (optional with imgs), clip_len and num_clips (optional for a single
    clip), modality (optional). Modified Keys: imgs (a list), keypoint (moved frame by frame), img_shape,
    crop_quadruple. Added Keys: crop_bbox (of the first frame), ego_velocity (``(clips, 2)``, pixels per frame).

    Args:
        crop_size: side of a square crop of fixed size in pixels (``RandomCrop``).
        area_range: range of the area relative to the image (``RandomResizedCrop``); by default (0.08, 1.0) when only
            ``aspect_ratio_range`` is given.
        aspect_ratio_range: range of width / height, by default (3/4, 4/3).
        sigma: standard deviation of each component of the velocity, pixels per frame.
        lazy: only False. A lazy crop is one box for all frames.

    Raises:
        ValueError: if neither or both kinds of crop are asked for, a number is out of range, the image is smaller
            than ``crop_size`` or so small that a box could have no pixel, frames do not divide into clips, lazy
            operations are pending, or, with ``sigma > 0``, there are ``gt_bboxes``, which belong to one frame of the
            clip and not to every one.
    """

    def __init__(self, crop_size: Optional[int] = None, area_range: Optional[Sequence[float]] = None,
                 aspect_ratio_range: Optional[Sequence[float]] = None, sigma: float = 2.0,
                 lazy: bool = False) -> None:
        resized = area_range is not None or aspect_ratio_range is not None
        if (crop_size is not None) == resized:
            raise ValueError('EgoMotionCrop: give either crop_size (a crop of fixed size) or area_range and/or '
                             f'aspect_ratio_range (a random-resized crop), got crop_size={crop_size!r}, '
                             f'area_range={area_range!r}, aspect_ratio_range={aspect_ratio_range!r}.')
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 <= sigma < math.inf:
            raise ValueError(f'EgoMotionCrop: sigma must be a number >= 0 (pixels per frame), got {sigma!r}.')
        if lazy:
            raise ValueError('EgoMotionCrop: lazy=True is not possible. A lazy crop is one box for the whole clip, '
                             'this one has a box per frame.')
        if resized:
            area = tuple(map(float, area_range if area_range is not None else (0.08, 1.0)))
            ratio = tuple(map(float, aspect_ratio_range if aspect_ratio_range is not None else (3 / 4, 4 / 3)))
            if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
                raise ValueError(f'EgoMotionCrop: area_range must be 0 < smallest <= largest <= 1, got {area_range!r}.')
            if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
                raise ValueError('EgoMotionCrop: aspect_ratio_range must be 0 < smallest <= largest, got '
                                 f'{aspect_ratio_range!r}.')
            self.first_crop = RandomResizedCrop(area, ratio)
        else:
            if not isinstance(crop_size, int) or isinstance(crop_size, bool) or crop_size < 1:
                raise ValueError(f'EgoMotionCrop: crop_size must be a positive integer, got {crop_size!r}.')
            self.first_crop = RandomCrop(crop_size)
        self.sigma = float(sigma)
        self._rng = WorkerRNG(type(self).__name__)

    def draw_velocity(self, clips: int) -> np.ndarray:
        """``(clips, 2)`` velocities (v_x, v_y) in pixels per frame; no random number is used when sigma is 0."""
        if self.sigma == 0:
            return np.zeros((clips, 2))
        return self._rng.get().normal(0., self.sigma, size=(clips, 2))

    def transform(self, results: dict) -> dict:
        """Crop one sample."""
        if results.get('lazy') is not None:
            raise ValueError('EgoMotionCrop: there are pending lazy operations. Put Fuse before it.')
        if self.sigma > 0 and 'gt_bboxes' in results:
            raise ValueError('EgoMotionCrop: gt_bboxes belong to one frame of the clip and cannot follow a crop that '
                             'moves. Use RandomResizedCrop for spatio-temporal detection, or sigma=0.')
        imgs, keypoint = results.get('imgs'), results.get('keypoint')
        if imgs is None and keypoint is None:
            raise ValueError(f'EgoMotionCrop: nothing to crop, neither imgs nor keypoint in {sorted(results)}.')
        planes = 1
        if imgs is not None:
            if len(imgs) == 0:
                raise ValueError('EgoMotionCrop: imgs is empty.')
            planes = 2 if results.get('modality') == 'Flow' and _channels(imgs[0]) == 1 else 1
        frames = len(imgs) // planes if imgs is not None else keypoint.shape[1]
        clips, clip_len = self._clips(results, frames, len(imgs) if imgs is not None else frames, planes)
        if keypoint is not None and keypoint.shape[1] != frames:
            raise ValueError(f'EgoMotionCrop: keypoint has {keypoint.shape[1]} frames, imgs has {frames}.')

        box_only = {key: value for key, value in results.items() if key not in ('imgs', 'keypoint')}
        if 'img_shape' not in box_only:
            box_only['img_shape'] = imgs[0].shape[:2]
        height, width = box_only['img_shape']
        if not isinstance(self.first_crop, RandomResizedCrop) and self.first_crop.size > min(height, width):
            raise ValueError(f'EgoMotionCrop: images of {height}x{width} are smaller than '
                             f'crop_size={self.first_crop.size}. Put a Resize before it.')
        if isinstance(self.first_crop, RandomResizedCrop):
            self._check_smallest(height, width)
        results.update(self.first_crop.transform(box_only))
        left, top, right, bottom = (int(v) for v in results['crop_bbox'])
        crop_w, crop_h = right - left, bottom - top
        velocity = self.draw_velocity(clips)
        results['ego_velocity'] = velocity
        offsets = moving_offsets((left, top), velocity, clip_len, (width - crop_w, height - crop_h))  # frames, 2
        if imgs is not None:
            results['imgs'] = [img[y:y + crop_h, x:x + crop_w]
                               for img, (x, y) in zip(imgs, offsets.repeat(planes, axis=0).tolist())]
        if keypoint is not None:
            results['keypoint'] = keypoint - offsets[:, None, :]  # M, T, V, 2
        return results

    def _check_smallest(self, height: int, width: int) -> None:
        """RandomResizedCrop rounds the sides, and a box of half a pixel would be one of none."""
        (area, _), (low, high) = self.first_crop.area_range, self.first_crop.aspect_ratio_range
        side = math.sqrt(area * height * width * min(low, 1 / high))
        if side <= 0.5:
            raise ValueError(f'EgoMotionCrop: images of {height}x{width} are too small for area_range='
                             f'{self.first_crop.area_range} and aspect_ratio_range='
                             f'{self.first_crop.aspect_ratio_range}: the smallest box has a side of {side:.2g} pixels. '
                             'Put a Resize before it, or raise the smallest area.')

    def _clips(self, results: dict, frames: int, images: int, planes: int) -> Tuple[int, int]:
        clip_len = results.get('clip_len')
        if clip_len is None:
            if results.get('num_clips', 1) != 1:
                raise ValueError(f"EgoMotionCrop: {results['num_clips']} clips, but no clip_len in results to tell "
                                 'where one ends.')
            clip_len = frames
        if not isinstance(clip_len, (int, np.integer)) or clip_len < 1 or images % (clip_len * planes):
            raise ValueError(f'EgoMotionCrop: {images} images ({planes} per frame) do not divide into clips of '
                             f'clip_len={clip_len!r} frames.')
        return frames // int(clip_len), int(clip_len)

    def __repr__(self) -> str:
        crop = self.first_crop
        size = (f'area_range={crop.area_range}, aspect_ratio_range={crop.aspect_ratio_range}'
                if isinstance(crop, RandomResizedCrop) else f'crop_size={crop.size}')
        return f'{type(self).__name__}({size}, sigma={self.sigma:g})'


def _channels(img: np.ndarray) -> int:
    return 1 if img.ndim == 2 else img.shape[2]
