r"""Temporal masks: which frames a network needs for its answer.

Maenttaeri et al., "Interpreting Video Features: a Comparison of 3D Convolutional Networks and Convolutional LSTM
Networks" (ACCV 2020), sec. 3.1. A mask m in [0, 1]^T freezes the clip where it is on,

.. math:: p_t = (1 - m_t) x_t + m_t p_{t-1}, \quad p_0 = x_0,

and the mask sought is the short, contiguous one that takes the class score away (eq. 1):

.. math:: L = \lambda_1 \|m\|_1 + \lambda_2 TV_\beta^\beta(m) + F_c(p).

The same mask, thresholded, says which runs of frames the reverse perturbation plays backwards.

How sharp a mask gets: with beta = 3 a slope is cheaper than a step. Where freezing costs no score, the minimum of
eq. 1 with the paper's weights descends from 1 over 0.55 and 0.20 to 0: a run has shoulders of up to two frames on
either side that the score does not need. ``lambda2=0``, or a threshold of 0.6, leaves the needed frames alone.

What else than freezing can be done to the frames of a mask is in :mod:`.perturbations`. A mask may end as several runs.
A network that needs two events loses the class with either, so that one mask shows one of them; the others are found
by :mod:`.disjoint_masks`.

On a GPU a search with the freeze, the blur or the grey never waits for the device within its iterations: what has
converged is held where it is, and leaves the batch when the news has arrived.
"""
from typing import Callable, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.modules import check_clip, choose_target, frozen
from .freeze import check_mask, mask_runs, reverse_frames
from .perturbations import Perturbation, find_perturbation

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
INIT_LOGIT = 5.  # the start is +5 inside the centred mask and -5 outside, before the sigmoid


def total_variation(mask: Tensor, beta: float = 3.) -> Tensor:
    r"""TV_beta^beta of each mask, (N,): sum of :math:`|m_t - m_{t\pm1}|^\beta` over frames that have both neighbours.

    That is the authors' sum: a step between two inner frames counts twice, one to the first or last frame once.
    """
    steps = (mask[:, 1:] - mask[:, :-1]).abs().pow(beta)
    return steps[:, 1:].sum(1) + steps[:, :-1].sum(1)  # as right neighbour, as left neighbour of an inner frame


class TemporalMask(NamedTuple):
    """What :func:`find_temporal_mask` found for N clips of T frames; tensors without gradient, on the clip's device."""
    mask: Tensor  # (N, T) in [0, 1]
    original: Tensor  # (N,) OS: score of the target class for the clip as it is
    freeze: Tensor  # (N,) FS: for the clip frozen by the mask, or perturbed as the search was told
    reverse: Tensor  # (N,) RS: for the clip with the mask's runs reversed
    target: Tensor  # (N,) the class
    runs: List[List[Tuple[int, int]]]  # per clip the (start, stop) of its runs above the threshold
    initial: Tensor  # (N, T) the mask that the search began with, 0 or 1
    losses: Tensor  # (N, iterations) float64, eq. 1 before each step, NaN after the early stop
    iterations: Tensor  # (N,) steps made


def _scores(score_fn: Callable, clip: Tensor) -> Tensor:
    scores = score_fn(clip)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.size(0) != clip.size(0):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f'score_fn must return scores (N, K) with N = {clip.size(0)}, got {shape}.')
    return scores


def _class_scores(score_fn: Callable, clip: Tensor, target: Tensor) -> Tensor:
    return _scores(score_fn, clip).gather(1, target[:, None]).squeeze(1)


def _check_probabilities(scores: Tensor) -> None:
    bad = ~((scores >= -1e-4) & (scores <= 1 + 1e-4))  # also NaN
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f'score_fn returned {float(scores[where])} for (clip, class) {where}: eq. 1 weighs a score in '
                         '[0, 1] against the mask. Return softmax scores, not logits (RecognizerScores does).')


