"""The 3T kernel nearest to each filter of a 3D kernel, in least squares.

Three stages, all filters of a chunk at once: the best candidates (:mod:`.motion_starts`) and "no motion" are the
starts; each goes a few Levenberg-Marquardt steps; the best two of every filter go on to the end. Where nothing is
better than the filter at rest that is the answer, so that none ends worse than without motion. One that ends close to
an exact answer and not at it has most likely missed it, and gets a second round from all the candidates that were not
taken; a filter of a trained network is nowhere near one, so that this costs next to nothing there.

Zooms and shifts are bounded per step. Without bounds the best fit to a kernel of noise magnifies a few pixels of K_1 a
hundred times, to make slices of one colour: better least squares, and no motion.

Chunks keep the memory within bounds whatever the layer is; on the CPU as many are worked on at a time as PyTorch has
threads, each on one.
"""
import math
from typing import Callable, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .in_threads import in_threads, threads_for
from .levenberg_marquardt import levenberg_marquardt
from .motion_starts import best_of_grid, start_grid, steps_put_together
from .projected_residual import ProjectedResidual, reduced

FIRST_STEPS, SURVIVORS = 6, 2  # steps of every start; how many of a filter's starts go on
NEAR_MISS = (1e-5, 0.05)  # what such a filter leaves unexplained, from and to
SECOND_SURVIVORS = 4
MIXTURES = 24  # of the best motions of every step, see motion_starts
OFF_IDENTITY = 1e-3  # the start without motion is this far from it, for at the identity itself every slope is 0
LARGEST_ZOOM = 2.  # per step, in and out
LARGEST_SHIFT = 1.5  # per step and axis, half kernels: beyond 2 nothing of a slice is left
TOLERANCE = 1e-6  # a step that explains less of a filter's squared weight than this is the last

Progress = Callable[[int, int], None]  # filters done, filters in all


class Nearest(NamedTuple):
    """Of every filter."""
    parameters: Tensor  # (O, q), see ProjectedResidual
    kernel: Tensor  # (O, P, I) the reference slice
    explained: Tensor  # (O,) 1 - |W - fit|^2 / |W|^2; 1 for a filter of zeros
    curvature: Tensor  # (O, q) how much of |W|^2 a change of each parameter costs, per its square, others following
    converged: Tensor  # (O,)


