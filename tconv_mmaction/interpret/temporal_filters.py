r"""Primary temporal filters: what the convolutions of a network do along time.

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), sec. 2.1
and supplement A. The filter of each (output, input) pair is a t x hw matrix; its left singular vectors are the
temporal filters it is made of, the singular values their weights:

.. math:: W^{c,d} = U \Lambda V^T. \quad (1)

They are read in coordinates with a meaning: the average [1, 1, 1], the 1st differential [-1, 0, 1] and the 2nd
[-1, 2, -1]; for longer filters the normalised polynomials of degree 0, 1, 2 on the time steps, which are these three
at t = 3. The sign of a singular vector is arbitrary, so distributions count u and -u.
"""
import copy
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..layers import switch_to_deploy

AXES = ('average', 'differential_1', 'differential_2')
CHUNK = 1 << 16  # filters per batched SVD: bounds the memory of layers with a million of them


class PrimaryFilters(NamedTuple):
    """(1) for every (output, input) pair of a layer, pair o*I + i in row o*I + i."""
    filters: Tensor  # (O*I, t, t): U, filter k of pair n is filters[n, :, k]; the strongest first
    weights: Tensor  # (O*I, t): singular values, descending


def _matrices(weight: Tensor) -> Tensor:
    if not isinstance(weight, Tensor) or weight.dim() != 5:
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f'weight must be (O, I, t, h, w) as in nn.Conv3d, got {shape}.')
    if not torch.isfinite(weight).all():
        raise ValueError('the weight holds NaN or infinite values: it has no singular values. The training diverged; '
                         'take an earlier checkpoint.')
    return weight.detach().double().flatten(0, 1).flatten(2)  # O*I, t, h*w


def primary_temporal_filters(weight: Tensor) -> PrimaryFilters:
    """Temporal filters and their weights, for each (output, input) pair.

    Args:
        weight: (O, I, t, h, w); with groups I is the number of inputs per group.

    Returns:
        filters (O*I, t, t), orthonormal COLUMNS, and weights (O*I, t), descending, in float64. If h*w < t the last
        weights are 0. Each filter's sign is chosen so that its largest entry (in size) is positive.

    Raises:
        ValueError: for another shape, or NaN and infinite values.
    """
    matrices = _matrices(weight)
    _, t, pixels = matrices.shape
    filters, weights = [], []
    for part in matrices.split(CHUNK):
        u, s, _ = torch.linalg.svd(part, full_matrices=pixels < t)  # all of U's t columns
        if pixels < t:
            s = torch.nn.functional.pad(s, (0, t - pixels))
        peak = u.gather(1, u.abs().argmax(1, keepdim=True))
        filters.append(u * torch.where(peak < 0, -1., 1.).to(u))
        weights.append(s)
    if not filters:
        return PrimaryFilters(matrices.new_zeros(0, t, t), matrices.new_zeros(0, t))
    return PrimaryFilters(torch.cat(filters), torch.cat(weights))


def temporal_axes(t: int) -> Tensor:
    """(min(t, 3), t) orthonormal rows: average, 1st differential (rising), 2nd (positive in the middle)."""
    if t < 1:
        raise ValueError(f't must be at least 1 time step, got {t}.')
    x = torch.arange(t, dtype=torch.float64) - (t - 1) / 2
    axes: List[Tensor] = []
    for power, sign in ((0, 1.), (1, 1.), (2, -1.))[:t]:
        axis = sign * x**power
        for other in axes:
            axis = axis - (axis @ other) * other
        axes.append(axis / axis.norm())
    return torch.stack(axes)


class FilterDistribution(NamedTuple):
    """A layer's temporal filters as points in the ball around (average, 1st, 2nd differential), both signs."""
    points: Tensor  # (2*O*I*t, 3); a unit filter of length <= 3 is on the sphere, a longer one inside
    weights: Tensor  # (2*O*I*t,) singular values
    centre: Tensor  # (3,) the filter that looks at the middle time step only


