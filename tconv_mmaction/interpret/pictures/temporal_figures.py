"""Two figures of what a 3T network has learned about motion.

Ras et al., arXiv:2006.15983: the distributions of the temporal parameters (Fig. 4) and the trajectories of single
filters over the slices of their kernel (Fig. 3), as :mod:`..trajectories` counts them: the figures show what happens to
the CONTENT of a filter. No axis is narrower than :data:`..trajectories.LEAST` to both sides unless it is asked for:
rounding would be drawn as motion.

Nothing here touches pyplot: the figures are plain ``matplotlib.figure.Figure`` objects, for any backend and thread.
"""
from typing import Dict, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..model_motion import explained_text, is_fitted, left_out, steps_to_show, to_show
from ..trajectories import (  # noqa: F401  some were here, and are imported from here
    LEAST,
    Motion,
    Parameters,
    Trajectory,
    filter_motion,
    filter_trajectory,
    most_moving_filters,
)
from .figure_files import BLUE, PAGE, VERMILLION, page_figure, save_figure, set_letters  # noqa: F401

Limits = Dict[str, Tuple[float, float]]

START, END, LINE, BARS = BLUE, VERMILLION, '#555555', BLUE
FEW_POINTS = 3000  # up to here single points tell more than counts per cell
LEAST_SHIFT = 0.5  # half kernels: half a pixel of a 3x3 kernel


def pooled_parameters(parameters: Parameters) -> Dict[str, np.ndarray]:
    """All filters and steps of a model as the plots show them: scale s, clockwise rotation in degrees, and the
    content's shift to the right and down (-t_x, -t_y, half kernel sizes). Of fitted layers those above the null only,
    and no steps that clips make no use of."""
    def pool(name):
        return np.concatenate([values[name][:steps_to_show(values), to_show(values)].double().flatten().numpy()
                               for values in parameters.values()] or [[]])
    return {'scale': pool('scale'), 'rotate': -np.degrees(pool('rotate')), 'right': -pool('translate_x'),
            'down': -pool('translate_y')}


def shared_limits(models: Dict[str, Parameters], least: Motion = LEAST, least_shift: float = LEAST_SHIFT) -> Limits:
    """One range for all models: 'scale' around 1, 'rotate' (degrees) and 'translate' (half kernels) around 0.

    Args:
        models: ``{title: temporal_parameters(model)}``.
        least: how far 'scale' and 'rotate' go at least to both sides.
        least_shift: the same of 'translate', in half kernels.
    """
    pools = [pooled_parameters(parameters) for parameters in models.values()]

    def widest(bound, *arrays):
        # a model at the identity still gets axes
        return max(1.05 * max([float(np.abs(a).max()) for a in arrays if a.size] + [0.]), bound) or 0.01

    scale = widest(least.zoom, *(pool['scale'] - 1 for pool in pools))
    rotate = widest(least.degrees, *(pool['rotate'] for pool in pools))
    translate = widest(least_shift, *(pool[axis] for pool in pools for axis in ('right', 'down')))
    return {'scale': (1 - scale, 1 + scale), 'rotate': (-rotate, rotate), 'translate': (-translate, translate)}


def _outside(axes, *pairs) -> None:
    """Say how many values fall outside the axes, instead of dropping them without a word."""
    outside = np.any([(values < low) | (values > high) for values, (low, high) in pairs], axis=0).sum()
    if outside:
        axes.text(0.98, 0.97, f'{outside} outside', transform=axes.transAxes, ha='right', va='top', fontsize=6,
                  color=END)


def _fitted_note(parameters: Parameters) -> str:
    """What the title of fitted layers adds: how many filters are shown and how much of the weights they explain."""
    fitted = [values for values in parameters.values() if is_fitted(values)]
    if not fitted:
        return ''
    above, explained, baseline = (torch.cat([values[name] for values in fitted])
                                  for name in ('above_null', 'explained', 'baseline'))
    return (f'; fitted: {int(above.sum())} of {len(above)} filters above the null,\nwhich explain '
            f'{100 * explained[above].mean():.0f} % of their weight, {100 * baseline[above].mean():.0f} % without '
            'motion')


