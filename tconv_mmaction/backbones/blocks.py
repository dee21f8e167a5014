"""What several networks are built of: convolution, norm and activation in one, and gradient checkpoints of a block."""
from contextlib import contextmanager, nullcontext
from typing import Callable, Optional, Sequence

from mmcv.cnn import ConvModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers.separable_conv3d import complete_conv_cfg


def conv_norm_act(in_channels: int, out_channels: int, kernel_size: Sequence[int], stride, conv_cfg: dict,
                  norm_cfg: dict, act_cfg: Optional[dict], dilation: int = 1) -> ConvModule:
    """mmcv's ConvModule, padded so that stride 1 keeps the size, without a norm if the convolution brings its own."""
    module = ConvModule(
        in_channels, out_channels, tuple(kernel_size), stride=stride, dilation=(1, dilation, dilation), bias=False,
        padding=(kernel_size[0] // 2, *(dilation * (k // 2) for k in kernel_size[1:])), norm_cfg=norm_cfg,
        conv_cfg=complete_conv_cfg(conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg or dict(type='ReLU')), act_cfg=act_cfg)
    if getattr(module.conv, 'has_norm', False):
        delattr(module, module.norm_name)
        module.with_norm, module.norm_name, module.norm_cfg = False, None, None
    return module


@contextmanager
def statistics_kept(block: nn.Module):
    """A forward pass that is only repeated for its gradients must not count twice in the running statistics."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)


def recomputed(forward: Callable[[Tensor], Tensor], block: nn.Module, x: Tensor) -> Tensor:
    """``forward(x)`` of that block, which keeps its input only: the rest is computed again in the backward pass."""
    return checkpoint(forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(block)))
