"""Where a search for the motion of a 3D kernel starts: a grid of motions, tried on all filters at once.

f of :class:`.projected_residual.ProjectedResidual` has many local minima: bilinear resampling has a kink wherever a
sample crosses a pixel, and a filter can be taken for a turned or shifted one. For a GIVEN motion the projection
B = A (A^T A + lambda)^-1 A^T is the same matrix for every filter, and f is |W|^2 - <B, W W^T> up to the ridge: one
matrix product scores every motion of the grid for every filter of a layer.
"""
import itertools
import math
from typing import Tuple

import torch
from torch import Tensor

from .projected_residual import ProjectedResidual

LOG_SCALES = (-0.22, 0., 0.22)  # per step: the content grows or shrinks by a quarter
ROTATIONS = (-0.8, -0.4, 0., 0.4, 0.8)  # radians
UNSTEADY = 300  # motions whose steps differ, drawn from the same grid
OFF_GRID = 0.01  # noise on all of them: at whole pixels resampling has kinks


def motion_grid(size: Tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """(C, T-1, 4) log s, r, t_x, t_y: rotations, zooms and shifts by whole pixels, the same at every step or mixed."""
    frames, height, width = size

    def shifts(side):
        reach = 0 if side == 1 else 1 if side < 5 else 2
        return [2 * pixels / max(side - 1, 1) for pixels in range(-reach, reach + 1)]

    grid = torch.tensor(list(itertools.product(LOG_SCALES, ROTATIONS, shifts(width), shifts(height))),
                        dtype=torch.float64)
    steady = grid[:, None].expand(-1, frames - 1, -1)
    mixed = grid[torch.randint(len(grid), (UNSTEADY, frames - 1), generator=generator)]
    motions = torch.cat([steady, mixed]) if frames > 2 else steady
    return motions + OFF_GRID * torch.randn(motions.shape, generator=generator, dtype=torch.float64)


def gain_patterns(frames: int) -> Tensor:
    """(min(T, 3), T) of root mean square 1: even, rising from minus to plus, and plus-minus-plus."""
    phase = math.pi * (torch.arange(frames, dtype=torch.float64) + 0.5) / frames
    patterns = torch.stack([torch.cos(k * phase) for k in range(min(frames, 3))])
    return patterns / patterns.square().mean(1, keepdim=True).sqrt()


def start_grid(problem: ProjectedResidual, generator: torch.Generator) -> Tensor:
    """(C, q) parameters of ``problem`` to choose starts from, on its device."""
    motions = motion_grid(problem.size, generator).flatten(1)
    if problem.gain:
        patterns = gain_patterns(problem.size[0])
        motions = torch.cat([torch.cat([motions, pattern.expand(len(motions), -1)], 1) for pattern in patterns])
    return motions.to(problem.slices)


def best_of_grid(problem: ProjectedResidual, grid: Tensor, count: int, memory: int) -> Tensor:
    """(n, count): for every filter the points of the grid that explain most of |W|^2; ``memory`` bytes, about."""
    side = problem.slices.shape[1]
    matrix = problem.slices.element_size() * side**2
    scores = [[] for _ in range(0, len(problem.slices), max(1, memory // (4 * matrix)))]
    for part in grid.split(max(1, memory // (8 * matrix))):
        a = (problem.transforms(part) * problem.gains(part)[..., None, None]).flatten(1, 2)
        normal = torch.bmm(a.mT, a)
        ridge = max(problem.ridge, 1e-6) * normal.diagonal(dim1=-2, dim2=-1).mean(1)
        eye = torch.eye(problem.pixels, dtype=a.dtype, device=a.device)
        factor = torch.linalg.cholesky_ex(normal + ridge[:, None, None] * eye)[0]
        projection = torch.bmm(a, torch.cholesky_solve(a.mT, factor)).flatten(1)
        for found, filters in zip(scores, problem.slices.split(max(1, memory // (4 * matrix)))):
            gram = torch.bmm(filters, filters.mT).flatten(1)
            found.append((gram @ projection.T).nan_to_num_(-torch.inf))
    return torch.cat([torch.cat(found, dim=1).topk(count, dim=1).indices for found in scores])