def _reach_note(parameters: Parameters) -> str:
    """What the title adds where clips make no use of some steps."""
    count = sum(map(left_out, parameters.values()))
    return f'; {count} left out: their slices see no frame' if count else ''


def draw_distributions(models: Dict[str, Parameters], limits: Optional[Limits] = None, bins: Optional[int] = None,
                       width: Optional[float] = None) -> Figure:
    """Fig. 4: one row per model with the scale, the rotation and the joint translation of all filters and steps.

    Args:
        models: ``{title: temporal_parameters(model)}``. All rows have the same axes.
        limits: ``{'scale': (low, high), 'rotate': degrees, 'translate': half kernels}``, to compare with another
            figure, or for narrower axes; by default :func:`shared_limits`, what holds all values and no axis so narrow
            that rounding looks like motion. Values outside given limits are counted in the panel.
        bins: cells per axis; by default 41, or 21 for models of few values. Best odd: "no motion" then has a cell of
            its own.
        width: mm; by default a page.

    Raises:
        ValueError: if there is no model, or one without parameters that clips make use of.
    """
    if not models:
        raise ValueError('draw_distributions needs at least one model, got none.')
    pools = {title: pooled_parameters(parameters) for title, parameters in models.items()}
    for title, pool in pools.items():
        if not pool['scale'].size and any(map(is_fitted, models[title].values())):
            raise ValueError(f'{title}: no filter of its {len(models[title])} layers is explained by motion better '
                             'than random changes are, so there is no motion to draw.')
        if not pool['scale'].size and sum(map(left_out, models[title].values())):
            raise ValueError(f'{title}: no step of its kernels is used at this clip length, so there is nothing to '
                             'draw.')
        if not pool['scale'].size:
            raise ValueError(f'{title} has no temporal parameters: no Conv3T layer with kT > 1.')
    limits = {**shared_limits(models), **(limits or {})}
    if bins is None:
        bins = 41 if max(pool['scale'].size for pool in pools.values()) > 500 else 21
    low, high = limits['translate']
    edges = np.linspace(low, high, bins + 1)
    single_points = max(pool['scale'].size for pool in pools.values()) <= FEW_POINTS
    cells = {title: np.histogram2d(pool['down'], pool['right'], bins=(edges, edges))[0] * (100 / pool['scale'].size)
             for title, pool in pools.items()}  # shares, so that models of different sizes have the same colours
    filled = np.concatenate([cell[cell > 0] for cell in cells.values()])
    if not filled.size:
        single_points = True  # all of them are outside the given limits
    width = width or PAGE
    figure = page_figure(width, 12 + 0.28 * width * len(pools))
    grid = figure.subplots(len(pools), 3, squeeze=False, width_ratios=(1.25, 1.25, 1))
    for column in (0, 1):
        for axes in grid[1:, column]:
            axes.sharex(grid[0, column])
            axes.sharey(grid[0, column])
    for row, (title, pool) in zip(grid, pools.items()):
        size = pool['scale'].size
        for axes, name, still in ((row[0], 'scale', 1), (row[1], 'rotate', 0)):
            axes.axvline(still, color=LINE, linewidth=0.6, linestyle=':')
            axes.hist(pool[name], bins=bins, range=limits[name], weights=np.full(size, 100 / size), color=BARS)
            axes.set_xlim(limits[name])
            axes.locator_params(axis='x', nbins=5)
            _outside(axes, (pool[name], limits[name]))
        row[0].set_ylabel('share of filters x steps (%)')
        row[0].set_title(f'{title}  ({size} values{_reach_note(models[title])}{_fitted_note(models[title])})',
                         loc='left')
        axes = row[2]
        axes.axhline(0, color=LINE, linewidth=0.5, linestyle=':')
        axes.axvline(0, color=LINE, linewidth=0.5, linestyle=':')
        if single_points:
            axes.scatter(pool['right'], pool['down'], s=5, alpha=0.5, color=BARS, linewidths=0)
        else:
            mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(cells[title], 0), cmap='viridis_r', rasterized=True,
                                   norm=LogNorm(filled.min(), filled.max() * (1 + 1e-6)))
            figure.colorbar(mesh, ax=axes, shrink=0.85).set_label('share (%)')
        _outside(axes, (pool['right'], limits['translate']), (pool['down'], limits['translate']))
        axes.set(xlim=(low, high), ylim=(high, low), aspect='equal')  # y points down, as in an image
        axes.set_ylabel('down, $-t_y$ (half kernels)')
        axes.locator_params(nbins=5)
    grid[-1, 0].set_xlabel('scale $s$ per step (below 1: the content grows)')
    grid[-1, 1].set_xlabel('clockwise rotation per step, $-r$ (degrees)')
    grid[-1, 2].set_xlabel('right, $-t_x$ (half kernels)')
    grid[0, 2].set_title('shift of the content per step')
    return set_letters(figure)


