r"""Two models over the same clips: where they look, which frames they need, and whether they differ.

Maenttaeri et al., "Interpreting Video Features: a Comparison of 3D Convolutional Networks and Convolutional LSTM
Networks" (ACCV 2020), sec. 4.3. With OS, FS and RS the scores of one class for a clip as it is, frozen and reversed by
its temporal mask, and blobs those of the Grad-CAM map of each frame:

================  =======================  ==========================================================================
measure           one value per            what it is
================  =======================  ==========================================================================
blob_count        map: a time step of the  blobs in the map
                  layer
blob_size         blob                     diameter, pixels of the network's input
centre_distance   blob                     from the centre of the frame, pixels of the network's input
mask_length       clip                     frames of the mask above the threshold
drop_ratio        clip that is not left    (OS - FS) / (OS - RS); left out if OS - RS <= 0.001 or OS - FS <= 0.001
                  out
drop_difference   clip                     (OS - FS) - (OS - RS) = RS - FS
================  =======================  ==========================================================================

Mean and standard deviation (divisor n) are over all values of a model; Welch's t-test compares the two means. Maps and
blobs of one clip are alike, so a test that takes them for independent is too sure of itself: the test over one mean
per clip comes first.
"""
import warnings
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from ...layers.conv_lstm2d import ConvLSTM2d
from ..access.adapters import as_score_function
from ..access.default_layer import last_map_layer
from ..access.modules import find_layer, frozen
from ..grad_cam import grad_cam, nothing_speaks
from ..temporal_mask import find_temporal_mask
from .blob_metrics import blob_metrics, maps_at_frame_size
from .mask_metrics import drop_difference, drop_ratio, mask_length, summarize, welch_test

BLOB_MEASURES = ('blob_count', 'blob_size', 'centre_distance')
MASK_MEASURES = ('mask_length', 'drop_ratio', 'drop_difference')
MEASURES = BLOB_MEASURES + MASK_MEASURES
TARGETS = ('prediction', 'label')


class Settings(NamedTuple):
    """What is computed; two runs with the same settings can be put together."""
    target: Union[str, int] = 'prediction'  # or 'label', or a class of all clips
    iterations: int = 300
    lambda1: float = 0.01
    lambda2: float = 0.02
    threshold: float = 0.1
    weights: str = 'frame'  # of Grad-CAM

    def check(self) -> None:
        """ValueError for a setting that no clip could be measured with."""
        if self.target not in TARGETS and not isinstance(self.target, int):
            raise ValueError(f'target must be one of {TARGETS} or the index of a class, got {self.target!r}.')
        if self.iterations < 1:
            raise ValueError(f'iterations must be at least 1, got {self.iterations}.')


DEFAULT = Settings()

# -- one model, some clips ---------------------------------------------------------------------------------------------


def comparison_layer(model: nn.Module, clip: Tensor, layer: Optional[str] = None) -> str:
    """The layer whose Grad-CAM is taken: the one given, or the final convolutional one.

    That is, for a C-LSTM the output sequence of its last cell, before BatchNorm and pooling; for everything else the
    last layer of the backbone with a map of more than one pixel: ``Mixed_5c`` of I3D, ``inception5b`` of GoogLeNet,
    ``layer4`` of ResNets (3T, 3D, R(2+1)D, SlowOnly, CSN, TSN, TSM), ``conv2`` of LeNet-5.

    Raises:
        KeyError: if the model has no layer of that name; the message lists close ones.
        ValueError: if there is no layer with a map.
    """
    if layer is not None:
        return find_layer(model, layer)[0]
    cells = [name for name, module in model.named_modules() if isinstance(module, ConvLSTM2d)]
    return cells[-1] if cells else last_map_layer(model, as_score_function(model, 'logits'), clip)


