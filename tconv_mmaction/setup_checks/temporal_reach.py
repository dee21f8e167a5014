"""Which slices of temporal kernels never meet a frame: they see padding only, learn nothing and do nothing.

A kernel of L slices with stride s, padding p and dilation d over a clip of T frames computes, at step o, slice b from
frame o*s - p + b*d. A slice is dead where that lies outside of 0 ... T-1 for every step. In a Conv3T layer the
transform of a dead slice gets no gradient. It happens in the last stages of networks that halve the frames more often
than the clip is long.
"""
from typing import Dict, List, Sequence, Tuple

import torch
from torch import nn


def dead_slices(frames: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> List[int]:
    """The slices of one kernel that see no frame, counted from 0.

    >>> dead_slices(1, 3, padding=1), dead_slices(2, 3, padding=1), dead_slices(2, 3, stride=2, padding=1)
    ([0, 2], [], [0])
    """
    steps = (frames + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return [b for b in range(kernel)
            if not any(0 <= o * stride - padding + b * dilation < frames for o in range(max(steps, 0)))]


def dead_slices_of(backbone: nn.Module, shape: Sequence[int]) -> Dict[str, Tuple[int, List[int]]]:
    """{layer: (slices of its kernel, dead ones)} of all layers that have some, for clips of ``shape`` (C, T, H, W).

    The network runs once, in eval mode and without gradients. A layer is any module with a kernel, a stride and a
    padding in three dimensions that takes (N, C, T, H, W): nn.Conv3d, Conv3T, the branches of MultiBranchConv3d.
    """
    found: Dict[str, Tuple[int, List[int]]] = {}

    def look(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            kernel, padding = module.kernel_size[0], module.padding
            dead = dead_slices(inputs[0].shape[2], kernel, module.stride[0],
                               padding[0] if isinstance(padding, (tuple, list)) else padding,
                               getattr(module, 'dilation', (1, ))[0])
            if dead:
                found[name] = (kernel, dead)
        return hook

    handles = [module.register_forward_pre_hook(look(name)) for name, module in backbone.named_modules()
               if len(getattr(module, 'kernel_size', None) or ()) == 3 and module.kernel_size[0] > 1
               and any(True for _ in module.parameters())]  # pools have none
    training = backbone.training
    try:
        parameter = next(backbone.parameters())
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        backbone.train(training)
        for handle in handles:
            handle.remove()
    return found
