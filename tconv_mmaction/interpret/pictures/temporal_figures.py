"""Two figures of what a 3T network has learned about motion, and the numbers they draw.

Ras et al., arXiv:2006.15983: the distributions of the temporal parameters (Fig. 4) and the trajectories of single
filters over the slices of their kernel (Fig. 3). The figures show what happens to the CONTENT of a filter:

* zoom 1/s, multiplied up over the slices (a slice with s > 1 is read further out, its content shrinks);
* clockwise rotation, -r in degrees, added up;
* where the centre of the first slice is in the following ones, in pixels of the kernel (a shift t moves the content by
  -t*(kW-1)/2). Later zooms and rotations act on it too, so the path is composed exactly; without them it is the sum
  of the shifts. The papers print px = t*W instead, as if the raw number were a fraction of the frame.

Nothing here touches pyplot: the figures are plain ``matplotlib.figure.Figure`` objects, for any backend and thread.
"""
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ...layers import TEMPORAL_PARAMETERS
from ...maths.temporal_transform import affine_matrix
from ..model_motion import explained_text, is_fitted, to_show
from .figure_files import save_figure  # noqa: F401  it was here, and is imported from here

Parameters = Dict[str, Dict[str, Tensor]]  # what temporal_parameters returns
Limits = Dict[str, Tuple[float, float]]

START, END, LINE, BARS = '#1f5fd0', '#d02f2f', '#555555', '#4477aa'
FEW_POINTS = 3000  # up to here single points tell more than counts per cell


class Trajectory(NamedTuple):
    """One filter over the kT slices of its kernel; the first slice is the reference."""
    zoom: np.ndarray  # (kT,), cumulative product of 1/s, starts at 1
    clockwise: np.ndarray  # (kT,), degrees, cumulative sum of -r, starts at 0
    path: np.ndarray  # (kT, 2), x to the right and y DOWN, pixels of the kernel, starts at (0, 0)


def _matrices(values: Dict[str, Tensor]) -> Tensor:
    """(kT-1, O, 2, 3) in float64, also for transform='free'."""
    if 'theta' in values:
        return values['theta'].double()
    return affine_matrix(*(values[name].double() for name in TEMPORAL_PARAMETERS))


def filter_trajectory(values: Dict[str, Tensor], channel: int, kernel_size: Sequence[int]) -> Trajectory:
    """Cumulative zoom, rotation and path of one filter.

    Args:
        values: one layer of ``temporal_parameters(model)``.
        channel: output channel.
        kernel_size: (kT, kH, kW) of the layer.

    Raises:
        IndexError: if the layer has no such channel.
        ValueError: if kernel_size is of another layer, or a scale of 0 leaves nothing to follow.
    """
    steps, channels = values['scale'].shape
    if not 0 <= channel < channels:
        raise IndexError(f'channel {channel} of a layer with {channels} output channels (0 to {channels - 1}).')
    if len(kernel_size) != 3 or kernel_size[0] != steps + 1:
        raise ValueError(f'kernel_size={tuple(kernel_size)} does not fit parameters of {steps} step(s): kT must be '
                         f'{steps + 1}.')
    theta = _matrices(values)[:, channel]  # kT-1, 2, 3
    scale = values['scale'][:, channel].double()
    if (scale == 0).any() or (torch.linalg.det(theta[..., :2]) == 0).any():
        raise ValueError(f'channel {channel}: a transform of scale 0 reads a single point, so there is no content to '
                         'follow from there on.')
    position, path = torch.zeros(2, dtype=torch.float64), [torch.zeros(2, dtype=torch.float64)]
    for matrix in theta:  # slice b at q shows what slice b-1 has at A q + t
        position = torch.linalg.solve(matrix[:, :2], position - matrix[:, 2])
        path.append(position)
    pixels = torch.tensor([(kernel_size[2] - 1) / 2, (kernel_size[1] - 1) / 2], dtype=torch.float64)
    clockwise = -torch.rad2deg(values['rotate'][:, channel].double())
    return Trajectory(np.concatenate([[1.], (1 / scale).cumprod(0).numpy()]),
                      np.concatenate([[0.], clockwise.cumsum(0).numpy()]),
                      (torch.stack(path) * pixels).numpy() + 0.)  # no -0