def measure_clips(model: nn.Module, clips: Tensor, labels: Sequence[Optional[int]], layer: str,
                  settings: Settings = DEFAULT) -> List[dict]:
    """The raw numbers of some clips: what :func:`measures` takes, and what can be stored as JSON.

    Args:
        model: a recognizer, or (N, C, T, H, W) -> softmax scores (N, K), used for both score and Grad-CAM then.
        clips: (N, C, T, H, W), T >= 2; all are searched side by side.
        labels: N classes; None where a clip has none.
        layer: of :func:`comparison_layer`.

    Returns:
        One dict per clip: label, prediction, target, original, freeze, reverse (scores), mask (T values), mask_length,
        iterations, blobs (per map a list of [diameter, distance from the centre]), silent (whether the maps are nowhere
        positive), size [T, H, W].

    Raises:
        ValueError: if ``settings.target`` is 'label' and a clip has none, and whatever the methods raise.
    """
    settings.check()
    score_fn = as_score_function(model, 'probabilities')
    with frozen(model), torch.no_grad():
        prediction = score_fn(clips).argmax(1)
    if settings.target == 'label':
        missing = [i for i, label in enumerate(labels) if label is None]
        if missing:
            raise ValueError(f"target 'label' needs a label for every clip; clip(s) {missing} have none.")
        target = torch.as_tensor(list(labels), device=clips.device)
    else:
        target = prediction if settings.target == 'prediction' else torch.full_like(prediction, settings.target)
    found = find_temporal_mask(score_fn, clips, target, settings.lambda1, settings.lambda2,
                               iterations=settings.iterations, threshold=settings.threshold, chunk_size=len(clips),
                               model=model)
    maps = grad_cam(model, clips, target, layer, settings.weights)
    silent = nothing_speaks(maps).tolist()
    maps = maps_at_frame_size(maps, *clips.shape[3:])
    masks = found.mask.cpu().numpy()
    rows = []
    for i, label in enumerate(labels):
        blobs = blob_metrics(maps[i])
        values = np.stack([blobs.sizes, blobs.distances], 1)
        per_map = np.split(values, np.cumsum(blobs.counts)[:-1])
        rows.append(dict(
            label=label, prediction=int(prediction[i]), target=int(target[i]), original=float(found.original[i]),
            freeze=float(found.freeze[i]), reverse=float(found.reverse[i]), mask=masks[i].tolist(),
            mask_length=int(mask_length(masks[i:i + 1], settings.threshold)[0]), iterations=int(found.iterations[i]),
            blobs=[found.tolist() for found in per_map], silent=silent[i], size=list(clips.shape[2:])))
    return rows


# -- all clips of a model ----------------------------------------------------------------------------------------------


def measures(rows: Sequence[dict]) -> Dict[str, np.ndarray]:
    """All values of each measure, in the order of the rows of :func:`measure_clips`."""
    blobs = np.array([blob for row in rows for found in row['blobs'] for blob in found], dtype=np.float64)
    blobs = blobs.reshape(-1, 2)
    scores = [np.array([row[key] for row in rows], dtype=np.float64) for key in ('original', 'freeze', 'reverse')]
    return {
        'blob_count': np.array([len(found) for row in rows for found in row['blobs']], dtype=np.float64),
        'blob_size': blobs[:, 0],
        'centre_distance': blobs[:, 1],
        'mask_length': np.array([row['mask_length'] for row in rows], dtype=np.float64),
        'drop_ratio': drop_ratio(*scores).values,
        'drop_difference': drop_difference(*scores),
    }


def clip_means(rows: Sequence[dict]) -> Dict[str, np.ndarray]:
    """The mean of each measure per clip, (clips,); NaN for a clip without a value (no blob, or no drop ratio)."""
    columns: Dict[str, list] = {name: [] for name in MEASURES}
    for row in rows:
        for name, values in measures([row]).items():
            columns[name].append(values.mean() if values.size else np.nan)
    return {name: np.array(values, dtype=np.float64) for name, values in columns.items()}


def class_f1(rows: Sequence[dict]) -> Dict[int, float]:
    """F1 of every class that a clip has (Table 2); of the rows that have a label.

    A class that is only predicted is none of them: its F1 would be 0 for the model that predicts it and undefined for
    another, so that two models would have means over different classes. Such a prediction still counts as a miss.
    """
    pairs = [(row['label'], row['prediction']) for row in rows if row['label'] is not None]
    if not pairs:
        return {}
    labels, predictions = zip(*pairs)
    classes = sorted(set(labels))
    values = f1_score(labels, predictions, labels=classes, average=None, zero_division=0)
    return dict(zip(classes, values.tolist()))


def _test(first: np.ndarray, second: np.ndarray) -> dict:
    if min(first.size, second.size) < 2:
        return dict(note=f'{first.size} and {second.size} value(s): a variance needs at least two')
    if first.std() == 0 and second.std() == 0:
        return dict(note='both models have the same value everywhere, so there is no variance to test with')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # scipy's, about nearly equal values: the numbers say it
        result = welch_test(first, second)
    return dict(t=result.statistic, p=result.p_value, degrees_of_freedom=result.degrees_of_freedom)


