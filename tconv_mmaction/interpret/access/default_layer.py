"""The layer to look at when none is named."""
import warnings
from typing import Callable, List, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from .layouts import feature_map, first_tensor, layout_of
from .modules import frozen


class _Call(NamedTuple):
    name: str
    output: object
    frames: int  # of the map, 0 if there is none
    pixels: int


def _calls(model: nn.Module, forward: Callable[[Tensor], Tensor], clip: Tensor, under: str) -> List[_Call]:
    """Every layer's map in one forward pass, in the order in which the layers end; without those that run twice."""
    finished: List[_Call] = []

    def note(name):
        def hook(_module, _inputs, output):
            maps = None
            if first_tensor(output) is not None:
                maps = feature_map(model, name, output, clip.shape)
            finished.append(_Call(name, output, *((0, 0) if maps is None else (maps.size(2), maps[0, 0, 0].numel()))))
        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()
               if name.startswith(f'{under}.')]
    try:
        with frozen(model):
            scores = forward(clip)
    finally:
        for handle in handles:
            handle.remove()
    names = [call.name for call in finished]
    found = [call for call in finished if call.pixels > 1 and names.count(call.name) == 1]
    if scores.requires_grad:  # a class token: behind the last attention the other tokens say nothing any more
        found = [call for call in found if first_tensor(call.output).requires_grad]
        # not their plain sum: softmax scores add up to 1 whatever the clip
        total = (scores * torch.linspace(1, 2, scores.size(1), device=scores.device)).sum()
        while found and not _counts(model, total, found[-1], clip.shape):
            found.pop()
    return found


def _counts(model: nn.Module, total: Tensor, call: _Call, clip_size: Sequence[int]) -> bool:
    """Whether the scores depend on what is in the layer's map, which the class token is not."""
    gradient, = torch.autograd.grad(total, first_tensor(call.output), retain_graph=True, allow_unused=True)
    if gradient is None:
        return False
    several = isinstance(call.output, (tuple, list))
    return bool(feature_map(model, call.name, (gradient, *call.output[1:]) if several else gradient, clip_size).any())


def _last(calls: List[_Call]) -> str:
    moving = [call for call in calls if call.frames > 1]
    return (moving or calls)[-1].name  # a block ends after the layers inside it


def default_layers(model: nn.Module, forward: Callable[[Tensor], Tensor], clip: Tensor,
                   under: str = 'backbone') -> List[str]:
    """The LAST layer under ``backbone`` with more than one time step and more than one pixel; one for each pathway.

    Where no layer has several steps, the last with several pixels. Of layers that end together (a block, its last
    convolution) the outermost counts; layers that run more than once in a forward pass do not. In transformers that
    classify by a class token, layers whose other tokens no longer reach it do not count.

    Args:
        model: its layers are named as in ``model.named_modules()``.
        forward: runs the model on a clip.
        clip: (N, C, T, H, W).

    Returns:
        One name; for SlowFast the slow pathway's and the fast one's.

    Raises:
        ValueError: if there is none, or the backbone's layout is not known (:mod:`.layouts`).
    """
    backbone, _, known = layout_of(model, under)
    tokens = known is not None and known.class_token
    with torch.set_grad_enabled(tokens):
        calls = _calls(model, forward, clip.detach().requires_grad_(tokens), under)
    if not calls:
        why = '. Name one: --layer' if known is not None else (
            f': {type(backbone).__name__} has attention layers, and where time and space are in its outputs is not '
            'known. Register its layout with tconv_mmaction.interpret.access.layouts.register_layout')
        raise ValueError(f'{type(model).__name__} has no layer under {under!r} with a feature map{why}.')
    pathways = [[call for call in calls if call.name.startswith(f'{under}.{path}.')]
                for path in ('slow_path', 'fast_path')]
    return [_last(path) for path in pathways] if all(pathways) else [_last(calls)]


def last_map_layer(model: nn.Module, forward: Callable[[Tensor], Tensor], clip: Tensor,
                   under: str = 'backbone') -> str:
    """The first of :func:`default_layers`; with several pathways it says which one that is, and which it is not."""
    first, *others = default_layers(model, forward, clip, under)
    if others:
        warnings.warn(f'the network has {1 + len(others)} pathways: {first!r} is shown. Name another layer for the '
                      f'other: {", ".join(map(repr, others))}.', stacklevel=2)
    return first