def still_explained(weight: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Without motion, in closed form: (share explained by one slice repeated (O,), by one slice with a gain per slice
    (O,), the gains (O, T) of root mean square 1 and a positive largest entry).

    The gains are the first left singular vector of the filter as a T x (I*P) matrix: one temporal filter per output.
    """
    slices = weight.transpose(1, 2).flatten(2)  # O, T, I P
    gram = torch.bmm(slices, slices.mT)
    total = gram.diagonal(dim1=-2, dim2=-1).sum(1)
    values, vectors = torch.linalg.eigh(gram)
    gains = vectors[:, :, -1] * math.sqrt(weight.shape[2])
    none = total == 0
    share = torch.where(none, 1, total)
    return (torch.where(none, 1., gram.sum((1, 2)) / weight.shape[2] / share),
            torch.where(none, 1., values[:, -1] / share), positive(gains))


def positive(gains: Tensor) -> Tensor:
    """``(O, T)`` with the sign that makes the largest entry of each row positive."""
    peak = gains.gather(1, gains.abs().argmax(1, keepdim=True))
    return gains * torch.where(peak < 0, -1, 1)


def curvature(hessian: Tensor, total: Tensor) -> Tensor:
    """(n, q) 1 / (H^-1)_kk over |W|^2 (n,): 0 for a parameter that others can stand in for, or that nothing shows."""
    scaled = (hessian.double() / torch.where(total == 0, 1, total)[:, None, None]).nan_to_num(0., 0., 0.)
    # With a diagonal of ones, and in float64: gains and shifts differ by orders of magnitude, on which eigh in float32
    # fails to converge now and then.
    size = scaled.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    unit = torch.where(size == 0, 1, size)
    values, vectors = torch.linalg.eigh(scaled / (unit[:, :, None] * unit[:, None]))
    floor = torch.finfo(hessian.dtype).eps * values.amax(1, keepdim=True).clamp(min=1e-6)
    return (size.square() / (vectors.square() / torch.maximum(values, floor)[:, None]).sum(2)).to(hessian.dtype)


def at_rest(problem: ProjectedResidual, gains: Tensor) -> Tensor:
    """(n, q) parameters without motion, with ``gains`` (n, T) where the problem has some."""
    rest = gains.new_zeros(len(gains), problem.count)
    if problem.transform == 'free':
        rest[:, :problem.motions] = torch.eye(2, 3).flatten().repeat(problem.steps).to(rest)
    if problem.gain:
        rest[:, problem.motions:] = gains
    return rest


def _starts(problem: ProjectedResidual, gains: Tensor, count: int, memory: int, seed: int) -> Tensor:
    """(n, count + MIXTURES, q), the first one the filter at rest with the gains that are best then, the others the
    better the earlier; for a count of 1 only the first."""
    generator = torch.Generator().manual_seed(seed)
    noise = OFF_IDENTITY * torch.randn(problem.motions, generator=generator, dtype=torch.float64)
    rest = at_rest(problem, gains)[:, None]
    rest[:, :, :problem.motions] += noise.to(rest)
    if count == 1:
        return rest
    grid = start_grid(problem, generator)
    candidates = torch.cat([grid[best_of_grid(problem, grid, count - 1, memory)],
                            steps_put_together(problem, MIXTURES, generator, memory)], dim=1)
    which = torch.arange(len(candidates), device=gains.device).repeat_interleave(candidates.shape[1])
    rows = problem.slices.element_size() * problem.size[0] * problem.pixels * (problem.pixels + problem.slices.shape[2])
    values = torch.cat([problem.value(x, i) for x, i in zip(
        *(all_.split(max(1, memory // (4 * rows))) for all_ in (candidates.flatten(0, 1), which)))])
    best = values.view(candidates.shape[:2]).argsort(dim=1)
    return torch.cat([rest, candidates.gather(1, best[..., None].expand(-1, -1, problem.count))], dim=1)


def bounds(problem: ProjectedResidual) -> Optional[Tuple[Tensor, Tensor]]:
    """The least and the largest value (q,) of every parameter; rotations, gains and free matrices have none."""
    if problem.transform != 'affine':
        return None
    step = torch.tensor([math.log(LARGEST_ZOOM), torch.inf, LARGEST_SHIFT, LARGEST_SHIFT]).to(problem.slices)
    largest = torch.full((problem.count, ), torch.inf).to(problem.slices)
    largest[:problem.motions] = step.repeat(problem.steps)
    return -largest, largest


def _searched(problem: ProjectedResidual, points: Tensor, total: Tensor, iterations: int, survivors: int):
    """(value (n,), parameters (n, q), converged (n,)) of the best of the starts (n, s, q)."""
    if points.shape[1] > survivors:
        values, points, _ = _descend(problem, points, total, min(FIRST_STEPS, iterations))
        kept = values.topk(survivors, dim=1, largest=False).indices
        points = points.gather(1, kept[..., None].expand(-1, -1, problem.count))
    values, points, converged = _descend(problem, points, total, iterations)
    best = values.argmin(1, keepdim=True)
    parameters = points.gather(1, best[..., None].expand(-1, -1, problem.count))[:, 0]
    return values.gather(1, best)[:, 0], parameters, converged.gather(1, best)[:, 0]


def _search_again(problem: ProjectedResidual, found, others: Tensor, total: Tensor, iterations: int):
    """``found`` (see :func:`_searched`) with another round, from ``others`` (n, s, q), where it missed narrowly."""
    left = found[0] / torch.where(total == 0, 1, total)
    missed = ((left > NEAR_MISS[0]) & (left < NEAR_MISS[1])).nonzero()[:, 0]
    for few in missed.split(max(1, len(total) // max(1, others.shape[1] // 4))) if len(missed) else ():
        part = ProjectedResidual(problem.slices[few], problem.size, problem.gain, problem.transform,
                                 problem.reference, problem.ridge)
        again = _searched(part, others[few], total[few], iterations, SECOND_SURVIVORS)
        better = again[0] < found[0][few]
        for old, new in zip(found, again):
            old[few[better]] = new[better]
    return found


def _descend(problem: ProjectedResidual, starts: Tensor, total: Tensor, iterations: int):
    """(values (n, s), parameters (n, s, q), converged (n, s)) after ``iterations`` steps from starts (n, s, q)."""
    which = torch.arange(len(starts), device=starts.device).repeat_interleave(starts.shape[1])
    found = levenberg_marquardt(
        lambda x, i: problem.value(x, which[i]), lambda x, i: problem.linearise(x, which[i]), starts.flatten(0, 1),
        iterations, (TOLERANCE * total)[which], bounds(problem))
    shape = starts.shape[:2]
    return found.values.view(shape), found.parameters.view_as(starts), found.converged.view(shape)


def nearest_3t_kernel(weight: Tensor, gain: bool = False, transform: str = 'affine', reference: int = 0,
                      starts: int = 8, iterations: int = 40, ridge: float = 1e-6, seed: int = 0,
                      memory: int = 1 << 28, initial: Optional[Tensor] = None,
                      progress: Optional[Progress] = None) -> Nearest:
    """Fit every filter of a kernel.

    Args:
        weight: (O, I, T, H, W), float32 or float64, T > 1 and more than one pixel per slice.
        gain, transform, reference, ridge: see :class:`ProjectedResidual`.
        starts: per filter, at least 1; one of them is "no motion".
        iterations: Levenberg-Marquardt steps of the starts that survive.
        seed: of the noise on the starts.
        memory: bytes that the work may take, about, beside the weight, a copy of it and the result.
        initial: (O, q) where to start instead of the grid.
        progress: called as chunks of filters are done.
    """
    size = tuple(weight.shape[2:])
    rows = weight.shape[1] * math.prod(size) * weight.element_size()  # of one filter, which QR and the end copy
    slices = torch.cat([reduced(part) for part in weight.split(max(1, memory // (3 * rows)))])
    everything = ProjectedResidual(slices, size, gain, transform, reference, ridge)
    gains = still_explained(weight)[2]
    if initial is None:
        all_starts = _starts(everything, gains, starts, memory, seed)
    else:
        all_starts, starts = initial[:, None], 1
    threads = threads_for(weight.device)
    chunk = min(-(-len(weight) // threads), memory // max(everything.bytes_per_problem() * starts, 4 * rows) // threads)
    chunk = max(1, chunk)

    def search(part: Tensor, few: Tensor, points: Tensor, still: Tensor) -> Tuple[Tensor, ...]:
        total = part.flatten(1).square().sum(1)
        problem = ProjectedResidual(few, size, gain, transform, reference, ridge)
        found = _searched(problem, points[:, :starts], total, iterations, SURVIVORS)
        if points.shape[1] > starts:
            found = _search_again(problem, found, points[:, starts:], total, iterations)
        values, parameters, converged = found
        everyone = torch.arange(len(part), device=part.device)
        if initial is None:  # the identity itself is a kink, which a search from beside it may not reach
            rest = at_rest(problem, still)
            parameters = torch.where((problem.value(rest, everyone) < values)[:, None], rest, parameters)
        kernel, left = problem.kernel(parameters, everyone, part.flatten(2).mT)
        explained = torch.where(total == 0, 1, 1 - left / torch.where(total == 0, 1, total))
        slopes = curvature(problem.linearise(parameters, everyone)[2], total)
        return parameters, kernel, explained, slopes, converged

    parts, done = [], 0
    chunks = zip(*(all_.split(chunk) for all_ in (weight, slices, all_starts, gains)))
    for part in in_threads(search, chunks, threads):
        parts.append(part)
        done += len(part[0])
        if progress is not None:
            progress(done, len(weight))
    return Nearest(*map(torch.cat, zip(*parts)))