def _range(low: float, high: float, still: float, least: float) -> Tuple[float, float]:
    """What holds all values with a margin, and ``least`` to both sides of no motion."""
    margin = 0.08 * (high - low) or 1e-3
    return min(low - margin, still - least), max(high + margin, still + least)


def _checked(parameters: Parameters, layer: str, channel: int) -> None:
    """ValueError for a filter whose motion means nothing."""
    moving = [name for name, values in parameters.items() if values['scale'].numel()]
    if layer not in moving:
        raise ValueError(f'{layer!r} is no Conv3T layer with kT > 1 of this model; these are: {moving}.')
    values = parameters[layer]
    if not steps_to_show(values):
        raise ValueError(f'no slice of layer {layer!r} after its first sees a frame at this clip length: its '
                         'transforms get no gradient, and what they are says nothing about motion. Take longer clips.')
    if is_fitted(values) and 0 <= channel < len(to_show(values)) and not to_show(values)[channel]:
        raise ValueError(f'channel {channel} of layer {layer!r}: {explained_text(values, channel)}.')


def chosen_trajectories(parameters: Parameters, sizes: Dict[str, Sequence[int]],
                        filters: Union[int, Sequence[Tuple[str, int]]] = 6) -> Dict[Tuple[str, int], Trajectory]:
    """{(layer, channel): trajectory} of the filters that are named, or of so many that move most.

    Raises:
        ValueError: for a layer that is not there or has no steps, or if there is nothing to draw.
        IndexError: for a channel that is not there.
    """
    if isinstance(filters, int):
        filters = most_moving_filters(parameters, filters)
    if not filters:
        raise ValueError('there is no filter to draw: no Conv3T layer with kT > 1, none with slices that see a frame, '
                         'no fitted filter above the null, or an empty list of filters.')
    found = {}
    for layer, channel in filters:
        _checked(parameters, layer, channel)
        found[layer, channel] = filter_trajectory(parameters[layer], channel, sizes[layer])
    return found


