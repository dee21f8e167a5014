r"""Frozen and reversed clips: the two perturbations of temporal masks.

Maenttaeri et al., "Interpreting Video Features" (ACCV 2020), sec. 3.1. A mask m in [0, 1]^T freezes the clip where it
is on,

.. math:: p_t = (1 - m_t) x_t + m_t p_{t-1}, \quad p_0 = x_0,

or, thresholded, says which runs of frames are played backwards. The freeze is one pass over time with a backward pass
of its own, which is one product over all frames. Others are in :mod:`.perturbations`.
"""
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..ops.memory import constant


def _reach(mask: Tensor) -> Tensor:
    r"""(N, T, T): how much of result t comes through to result s >= t, :math:`\prod_{t < u \le s} m_u`; 0 for s < t."""
    frames = mask.size(1)
    later = constant(('frames after', frames, mask.device),
                     lambda: torch.ones(frames, frames, dtype=torch.bool, device=mask.device).triu(1))
    return torch.where(later, mask[:, None, :], 1.).cumprod(2).triu()


class _Freeze(torch.autograd.Function):
    """The recurrence, keeping only clip, mask and result for the backward pass, which is products without one.

    The loss's derivative by m_t is that by p_t times what m_t mixes, p_{t-1} - x_t, and through :func:`_reach` the
    derivative by p_t is a sum of those by the results s >= t that are given. So all of a mask's derivatives are in the
    products of every frame of one kind with every frame of the other, a T x T matrix.
    """

    @staticmethod
    def forward(ctx, clip: Tensor, mask: Tensor) -> Tensor:
        frozen_clip = torch.empty_like(clip, memory_format=torch.contiguous_format)
        if clip.size(2):
            frozen_clip[:, :, 0] = clip[:, :, 0]
        for t in range(1, clip.size(2)):
            torch.lerp(clip[:, :, t], frozen_clip[:, :, t - 1], mask[:, t, None, None, None], out=frozen_clip[:, :, t])
        ctx.save_for_backward(clip, mask, frozen_clip)
        return frozen_clip

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        clip, mask, frozen_clip = ctx.saved_tensors
        grad_clip = grad_mask = None
        if not mask.numel():
            return torch.zeros_like(clip), torch.zeros_like(mask)
        with torch.autocast(clip.device.type, enabled=False):
            reach, of_frames = _reach(mask), grad.flatten(3)  # N, C, T, H*W
            if ctx.needs_input_grad[1]:
                mixed = (frozen_clip[:, :, :-1] - clip[:, :, 1:]).flatten(3)
                products = torch.matmul(mixed, of_frames.mT).sum(1)  # N, T-1, T
                grad_mask = F.pad((reach[:, 1:] * products).sum(2), (1, 0))
            if ctx.needs_input_grad[0]:
                weight = F.pad(1 - mask[:, 1:], (1, 0), value=1.)  # of a frame in its result; the first is all of it
                weights = (weight[:, :, None] * reach)[:, None]
                grad_clip = torch.matmul(weights, of_frames).view(clip.shape)
        return grad_clip, grad_mask


def check_mask(clip: Tensor, mask: Tensor) -> None:
    if not clip.is_floating_point():
        raise TypeError(f'masks mix frames, so the clip must be floating point, got {clip.dtype}.')
    if clip.dim() != 5:
        raise ValueError(f'clip must be (N, C, T, H, W), got {tuple(clip.shape)}.')
    if mask.shape != (clip.size(0), clip.size(2)):
        raise ValueError(f'mask must be (N, T) = {(clip.size(0), clip.size(2))} for a clip {tuple(clip.shape)}, got '
                         f'{tuple(mask.shape)}.')


def freeze_frames(clip: Tensor, mask: Tensor) -> Tensor:
    """The clip, standing still where the mask is on.

    Each frame is the mix ``(1 - m_t) * frame + m_t * previous result``; with 0 and 1 the last frame before a run of
    ones is held to its end. The first entry of the mask does nothing: there is no frame before.

    Args:
        clip: (N, C, T, H, W), floating point.
        mask: (N, T) in [0, 1]; the range is not checked.

    Returns:
        (N, C, T, H, W), differentiable (once) in clip and mask.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if the clip is not floating point.
    """
    check_mask(clip, mask)
    return _Freeze.apply(clip, mask.to(clip))


def reverse_indices(mask: Tensor, threshold: float = 0.1) -> Tensor:
    """(N, T) frame numbers of the reversed clip: every run of entries above the threshold is mirrored in place."""
    active = mask > threshold
    frames = mask.size(1)
    t = torch.arange(frames, device=mask.device).expand_as(active)
    # first and last frame of the run around t: one after the last inactive frame before, one before the next after
    first = torch.where(active, -1, t).cummax(1).values + 1 if frames else t
    last = torch.where(active, frames, t).flip(1).cummin(1).values.flip(1) - 1 if frames else t
    return torch.where(active, first + last - t, t)


def reverse_frames(clip: Tensor, mask: Tensor, threshold: float = 0.1) -> Tensor:
    """The clip with every run of frames whose mask is above the threshold played backwards, in its place.

    With a mask of 0 and 1 that is all. Where the mask of a run is in between, a frame and its mirror image are mixed,
    both with the weight of the earlier of the two: the authors' perturbation, which swaps the pairs of a run from its
    outside to its middle. Give ``(mask > threshold).to(mask)`` for the plain reversal of soft masks.

    Args:
        clip: (N, C, T, H, W), floating point.
        mask: (N, T) in [0, 1].
        threshold: a frame belongs to a run if its mask is greater.

    Returns:
        (N, C, T, H, W), differentiable in clip and mask.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if the clip is not floating point.
    """
    check_mask(clip, mask)
    mirror = reverse_indices(mask, threshold)
    t = torch.arange(mask.size(1), device=mask.device)
    # 0 for frames that stay, but NaN where the mask is NaN: such a mask must not look like one that is off
    weight = torch.where(mirror == t, mask * 0, mask.gather(1, torch.minimum(mirror, t))).to(clip)
    mirrored = clip.gather(2, mirror[:, None, :, None, None].expand_as(clip))
    return torch.lerp(clip, mirrored, weight[:, None, :, None, None])


def mask_runs(mask: Tensor, threshold: float = 0.1) -> List[List[Tuple[int, int]]]:
    """Per clip the runs of frames above the threshold, as ``(start, stop)`` of a ``range``: stop is not in the run."""
    runs = []
    for row in (mask > threshold).tolist():
        edges = [t for t in range(len(row) + 1) if (t < len(row) and row[t]) != (t > 0 and row[t - 1])]
        runs.append(list(zip(edges[::2], edges[1::2])))
    return runs