def filter_motion(values: Dict[str, Tensor]) -> Tensor:
    """How far each filter of a layer moves: (O,), in half kernel sizes, 0 for the identity.

    Per step the root mean square, over the slice, of how far its points move; summed over the steps. It weighs zoom,
    rotation and translation by the motion that they cause.
    """
    theta = _matrices(values)
    change = theta[..., :2] - torch.eye(2, dtype=theta.dtype)
    # over x, y uniform in [-1, 1] the mean of x^2 is 1/3 and that of x*y, x and y is 0
    return (change.square().sum((-2, -1)) / 3 + theta[..., 2].square().sum(-1)).sqrt().sum(0)


def most_moving_filters(parameters: Parameters, count: int = 6) -> List[Tuple[str, int]]:
    """(layer, channel) of the filters that move most (``filter_motion``), the strongest first; of fitted layers those
    above the null only."""
    if count < 1:
        raise ValueError(f'count must be at least 1 filter, got {count}.')
    motions = [(float(motion), layer, channel) for layer, values in parameters.items() if values['scale'].numel()
               for channel, motion in enumerate(filter_motion(values)) if to_show(values)[channel]]
    motions.sort(key=lambda item: -item[0])  # stable: the model's order among equals
    return [(layer, channel) for _, layer, channel in motions[:count]]


def pooled_parameters(parameters: Parameters) -> Dict[str, np.ndarray]:
    """All filters and steps of a model as the plots show them: scale s, clockwise rotation in degrees, and the
    content's shift to the right and down (-t_x, -t_y, half kernel sizes). Of fitted layers those above the null only.
    """
    def pool(name):
        return np.concatenate([values[name][:, to_show(values)].double().flatten().numpy()
                               for values in parameters.values()] or [[]])
    return {'scale': pool('scale'), 'rotate': -np.degrees(pool('rotate')), 'right': -pool('translate_x'),
            'down': -pool('translate_y')}


def shared_limits(models: Dict[str, Parameters]) -> Limits:
    """One range for all models: 'scale' around 1, 'rotate' (degrees) and 'translate' (half kernels) around 0."""
    pools = [pooled_parameters(parameters) for parameters in models.values()]

    def widest(*arrays):
        # a model at the identity still gets axes
        return 1.05 * max([float(np.abs(a).max()) for a in arrays if a.size] + [0.]) or 0.01

    scale = widest(*(pool['scale'] - 1 for pool in pools))
    rotate = widest(*(pool['rotate'] for pool in pools))
    translate = widest(*(pool[axis] for pool in pools for axis in ('right', 'down')))
    return {'scale': (1 - scale, 1 + scale), 'rotate': (-rotate, rotate), 'translate': (-translate, translate)}


