"""Figures of explanations: what methods say of each frame, and the curves of deletion and insertion."""
from typing import Dict, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')  # Okabe and Ito's
STYLES = ('-', '--', ':')


def draw_frame_importance(panels: Mapping[str, Mapping[str, np.ndarray]], event: Sequence[int] = (),
                          columns: int = 3) -> Figure:
    """A panel per title: a row per method, a column per frame, dark where the method says the frame is important.

    Args:
        panels: title -> {method: (T,) in [0, 1]}; the same methods in all.
        event: the frames of the right answer, outlined; empty for none.
        columns: panels side by side.
    """
    rows = -(-len(panels) // columns)
    methods = list(next(iter(panels.values())))
    figure = Figure(figsize=(1.3 + 3.1 * columns, (0.75 + 0.2 * len(methods)) * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    drawn = None
    for axis, (title, values) in zip(axes.flat, panels.items()):
        grid = np.stack([values[name] for name in methods])
        drawn = axis.imshow(grid, vmin=0, vmax=1, cmap='cividis_r', aspect='auto', interpolation='nearest')
        axis.set_title(title, fontsize=9)
        axis.set_yticks(range(len(methods)), methods if axis in axes[:, 0] else [''] * len(methods), fontsize=8)
        axis.tick_params(axis='x', labelsize=8)
        if len(event):
            axis.add_patch(Rectangle((min(event) - 0.5, -0.5), len(event), len(methods), fill=False, linewidth=1.5,
                                     edgecolor='#D55E00'))
    for axis in axes[-1]:
        axis.set_xlabel('frame, counted from 0', fontsize=8)
    for axis in list(axes.flat)[len(panels):]:
        axis.set_axis_off()
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("importance, each clip's from least to most", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def draw_curves(shares: np.ndarray, curves: Dict[str, Dict[str, np.ndarray]], perturbation: str, unit: str) -> Figure:
    """Mean curves of deletion and insertion, one line per method; ``curves`` is {'deletion': {method: (S,)}, ...}."""
    figure = Figure(figsize=(8.5, 3.6), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (kind, done) in zip(axes, (('deletion', 'perturbed'), ('insertion', 'given back'))):
        for i, (name, values) in enumerate(curves[kind].items()):
            axis.plot(shares, values, label=name, color=COLOURS[i % len(COLOURS)],
                      linestyle=STYLES[i // len(COLOURS) % len(STYLES)], linewidth=1.3)
        axis.set_title(f'{kind} ({perturbation}): {"low" if kind == "deletion" else "high"} is good', fontsize=9)
        axis.set_xlabel(f'share of {unit} {done}', fontsize=9)
        axis.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('score of the class', fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center', fontsize=8)
    return figure
