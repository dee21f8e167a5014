"""Where a search for the motion of a 3D kernel starts: motions from a grid, tried on all filters at once.

f of :class:`.projected_residual.ProjectedResidual` has many local minima: bilinear resampling has a kink wherever a
sample crosses a pixel, and a filter can be taken for a turned or shifted one. For a GIVEN motion the projection
B = A (A^T A + lambda)^-1 A^T is the same matrix for every filter, and f is |W|^2 - <B, W W^T> up to the ridge: one
matrix product scores every motion of the grid for every filter of a layer (:func:`best_of_grid`).

A grid of whole motions cannot hold all motions whose steps differ: with 375 motions per step and four steps there are
2e10. So every step is also looked at by itself: how well a motion S of the grid makes slice b+1 from slice b, with W_b
as it is, is tr(S W_b W_(b+1)^T) and tr(S^T S W_b W_b^T), again a matrix product. The best few of every step, put
together at random, are the other candidates (:func:`steps_put_together`).
"""
import itertools
import math
from typing import List, Tuple

import torch
from torch import Tensor

from .projected_residual import ProjectedResidual
from .temporal_transform import affine_matrix, resampling_matrices

LOG_SCALES = (-0.22, 0., 0.22)  # per step: the content grows or shrinks by a quarter
ROTATIONS = (-0.8, -0.4, 0., 0.4, 0.8)  # radians
STEP_ROTATIONS = (-1.2, -0.8, -0.4, 0., 0.4, 0.8, 1.2)  # of a step by itself
BEST_PER_STEP = 4
LARGEST_RATIO = 10.  # of the gains of two slices
UNSTEADY = 300  # motions whose steps differ, drawn from the same grid
OFF_GRID = 0.01  # noise on all of them: at whole pixels resampling has kinks


def shifts(side: int) -> List[float]:
    """By whole pixels, in half kernels."""
    reach = 0 if side == 1 else 1 if side < 5 else 2
    return [2 * pixels / max(side - 1, 1) for pixels in range(-reach, reach + 1)]


def motion_grid(size: Tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """(C, T-1, 4) log s, r, t_x, t_y: rotations, zooms and shifts by whole pixels, the same at every step or mixed."""
    frames, height, width = size

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


def best_steps(problem: ProjectedResidual, memory: int) -> Tuple[Tensor, Tensor]:
    """For every step by itself the motions of a grid that make its slice best, (n, T-1, BEST_PER_STEP, 4), and the gain
    of its slice over that of the slice before it, (n, T-1, BEST_PER_STEP)."""
    height, width = problem.size[1:]
    grid = torch.tensor(list(itertools.product(LOG_SCALES, STEP_ROTATIONS, shifts(width), shifts(height)))).to(
        problem.slices)
    theta = affine_matrix(grid[:, 0].exp(), *grid[:, 1:].unbind(1))
    found, ratios = [], []
    matrix = problem.slices.element_size() * problem.pixels**2
    for slices in problem.slices.split(max(1, memory // (4 * problem.size[0] * matrix))):
        slices = slices.unflatten(1, (problem.size[0], -1))
        start, end = slices[:, :-1].flatten(0, 1), slices[:, 1:].flatten(0, 1)  # n (T-1), P, m
        across, own = torch.bmm(end, start.mT).flatten(1), torch.bmm(start, start.mT).flatten(1)
        scores, gains = [], []
        for part in theta.split(max(1, memory // (8 * matrix))):
            moves = resampling_matrices(part, (height, width))
            hit = across @ moves.flatten(1).T
            size = own @ torch.bmm(moves.mT, moves).flatten(1).T
            gains.append(hit / size.clamp(min=torch.finfo(size.dtype).tiny))
            scores.append(hit * gains[-1] if problem.gain else 2 * hit - size)
        best = torch.cat(scores, dim=1).topk(min(BEST_PER_STEP, len(grid)), dim=1).indices
        found.append(grid[best].unflatten(0, (-1, problem.steps)))
        ratios.append(torch.cat(gains, dim=1).gather(1, best).unflatten(0, (-1, problem.steps)))
    return torch.cat(found), torch.cat(ratios)


def steps_put_together(problem: ProjectedResidual, count: int, generator: torch.Generator, memory: int) -> Tensor:
    """(n, count, q): the best motion of every step, and the best few mixed."""
    best, ratios = best_steps(problem, memory)
    n, steps, ranks = best.shape[:3]
    # the best of a step is taken half of the time, the second a quarter, ...; the first mixture is all of the best
    chance = 0.5**torch.arange(ranks, dtype=torch.float64)
    chosen = torch.multinomial(chance, count * steps, replacement=True, generator=generator).view(count, steps)
    chosen[0] = 0
    index = chosen.T.to(best.device).expand(n, -1, -1)  # n, T-1, count
    motions = best.gather(2, index[..., None].expand(-1, -1, -1, 4)).transpose(1, 2)  # n, count, T-1, 4
    noise = torch.randn(motions.shape[1:], generator=generator, dtype=torch.float64)
    motions = (motions + OFF_GRID * noise.to(motions)).flatten(2)
    if problem.gain:
        # a slice of next to nothing tells nothing of the next one's gain
        steps = ratios.gather(2, index).transpose(1, 2).clamp(-LARGEST_RATIO, LARGEST_RATIO)
        gains = torch.cat([torch.ones_like(steps[..., :1]), steps], dim=2).cumprod(2)
        size = gains.square().mean(2, keepdim=True).sqrt()
        motions = torch.cat([motions, gains / size], dim=2)
    return motions
