"""Several disjoint temporal masks: all the runs of frames that a class needs, not only the first one found.

A network that needs two events, say frames 2-3 and 10-11, loses the class when either is frozen, so the mask of eq. 1
(:mod:`.temporal_mask`), which is the shortest that takes the class away, shows one of them and is silent about the
other. Here the frames that a mask has used are closed to the next search, until what is left open does not take the
class away any more.
"""
from typing import Callable, List, Union

import torch
from torch import Tensor

from .temporal_mask import TemporalMask, find_temporal_mask


def find_disjoint_masks(score_fn: Callable[[Tensor], Tensor], clip: Tensor,
                        target: Union[int, str, Tensor, List[int]] = 'prediction', count: int = 3, share: float = 0.5,
                        threshold: float = 0.1, **settings) -> List[TemporalMask]:
    """Temporal masks of ONE clip that have no frame in common, each of which takes the class score away.

    >>> clip = torch.zeros(1, 1, 6, 2, 2)
    >>> clip[:, :, [1, 4]] = 1
    >>> def score(clip):  # a class that needs frames 1 AND 4 to be bright
    ...     bright = clip.mean((1, 3, 4))
    ...     both = torch.minimum(bright[:, 1], bright[:, 4])
    ...     return torch.stack([1 - both, both], 1)
    >>> for mask in find_disjoint_masks(score, clip, 1, lambda2=0.):
    ...     for first, behind in mask.runs[0]:
    ...         print(first, 'to', behind - 1)
    1 to 1
    4 to 4

    Args:
        score_fn: as for :func:`.find_temporal_mask`.
        clip: (1, C, T, H, W), T >= 2.
        target: a class or 'prediction'.
        count: at most so many.
        share: a later mask counts if the score drops by at least this share of the first mask's drop.
        threshold: frames above it are in a mask, and closed to later ones.
        settings: of :func:`.find_temporal_mask`.

    Returns:
        The masks in the order in which they were found, the first as :func:`.find_temporal_mask` finds it.

    Raises:
        ValueError: if it is not one clip, count is below 1, or share is not in (0, 1].
    """
    if len(clip) != 1:
        raise ValueError(f'find_disjoint_masks takes one clip (1, C, T, H, W), got {tuple(clip.shape)}.')
    if count < 1 or not 0 < share <= 1:
        raise ValueError(f'count must be at least 1 and share in (0, 1], got {count} and {share}.')
    found: List[TemporalMask] = []
    allowed = torch.ones(1, clip.size(2), device=clip.device)
    while len(found) < count and allowed.any():
        mask = find_temporal_mask(score_fn, clip, target, threshold=threshold, allowed=allowed, **settings)
        drop = float(mask.original - mask.freeze)
        if found and drop < share * float(found[0].original - found[0].freeze):
            break
        found.append(mask)
        used = mask.mask > threshold
        if not used.any():
            break
        target, allowed = int(mask.target), allowed * ~used
    return found
