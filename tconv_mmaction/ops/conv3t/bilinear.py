"""What bilinear resampling of small slices is made of: weights over distances, and the grid of pixels."""
from typing import Dict, Tuple

import torch
from torch import Tensor

from ..conditions import runs_eagerly


def hat(distance: Tensor) -> Tensor:
    """max(0, 1 - |d|), eq. 5, with the mean of the one-sided derivatives at its kinks d = 0 and |d| = 1.

    Both kinks are met by every sample of an identity transform. There ``abs`` has derivative 0, and ``maximum``
    splits the gradient evenly between equal arguments; ``relu`` or ``clamp`` would pick one side, and the first
    training steps would favour one direction of motion.
    """
    height = 1 - distance.abs()
    return torch.maximum(height, torch.zeros_like(height))


def hat_values(distance: Tensor) -> Tensor:
    """:func:`hat` without autograd, in one new tensor."""
    return distance.abs().neg_().add_(1).clamp_(min=0)


def hat_slope(distance: Tensor) -> Tensor:
    """The derivative of :func:`hat`: -sign(d) inside, half of it at |d| = 1, nothing outside and at 0."""
    return distance.abs().neg_().add_(1).sign_().add_(1).mul_(-0.5).mul_(distance.sign())


def _axis(size: int, like: Tensor) -> Tensor:
    # Pixels counted from the slice's centre: half-integers, so that at the identity every sample lies exactly on a
    # pixel in floating point too. Going through [-1, 1] and back would not.
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2


def _make_grid(size: Tuple[int, int], like: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    height, width = size
    rows, columns = _axis(height, like), _axis(width, like)
    v, u = torch.meshgrid(rows, columns, indexing='ij')
    # A side of one pixel has no extent: its coordinate is 0 and nothing moves along it.
    across = (width - 1) / (height - 1) if height > 1 else 0.
    along = (height - 1) / (width - 1) if width > 1 else 0.
    one = torch.ones_like(u)
    factors = torch.stack([u, across * v, one * ((width - 1) / 2), along * u, v, one * ((height - 1) / 2)])
    return factors.view(2, 3, -1), rows[:, None], columns[:, None]


_GRIDS: Dict[tuple, Tuple[Tensor, Tensor, Tensor]] = {}  # a few small tensors; making them anew costs 40 operations


def pixel_grid(size: Tuple[int, int], like: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Factors of the entries of theta in the positions of all pixels ``(2, 3, P)``, x first; rows, columns."""
    if type(like) is not Tensor or like.device.type != 'cpu' or not runs_eagerly():
        return _make_grid(size, like)
    key = size, like.dtype
    if key not in _GRIDS:
        with torch.inference_mode(False), torch.no_grad():
            _GRIDS[key] = _make_grid(size, like)
    return _GRIDS[key]
