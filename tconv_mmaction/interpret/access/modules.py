"""What every method needs from a network: a layer by its name, and a model that comes back as it was.

A layer is given as the module itself or by its name in ``model.named_modules()``. All methods run the network in eval
mode with its parameters frozen: dropout and batch statistics would make the answer a different one on every call, and
gradients of the parameters would be computed for nothing. Both settings are restored on the way out, also after an
error.
"""
import contextlib
import difflib
from typing import Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from .layouts import first_tensor

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
    features = first_tensor(output)
    if features is None:
        raise TypeError(f'layer {name!r} returns {type(output).__name__}, not a feature map. Name a layer that returns '
                        'a tensor, or a tuple whose first entry is one.')
    return features


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