def filter_distribution(weight: Tensor) -> FilterDistribution:
    """Coordinates of all primary filters of a layer, for Fig. 1 (average, 1st) and Fig. B (1st, 2nd).

    Args:
        weight: (O, I, t, h, w). For t = 2 the third coordinate is 0.

    Raises:
        ValueError: as :func:`primary_temporal_filters`, or if t = 1.
    """
    filters, weights = primary_temporal_filters(weight)
    t = filters.size(1)
    if t < 2:
        raise ValueError('the kernel has one time step: it has no temporal filters to speak of.')
    axes = torch.nn.functional.pad(temporal_axes(t), (0, 0, 0, max(0, 3 - t))).to(filters)  # 3, t
    points = (axes @ filters).transpose(1, 2).reshape(-1, 3)
    middle = centre_filter(t).to(filters)
    return FilterDistribution(torch.cat([points, -points]), weights.reshape(-1).repeat(2), axes @ middle)


def centre_filter(t: int) -> Tensor:
    """(t,) the unit filter of the middle time step; for an even t the two middle ones share it."""
    filter_ = torch.zeros(t, dtype=torch.float64)
    filter_[(t - 1) // 2:t // 2 + 1] = 1
    return filter_ / filter_.norm()


def energy_shares(weight: Tensor) -> Dict[str, float]:
    r"""Share of a layer's energy :math:`\sum \lambda^2` that lies along each temporal direction.

    For a unit direction a it is :math:`\sum_n a^T W_n W_n^T a / \sum_n |W_n|^2`, by (1) the mean squared cosine of
    a and the primary filters, weighted by their squared singular values. 'average' and the two differentials add up
    to 1 for t = 3, to less for t > 3; 'centre' is no axis of theirs and overlaps with them.

    Returns:
        {'centre', 'average', 'differential_1', 'differential_2'}; 'differential_2' is NaN for t = 2, and all are NaN
        for a layer of zeros.
    """
    matrices = _matrices(weight)
    t = matrices.size(1)
    gram = torch.einsum('ntp,nsp->ts', matrices, matrices)
    total = gram.trace()
    directions = dict(zip(('centre', *AXES), [centre_filter(t), *temporal_axes(t)]))
    nan = float('nan')
    return {name: float(directions[name].to(gram) @ gram @ directions[name].to(gram) / total)
            if name in directions and total > 0 else nan for name in ('centre', *AXES)}


def temporal_kernels(model: nn.Module) -> Dict[str, Tensor]:
    """{layer name: weight (O, I, t, h, w)} of all 3D convolutions with t > 1, in the model's order.

    Re-parameterised layers (``Conv3T``, ``MultiBranchConv3d``, ...) count as the convolution that they are when
    deployed, in eval mode: batch norm inside their branches is in the numbers. Kernels are on the CPU.

    Raises:
        ValueError: if there is none.
    """
    deployed = switch_to_deploy(copy.deepcopy(model).eval())
    kernels = {name: module.weight.detach().cpu() for name, module in deployed.named_modules()
               if isinstance(module, nn.Conv3d) and module.weight.size(2) > 1}
    if not kernels:
        raise ValueError(f'{type(model).__name__} has no 3D convolution with more than one time step, so there are no '
                         'temporal filters.')
    return kernels


def energy_table(kernels: Dict[str, Tensor]) -> pd.DataFrame:
    """One row per layer: t, number of (output, input) filters, :func:`energy_shares`."""
    rows = {name: dict(t=weight.size(2), filters=weight.size(0) * weight.size(1), **energy_shares(weight))
            for name, weight in kernels.items()}
    return pd.DataFrame.from_dict(rows, orient='index').rename_axis('layer')


def density(distribution: FilterDistribution, axes: Tuple[int, int] = (0, 1), bins: int = 61
            ) -> Tuple[np.ndarray, np.ndarray]:
    """Weighted density of a distribution on the plane of two axes: (bins, bins) [second axis, first axis], sum 1, and
    the edges of the cells, -1 to 1. ``axes`` count as in ``AXES``."""
    edges = np.linspace(-1, 1, bins + 1)
    points = distribution.points.numpy().clip(-1, 1)
    counts, _, _ = np.histogram2d(points[:, axes[1]], points[:, axes[0]], bins=(edges, edges),
                                  weights=distribution.weights.numpy())
    total = counts.sum()
    return counts / total if total > 0 else counts, edges
