"""Methods compared: deletion and insertion of each over the same clips, with intervals, beside chance and the middle.

:func:`method_maps`, :func:`method_curves` and :func:`areas` measure clips, :func:`explanation_scores` does all of it
and sums up what reports show. The number that ranks methods is *insertion - deletion*: a map that says nothing is near
0, and 1 is the most there can be. It is compared with a random order over the same clips, pair by pair: clips differ
far more among each other than methods do.
"""
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from .access.modules import Layer
from .deletion_insertion import DeletionInsertion, deletion_insertion
from .methods import METHODS, explain_clip, find_method

RANDOM_ORDERS = 8  # per clip: their mean stands for chance
LEVEL = 0.95


class Interval(NamedTuple):
    """Student's interval of a mean over clips."""
    low: float
    high: float


class ExplanationScore(NamedTuple):
    """Of one method over all clips."""
    auc_deletion: float  # low is good
    auc_insertion: float  # high is good
    interval: Interval  # 95 % over clips, of insertion - deletion


class AgainstChance(NamedTuple):
    """How much better a method is than an order, in insertion - deletion, clip by clip."""
    difference: float
    interval: Interval
    clips: int


Aucs = Dict[str, Tuple[np.ndarray, np.ndarray]]  # method -> AUC of deletion (clips,) and of insertion (clips,)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's interval of the mean of values, one per clip; NaN for fewer than two.

    >>> mean_interval([0., 1., 2.])  # 1 -+ 4.303 / sqrt(3)
    Interval(low=-1.484..., high=3.484...)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        return Interval(float('nan'), float('nan'))
    half = stats.t.ppf(0.5 + level / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(float(values.mean() - half), float(values.mean() + half))


Maps = Dict[str, Union[Tensor, List[Tensor]]]  # method -> its map, or several draws of it


def method_maps(model: nn.Module, clip: Tensor, methods: Optional[Sequence[str]] = None,
                target: Union[int, str, Tensor, List[int]] = 'prediction', layer: Optional[Layer] = None,
                settings: Optional[Dict[str, dict]] = None) -> Maps:
    """The maps of several methods for some clips; of 'random' eight draws.

    Args:
        model: a recognizer of mmaction2, or (N, C, T, H, W) -> softmax scores (N, K).
        clip: (N, C, T, H, W).
        methods: names of ``METHODS``; by default all.
        target, layer: as for :func:`.explain_clip`.
        settings: method -> its settings, for instance ``{'temporal_mask': {'iterations': 100}}``.

    Raises:
        ValueError: for an unknown method, and what the methods raise.
    """
    methods = list(METHODS) if methods is None else list(methods)
    for name in methods:
        find_method(name)  # before anything runs

    def one(name: str, **more) -> Tensor:
        return explain_clip(model, clip, name, target, layer, **dict((settings or {}).get(name, {}), **more))

    return {name: [one(name, seed=seed) for seed in range(RANDOM_ORDERS)] if name == 'random' else one(name)
            for name in methods}


def method_curves(model: nn.Module, clip: Tensor, maps: Maps,
                  target: Union[int, str, Tensor, List[int]] = 'prediction', **settings
                  ) -> Dict[str, DeletionInsertion]:
    """Deletion and insertion of each map, of several draws the mean curve; settings of :func:`.deletion_insertion`."""
    found = {}
    for name, draws in maps.items():
        curves = [deletion_insertion(model, clip, draw, target, **settings)
                  for draw in (draws if isinstance(draws, list) else [draws])]
        found[name] = curves[0]._replace(deletion=torch.stack([curve.deletion for curve in curves]).mean(0),
                                         insertion=torch.stack([curve.insertion for curve in curves]).mean(0))
    return found


def areas(curves: Dict[str, DeletionInsertion]) -> Aucs:
    """{method: (deletion (N,), insertion (N,))}, the areas under the curves of N clips."""
    return {name: (curve.auc_deletion.cpu().double().numpy(), curve.auc_insertion.cpu().double().numpy())
            for name, curve in curves.items()}


def joined(parts: Sequence[Aucs]) -> Aucs:
    """The AUCs of several batches of clips as those of one."""
    return {name: tuple(np.concatenate([part[name][i] for part in parts]) for i in (0, 1)) for name in parts[0]}


def summarize_scores(aucs: Aucs) -> Dict[str, ExplanationScore]:
    """Means and intervals over clips of the numbers of :func:`areas`."""
    return {name: ExplanationScore(float(deletion.mean()), float(insertion.mean()), mean_interval(insertion - deletion))
            for name, (deletion, insertion) in aucs.items()}


def against(aucs: Aucs, order: str = 'random') -> Dict[str, AgainstChance]:
    """Insertion - deletion of each method minus that of an order ('random' or 'centre'), with the interval over clips.

    An interval that holds 0 is a method that these clips cannot tell from that order.

    Raises:
        KeyError: if the order was not measured.
    """
    if order not in aucs:
        raise KeyError(f'{order!r} was not measured, only {list(aucs)}.')
    chance = aucs[order][1] - aucs[order][0]
    found = {}
    for name, (deletion, insertion) in aucs.items():
        if name != order:
            gain = insertion - deletion - chance
            found[name] = AgainstChance(float(gain.mean()), mean_interval(gain), gain.size)
    return found


def explanation_scores(model: nn.Module, clips: Union[Tensor, Sequence[Tensor]],
                       methods: Optional[Sequence[str]] = None,
                       target: Union[int, str, Tensor, Sequence[int]] = 'prediction',
                       layer: Optional[Layer] = None, method_settings: Optional[Dict[str, dict]] = None,
                       **settings) -> Dict[str, ExplanationScore]:
    """{method: (auc_deletion, auc_insertion, interval)} of a model over clips: what reports and comparisons show.

    Args:
        model: as for :func:`method_maps`.
        clips: (N, C, T, H, W), or a list of (1, C, T, H, W) of any sizes, which are done one after the other.
        methods, layer: as for :func:`method_maps`.
        target: a class for all, one per clip, or 'prediction'.
        method_settings: the settings of :func:`method_maps`.
        settings: perturbation, unit, cells, steps and chunk_size of :func:`.deletion_insertion`.

    Returns:
        The mean areas over the clips; the interval is Student's 95 % one of *insertion - deletion*, NaN for one clip.
    """
    parts = clips.split(1) if isinstance(clips, Tensor) else list(clips)
    if not parts:
        raise ValueError('there are no clips to measure.')
    single = isinstance(target, (int, str)) or isinstance(target, Tensor) and target.dim() == 0
    targets = [target] * len(parts) if single else [int(value) for value in target]
    if len(targets) != len(parts):
        raise ValueError(f'target must be one class or one per clip ({len(parts)}), got {len(targets)}.')
    found = []
    for clip, goal in zip(parts, targets):
        maps = method_maps(model, clip, methods, goal, layer, method_settings)
        found.append(areas(method_curves(model, clip, maps, goal, **settings)))
    return summarize_scores(joined(found))
