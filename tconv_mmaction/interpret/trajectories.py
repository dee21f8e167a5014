"""What a filter of a 3T kernel follows from slice to slice: zoom, rotation and path of its content.

Ras et al., arXiv:2006.15983, Fig. 3. Over the slices of a kernel

* the content is zoomed by 1/s, multiplied up (a slice with s > 1 is read further out, its content shrinks);
* it turns clockwise by -r, in degrees, added up;
* the centre of the first slice is somewhere in the following ones, in pixels of the kernel (a shift t moves the content
  by -t*(kW-1)/2). Later zooms and rotations act on it too, so the path is composed exactly; without them it is the sum
  of the shifts. The papers print px = t*W instead, as if the raw number were a fraction of the frame.

A filter whose content stays within :data:`LEAST` of where it was hardly moves: a zoom of 5 %, 5 degrees or half a pixel
of the kernel are less than what a 3x3 or 5x5 kernel can show.
"""
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..layers import TEMPORAL_PARAMETERS
from ..maths.temporal_transform import affine_matrix
from .model_motion import steps_to_show, to_show

Parameters = Dict[str, Dict[str, Tensor]]  # what temporal_parameters returns


class Motion(NamedTuple):
    """Amounts of motion: a zoom (0.05 is 5 %), an angle in degrees, a way in pixels of the kernel."""
    zoom: float
    degrees: float
    pixels: float


LEAST = Motion(0.05, 5., 0.5)  # of an axis, to both sides


class Trajectory(NamedTuple):
    """One filter over the kT slices of its kernel; the first slice is the reference. Slices that no clip makes use of
    are left out: then it is shorter than kT."""
    zoom: np.ndarray  # (kT,), cumulative product of 1/s, starts at 1
    clockwise: np.ndarray  # (kT,), degrees, cumulative sum of -r, starts at 0
    path: np.ndarray  # (kT, 2), x to the right and y DOWN, pixels of the kernel, starts at (0, 0)

    def reach(self) -> Motion:
        """The largest deviation from the first slice."""
        return Motion(float(np.abs(self.zoom - 1).max()), float(np.abs(self.clockwise).max()),
                      float(np.abs(self.path).max()))

    def hardly_moves(self, least: Motion = LEAST) -> bool:
        """Whether zoom, rotation and path all stay within ``least``."""
        return all(found <= bound for found, bound in zip(self.reach(), least))


def filter_matrices(values: Dict[str, Tensor]) -> Tensor:
    """(kT-1, O, 2, 3) in float64, also for transform='free'."""
    if 'theta' in values:
        return values['theta'].double()
    return affine_matrix(*(values[name].double() for name in TEMPORAL_PARAMETERS))


