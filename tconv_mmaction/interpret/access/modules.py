"""What every method needs from a network: a layer by its name, its output, and a model that comes back as it was.

A layer is given as the module itself or by its name in ``model.named_modules()``. All methods run the network in eval
mode with its parameters frozen: dropout and batch statistics would make the answer a different one on every call, and
gradients of the parameters would be computed for nothing. Both settings are restored on the way out, also after an
error.
"""
import contextlib
import difflib
from typing import Callable, Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

Layer = Union[str, nn.Module]


def find_layer(model: nn.Module, layer: Layer) -> Tuple[str, nn.Module]:
    """A layer's dotted name and the module.

    Args:
        layer: a name as in ``model.named_modules()``, or one of the model's modules.

    Raises:
        KeyError: if the model has no layer of that name; the message lists the closest names.
        ValueError: if the module given is not part of the model.
        TypeError: for anything else.
    """
    if isinstance(layer, nn.Module):
        for name, module in model.named_modules():
            if module is layer:
                return name, module
        raise ValueError(f'this {type(layer).__name__} is not a part of the {type(model).__name__} that is analysed. '
                         'Give a layer of the same model object, or its dotted name.')
    if not isinstance(layer, str):
        raise TypeError(f'layer must be a dotted name or a module of the model, got {type(layer).__name__}.')
    modules = dict(model.named_modules())
    if layer in modules and layer:
        return layer, modules[layer]
    close = ', '.join(close_names(modules, layer))
    raise KeyError(f'{type(model).__name__} has no layer {layer!r}. Close to it: {close or list(modules)[1:7]}')


def close_names(names, wanted: str, count: int = 6) -> List[str]:
    """The names most like the wanted one: same ending first, then similar spelling, then the children of its prefix."""
    names = [name for name in names if name]
    tail = wanted.replace('/', '.').strip('.')
    found = [name for name in names if tail and (name == tail or name.endswith('.' + tail))]
    found += difflib.get_close_matches(tail, names, n=count, cutoff=0.5)
    while tail and len(found) < count:
        tail = tail.rpartition('.')[0]
        found += [name for name in names if name.rpartition('.')[0] == tail]
    return list(dict.fromkeys(found))[:count]


@contextlib.contextmanager
def frozen(*models: Optional[nn.Module]) -> Iterator[None]:
    """Eval mode and no gradients for the parameters inside the block; mode and ``requires_grad`` as before after it."""
    modules = [module for model in models if model is not None for module in model.modules()]
    parameters = [p for model in models if model is not None for p in model.parameters()]
    modes, flags = [module.training for module in modules], [p.requires_grad for p in parameters]
    try:
        for module in modules:
            module.training = False  # not .eval(): some backbones act on train(), e.g. freeze stages again
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode
        for parameter, flag in zip(parameters, flags):
            parameter.requires_grad_(flag)


def output_tensor(output, name: str) -> Tensor:
    """The feature map in a layer's output: the tensor itself, or the first one of a tuple such as (y, state)."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f'layer {name!r} returns {type(output).__name__}, not a feature map. Name a layer that returns '
                        'a tensor, or a tuple whose first entry is one.')
    return output


def over_time(features: Tensor, batch: int, name: str) -> Tensor:
    """(N, F, T, H, W), also of a 2D network's layer, which sees (N*T, F, H, W)."""
    if features.dim() == 4 and features.size(0) % batch == 0:
        return features.unflatten(0, (batch, -1)).transpose(1, 2)
    if features.dim() == 5 and features.size(0) == batch:
        return features
    raise ValueError(f'the output of layer {name!r} is {tuple(features.shape)} for {batch} clip(s): neither (N, F, T, '
                     'H, W) nor (N*T, F, H, W). Name a convolution or a block before the pooling.')


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
    caught: List[Tensor] = []

    def stop(_module, _inputs, output):
        caught.append(output_tensor(output, name))
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
    return over_time(caught[0], clip.size(0), name)


def check_clip(clip: Tensor, frames: int = 1) -> None:
    """Raise TypeError or ValueError unless the clip is a float (N, C, T, H, W) with at least that many frames."""
    if not isinstance(clip, Tensor) or not clip.is_floating_point():
        kind = clip.dtype if isinstance(clip, Tensor) else type(clip).__name__
        raise TypeError(f'clip must be a floating point tensor (N, C, T, H, W), got {kind}.')
    if clip.dim() != 5:
        raise ValueError(f'clip must be (N, C, T, H, W), got {tuple(clip.shape)}.')
    if clip.size(2) < frames:
        raise ValueError(f'clip has T = {clip.size(2)} frame(s); this needs at least {frames}.')


def choose_target(scores: Tensor, target: Union[int, str, Tensor, List[int]]) -> Tensor:
    """Class indices (N,) on the scores' device.

    Args:
        scores: (N, K).
        target: one class for all, N classes, or 'prediction' for the class of the highest score of each.

    Raises:
        ValueError: for another string, another count or a class outside 0..K-1.
    """
    if scores.dim() != 2:
        raise ValueError(f'scores must be (N, K), one row per clip, got {tuple(scores.shape)}.')
    count, classes = scores.shape
    if isinstance(target, str):
        if target != 'prediction':
            raise ValueError(f"target must be a class index, indices (N,) or 'prediction', got {target!r}.")
        return scores.detach().argmax(1)
    index = torch.as_tensor(target, device=scores.device)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(f'target must hold class indices, got {index.dtype}.')
    index = index.long()
    if index.dim() == 0:
        index = index.expand(count)
    if index.shape != (count,):
        raise ValueError(f'target must be one class or one per clip ({count}), got shape {tuple(index.shape)}.')
    if count and not (0 <= int(index.min()) and int(index.max()) < classes):
        raise ValueError(f'target {index.tolist()} is outside the {classes} classes (0 to {classes - 1}).')
    return index


@torch.no_grad()
def last_map_layer(model: nn.Module, forward: Callable[[Tensor], Tensor], clip: Tensor,
                   under: str = 'backbone') -> str:
    """The layer to look at when none is named: the last one under ``backbone`` with maps of more than one pixel.

    Of layers that end together (a block, its last convolution) the outermost counts; layers that run more than once in
    a forward pass do not.

    Raises:
        ValueError: if there is none.
    """
    finished: List[Tuple[str, bool]] = []  # every call, in the order of the ends

    def note(name):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, (tuple, list)) and output else output
            is_map = isinstance(output, Tensor) and output.dim() in (4, 5) and output.shape[-2:].numel() > 1
            finished.append((name, is_map))
        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()
               if name.startswith(f'{under}.')]
    try:
        with frozen(model):
            forward(clip)
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _ in finished]
    maps = [name for name, is_map in finished if is_map and names.count(name) == 1]
    if not maps:
        raise ValueError(f'{type(model).__name__} has no layer under {under!r} with a feature map. Name one: --layer.')
    return maps[-1]  # a block ends after the layers inside it
