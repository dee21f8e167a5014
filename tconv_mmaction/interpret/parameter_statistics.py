r"""The temporal parameters of a whole network in a few numbers.

Ras et al., arXiv:2006.15983, sec. 4.4, Table 2: mean and standard deviation of the deviations from "no motion",
:math:`|s-1|, |r|, |p_x|, |p_y|`, over all filters and steps of a model. What each parameter means, and how its
numbers become pixels, stands in :mod:`.temporal_parameters`.
"""
from typing import Dict, List, Optional

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..utils.markdown import markdown_table
from .model_motion import is_fitted, left_out, steps_to_show, to_show
from .temporal_parameters import kernel_sizes, require_temporal_layers, temporal_layers, temporal_parameters

MODEL_ROW = 'whole model'  # no layer can have this name: attributes have no blanks

QUANTITIES = ('scale', 'rotate', 'rotate_degrees', 'translate_x', 'translate_y', 'shift_x_pixels', 'shift_y_pixels')

# Symbol of Table 2 -> column
TABLE_2 = {'s': 'scale', 'r': 'rotate', 'p_x': 'translate_x', 'p_y': 'translate_y'}


def _deviations(values: Dict, kernel_size, shown) -> Dict[str, np.ndarray]:
    """{quantity: flat float64 array}, 0 where the transform does nothing."""
    steps = steps_to_show(values)
    raw = {name: values[name][:steps, shown].double().flatten().numpy() for name in TABLE_2.values()}
    _, height, width = kernel_size
    return {
        'scale': raw['scale'] - 1,
        'rotate': raw['rotate'],
        'rotate_degrees': np.degrees(raw['rotate']),
        'translate_x': raw['translate_x'],
        'translate_y': raw['translate_y'],
        'shift_x_pixels': raw['translate_x'] * (width - 1) / 2,
        'shift_y_pixels': raw['translate_y'] * (height - 1) / 2,
    }


def _summary(deviations: Dict[str, np.ndarray], ddof: int) -> Dict[str, float]:
    row = {}
    for quantity in QUANTITIES:
        for kind, values in (('abs', np.abs(deviations[quantity])), ('signed', deviations[quantity])):
            enough = values.size > ddof
            row[f'{kind}_{quantity}_mean'] = values.mean() if values.size else float('nan')
            row[f'{kind}_{quantity}_std'] = values.std(ddof=ddof) if enough else float('nan')
    return row