def filter_trajectory(values: Dict[str, Tensor], channel: int, kernel_size: Sequence[int]) -> Trajectory:
    """Cumulative zoom, rotation and path of one filter.

    Args:
        values: one layer of ``temporal_parameters(model)``; with ``'used'``, over the slices that clips make use of.
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
    shown = steps_to_show(values)
    theta = filter_matrices(values)[:shown, channel]  # steps, 2, 3
    scale = values['scale'][:shown, channel].double()
    if (scale == 0).any() or (torch.linalg.det(theta[..., :2]) == 0).any():
        raise ValueError(f'channel {channel}: a transform of scale 0 reads a single point, so there is no content to '
                         'follow from there on.')
    position, path = torch.zeros(2, dtype=torch.float64), [torch.zeros(2, dtype=torch.float64)]
    for matrix in theta:  # slice b at q shows what slice b-1 has at A q + t
        position = torch.linalg.solve(matrix[:, :2], position - matrix[:, 2])
        path.append(position)
    pixels = torch.tensor([(kernel_size[2] - 1) / 2, (kernel_size[1] - 1) / 2], dtype=torch.float64)
    clockwise = -torch.rad2deg(values['rotate'][:shown, channel].double())
    return Trajectory(np.concatenate([[1.], (1 / scale).cumprod(0).numpy()]),
                      np.concatenate([[0.], clockwise.cumsum(0).numpy()]),
                      (torch.stack(path) * pixels).numpy() + 0.)  # no -0


def motion_text(trajectory: Trajectory, least: Motion = LEAST) -> str:
    """A sentence on where a filter's content ends.

    >>> still = Trajectory(np.array([1., 1.001]), np.array([0., 0.02]), np.array([[0., 0.], [0.01, 0.]]))
    >>> motion_text(still)
    'over its 2 slices the content hardly moves: never more than 0.1 % of zoom, 0.02° and 0.01 pixels of the kernel'
    """
    slices, reach = len(trajectory.zoom), trajectory.reach()
    if trajectory.hardly_moves(least):
        return (f'over its {slices} slices the content hardly moves: never more than {100 * reach.zoom:.2g} % of zoom, '
                f'{reach.degrees:.2g}° and {reach.pixels:.2g} pixels of the kernel')
    turn, (x, y) = trajectory.clockwise[-1], trajectory.path[-1]
    sides = 'right' if x >= 0 else 'left', 'down' if y >= 0 else 'up'
    return (f'over its {slices} slices the content is zoomed by {trajectory.zoom[-1]:.2f}, turned by {abs(turn):.0f}° '
            f'{"clockwise" if turn >= 0 else "counter-clockwise"} and moved by {abs(x):.1f} pixels of the kernel to '
            f'the {sides[0]} and {abs(y):.1f} {sides[1]}')


def filter_motion(values: Dict[str, Tensor]) -> Tensor:
    """How far each filter of a layer moves: (O,), in half kernel sizes, 0 for the identity.

    Per step the root mean square, over the slice, of how far its points move; summed over the steps that clips make use
    of. It weighs zoom, rotation and translation by the motion that they cause.
    """
    theta = filter_matrices(values)[:steps_to_show(values)]
    change = theta[..., :2] - torch.eye(2, dtype=theta.dtype)
    # over x, y uniform in [-1, 1] the mean of x^2 is 1/3 and that of x*y, x and y is 0
    return (change.square().sum((-2, -1)) / 3 + theta[..., 2].square().sum(-1)).sqrt().sum(0)


def most_moving_filters(parameters: Parameters, count: int = 6) -> List[Tuple[str, int]]:
    """(layer, channel) of the filters that move most (``filter_motion``), the strongest first; of fitted layers those
    above the null only, and none of layers whose steps no clip makes use of."""
    if count < 1:
        raise ValueError(f'count must be at least 1 filter, got {count}.')
    motions = [(float(motion), layer, channel) for layer, values in parameters.items() if steps_to_show(values)
               for channel, motion in enumerate(filter_motion(values)) if to_show(values)[channel]]
    motions.sort(key=lambda item: -item[0])  # stable: the model's order among equals
    return [(layer, channel) for _, layer, channel in motions[:count]]


def moving_filters(values: Dict[str, Tensor], kernel_size: Sequence[int], least: Motion = LEAST) -> Tensor:
    """(O,) bool: the filters of a layer that do not hardly move, of fitted ones above the null only."""
    def moves(channel: int) -> bool:
        try:
            return not filter_trajectory(values, channel, kernel_size).hardly_moves(least)
        except ValueError:  # scale 0: what is left of it moves nowhere
            return False
    shown = to_show(values)
    return torch.tensor([bool(shown[channel]) and moves(channel) for channel in range(len(shown))], dtype=torch.bool)


def trajectory_table(trajectories: Dict[Tuple[str, int], Trajectory]) -> pd.DataFrame:
    """One row per (layer, channel) and slice, counted from 1: zoom, clockwise (degrees), right and down (pixels)."""
    return pd.DataFrame([
        dict(layer=layer, channel=channel, slice=number, zoom=zoom, clockwise=turn, right=right, down=down)
        for (layer, channel), found in trajectories.items()
        for number, (zoom, turn, (right, down)) in enumerate(zip(found.zoom, found.clockwise, found.path), 1)])
