"""The ladder of models of every layer as one figure and one table: still picture, temporal filter, motion, free."""
from typing import Dict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..model_motion import LayerMotion
from ..motion_ladder import RUNGS, Ladder
from ..motion_null import DECISIVE

COLOURS = dict(static='#9aa5b1', gains='#4477aa', motion='#e6781e', free='#f3c99b')
NAMES = dict(static='one slice, repeated', gains='+ a gain per slice', motion='+ affine motion',
             free='+ any 2x3 matrix')


def ladder_table(ladders: Dict[str, Ladder], layers: Dict[str, LayerMotion]) -> pd.DataFrame:
    """One row per layer (index: its name), means over its filters.

    Columns: ``kernel`` (T x H x W), ``inputs``, ``filters``, the shares of the squared weight ``static``, ``gains``,
    ``motion`` and ``free``; ``motion_share``, what motion explains of what gains leave; ``null_KIND`` and
    ``null95_KIND``, mean and 95th percentile of the same for randomised filters; ``above``, the filters above the null.
    """
    rows = {}
    for name, layer in layers.items():
        nulls = {}
        for kind, values in layer.null.null.items():
            nulls[f'null_{kind}'], nulls[f'null95_{kind}'] = values.mean(), np.quantile(values, 0.95)
        first = layer.fit.first
        rows[name] = dict(kernel='x'.join(map(str, layer.kernel_size)), inputs=first.shape[1], filters=first.shape[0],
                          **{rung: float(getattr(ladders[name], rung).mean()) for rung in RUNGS},
                          motion_share=layer.null.share.mean(), **nulls, above=int(layer.null.above.sum()))
    return pd.DataFrame.from_dict(rows, orient='index').rename_axis('layer')


def draw_ladder(table: pd.DataFrame, title: str) -> Figure:
    """Bars of what each model adds, per layer; a black line where the bar of motion would end for random changes.

    Args:
        table: of :func:`ladder_table`.
        title: of the network.
    """
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(table)), layout='constrained')
    axes = figure.subplots()
    places, left = np.arange(len(table)), np.zeros(len(table))
    for rung in RUNGS:
        values = 100 * table[rung].to_numpy()
        axes.barh(places, values - left, left=left, height=0.62, color=COLOURS[rung], label=NAMES[rung])
        left = values
    gains = table['gains'].to_numpy()
    null = np.max([table[f'null_{kind}'].to_numpy() for kind in DECISIVE], axis=0)
    expected = 100 * (gains + (1 - gains) * null)
    axes.vlines(expected, places - 0.42, places + 0.42, color='black', linewidth=1.6,
                label='motion would explain so much of random changes')
    for place, (_, row) in zip(places, table.iterrows()):
        axes.text(101, place, f'{row["above"]} of {row["filters"]} above the null', va='center', fontsize=8)
    names = [f'{name or "layer"}  ({row["kernel"]})' for name, row in table.iterrows()]
    axes.set(xlim=(0, 125), xticks=range(0, 101, 20), ylim=(len(table) - 0.4, -0.6),
             xlabel='share of the squared weight that is explained (%)')
    axes.set_yticks(places, names, fontsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines['bottom'].set_bounds(0, 100)
    figure.suptitle(f'{title}: still picture, temporal filter, motion', fontsize=11)
    figure.legend(loc='outside lower center', ncols=3, fontsize=8, frameon=False)
    return figure