def parameter_statistics(model: nn.Module, ddof: int = 0,
                         parameters: Optional[Dict[str, Dict[str, Tensor]]] = None) -> pd.DataFrame:
    """Mean and standard deviation of the temporal parameters, per layer and for the model.

    One row per 3T layer (index: its name) and a last row ``'whole model'``, which pools all filters and steps of all
    layers: a layer counts by its number of filters, as in Table 2.

    Columns: ``transform`` ('affine'; 'free': the closest similarity of each matrix, see ``residual_mean``, the mean
    of what that leaves out; 'mixed' for a model with both), ``filters``, ``steps`` (kT-1; missing for the model),
    ``values`` (how many numbers each statistic is over), ``residual_mean`` (0 for affine layers), and for every
    quantity q the four ``abs_{q}_mean``, ``abs_{q}_std``, ``signed_{q}_mean``, ``signed_{q}_std``:

    ==================================  =====================================================================
    scale                               s - 1
    rotate, rotate_degrees              r in radians and in degrees; positive turns the content counter-clockwise
    translate_x, translate_y            t, the p_x and p_y of Table 2: 1 is half the kernel
    shift_x_pixels, shift_y_pixels      t*(kW-1)/2 and t*(kH-1)/2, in pixels of the kernel; positive moves the
                                        content left and up. (The papers' px = t*W, with W the width of the frame,
                                        takes t for a fraction of the frame.)
    ==================================  =====================================================================

    Layers with kT = 1 have no steps: their statistics are NaN and they add nothing to the last row.

    With parameters of a known clip length (``temporal_parameters(model, clip_shape=...)``) steps that clips make no use
    of are left out of ``values`` and all statistics, and the column ``left_out`` counts them (steps x filters).

    Layers that are no 3T layers, of ``parameters`` from ``temporal_parameters(model, fit=True)``, have the transform
    'fitted', and only filters above the null are in their statistics; ``above_null``, ``explained`` and ``baseline``
    are columns then: how many filters are, and means over all filters of the layer.

    Args:
        model: holds ``Conv3T`` layers; wrappers (DDP, ...) are looked through.
        ddof: 0 for the standard deviation of these numbers, divisor n (the default; a layer with one number has
            0), 1 for the estimate with divisor n-1. The paper does not say which it prints.
        parameters: what ``temporal_parameters(model)`` gave, if it was read before.

    Raises:
        ValueError: if the model has no 3T layer with kT > 1, or a parameter is NaN or infinite.
    """
    fitted = parameters is not None and any(map(is_fitted, parameters.values()))
    require_temporal_layers(model, fitted)
    if parameters is None:
        parameters = temporal_parameters(model)
    layers, sizes = temporal_layers(model), kernel_sizes(model, fitted)
    reach_known = any('used' in values for values in parameters.values())
    rows: List[dict] = []
    pooled: Dict[str, List[np.ndarray]] = {quantity: [] for quantity in QUANTITIES}
    residuals = []
    for name, values in parameters.items():
        shown = to_show(values)
        deviations = _deviations(values, sizes[name], shown)
        for quantity in QUANTITIES:
            pooled[quantity].append(deviations[quantity])
        count = deviations['scale'].size
        residual = (values['residual'][:steps_to_show(values)].double().flatten().numpy() if 'residual' in values
                    else np.zeros(count))
        residuals.append(residual)
        extra: Dict[str, float] = dict(left_out=left_out(values)) if reach_known else {}
        if fitted:
            extra.update(above_null=int(shown.sum()), explained=1., baseline=float('nan'))
        if is_fitted(values):
            extra.update(explained=float(values['explained'].mean()), baseline=float(values['baseline'].mean()))
        rows.append(dict(layer=name, transform=layers[name].transform if name in layers else 'fitted',
                         filters=len(shown), steps=sizes[name][0] - 1, values=count,
                         residual_mean=residual.mean() if count else float('nan'), **extra,
                         **_summary(deviations, ddof)))
    whole = {quantity: np.concatenate(parts) for quantity, parts in pooled.items()}
    transforms = {row['transform'] for row in rows}
    extra = dict(left_out=sum(row['left_out'] for row in rows)) if reach_known else {}
    if fitted:
        weights = [row['filters'] for row in rows]
        extra.update(above_null=sum(row['above_null'] for row in rows),
                     explained=np.average([row['explained'] for row in rows], weights=weights),
                     baseline=np.average([row['baseline'] for row in rows], weights=weights))
    rows.append(dict(layer=MODEL_ROW, transform=transforms.pop() if len(transforms) == 1 else 'mixed',
                     filters=sum(row['filters'] for row in rows), steps=pd.NA,
                     values=whole['scale'].size,
                     residual_mean=np.concatenate(residuals).mean() if whole['scale'].size else float('nan'), **extra,
                     **_summary(whole, ddof)))
    return pd.DataFrame(rows).astype({'steps': 'Int64'}).set_index('layer')


def table_2(statistics: Dict[str, pd.DataFrame], row: Optional[str] = None) -> str:
    """The layout of Table 2 as a markdown table: one line per parameter, one column per model, mean / std x 1e-3.

    A last line has the steps x filters that are left out since clips do not use them, where there are any.

    Args:
        statistics: ``{title: parameter_statistics(model)}``.
        row: the layer to show; by default the whole model.

    Raises:
        KeyError: if a table has no such row.
    """
    row = MODEL_ROW if row is None else row
    for title, table in statistics.items():
        if row not in table.index:
            raise KeyError(f'{title} has no layer {row!r}; it has {list(table.index)}.')
    rows = []
    for symbol, quantity in TABLE_2.items():
        cells = (table.loc[row, [f'abs_{quantity}_mean', f'abs_{quantity}_std']] for table in statistics.values())
        rows.append([f'{symbol}  μ / σ', *(f'{1e3 * mean:.2f} / {1e3 * std:.2f}' for mean, std in cells)])
    if any(table.loc[row].get('left_out', 0) for table in statistics.values()):
        cells = ((int(table.loc[row].get('left_out', 0)), int(table.loc[row, 'values']))
                 for table in statistics.values())
        rows.append(['left out', *(f'{out} of {out + kept}' for out, kept in cells)])
    return markdown_table(['x 1e-3', *statistics], rows, align=True)