def histogram(name: str, values: Sequence[np.ndarray], bins: int = 24) -> dict:
    """Shares of the values in common bins: Fig. 4.

    Counts have a bin per number (or per few of them, if there are more than 60). Of drop ratios, which have a long
    tail, the bins hold 95 %; ``outside`` is the share of each model beyond them, and what is in the bins and outside
    adds up to 1.

    Returns:
        dict(edges, shares=[first, second], outside=[first, second]); empty edges if there are no values at all.
    """
    pooled = np.concatenate([np.asarray(v, dtype=np.float64) for v in values])
    if not pooled.size:
        return dict(edges=[], shares=[[] for _ in values], outside=[0. for _ in values])
    low, high = float(pooled.min()), float(pooled.max())
    if name in ('blob_count', 'mask_length'):
        step = max(1, int(np.ceil((high - low + 1) / 60)))
        edges = np.arange(low, high + step + 0.5, step) - 0.5
    else:
        if name == 'drop_ratio':
            low, high = min(low, 0.), float(np.quantile(pooled, 0.95))
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(v, edges)[0] / max(1, len(v)) for v in values]
    return dict(edges=edges.tolist(), shares=[s.tolist() for s in shares],
                outside=[max(0., 1 - float(s.sum())) if len(v) else 0. for s, v in zip(shares, values)])


def compare(first: Sequence[dict], second: Sequence[dict]) -> dict:
    """Tables 2 to 4, Fig. 4 and the tests, from the rows of two models over the same clips.

    Returns:
        dict with

        * ``clips``: how many;
        * ``measures``: per measure ``models`` (mean, std, count of both), ``welch_clips`` (t, p, degrees_of_freedom
          over one mean per clip, or a note why there is no test), ``welch`` (the same over all values) and
          ``histogram``;
        * ``silent``: of how many clips each model's maps are nowhere positive; ``maps``: how many maps each has;
        * ``f1``: per model {class: F1} and its mean, ``accuracy`` per model; None without labels.

    Raises:
        ValueError: if the two are not over the same number of clips, or there is none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f'both models need rows of the same clips, at least one; got {len(first)} and {len(second)}.')
    pair = (first, second)
    values, means = [measures(rows) for rows in pair], [clip_means(rows) for rows in pair]
    table = {}
    for name in MEASURES:
        found = [model[name] for model in means]
        table[name] = dict(
            models=[_plain(summarize(model[name])._asdict()) for model in values],
            welch_clips=_plain(_test(*(v[np.isfinite(v)] for v in found))),
            welch=_plain(_test(*(model[name] for model in values))),
            histogram=histogram(name, [model[name] for model in values]))
    f1 = [class_f1(rows) for rows in pair]
    labelled = [[row for row in rows if row['label'] is not None] for rows in pair]
    return dict(
        clips=len(first), measures=table, silent=[sum(bool(row.get('silent')) for row in rows) for rows in pair],
        maps=[sum(len(row['blobs']) for row in rows) for rows in pair],
        f1=[dict(classes={str(k): v for k, v in scores.items()}, mean=float(np.mean(list(scores.values()))))
            for scores in f1] if all(f1) else None,
        accuracy=[float(np.mean([row['label'] == row['prediction'] for row in rows])) for rows in labelled]
        if all(labelled) else None)


def _plain(record: dict) -> dict:
    """JSON has no NaN: None instead."""
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in record.items()}


# -- dealing the work --------------------------------------------------------------------------------------------------


def work_units(indices: Sequence[int], chunk_size: int) -> List[Sequence[int]]:
    """Clips searched side by side. They do not depend on the number of processes, so neither do the results."""
    if chunk_size < 1:
        raise ValueError(f'chunk_size must be at least 1, got {chunk_size}.')
    return [indices[start:start + chunk_size] for start in range(0, len(indices), chunk_size)]


def open_units(units: Sequence[Sequence[int]], done: Dict[Tuple[int, int], dict], models: int = 2, rank: int = 0,
               world_size: int = 1) -> List[Tuple[int, Sequence[int]]]:
    """The (model, unit) pairs with a clip that is not done, this process's share of them.

    Units are dealt round and round, with both models of a unit to one process: models differ in speed.

    Args:
        units: of :func:`work_units`.
        done: by (model, index of the clip).
    """
    waiting = [(unit, [model for model in range(models) if any((model, index) not in done for index in unit)])
               for unit in units]
    waiting = [(unit, left) for unit, left in waiting if left]
    return [(model, unit) for unit, left in waiting[rank::world_size] for model in left]
