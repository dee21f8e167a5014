"""How much of a 3D kernel is a still picture, a temporal filter, motion: four models, each contained in the next.

========  ==============================================================================================================
static    one 2D slice, repeated
gains     the same with one factor per slice and filter: a rank-one temporal filter (Kobayashi and Ye), one per output
motion    and affine steps from slice to slice: scale, rotation, translation (arXiv:2006.15983, eq. 3, with gains)
free      and any 2x3 matrix per step: shear, mirroring, unequal zoom
========  ==============================================================================================================

A model's share of the squared weight can only grow from row to row; by how much it grows for kernels without motion,
:mod:`.motion_null` finds out.
"""
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from ..layers import TEMPORAL_PARAMETERS
from ..maths.nearest_3t_kernel import nearest_3t_kernel, still_explained
from ..maths.temporal_transform import affine_matrix
from .fit_temporal_parameters import FittedMotion, fit_temporal_parameters

RUNGS = ('static', 'gains', 'motion', 'free')


class Ladder(NamedTuple):
    """Shares of the squared weight of every filter, (O,) each, in [0, 1]; ``fit`` is what ``motion`` is of."""
    static: Tensor
    gains: Tensor
    motion: Tensor
    free: Tensor
    fit: FittedMotion


@torch.no_grad()
def motion_ladder(weight: Tensor, fit: Optional[FittedMotion] = None, **options: Any) -> Ladder:
    """The four shares of every filter.

    Args:
        weight: (O, I, T, H, W), as for :func:`.fit_temporal_parameters.fit_temporal_parameters`.
        fit: its result with ``gain=True`` and ``reference='first'``, where it is known already.
        options: of that function, but for ``gain`` and ``reference``.

    >>> import torch
    >>> shares = motion_ladder(torch.randn(4, 16, 3, 3, 3))
    >>> bool(((shares.static <= shares.gains) & (shares.gains <= shares.motion) & (shares.motion <= shares.free)).all())
    True
    """
    if fit is None:
        fit = fit_temporal_parameters(weight, gain=True, **options)
    weight = weight.detach().to(fit.explained.dtype)
    static, gains, _ = still_explained(weight)
    theta = affine_matrix(*(getattr(fit, name).T for name in TEMPORAL_PARAMETERS))  # O, T-1, 2, 3
    known = {name: options[name] for name in ('iterations', 'ridge', 'seed', 'memory') if name in options}
    free = nearest_3t_kernel(weight, True, 'free', initial=torch.cat([theta.flatten(1), fit.gain.T], dim=1), **known)
    motion = torch.maximum(fit.explained, gains)  # the ridge may cost the last digits
    return Ladder(static, gains, motion, torch.maximum(free.explained, motion), fit)