def centred_masks(frames: int, like: Optional[Tensor] = None) -> Tensor:
    """(M, T) masks of 0 and 1 around the middle, the shortest (1 or 2 frames) first, the full one last."""
    position = torch.arange(frames)
    margin = torch.arange((frames - 1) // 2, -1, -1)[:, None]
    masks = ((position >= margin) & (position < frames - margin)).float()
    return masks if like is None else masks.to(like)


class Search(NamedTuple):
    """What is done to n clips by their masks, and where these may be on."""
    perturbation: Perturbation
    prepared: Tensor  # (n, ...)
    allowed: Tensor  # (n, T), 0 or 1

    @classmethod
    def anywhere(cls, clip: Tensor, perturbation: str = 'freeze') -> 'Search':
        how = find_perturbation(perturbation)
        return cls(how, how.prepare(clip), torch.ones(len(clip), clip.size(2), device=clip.device, dtype=clip.dtype))

    def of(self, rows) -> 'Search':
        return Search(self.perturbation, self.prepared[rows], self.allowed[rows])

    def perturb(self, clip: Tensor, mask: Tensor) -> Tensor:
        return self.perturbation.apply(clip, mask.to(clip), self.prepared)


@torch.no_grad()
def _initial_masks(score_fn: Callable, clip: Tensor, target: Tensor, original: Tensor, keep: float, chunk_size: int,
                   search: Search) -> Tensor:
    """Per clip the smallest centred mask that keeps the share of the drop that the full freeze causes.

    Each clip tries the full freeze, which the others are measured against, then one mask after the other from the
    smallest on, and no more than it needs; those that still search share the batch.
    """
    candidates = centred_masks(clip.size(2), clip)
    full = len(candidates) - 1
    order = [full, *range(full)]
    drops = original.new_zeros(len(clip), len(candidates))
    chosen, tried = [full] * len(clip), 0  # a full freeze that raises the score has no share to keep
    searching = list(range(len(clip)))
    while searching and tried <= full:
        together = max(1, chunk_size // len(searching))
        masks = order[tried:tried + together]
        pairs = [(n, m) for n in searching for m in masks]
        for rows, columns in (zip(*pairs[i:i + chunk_size]) for i in range(0, len(pairs), chunk_size)):
            rows, columns = list(rows), list(columns)
            part = search.of(rows)
            perturbed = part.perturb(clip[rows], candidates[columns] * part.allowed)
            scores = _class_scores(score_fn, perturbed, target[rows])
            drops[rows, columns] = original[rows] - scores
        tried += len(masks)
        enough = (drops >= keep * drops[:, full:]).tolist()
        for n in list(searching):
            found = next((m for m in order[1:tried] if enough[n][m]), None)
            if found is not None:
                chosen[n] = found
                searching.remove(n)
    return candidates[chosen] * search.allowed


class _Flags:
    """A copy on the host of flags (n,) on a device; on CUDA it arrives while the host goes on."""

    def __init__(self, flags: Tensor) -> None:
        on_cuda = flags.device.type == 'cuda'
        self.copy, self.event = flags.to('cpu', non_blocking=on_cuda), None
        if on_cuda:
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(flags.device))

    def arrived(self) -> bool:
        return self.event is None or self.event.query()


def _to(device: torch.device, rows: List[int]) -> Tensor:
    """Row numbers on the device, sent without waiting for it."""
    numbers = torch.tensor(rows, dtype=torch.long)
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else numbers.to(device)


def _optimise(score_fn: Callable, clip: Tensor, target: Tensor, initial: Tensor, settings, search: Search
              ) -> Tuple[Tensor, ...]:
    """Masks (n, T), losses (n, iterations) and step counts (n,) of one chunk.

    Adam written out, elementwise: a clip that has converged leaves the batch, and the others go on as if it had never
    been there. On a GPU it leaves some iterations later, when the host has heard of it; its numbers are held till then.
    """
    lambda1, lambda2, beta, lr, iterations, tolerance = settings
    allowed = search.allowed  # of all clips; search becomes that of those in the batch
    # the state of the search is T numbers per clip: in float64 it costs nothing and adds no rounding to the model's
    result = initial.double() * (2 * INIT_LOGIT) - INIT_LOGIT
    losses = result.new_full((len(clip), iterations), float('nan'))
    steps = torch.full((len(clip),), iterations, device=clip.device)
    rows = torch.arange(len(clip), device=clip.device)  # clips in the batch
    active = torch.ones_like(rows, dtype=torch.bool)  # those of them still searched
    logits, first, second, previous = result, torch.zeros_like(result), torch.zeros_like(result), None
    flags: Optional[_Flags] = None
    for step in range(1, iterations + 1):
        leaf = logits.detach().requires_grad_()
        mask = leaf.sigmoid() * search.allowed
        loss = (lambda1 * mask.sum(1) + lambda2 * total_variation(mask, beta)
                + _class_scores(score_fn, search.perturb(clip, mask), target).double())
        grad, = torch.autograd.grad(loss.sum(), leaf)
        loss = loss.detach()
        losses[rows, step - 1] = torch.where(active, loss, float('nan'))
        first = ADAM_BETAS[0] * first + (1 - ADAM_BETAS[0]) * grad
        second = ADAM_BETAS[1] * second + (1 - ADAM_BETAS[1]) * grad.square()
        scale = (second / (1 - ADAM_BETAS[1]**step)).sqrt() + ADAM_EPS
        moved = leaf.detach() - lr / (1 - ADAM_BETAS[0]**step) * first / scale
        logits = torch.where(active[:, None], moved, leaf.detach())
        result[rows] = logits
        if previous is not None:
            going = (loss - previous).abs() >= tolerance
            steps[rows] = torch.where(active & ~going, step, steps[rows])
            active = active & going
        previous = loss
        if flags is None and step > 1:
            flags = _Flags(active)
        if flags is not None and flags.arrived():
            kept = [n for n, searched in enumerate(flags.copy.tolist()) if searched]
            if not kept:
                break
            if len(kept) < len(rows):
                keep = _to(clip.device, kept)
                search = search.of(keep)
                rows, clip, target, active, previous, logits, first, second = (
                    t[keep] for t in (rows, clip, target, active, previous, logits, first, second))
            flags = None
    return (result.sigmoid() * allowed).to(clip.dtype), losses, steps


def find_temporal_mask(score_fn: Callable[[Tensor], Tensor], clip: Tensor,
                       target: Union[int, str, Tensor, List[int]] = 'prediction', lambda1: float = 0.01,
                       lambda2: float = 0.02, beta: float = 3., lr: float = 0.2, iterations: int = 300,
                       tolerance: float = 1e-5, keep: float = 0.9, threshold: float = 0.1, chunk_size: int = 8,
                       model: Optional[nn.Module] = None, perturbation: str = 'freeze',
                       allowed: Optional[Tensor] = None) -> TemporalMask:
    """The frames whose motion a network needs for a class, found by gradient descent on eq. 1.

    The search starts at the smallest centred mask that keeps 90 % of the score's drop under the full freeze, makes one
    forward and one backward pass per iteration, and ends for each clip when its loss moves by less than ``tolerance``.
    Clips are searched side by side; each gets what it would get alone, as long as score_fn treats the entries of a
    batch independently, up to its rounding. In float64 that is nothing. In float32 a search that has converged and is
    not stopped amplifies it, and a loss that moves by just ``tolerance`` may stop one step earlier or later, which
    changes a mask by about 0.01; ``chunk_size=1`` excludes both. Nothing is random: the same call gives the same masks
    wherever score_fn gives the same scores.

    Args:
        score_fn: clip (N, C, T, H, W) -> softmax scores (N, K), differentiable. A recognizer of mmaction2 may be given
            as it is.
        clip: (N, C, T, H, W), T >= 2.
        target: a class for all clips, a class for each, or 'prediction' for the class each clip scores highest in.
        lambda1, lambda2, beta: weights of length and total variation, and its exponent.
        lr, iterations, tolerance: of Adam, in the space before the sigmoid.
        keep: share of the full freeze's drop that the starting mask must keep.
        threshold: a frame is in the mask if its value is greater: for RS and the runs.
        chunk_size: clips per forward and backward pass; it bounds the memory.
        model: put in eval mode and frozen during the search; by default score_fn, if it is a module.
        perturbation: what is done to the frames of the mask, a name of :mod:`.perturbations` but 'reverse'.
        allowed: (N, T), 1 for the frames that may be in a mask, 0 for those that must not; by default all may.

    Raises:
        ValueError: if the scores are no probabilities (N, K), a shape does not fit or a setting is out of range.
    """
    check_clip(clip, frames=2)
    if chunk_size < 1 or iterations < 1:
        raise ValueError(f'chunk_size and iterations must be at least 1, got {chunk_size} and {iterations}.')
    if isinstance(score_fn, nn.Module):
        score_fn = as_score_function(score_fn, 'probabilities')
        model = score_fn if model is None else model
    if not find_perturbation(perturbation).searched:
        raise ValueError(f'a mask cannot be searched by gradient descent with {perturbation!r}: which frames are in a '
                         'run has no gradient. Search with another perturbation; `reverse` of the result is the score '
                         'of the reversed runs.')
    clip = clip.detach()
    if allowed is not None:
        check_mask(clip, allowed)
    settings = (lambda1, lambda2, beta, lr, iterations, tolerance)
    parts = []
    with frozen(model), torch.enable_grad():
        chunks = list(clip.split(chunk_size)) if len(clip) else []
        with torch.no_grad():
            scores = torch.cat([_scores(score_fn, chunk) for chunk in chunks]) if chunks else clip.new_zeros(0, 1)
        _check_probabilities(scores)
        target = choose_target(scores, target) if chunks else torch.zeros(0, dtype=torch.long, device=clip.device)
        original = scores.gather(1, target[:, None]).squeeze(1)
        for i, (chunk, label, score) in enumerate(zip(chunks, target.split(chunk_size), original.split(chunk_size))):
            search = Search.anywhere(chunk, perturbation)
            if allowed is not None:
                search = search._replace(allowed=allowed.to(clip)[i * chunk_size:(i + 1) * chunk_size])
            initial = _initial_masks(score_fn, chunk, label, score, keep, chunk_size, search)
            mask, losses, steps = _optimise(score_fn, chunk, label, initial, settings, search)
            with torch.no_grad():
                freeze = _class_scores(score_fn, search.perturb(chunk, mask), label)
                reverse = _class_scores(score_fn, reverse_frames(chunk, mask, threshold), label)
            parts.append((mask, freeze, reverse, initial, losses, steps))
    if not parts:
        frames = clip.size(2)
        empty, none = clip.new_zeros(0, frames), clip.new_zeros(0)
        losses = clip.new_zeros(0, iterations, dtype=torch.float64)
        return TemporalMask(empty, none, none, none, target, [], empty, losses, target)
    mask, freeze, reverse, initial, losses, steps = (torch.cat(column) for column in zip(*parts))
    if not torch.isfinite(mask).all():
        rows = (~torch.isfinite(mask).all(1)).nonzero().flatten().tolist()
        raise ValueError(f'the mask of clip(s) {rows} became NaN: score_fn returned NaN scores or gradients for a '
                         'partly frozen clip. Check the checkpoint, and search in float32.')
    return TemporalMask(mask, original, freeze, reverse, target, mask_runs(mask, threshold), initial, losses, steps)
