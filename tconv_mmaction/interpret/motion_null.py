r"""Is it motion, or would any kernel look so? The same fit to kernels whose changes are random.

Every 3D kernel is explained better by a model that can move. The quantity tested is the share of what the best kernel
without motion (a 2D slice with a gain per slice) leaves that motion explains, :math:`(c - b) / (1 - b)`, and the null
keeps that kernel: W is split into it and the change over time R that is left, and R is replaced.

=========  =============================================================================================================
'phases'   R with the spatial Fourier phases of every input randomised, the same way for all slices: sizes, and how R
           develops over time, are kept; where it is in the slice is not
'inputs'   R with its input channels mixed by a random rotation: R's covariance over time and space is kept; that an
           input's change belongs to the same input's picture, as it does where the picture moves, is not. With one
           input channel this is a change of sign only
'slices'   the slices in another order: reported, and not used for the verdict. A motion with steps of its own between
           any two slices is nearly as good a motion in another order: of drifting blobs the test finds next to nothing
=========  =============================================================================================================

A filter is above the null if it exceeds the 'phases' and the 'inputs' null, with at most so many false ones among the
filters found (Benjamini and Hochberg, 1995).
"""
from typing import Any, Dict, NamedTuple, Optional, Sequence

import numpy as np
import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from ..maths.nearest_3t_kernel import still_explained
from .fit_temporal_parameters import FittedMotion, check_kernel, fit_temporal_parameters

NULLS = ('phases', 'inputs', 'slices')
DECISIVE = ('phases', 'inputs')


class MotionNull(NamedTuple):
    """One layer against its null."""
    share: np.ndarray  # (O,) of the layer's filters, FittedMotion.motion_share
    null: Dict[str, np.ndarray]  # kind -> (fits,) the same of randomised filters
    p: np.ndarray  # (O,) the larger p-value of the decisive kinds
    above: np.ndarray  # (O,) bool


def _split(weight: Tensor):
    """(still part, change), each (O, I, T, H, W), that add up to the weight."""
    gains = still_explained(weight)[2] / weight.shape[2]**0.5  # unit length
    still = torch.einsum('ot,os,oishw->oithw', gains, gains, weight)
    return still, weight - still


def randomised(weight: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """A draw of the null: a kernel of the same shape, see the table above.

    Raises:
        ValueError: for another ``kind``.
    """
    if kind not in NULLS:
        raise ValueError(f'kind must be one of {", ".join(NULLS)}, got {kind!r}.')
    out_channels, in_channels, frames = weight.shape[:3]

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(weight)

    if kind == 'slices':
        order = torch.rand(out_channels, frames, generator=generator).argsort(1)
        backward = torch.arange(frames - 1, -1, -1)
        same = (order == backward.flip(0)).all(1) | (order == backward).all(1)
        order[same] = order[same].roll(1, 1)  # as it is or backwards is no other motion; for two slices all there is
        return torch.stack([filter_[:, slices] for filter_, slices in zip(weight, order.to(weight.device))])
    still, change = _split(weight)
    if kind == 'inputs':
        rotation = torch.linalg.qr(normal(out_channels, in_channels, in_channels))[0]
        if in_channels == 1:
            rotation = -torch.ones_like(rotation)
        return still + torch.einsum('oij,ojthw->oithw', rotation, change)
    noise = torch.fft.fft2(normal(out_channels, in_channels, 1, *weight.shape[3:]))
    phases = noise / noise.abs().clamp(min=torch.finfo(weight.dtype).tiny)
    return still + torch.fft.ifft2(torch.fft.fft2(change) * phases).real


@torch.no_grad()
def motion_null(weight: Tensor, fit: Optional[FittedMotion] = None, fits: int = 128,
                kinds: Sequence[str] = DECISIVE, false_discoveries: float = 0.05, **options: Any) -> MotionNull:
    """Test every filter of a layer.

    Args:
        weight: (O, I, T, H, W).
        fit: ``fit_temporal_parameters(weight, gain=True, **options)``, where it is known already.
        fits: randomised filters per kind, drawn from all filters of the layer in turn.
        kinds: which nulls to compute; the decisive ones always are.
        false_discoveries: the share of false ones that is accepted among the filters found.
        options: of ``fit_temporal_parameters``, but for ``gain``; the null is fitted with the same.

    >>> import torch
    >>> tested = motion_null(torch.randn(8, 16, 3, 3, 3), fits=16)
    >>> int(tested.above.sum())
    0
    """
    check_kernel(weight)
    if fits < 1:
        raise ValueError(f'fits must be at least 1, got {fits}.')
    if fit is None:
        fit = fit_temporal_parameters(weight, gain=True, **options)
    share = fit.motion_share().cpu().double().numpy()
    weight = weight.detach().to(fit.explained.dtype)
    generator = torch.Generator().manual_seed(options.get('seed', 0))
    chosen = torch.cat([torch.randperm(len(weight), generator=generator) for _ in range(-(-fits // len(weight)))])
    chosen = chosen[:fits].to(weight.device)
    drawn = weight[chosen]
    settings = {name: value for name, value in options.items() if name != 'progress'}
    null, p = {}, np.zeros(len(share))
    for kind in dict.fromkeys((*DECISIVE, *kinds)):
        found = fit_temporal_parameters(randomised(drawn, kind, generator), gain=True, **settings)
        if kind != 'slices':  # the still part is in the draw, too: what explains more than it counts as motion
            found = found._replace(baseline=fit.baseline[chosen])
        null[kind] = np.sort(found.motion_share().cpu().double().numpy())
        if kind in DECISIVE:
            larger = fits - np.searchsorted(null[kind], share, side='left')
            p = np.maximum(p, (1 + larger) / (1 + fits))
    return MotionNull(share, null, p, false_discovery_control(p) <= false_discoveries)
