r"""Grad-CAM over time: where in each frame a layer finds what speaks for a class.

Maenttaeri et al., ACCV 2020, eq. 2, after Selvaraju et al., ICCV 2017. With A (N, F, T', H', W') the output of a layer
and F^c the score of class c,

.. math:: L_{ijt} = \sum_k w_{kt} A_{ijt}^k, \quad
          w_{kt} = \frac{1}{H'W'} \sum_{ij} \frac{\partial F^c}{\partial A_{ijt}^k}.

``weights='frame'`` is this. ``weights='clip'`` averages the weights over time as well: the usual definition (captum's
``LayerGradCam``), and what the authors' published code does. ``weights='pixel'`` does not average at all: HiResCAM
(Draelos and Carin, 2020), captum's ``LayerGradientXActivation`` summed over the channels; with several pixels of
different gradient an average says of places what is true of others.
"""
import warnings
from typing import List, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.feature_maps import over_time
from .access.modules import Layer, check_clip, choose_target, find_layer, frozen, output_tensor

WEIGHTS = {'frame': (3, 4), 'clip': (2, 3, 4), 'pixel': ()}  # the axes that a weight is the mean over


def grad_cam(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]], layer: Layer,
             weights: str = 'frame', relu: bool = False) -> Tensor:
    """Class activation maps of a layer, one per time step of it.

    The backward pass ends at the layer: nothing before it is differentiated. The model is run in eval mode; its mode,
    its ``requires_grad`` flags and its hooks are afterwards what they were, also when it raises.

    Args:
        model: (N, C, T, H, W) -> class scores (N, K), or a 2D or 3D recognizer of mmaction2 (then the scores are its
            logits).
        clip: (N, C, T, H, W).
        target: a class for all clips, a class for each (labels), or 'prediction'.
        layer: a module of the model, or its dotted name. Its output must be (N, F, T', H', W'); for 2D networks
            (N*T, F, H', W'); of a tuple (y, state), as recurrent layers give it, the first entry.
        weights: 'frame', 'clip' or 'pixel', see the module.
        relu: keep the positive part only, what speaks for the class. Eq. 2 has none.

    Returns:
        (N, T', H', W'), not normalised; :func:`upsample_maps` brings it to the clip's size.

    Warns:
        UserWarning: if the layer has one time step: its map says nothing about time.

    Raises:
        KeyError: if there is no such layer; the message lists close names.
        ValueError: if the layer runs more than once per forward pass, has no map for an output, or does not
            influence the score; or if target or weights are not understood.
        RuntimeError: if the forward pass does not run the layer.
    """
    if weights not in WEIGHTS:
        raise ValueError(f'weights must be one of {tuple(WEIGHTS)}, got {weights!r}.')
    check_clip(clip)
    name, module = find_layer(model, layer)
    score_fn = as_score_function(model, 'logits')
    caught: List[Tensor] = []
    others: List[object] = []  # what the layer returns beside its map

    def cut(_module, _inputs, output):
        leaf = output_tensor(output, name).detach().requires_grad_()
        caught.append(leaf)
        others.extend(output[1:] if isinstance(output, (tuple, list)) else ())
        # a clone goes on, so that an in-place activation after the layer leaves its output alone
        return (leaf.clone(), *output[1:]) if isinstance(output, (tuple, list)) else leaf.clone()

    with frozen(model), torch.enable_grad():
        handle = module.register_forward_hook(cut)
        try:
            scores = score_fn(clip.detach())
        finally:
            handle.remove()
        if not caught:
            raise RuntimeError(f'the forward pass does not run layer {name!r} (is it a training-only branch?).')
        if len(caught) > 1:
            raise ValueError(f'layer {name!r} runs {len(caught)} times in one forward pass, so it has no single map. '
                             'Name a layer that runs once, for example the block around it.')
        score = scores.gather(1, choose_target(scores, target)[:, None]).sum()
        gradient = torch.autograd.grad(score, caught[0], allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise ValueError(f'the class scores do not depend on the output of layer {name!r}. Name a layer before the '
                         'head.')
    activation, gradient = (over_time(model, name, (x, *others) if others else x, clip)
                            for x in (caught[0].detach(), gradient))
    if activation.size(2) == 1:
        warnings.warn(f'layer {name!r} has one time step: its map shows where, not when. Name an earlier layer.',
                      stacklevel=2)
    axes = WEIGHTS[weights]
    weight = gradient.mean(axes, keepdim=True) if axes else gradient  # N, F, T' or 1, 1 or H', 1 or W'
    maps = (weight * activation).sum(1)
    return maps.relu() if relu else maps


def nothing_speaks(maps: Tensor) -> Tensor:
    """(N,) whether maps (N, T', H', W') are nowhere positive: then the layer has nothing that speaks for the class."""
    return ~(maps > 0).flatten(1).any(1)


def nothing_text(layer: str, class_name: str) -> str:
    """The sentence for such a map; there is nothing to draw."""
    return f'nothing in {layer} speaks for {class_name}'


def upsample_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, T', H', W') at the clip's (T, H, W), linear in space and time."""
    if maps.dim() != 4 or len(size) != 3:
        raise ValueError(f'maps must be (N, T, H, W) and size (T, H, W), got {tuple(maps.shape)} and {tuple(size)}.')
    return F.interpolate(maps[:, None], size=tuple(size), mode='trilinear', align_corners=False)[:, 0]


def normalise_maps(maps: Tensor) -> Tensor:
    """The positive part of (N, T, H, W), divided by each clip's maximum: in [0, 1], 0 for a clip without any."""
    positive = maps.relu()
    peak = positive.amax((1, 2, 3), keepdim=True)
    return positive / torch.where(peak > 0, peak, torch.ones_like(peak))
