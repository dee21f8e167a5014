"""The output of a layer as (N, F, T, H, W), or a sentence that says why it is none."""
from typing import Callable, List

from torch import Tensor, nn

from .adapters import as_score_function
from .default_layer import default_layers
from .layouts import feature_map, layout_of
from .modules import Layer, find_layer, output_tensor


def over_time(model: nn.Module, name: str, output, clip: Tensor) -> Tensor:
    """The output of the layer of that name for ``clip (N, C, T, H, W)`` as (N, F, T', H', W').

    Raises:
        ValueError: if it has no such map, or its backbone's layout is not known; the message names layers that can be
            read.
    """
    features = feature_map(model, name, output, clip.shape)
    if features is not None:
        return features
    backbone, _, known = layout_of(model, name)
    shape = tuple(output_tensor(output, name).shape)
    if known is None:
        raise ValueError(
            f'{type(backbone).__name__} has attention layers, and where time and space are in its outputs is not known '
            f'(layer {name!r}: {shape}). Register its layout with '
            'tconv_mmaction.interpret.access.layouts.register_layout.')
    raise ValueError(f'the output of layer {name!r} is {shape} for {clip.size(0)} clip(s), which is no map (N, F, T, '
                     f'H, W) of {type(backbone).__name__}. Name a convolution or a block before the pooling; a layer '
                     f'that can be read is {_readable(model, clip)}.')


def _readable(model: nn.Module, clip: Tensor) -> str:
    try:
        return repr(default_layers(model, as_score_function(model, 'logits'), clip)[0])
    except (ValueError, RuntimeError) as error:
        return f'not found ({error})'


class _Reached(Exception):
    """Ends a forward pass at the layer of interest."""


def layer_output(model: nn.Module, forward: Callable[[Tensor], Tensor], layer: Layer, clip: Tensor) -> Tensor:
    """A layer's output (N, F, T, H, W); the rest of the network is not computed.

    Args:
        model: holds the layer.
        forward: runs the model on a clip.
        layer: module or dotted name.
        clip: (N, C, T, H, W).

    Raises:
        RuntimeError: if the forward pass never comes to the layer.
    """
    name, module = find_layer(model, layer)
    caught: List[object] = []

    def stop(_module, _inputs, output):
        caught.append(output)
        raise _Reached

    handle = module.register_forward_hook(stop)
    try:
        forward(clip)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not caught:
        raise RuntimeError(f'the forward pass does not run layer {name!r} (is it a training-only branch?).')
    return over_time(model, name, caught[0], clip)