def draw_trajectories(parameters: Parameters, sizes: Dict[str, Sequence[int]],
                      filters: Union[int, Sequence[Tuple[str, int]]] = 6,
                      names: Optional[Dict[Tuple[str, int], str]] = None, least: Motion = LEAST,
                      width: Optional[float] = None) -> Figure:
    """Fig. 3: one row per filter with its cumulative zoom, rotation and path over the slices.

    The path runs from a blue circle (first slice) to a red square (last slice). All rows have the same axes. A filter
    that stays within ``least`` is said to hardly move.

    Args:
        parameters: ``temporal_parameters(model)``.
        sizes: ``kernel_sizes(model)``.
        filters: (layer, channel) pairs, or how many of those that move most.
        names: what a filter is called, such as the class of a channel of ``Conv3THead``; by default layer and channel.
        least: how far the axes go at least to both sides of no motion; ``Motion(0, 0, 0)`` for axes as narrow as the
            values.
        width: mm; by default a page.

    Raises:
        ValueError: for a layer that is not there or has no steps, or if there is nothing to draw.
        IndexError: for a channel that is not there.
    """
    trajectories = chosen_trajectories(parameters, sizes, filters)
    zooms = np.concatenate([t.zoom for t in trajectories.values()])
    angles = np.concatenate([t.clockwise for t in trajectories.values()])
    reach = max(1.15 * max(np.abs(t.path).max() for t in trajectories.values()), least.pixels) or 0.01
    zoom_limits = _range(zooms.min(), zooms.max(), 1, least.zoom)
    angle_limits = _range(angles.min(), angles.max(), 0, least.degrees)
    longest = max(sizes[layer][0] for layer, _ in trajectories)

    width = width or PAGE
    figure = page_figure(width, 16 + max(26., 0.2 * width) * len(trajectories))
    grid = figure.subplots(len(trajectories), 3, squeeze=False, width_ratios=(1.35, 1.35, 1))
    for row, ((layer, channel), trajectory) in zip(grid, trajectories.items()):
        slices = np.arange(1, len(trajectory.zoom) + 1)
        for axes, values, still, limits in ((row[0], trajectory.zoom, 1, zoom_limits),
                                            (row[1], trajectory.clockwise, 0, angle_limits)):
            axes.axhline(still, color=LINE, linewidth=0.6, linestyle=':')
            axes.plot(slices, values, color=LINE, marker='.', markersize=4, linewidth=1)
            axes.plot(slices[:1], values[:1], 'o', color=START, markersize=4)
            axes.plot(slices[-1:], values[-1:], 's', color=END, markersize=4)
            axes.set(xlim=(0.7, longest + 0.3), ylim=limits)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.get_major_formatter().set_useOffset(False)
            axes.locator_params(axis='y', nbins=5)
        row[0].set_ylabel('zoom')
        row[1].set_ylabel('clockwise (degrees)')
        name = (names or {}).get((layer, channel), f'{layer or "layer"}, channel {channel}')
        notes = ['hardly moves'] if trajectory.hardly_moves(least) else []
        if len(slices) < sizes[layer][0]:
            notes.append(f'no frame from slice {len(slices) + 1} on')
        notes += filter(None, [explained_text(parameters[layer], channel)])
        row[0].set_title(f'{name}: zoom' + (f'\n{"; ".join(notes)}' if notes else ''), loc='left')
        axes = row[2]
        axes.axhline(0, color=LINE, linewidth=0.5, linestyle=':')
        axes.axvline(0, color=LINE, linewidth=0.5, linestyle=':')
        axes.plot(*trajectory.path.T, color=LINE, marker='.', markersize=3.5, linewidth=1)
        axes.plot(*trajectory.path[0], 'o', color=START, markersize=5, label='first slice')
        axes.plot(*trajectory.path[-1], 's', color=END, markersize=5, label='last slice')
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect='equal')  # y points down, as in an image
        axes.set_ylabel('down (px)')
        axes.locator_params(axis='x', nbins=3)
        axes.locator_params(axis='y', nbins=5)
    figure.suptitle('What each filter follows, relative to the first slice of its kernel', fontsize=8)
    grid[0, 1].set_title('rotation')
    grid[0, 2].set_title('path (pixels of the kernel)')
    for axes, label in zip(grid[-1], ('slice of the kernel', 'slice of the kernel', 'right (px)')):
        axes.set_xlabel(label)
    figure.legend(*grid[0, 2].get_legend_handles_labels(), loc='outside lower right', ncols=2, fontsize=6.5,
                  frameon=False)
    return set_letters(figure)
