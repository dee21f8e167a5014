"""Keep clips and 3D kernels with the channels last in memory (``torch.channels_last_3d``).

cuDNN's convolutions of half precision are made for that layout, and with the default one they transpose their input and
output at every layer. Shapes stay what they are, and numbers but for rounding. What it brings, and where it costs, is
measured in docs/recipes.md. mmengine 0.10 has no such switch.
"""
from typing import Optional, Tuple

import torch
from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from ..utils.wrappers import unwrap


def clips_last(module: nn.Module, inputs: Tuple) -> Tuple:
    """Forward pre-hook: every clip (N, C, T, H, W) among the inputs in the layout; other inputs as they are."""
    return tuple(x.contiguous(memory_format=torch.channels_last_3d) if isinstance(x, Tensor) and x.dim() == 5 else x
                 for x in inputs)


def channels_last(model: nn.Module) -> None:
    """Convert the kernels of all nn.Conv3d of ``model`` and make its ``backbone`` convert its input, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    model.backbone.register_forward_pre_hook(clips_last)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Converts the kernels of all nn.Conv3d once, and the input of the backbone in every iteration.

    It works for training, validation and test. Layers that make their kernels (Conv3T, MultiBranchConv3d) keep their
    parameters as they are: these are not what is convolved with. Checkpoints load with or without the hook.

    Raises:
        ValueError: if the model has no ``backbone``, or no 3D kernel, as C-LSTM: the layout could not help.
    """

    def __init__(self) -> None:
        self._converted: Optional[nn.Module] = None

    def _convert(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if model is self._converted:
            return
        backbone = getattr(model, 'backbone', None)
        kernels = 0 if backbone is None else sum(p.dim() == 5 for p in backbone.parameters())
        if kernels == 0:
            lacks = 'backbone' if backbone is None else 'kernel (O, I, kT, kH, kW) in its backbone'
            raise ValueError(f'ChannelsLastHook: {type(model).__name__} has no {lacks}: nothing to convert. '
                             'Remove the hook from custom_hooks.')
        channels_last(model)
        self._converted = model
        print_log('ChannelsLastHook: clips and the kernels of nn.Conv3d are kept channels last', logger='current')

    def before_train(self, runner: Runner) -> None:
        """Convert before the first iteration."""
        self._convert(runner)

    def before_val(self, runner: Runner) -> None:
        """Convert where there is no training before."""
        self._convert(runner)

    def before_test(self, runner: Runner) -> None:
        """Convert where there is no training before."""
        self._convert(runner)