def _outside(axes, *pairs) -> None:
    """Say how many values fall outside the axes, instead of dropping them without a word."""
    outside = np.any([(values < low) | (values > high) for values, (low, high) in pairs], axis=0).sum()
    if outside:
        axes.text(0.98, 0.97, f'{outside} outside', transform=axes.transAxes, ha='right', va='top', fontsize=7,
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


def draw_distributions(models: Dict[str, Parameters], limits: Optional[Limits] = None,
                       bins: Optional[int] = None) -> Figure:
    """Fig. 4: one row per model with the scale, the rotation and the joint translation of all filters and steps.

    Args:
        models: ``{title: temporal_parameters(model)}``. All rows have the same axes.
        limits: ``{'scale': (low, high), 'rotate': degrees, 'translate': half kernels}``, to compare with another
            figure; by default what holds all values. Values outside given limits are counted in the panel.
        bins: cells per axis; by default 41, or 21 for models of few values. Best odd: "no motion" then has a cell of
            its own.

    Raises:
        ValueError: if there is no model, or one without parameters.
    """
    if not models:
        raise ValueError('draw_distributions needs at least one model, got none.')
    pools = {title: pooled_parameters(parameters) for title, parameters in models.items()}
    for title, pool in pools.items():
        if not pool['scale'].size and any(map(is_fitted, models[title].values())):
            raise ValueError(f'{title}: no filter of its {len(models[title])} layers is explained by motion better '
                             'than random changes are, so there is no motion to draw.')
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
    figure = Figure(figsize=(11, 0.7 + 2.9 * len(pools)), layout='constrained')
    grid = figure.subplots(len(pools), 3, squeeze=False, width_ratios=(1.25, 1.25, 1))
    for column in (0, 1):
        for axes in grid[1:, column]:
            axes.sharex(grid[0, column])
            axes.sharey(grid[0, column])
    for row, (title, pool) in zip(grid, pools.items()):
        size = pool['scale'].size
        for axes, name, still in ((row[0], 'scale', 1), (row[1], 'rotate', 0)):
            axes.axvline(still, color=LINE, linewidth=0.8, linestyle=':')
            axes.hist(pool[name], bins=bins, range=limits[name], weights=np.full(size, 100 / size), color=BARS)
            axes.set_xlim(limits[name])
            axes.set_ylabel('share of filters x steps (%)')
            _outside(axes, (pool[name], limits[name]))
        row[0].set_title(f'{title}  ({size} values{_fitted_note(models[title])})', loc='left', fontsize=10)
        axes = row[2]
        axes.axhline(0, color=LINE, linewidth=0.6, linestyle=':')
        axes.axvline(0, color=LINE, linewidth=0.6, linestyle=':')
        if single_points:
            axes.scatter(pool['right'], pool['down'], s=9, alpha=0.5, color=BARS, linewidths=0)
        else:
            mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(cells[title], 0), cmap='viridis_r',
                                   norm=LogNorm(filled.min(), filled.max() * (1 + 1e-6)))
            figure.colorbar(mesh, ax=axes, label='share (%)', shrink=0.85)
        _outside(axes, (pool['right'], limits['translate']), (pool['down'], limits['translate']))
        axes.set(xlim=(low, high), ylim=(high, low), aspect='equal')  # y points down, as in an image
        axes.set_ylabel('down, $-t_y$ (half kernels)')
        axes.locator_params(nbins=5)
    grid[-1, 0].set_xlabel('scale $s$ per step (below 1: the content grows)')
    grid[-1, 1].set_xlabel('clockwise rotation per step, $-r$ (degrees)')
    grid[-1, 2].set_xlabel('right, $-t_x$ (half kernels)')
    grid[0, 2].set_title('shift of the content per step', fontsize=10)
    return figure


def _padded(low: float, high: float, least: float) -> Tuple[float, float]:
    """A range with a margin, at least ``least`` wide."""
    margin = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin


