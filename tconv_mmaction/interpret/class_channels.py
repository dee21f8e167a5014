r"""Which channels of a 3T network drive a class, and how they move.

Ras et al. (arXiv:2006.15983, sec. 3.4 and 4.4) look at the temporal parameters of single filters; here a class chooses
the filters. With A^k the output of channel k of a ``Conv3T`` layer and F^c the logit of class c,

.. math:: C_k = \sum_{t,i,j} A^k_{tij} \frac{\partial F^c}{\partial A^k_{tij}}

is, to first order, what the logit loses if the channel is set to zero: gradient x activation. Averaged over clips it
ranks the channels of a layer; the temporal parameters of the first ones say what motion they follow. ``share`` is C_k
divided by the sum of \|C\| over the layer's channels, so that layers can be compared.

The output is that of the layer's ``ConvModule``, after normalisation and activation, where it has one (all our networks
but LeNet-5); else the convolution's own. A ReLU after it changes nothing: where it is 0, so is the gradient.
"""
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..utils.wrappers import unwrap
from .access.adapters import as_score_function
from .access.modules import check_clip, choose_target, close_names, frozen
from .model_motion import explained_text, is_fitted, steps_to_show, to_show
from .pictures.figure_files import CYCLE, PAGE, page_figure, set_letters
from .pictures.temporal_figures import LINE
from .temporal_parameters import kernel_sizes, require_temporal_layers, temporal_layers, temporal_parameters
from .trajectories import LEAST, Motion, Parameters, Trajectory, filter_trajectory, moving_filters

REST = '#c8c8c8'
COLOURS = CYCLE[:5]  # of the channels of a layer


def analysed_layers(model: nn.Module, layers: Optional[Sequence[str]] = None, fit: bool = False) -> List[str]:
    """The names given, or those of all ``Conv3T`` layers with kT > 1, with ``fit`` of the 3D convolutions that can be
    read as such, too; ValueError for one that is not among these."""
    moving = require_temporal_layers(model, fit)
    names = list(moving if layers is None else layers)
    wrong = [name for name in names if name not in moving]
    if wrong:
        close = close_names(moving, wrong[0]) or moving[:6]
        what = 'that can be read so' if fit else 'with kT > 1'
        raise ValueError(f'{wrong[0]!r} is no {"3D convolution" if fit else "Conv3T layer"} {what} of this model. '
                         f'Close to it: {", ".join(close)}')
    return names


def channel_contributions(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]] = 'prediction',
                          layers: Optional[Sequence[str]] = None, fit: bool = False) -> Dict[str, Tensor]:
    """Gradient x activation of every channel of the 3T layers, in one forward and one backward pass.

    Args:
        model: (N, C, T, H, W) -> logits (N, K), or a recognizer of mmaction2.
        clip: (N, C, T, H, W).
        target: a class for all clips, one for each, or 'prediction'.
        layers: names of ``Conv3T`` layers; by default all with kT > 1.
        fit: also 3D convolutions that can be read as 3T layers (``temporal_parameters(model, fit=True)``).

    Returns:
        ``{layer name: (N, O)}``, in the model's order, on the clip's device.

    Raises:
        ValueError: if the model has no 3T layer with kT > 1, or a name is of none of them.
        RuntimeError: if the forward pass does not run a layer, or runs it more than once.
    """
    check_clip(clip)
    model = unwrap(model)
    names = analysed_layers(model, layers, fit)
    around = {id(module.conv): module for module in model.modules() if isinstance(module, ConvModule)}
    by_name = {**dict(model.named_modules()), **temporal_layers(model)}
    modules = {name: around.get(id(by_name[name]), by_name[name]) for name in names}
    score_fn = as_score_function(model, 'logits')
    caught: Dict[str, List[Tensor]] = {name: [] for name in names}

    def keep(name):
        def hook(_module, _inputs, output):
            caught[name].append(output)
            return output.clone()  # an in-place activation after the layer leaves its output alone
        return hook

    with frozen(model), torch.enable_grad():
        handles = [modules[name].register_forward_hook(keep(name)) for name in names]
        try:
            scores = score_fn(clip.detach().clone().requires_grad_())  # parameters are frozen: the graph starts here
        finally:
            for handle in handles:
                handle.remove()
        for name, outputs in caught.items():
            if len(outputs) != 1:
                raise RuntimeError(f'layer {name!r} ran {len(outputs)} times in the forward pass, not once; leave it '
                                   'out of layers.')
        outputs = [caught[name][0] for name in names]
        score = scores.gather(1, choose_target(scores, target)[:, None]).sum()
        gradients = torch.autograd.grad(score, outputs, allow_unused=True)
    return {name: (torch.zeros_like(output) if gradient is None else output.detach() * gradient).sum((2, 3, 4))
            for name, output, gradient in zip(names, outputs, gradients)}


