"""Figures of explanations: what methods say of each frame, and the curves of deletion and insertion."""
from typing import Dict, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .figure_files import BLUE, CYCLE, VERMILLION

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
                                     edgecolor=VERMILLION))
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
            axis.plot(shares, values, label=name, color=CYCLE[i % len(CYCLE)],
                      linestyle=STYLES[i // len(CYCLE) % len(STYLES)], linewidth=1.3)
        axis.set_title(f'{kind} ({perturbation}): {"low" if kind == "deletion" else "high"} is good', fontsize=9)
        axis.set_xlabel(f'share of {unit} {done}', fontsize=9)
        axis.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('score of the class', fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center', fontsize=8)
    return figure


def draw_maps(frames: np.ndarray, maps: Mapping[str, np.ndarray], title: str, notes: Mapping[str, str],
              most: int = 12) -> Figure:
    """A column per frame, a row for the clip and one per method: where, and how strongly, it says what is important.

    Args:
        frames: (T, H, W, 3) uint8.
        maps: method -> (T,) or (T', H', W'), more is more important. Negative values are shown as none; each method is
            scaled to its own maximum, and maps of other resolutions are stretched.
        title: above the figure.
        notes: method -> a few characters that are written beside it.
        most: frames that are shown; of longer clips, some, at equal distances.
    """
    shown = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    # fixed places: matplotlib's layouts take seconds for so many small axes
    height, left, top = 0.8 * frames.shape[1] / frames.shape[2], 1.7, 0.5  # inches
    width, tall = left + 0.85 * len(shown), top + 0.05 + (height + 0.05) * (1 + len(maps))
    figure = Figure(figsize=(width, tall))
    axes = figure.subplots(1 + len(maps), len(shown), squeeze=False, gridspec_kw=dict(
        left=left / width, right=1 - 0.05 / width, top=1 - top / tall, bottom=0.05 / tall, wspace=0.06, hspace=0.06))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for axis, frame in zip(axes[0], shown):
        axis.imshow(frames[frame])
        axis.set_title(str(frame), fontsize=8)
    for row, (name, values) in zip(axes[1:], maps.items()):
        values = np.clip(values, 0, None)
        values = values / max(float(values.max()), 1e-12)
        if values.ndim == 1:  # a bar per frame
            for axis, frame in zip(row, shown):
                axis.bar([0], [values[frame]], width=1.6, color=BLUE)
                axis.set(xlim=(-1, 1), ylim=(0, 1.05))
        else:
            for axis, frame in zip(row, shown):
                step = min(int((frame + 0.5) * len(values) / len(frames)), len(values) - 1)
                axis.imshow(values[step], vmin=0, vmax=1, cmap='gray', interpolation='nearest',
                            extent=(0, frames.shape[2], frames.shape[1], 0))
        row[0].set_ylabel(f'{name}\n{notes.get(name, "")}', rotation=0, ha='right', va='center', fontsize=8)
    axes[0, 0].set_ylabel('frame\ndeletion, insertion', rotation=0, ha='right', va='center', fontsize=8)
    figure.suptitle(title, fontsize=9, y=1 - 0.08 / tall, va='top')
    return figure
