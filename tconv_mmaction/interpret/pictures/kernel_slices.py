"""Kernels slice by slice, with what their content does: Ras et al. (arXiv:2006.15983), Fig. 2 and 3, bottom.

One row per filter: its kT slices, counted from 1, and for 3T layers zoom, rotation and path over them. Weights of a
layer on pictures of three colours are shown as colours about grey (no weight); others as their mean over the inputs,
blue below zero and red above. Every filter has a scale of its own; what 1 is stands beside it.
"""
from typing import Dict, Iterable, Optional, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..trajectories import LEAST, Motion, Trajectory
from .figure_files import PAGE, page_figure, set_letters
from .temporal_figures import END, LINE, START

LEAST_SLICE, LARGEST_SLICE, LEAST_PLOT = 7., 16., 19.  # mm


def slice_pictures(kernel: Tensor) -> np.ndarray:
    """Of one filter (I, t, h, w): (t, h, w, 3) in [0, 1] for three inputs, else (t, h, w) in [-1, 1], the mean over the
    inputs. The largest absolute value of the filter is 1 (or -1)."""
    kernel = kernel.detach().double().cpu()
    values = kernel.permute(1, 2, 3, 0).numpy() if kernel.shape[0] == 3 else kernel.mean(0).numpy()
    values = values / max(float(np.abs(values).max()), 1e-12)
    return (values + 1) / 2 if kernel.shape[0] == 3 else values


def draw_kernel_slices(weight: Tensor, channels: Sequence[int], layer: str,
                       trajectories: Optional[Dict[int, Trajectory]] = None, least: Motion = LEAST,
                       width: Optional[float] = None) -> Figure:
    """The filters of a layer, slice by slice.

    Args:
        weight: (O, I, t, h, w).
        channels: which of the O.
        layer: its name.
        trajectories: {channel: its motion}, for 3T layers; a channel that is not there has none to show.
        least: how far the axes of the motion go at least to both sides of none.
        width: mm; by default a page.

    Raises:
        ValueError: for no channel, or one that is not there.
    """
    wrong = [channel for channel in channels if not 0 <= channel < weight.shape[0]]
    if wrong or not len(channels):
        raise ValueError(f'channel {wrong[0] if wrong else channels} of a layer with {weight.shape[0]} output channels '
                         f'(0 to {weight.shape[0] - 1}).')
    width = width or PAGE
    slices, plots = weight.shape[2], 3 if trajectories else 0
    side = min(max((width - 16) * (0.52 if plots else 1) / slices, LEAST_SLICE), LARGEST_SLICE)
    stacked = plots > 0 and (width - 16 - slices * side) / plots < LEAST_PLOT  # then below the slices
    if stacked:
        side = min((width - 16) / slices, LARGEST_SLICE)
    heights = [side + 2, 20.] if stacked else [max(side + 1.5, 17. if plots else 0)]
    figure = page_figure(width, sum(heights) * len(channels) + 18)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    columns = 2 if plots and not stacked else 1
    outer = figure.add_gridspec(len(heights) * len(channels), columns, height_ratios=heights * len(channels),
                                width_ratios=[slices * side, width - 16 - slices * side] if columns == 2 else [1])
    reaches = motion_reaches((trajectories or {}).values(), least)
    for line, channel in enumerate(channels):
        row = outer[line * len(heights), 0].subgridspec(1, slices).subplots()
        row = np.atleast_1d(row)
        for number, (axes, picture) in enumerate(zip(row, slice_pictures(weight[channel])), 1):
            axes.imshow(picture, cmap='RdBu_r', vmin=-1, vmax=1, interpolation='nearest')
            axes.set(xticks=(), yticks=())
            if line == 0:
                axes.set_title(f'slice {number}' if side >= 11 else str(number))
        row[0].set_ylabel(f'channel {channel}', rotation=0, ha='right', va='center')
        if plots:
            panels = outer[line * len(heights) + stacked, columns - 1].subgridspec(1, 3).subplots()
            draw_motion(panels, (trajectories or {}).get(channel), slices, reaches, least)
            if line == 0:
                for axes, title in zip(panels, ('zoom', 'clockwise (degrees)', 'path (pixels)')):
                    axes.set_title(title)
            if line == len(channels) - 1:
                for axes, label in zip(panels, ('slice', 'slice', 'right')):
                    axes.set_xlabel(label)
    what = 'colours about grey, which is no weight' if weight.shape[1] == 3 else (
        'red above zero, blue below' + (f', mean over {weight.shape[1]} inputs' if weight.shape[1] > 1 else ''))
    break_ = '\n' if width < 120 else ' '
    figure.suptitle(f'{layer or "layer"}: {what};{break_}each filter by its largest weight',
                    fontsize=7)
    return set_letters(figure, text=6.5, small=5.5)


def motion_reaches(trajectories: Iterable[Trajectory], least: Motion = LEAST) -> Motion:
    """How far axes go to both sides of no motion, so that they hold all of these and no less than ``least``."""
    reaches = [trajectory.reach() for trajectory in trajectories]
    return Motion(*(max([getattr(reach, name) * 1.1 for reach in reaches] + [getattr(least, name)]) or 1e-3
                    for name in Motion._fields))


def draw_motion(panels, trajectory: Optional[Trajectory], slices: int, reaches: Motion, least: Motion = LEAST) -> None:
    """Zoom, rotation and path of a filter of so many slices on three axes; of None the empty axes."""
    zoom, turn, path = panels
    for axes, values, still, reach in ((zoom, 'zoom', 1, reaches[0]), (turn, 'clockwise', 0, reaches[1])):
        axes.axhline(still, color=LINE, linewidth=0.5, linestyle=':')
        axes.set(xlim=(0.6, slices + 0.4), ylim=(still - reach, still + reach))
        axes.set_xticks(range(1, slices + 1, 1 + slices // 8))
        axes.yaxis.get_major_formatter().set_useOffset(False)
        axes.locator_params(axis='y', nbins=3)
        if trajectory is not None:
            line = getattr(trajectory, values)
            axes.plot(range(1, len(line) + 1), line, color=LINE, linewidth=0.8, marker='.', markersize=3)
            axes.plot(1, line[0], 'o', color=START, markersize=3)
            axes.plot(len(line), line[-1], 's', color=END, markersize=3)
    path.axhline(0, color=LINE, linewidth=0.5, linestyle=':')
    path.axvline(0, color=LINE, linewidth=0.5, linestyle=':')
    path.set(xlim=(-reaches[2], reaches[2]), ylim=(reaches[2], -reaches[2]), aspect='equal', ylabel='down')
    path.locator_params(nbins=3)
    if trajectory is None:
        return
    path.plot(*trajectory.path.T, color=LINE, linewidth=0.8, marker='.', markersize=2)
    path.plot(*trajectory.path[0], 'o', color=START, markersize=3.5)
    path.plot(*trajectory.path[-1], 's', color=END, markersize=3.5)
    if trajectory.hardly_moves(least):
        zoom.text(0.5, 0.97, 'hardly moves', transform=zoom.transAxes, fontsize=5.5, ha='center', va='top')