class ClassChannels(NamedTuple):
    """One class over its clips."""
    clips: int
    mean: Dict[str, np.ndarray]  # layer -> (O,) mean contribution to the logit
    std: Dict[str, np.ndarray]  # layer -> (O,) its standard deviation over clips (divisor n)

    def share(self, layer: str) -> np.ndarray:
        """(O,) contributions divided by the sum of their absolute values; 0 for a layer without any."""
        total = np.abs(self.mean[layer]).sum()
        return self.mean[layer] / total if total > 0 else np.zeros_like(self.mean[layer])

    def ranked(self, layer: str) -> np.ndarray:
        """The layer's channels, the one that speaks most for the class first; of equals the lower number."""
        return np.argsort(-self.mean[layer], kind='stable')


def summarize_contributions(contributions: Sequence[Dict[str, Tensor]]) -> ClassChannels:
    """Mean and deviation over the clips of one class.

    Args:
        contributions: results of :func:`channel_contributions` with the same layers, of one or more clips each.
    """
    if not contributions:
        raise ValueError('no contributions of any clip are given.')
    stacked = {name: torch.cat([part[name].detach().cpu().double() for part in contributions]).numpy()
               for name in contributions[0]}
    return ClassChannels(len(next(iter(stacked.values()))), {name: v.mean(0) for name, v in stacked.items()},
                         {name: v.std(0) for name, v in stacked.items()})


def _read(model: nn.Module, parameters: Optional[Parameters]):
    """(parameters, kernel sizes) of the 3T layers, or of what is given."""
    fitted = parameters is not None and any(map(is_fitted, parameters.values()))
    return temporal_parameters(model) if parameters is None else parameters, kernel_sizes(model, fitted)


def _trajectory(parameters, sizes, layer: str, channel: int) -> Optional[Trajectory]:
    if not to_show(parameters[layer])[channel] or not steps_to_show(parameters[layer]):
        return None
    try:
        return filter_trajectory(parameters[layer], channel, sizes[layer])
    except ValueError:  # a scale of 0: there is no content to follow
        return None


def channel_table(model: nn.Module, classes: Dict[str, ClassChannels], top: Optional[int] = None,
                  parameters: Optional[Parameters] = None) -> pd.DataFrame:
    """One row per class, layer and channel: rank, contribution, and the motion over the whole kernel.

    zoom (the content's, 1 is none), clockwise (degrees), right and down (pixels of the kernel) are those of the last
    slice relative to the first; empty for a filter with a scale of 0, and for a fitted one that is not above the null.
    For fitted layers ``explained`` and ``baseline`` say how much of its weight the fit explains, and without motion.

    Args:
        top: only the first so many of each layer.
        parameters: by default ``temporal_parameters(model)``; with ``fit=True`` where layers are fitted.
    """
    parameters, sizes = _read(model, parameters)
    rows = []
    for title, found in classes.items():
        for layer in found.mean:
            for rank, channel in enumerate(found.ranked(layer)[:top], 1):
                path = _trajectory(parameters, sizes, layer, int(channel))
                motion = {} if path is None else dict(zoom=path.zoom[-1], clockwise=path.clockwise[-1],
                                                      right=path.path[-1, 0], down=path.path[-1, 1])
                if is_fitted(parameters[layer]):
                    motion.update((name, float(parameters[layer][name][channel])) for name in ('explained', 'baseline'))
                rows.append({'class': title, 'clips': found.clips, 'layer': layer, 'rank': rank,
                             'channel': int(channel), 'contribution': found.mean[layer][channel],
                             'std': found.std[layer][channel], 'share': found.share(layer)[channel], **motion})
    return pd.DataFrame(rows)