def draw_trajectories(parameters: Parameters, sizes: Dict[str, Sequence[int]],
                      filters: Union[int, Sequence[Tuple[str, int]]] = 6,
                      names: Optional[Dict[Tuple[str, int], str]] = None) -> Figure:
    """Fig. 3: one row per filter with its cumulative zoom, rotation and path over the slices.

    The path runs from a blue start (first slice) to a red end (last slice). All rows have the same axes.

    Args:
        parameters: ``temporal_parameters(model)``.
        sizes: ``kernel_sizes(model)``.
        filters: (layer, channel) pairs, or how many of those that move most.
        names: what a filter is called, such as the class of a channel of ``Conv3THead``; by default layer and channel.

    Raises:
        ValueError: for a layer that is not there or has no steps, or if there is nothing to draw.
        IndexError: for a channel that is not there.
    """
    if isinstance(filters, int):
        filters = most_moving_filters(parameters, filters)
    if not filters:
        raise ValueError('there is no filter to draw: no Conv3T layer with kT > 1, no fitted filter above the null, or '
                         'an empty list of filters.')
    moving = [layer for layer, values in parameters.items() if values['scale'].numel()]
    trajectories = {}
    for layer, channel in filters:
        if layer not in moving:
            raise ValueError(f'{layer!r} is no Conv3T layer with kT > 1 of this model; these are: {moving}.')
        if is_fitted(parameters[layer]) and 0 <= channel < len(to_show(parameters[layer])) \
                and not to_show(parameters[layer])[channel]:
            raise ValueError(f'channel {channel} of layer {layer!r}: {explained_text(parameters[layer], channel)}.')
        trajectories[layer, channel] = filter_trajectory(parameters[layer], channel, sizes[layer])

    zooms = np.concatenate([t.zoom for t in trajectories.values()])
    angles = np.concatenate([t.clockwise for t in trajectories.values()])
    reach = 1.15 * max(np.abs(t.path).max() for t in trajectories.values()) or 0.01
    zoom_limits, angle_limits = _padded(zooms.min(), zooms.max(), 0.02), _padded(angles.min(), angles.max(), 0.2)
    longest = max(len(t.zoom) for t in trajectories.values())

    figure = Figure(figsize=(9.5, 0.7 + 2.1 * len(trajectories)), layout='constrained')
    grid = figure.subplots(len(trajectories), 3, squeeze=False, width_ratios=(1.35, 1.35, 1))
    for row, ((layer, channel), trajectory) in zip(grid, trajectories.items()):
        slices = np.arange(1, len(trajectory.zoom) + 1)
        for axes, values, still, limits in ((row[0], trajectory.zoom, 1, zoom_limits),
                                            (row[1], trajectory.clockwise, 0, angle_limits)):
            axes.axhline(still, color=LINE, linewidth=0.8, linestyle=':')
            axes.plot(slices, values, color=LINE, marker='o', markersize=3.5)
            axes.plot(slices[:1], values[:1], 'o', color=START)
            axes.plot(slices[-1:], values[-1:], 'o', color=END)
            axes.set(xlim=(0.7, longest + 0.3), ylim=limits)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_ylabel('zoom')
        row[1].set_ylabel('clockwise (degrees)')
        note = explained_text(parameters[layer], channel)
        name = (names or {}).get((layer, channel), f'{layer or "layer"}, channel {channel}')
        row[0].set_title(f'{name}: zoom' + (f'\n{note}' if note else ''), loc='left', fontsize=9)
        axes = row[2]
        axes.axhline(0, color=LINE, linewidth=0.6, linestyle=':')
        axes.axvline(0, color=LINE, linewidth=0.6, linestyle=':')
        axes.plot(*trajectory.path.T, color=LINE, marker='o', markersize=3, linewidth=1.2)
        axes.plot(*trajectory.path[0], 'o', color=START, markersize=7, label='first slice')
        axes.plot(*trajectory.path[-1], 'o', color=END, markersize=7, label='last slice')
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect='equal')  # y points down, as in an image
        axes.set_ylabel('down (px)')
        axes.locator_params(nbins=5)
    figure.suptitle('What each filter follows, relative to the first slice of its kernel', fontsize=11)
    grid[0, 1].set_title('rotation', fontsize=9)
    grid[0, 2].set_title('path (pixels of the kernel)', fontsize=9)
    grid[-1, 0].set_xlabel('slice of the kernel')
    grid[-1, 1].set_xlabel('slice of the kernel')
    grid[-1, 2].set_xlabel('right (px)')
    figure.legend(*grid[0, 2].get_legend_handles_labels(), loc='outside lower right', ncols=2, fontsize=8,
                  frameon=False)
    return figure
