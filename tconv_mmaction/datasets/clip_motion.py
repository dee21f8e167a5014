"""How the pictures of a clip move: per step of two frames one zoom, turn and shift, by dense optical flow.

Farnebäck's flow (OpenCV) u at the pixels p is fitted by a similarity about the centre c of what is seen there,

    u(p) ≈ (Z R - 1)(p - c) + d,

Z the zoom, R the turn and d the shift, in least squares weighted by the size of the picture's gradient: flow in an even
area is a guess.
"""
from typing import Optional

import cv2
import numpy as np

NUMBERS = ('log zoom', 'clockwise turn in radians', 'pixels right', 'pixels down')
LEAST_CONTRAST = 2.  # mean weight, in grey values per pixel, below which there is nothing to follow


def frame_motion(before: np.ndarray, after: np.ndarray) -> Optional[np.ndarray]:
    """``(4,)`` as in ``NUMBERS``, from one grey uint8 frame (H, W) to the next; None where nothing is to be seen."""
    # a window of a sixth of the picture, so that small pictures are not all window
    window = max(5, min(before.shape) // 6 | 1)
    flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, window, 5, 5, 1.1, 0)
    across, down = (cv2.Sobel(before, cv2.CV_64F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1)))
    weight = np.hypot(across, down)
    if weight.mean() < LEAST_CONTRAST:
        return None
    weight /= weight.sum()
    y, x = np.indices(before.shape, dtype=np.float64)
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    u, v = flow[..., 0], flow[..., 1]
    right, below = (weight * u).sum(), (weight * v).sum()
    # u = a x - b y + right, v = b x + a y + below; x and y have weighted mean 0, so that each is a sum
    size = (weight * (x * x + y * y)).sum()
    a, b = (weight * (x * u + y * v)).sum() / size, (weight * (x * v - y * u)).sum() / size
    return np.array([np.log(max(np.hypot(1 + a, b), 1e-3)), np.arctan2(b, 1 + a), right, below])


def clip_motion(frames: np.ndarray) -> np.ndarray:
    """The motion of a clip, step by step.

    Args:
        frames: ``(T, H, W)`` or ``(T, H, W, 3)`` uint8, H and W at least 8.

    Returns:
        ``(steps, 4)`` as in ``NUMBERS``; steps in which nothing is to be seen are left out.

    Raises:
        ValueError: for frames of another form.

    >>> still = np.zeros((3, 32, 32), np.uint8)
    >>> still[:, 10:20, 8:22] = 200
    >>> bool(np.abs(clip_motion(still)).max() < 1e-6)
    True
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or (frames.ndim == 4 and frames.shape[3] != 3) or \
            min(frames.shape[1:3]) < 8:
        raise ValueError('frames must be (T, H, W) or (T, H, W, 3) uint8 of at least 8 x 8 pixels, got '
                         f'{frames.shape} {frames.dtype}.')
    grey = frames if frames.ndim == 3 else np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames])
    steps = [frame_motion(*pair) for pair in zip(grey, grey[1:])]
    return np.array([step for step in steps if step is not None], dtype=np.float64).reshape(-1, 4)