def choose_layers(found: ClassChannels, count: int) -> List[str]:
    """The layers to draw, in the model's order: those with the largest share on a single channel."""
    if count < 1:
        raise ValueError(f'at least 1 layer must be drawn, got {count}.')
    by_share = sorted(found.mean, key=lambda layer: -found.share(layer).max())[:count]
    return [layer for layer in found.mean if layer in by_share]


def first_those_that_move(order: np.ndarray, values: Dict[str, Tensor], kernel_size: Sequence[int],
                          least: Motion = LEAST) -> np.ndarray:
    """Channels in an order, those that move by more than ``least`` before the others."""
    moves = moving_filters(values, kernel_size, least).numpy()[order]
    return np.concatenate([order[moves], order[~moves]])


def check_top(top: int) -> None:
    """ValueError unless so many channels of a layer can be told apart by colour."""
    if not 1 <= top <= len(COLOURS):
        raise ValueError(f'top must be 1 to {len(COLOURS)} channels per layer, got {top}.')


def draw_class_channels(model: nn.Module, found: ClassChannels, title: str, top: int = 3,
                        layers: Union[int, Sequence[str]] = 6, parameters: Optional[Parameters] = None,
                        moving_first: bool = False, least: Motion = LEAST, width: Optional[float] = None) -> Figure:
    """One figure of a class: per layer the contributions of all channels, and how the first ones move.

    From left to right: the share of every channel, ranked, for the class (above 0) and against it; zoom and rotation
    of the first ``top`` channels over the slices of their kernels; their paths in pixels of the kernel.

    Args:
        model: where the temporal parameters are.
        found: of :func:`summarize_contributions`.
        title: the class.
        top: channels per layer to follow, at most five.
        layers: names, or how many of :func:`choose_layers`.
        parameters: by default ``temporal_parameters(model)``; of fitted layers the legend says what the fit explains,
            and the motion of filters that are not above the null is not drawn.

        moving_first: follow the first ``top`` of the channels that move by more than ``least``, and then the others.
        least: how far axes go at least to both sides of no motion; channels that stay within it are said to hardly
            move.
        width: mm; by default a page.

    Raises:
        ValueError: for a layer that was not analysed, or a top outside 1 to 5.
    """
    check_top(top)
    layers = choose_layers(found, layers) if isinstance(layers, int) else list(layers)
    missing = [layer for layer in layers if layer not in found.mean]
    if missing or not layers:
        raise ValueError(f'layer(s) {missing} were not analysed; these were: {list(found.mean)}.')
    parameters, sizes = _read(model, parameters)
    ranked = {layer: found.ranked(layer) for layer in layers}
    if moving_first:
        ranked = {layer: first_those_that_move(order, parameters[layer], sizes[layer], least)
                  for layer, order in ranked.items()}
    chosen = {layer: [int(k) for k in order[:top]] for layer, order in ranked.items()}
    paths = {(layer, k): _trajectory(parameters, sizes, layer, k) for layer in layers for k in chosen[layer]}
    followed = [path for path in paths.values() if path is not None]
    zooms = np.concatenate([path.zoom for path in followed] or [[1.]])
    angles = np.concatenate([path.clockwise for path in followed] or [[0.]])
    reach = max(1.15 * max([float(np.abs(path.path).max()) for path in followed] + [0.]), least.pixels) or 0.01
    zoom = max(least.zoom, 1.1 * float(np.abs(zooms - 1).max())) or 1e-3
    angle = max(least.degrees, 1.1 * float(np.abs(angles).max())) or 1e-3

    width = width or PAGE
    figure = page_figure(width, 18 + max(26., 0.19 * width) * len(layers))
    grid = figure.subplots(len(layers), 4, squeeze=False, width_ratios=(1.7, 1.1, 1.1, 1))
    for row, layer in zip(grid, layers):
        share, order = found.share(layer), found.ranked(layer)
        colours = [COLOURS[chosen[layer].index(k)] if k in chosen[layer] else REST for k in order.tolist()]
        row[0].bar(range(len(order)), 100 * share[order], color=colours, width=1)
        row[0].axhline(0, color=LINE, linewidth=0.8)
        row[0].set(ylabel='share (%)', xlim=(-0.6, len(order) - 0.4))
        row[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_title(f'{layer or "layer"}', loc='left')
        for axes, still, limits in ((row[1], 1, (1 - zoom, 1 + zoom)), (row[2], 0, (-angle, angle))):
            axes.axhline(still, color=LINE, linewidth=0.8, linestyle=':')
            axes.set(ylim=limits)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.get_major_formatter().set_useOffset(False)
        row[1].set_ylabel('zoom')
        row[2].set_ylabel('clockwise (degrees)')
        axes = row[3]
        axes.axhline(0, color=LINE, linewidth=0.6, linestyle=':')
        axes.axvline(0, color=LINE, linewidth=0.6, linestyle=':')
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect='equal', ylabel='down (px)')  # y as in an image
        axes.locator_params(nbins=5)
        for colour, channel in zip(COLOURS, chosen[layer]):
            path, name = paths[layer, channel], f'channel {channel}'
            note = explained_text(parameters[layer], channel)
            if path is None and not note:
                note = 'scale 0' if steps_to_show(parameters[layer]) else 'its slices see no frame'
            elif path is not None and path.hardly_moves(least):
                note = f'hardly moves{"; " if note else ""}{note}'
            row[0].plot([], [], 's', color=colour, label=name + (f' ({note})' if note else ''))
            if path is None:
                continue
            slices = np.arange(1, len(path.zoom) + 1)
            row[1].plot(slices, path.zoom, color=colour, marker='o', markersize=3)
            row[2].plot(slices, path.clockwise, color=colour, marker='o', markersize=3)
            axes.plot(*path.path.T, color=colour, marker='o', markersize=2.5, linewidth=1.2)
            axes.plot(*path.path[0], 'o', color=colour, markersize=4)
            axes.plot(*path.path[-1], 's', color=colour, markersize=4)
        row[0].legend(fontsize=5.5, frameon=False, loc='upper right')
    grid[0, 1].set_title('zoom')
    grid[0, 2].set_title('rotation')
    grid[0, 3].set_title('path (● to ■)')
    grid[-1, 0].set_xlabel('channels, ranked')
    grid[-1, 1].set_xlabel('slice of the kernel')
    grid[-1, 2].set_xlabel('slice of the kernel')
    grid[-1, 3].set_xlabel('right (px)')
    figure.suptitle(f'What speaks for {title}, and how it moves ({found.clips} clip(s), gradient x activation)',
                    fontsize=8)
    return set_letters(figure)


def by_class(contributions: Sequence[Tuple[str, Dict[str, Tensor]]]) -> Dict[str, ClassChannels]:
    """(class, contributions) of clips in any order -> one summary per class, in the order of their first clips."""
    groups: Dict[str, List[Dict[str, Tensor]]] = {}
    for title, found in contributions:
        groups.setdefault(title, []).append(found)
    return {title: summarize_contributions(found) for title, found in groups.items()}
