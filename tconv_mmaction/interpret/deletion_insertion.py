"""How good is an explanation? The class score while what it ranks highest is taken away, or given back.

Deletion and insertion of Petsiuk et al., "RISE" (BMVC 2018), in time, and in space and time. The frames (or cells) of a
clip are perturbed one after the other, the most important first: the faster the score falls, the better the map
(deletion). Or the clip is wholly perturbed and they come back, the most important first: the faster the score rises,
the better (insertion). The area under each curve over the share of frames is one number per clip; what it is worth is
seen beside that of a random order and that of the middle first (:mod:`.methods`).

What a perturbation leaves is part of the question: the freeze leaves a picture and takes the motion, so that a network
which knows the class from one picture keeps its score; grey takes both.
"""
from typing import List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.modules import check_clip, choose_target, frozen
from .grad_cam import upsample_maps
from .methods import over_frames, seeds_of
from .perturbations import find_perturbation

CELLS = (4, 7, 7)  # steps, rows and columns that a clip is divided into, by default
UNITS = ('frames', 'cells')


class DeletionInsertion(NamedTuple):
    """Of N clips, with S + 1 points on each curve."""
    shares: Tensor  # (S + 1,) share of frames or cells that have been taken away (given back): 0 to 1
    deletion: Tensor  # (N, S + 1) score of the target; the first is the clip's, the last that of nothing left
    insertion: Tensor  # (N, S + 1) the first is that of nothing, the last the clip's
    target: Tensor  # (N,)

    @property
    def auc_deletion(self) -> Tensor:
        """(N,) area under the curve: low is good."""
        return torch.trapezoid(self.deletion, self.shares)

    @property
    def auc_insertion(self) -> Tensor:
        """(N,) area under the curve: high is good."""
        return torch.trapezoid(self.insertion, self.shares)


def ranked(values: Tensor, seeds: Sequence[int]) -> Tensor:
    """(N, U) places from 0 of values (N, U), the highest first; equals in an order drawn by the N seeds."""
    draws = [torch.randperm(values.size(1), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    shuffled = torch.stack(draws).to(values.device) if draws else values.long()
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1)


def units_of(maps: Tensor, clip: Tensor, unit: str, cells: Sequence[int] = CELLS) -> Tensor:
    """What the map says of each frame (N, T) or cell (N, t, h, w): its mean over the cell."""
    frames = clip.size(2)
    if unit == 'frames':
        return over_frames(maps, frames)
    if unit != 'cells':
        raise ValueError(f'unit must be one of {UNITS}, got {unit!r}.')
    cells = tuple(min(count, size) for count, size in zip(cells, clip.shape[2:]))
    if maps.dim() == 2:  # all places of a frame are alike
        maps = over_frames(maps, frames)[:, :, None, None].expand(-1, -1, *clip.shape[3:])
    whole = upsample_maps(maps, clip.shape[2:])
    return torch.nn.functional.adaptive_avg_pool3d(whole[:, None], cells)[:, 0]


def deletion_insertion(model: nn.Module, clip: Tensor, maps: Tensor,
                       target: Union[int, str, Tensor, List[int]] = 'prediction', perturbation: str = 'freeze',
                       unit: str = 'frames', cells: Sequence[int] = CELLS, steps: Optional[int] = None,
                       chunk_size: int = 16, seed: int = 0) -> DeletionInsertion:
    """The class score while the highest-ranked frames or cells of a map are perturbed, and while they are given back.

    Args:
        model: a recognizer of mmaction2 (then of its softmax scores), or clips (N, C, T, H, W) -> scores (N, K).
        clip: (N, C, T, H, W).
        maps: (N, T), or (N, T', H', W') of any resolution; more is more important.
        target: a class for all clips, one for each, or 'prediction'.
        perturbation: a name of :mod:`.perturbations`; of cells 'freeze', 'blur' or 'grey'. (The freeze cannot take
            the first frame away: there is none before.)
        unit: 'frames', or 'cells' of space and time.
        cells: steps, rows and columns of the cells.
        steps: points on a curve after the first; by default the number of frames, or 20 for cells. A step takes the
            next share of the units, rounded to whole ones.
        chunk_size: clips per forward pass.
        seed: of the order of equals.

    Raises:
        ValueError: if a shape does not fit, a map is not finite, or a setting is out of range.

    The score is how bright frames 1 and 2 of 4 are; the first map knows it, the second believes the opposite:

    >>> clip = torch.ones(2, 1, 4, 1, 1)
    >>> clip[:, :, 3] = -3.  # so that the mean colour, grey, is 0
    >>> class Net(nn.Module):
    ...     def forward(self, clip):
    ...         return clip[:, :, 1:3].mean((2, 3, 4))
    >>> maps = torch.tensor([[0., 1, 1, 0], [1, 0, 0, 1]])
    >>> found = deletion_insertion(Net(), clip, maps, 0, 'grey')
    >>> found.deletion.tolist()
    [[1.0, 0.5, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.5, 0.0]]
    >>> found.auc_deletion.tolist(), found.auc_insertion.tolist()
    ([0.25, 0.75], [0.75, 0.25])
    """
    check_clip(clip)
    if len(maps) != len(clip):
        raise ValueError(f'{len(clip)} clip(s) need as many maps, got {len(maps)}.')
    if not torch.isfinite(maps).all():
        raise ValueError('the map holds NaN or infinite values, which have no rank.')
    how = find_perturbation(perturbation, unit == 'cells')
    values = units_of(maps.detach(), clip, unit, cells)
    place = ranked(values.flatten(1), seeds_of(clip, seed)).view_as(values)
    count = values[0].numel() if len(values) else 1
    steps = steps or (count if unit == 'frames' else min(20, count))
    if not 1 <= steps <= count or chunk_size < 1:
        raise ValueError(f'steps must be 1 to {count} ({unit}) and chunk_size at least 1, got {steps} and '
                         f'{chunk_size}.')
    taken = torch.linspace(0, count, steps + 1, dtype=torch.float64).round()
    score_fn, clip = as_score_function(model, 'probabilities'), clip.detach()
    with frozen(model), torch.no_grad():
        index = choose_target(score_fn(clip), target)
        prepared = how.prepare(clip)

        def curve(masks_at) -> Tensor:
            jobs = [(n, number) for n in range(len(clip)) for number in taken.tolist()]
            scores = []
            for part in (jobs[i:i + chunk_size] for i in range(0, len(jobs), chunk_size)):
                rows = [n for n, _ in part]
                masks = torch.stack([masks_at(place[n], number) for n, number in part]).to(clip)
                if unit == 'cells':
                    masks = nn.functional.interpolate(masks[:, None], clip.shape[2:], mode='nearest')[:, 0]
                perturbed = how.apply(clip[rows], masks, prepared[rows])
                scores.append(score_fn(perturbed).gather(1, index[rows][:, None])[:, 0])
            return torch.cat(scores).view(len(clip), -1) if scores else clip.new_zeros(0, steps + 1)

        deletion = curve(lambda places, number: places < number)
        insertion = curve(lambda places, number: places >= number)
    return DeletionInsertion((taken / count).to(deletion), deletion, insertion, index)
