"""What a network costs: multiply-adds of convolutions, norms and linear layers, by the rule of the papers' tables.

Kobayashi and Ye (WACV 2024) print GFLOPs = (conv MACs + 2 x outputs of batch norms + linear MACs) / 2^30 for a clip of
3x32x224x224; mmengine's ``get_model_complexity_info`` counts convolutions and norms the same way.

The operations are counted as they are dispatched, so every kind of layer is seen. On PyTorch's 'meta' device, where
tensors have shapes only, a clip of any size costs nothing.
"""
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Complexity:
    """Counts for one clip: multiply-adds of convolutions and linear layers, and outputs of batch norms."""
    conv: int = 0
    linear: int = 0
    norm: int = 0

    @property
    def total(self) -> int:
        """conv + linear + 2 x norm."""
        return self.conv + self.linear + 2 * self.norm

    @property
    def gflops(self) -> float:
        """The total in the papers' unit, 2^30."""
        return self.total / 2**30


class _Counter(TorchDispatchMode):

    def __init__(self) -> None:
        super().__init__()
        self.counts = Complexity()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == 'convolution':
            self.counts.conv += out.numel() * args[1][0].numel()
        elif 'batch_norm' in name and 'backward' not in name:
            self.counts.norm += out[0].numel()
        elif name in ('addmm', 'mm'):  # nn.Linear; the products that make a 3T kernel are batched, hence 'bmm'
            a, b = args[-2:]
            self.counts.linear += a.shape[0] * b.numel()
        return out


@torch.no_grad()
def count_complexity(model: nn.Module, *inputs: Sequence[int]) -> Complexity:
    """Run ``model`` once in eval mode on zeros and count.

    A re-parameterised layer is counted as the one convolution it stands for where it computes as one (``Conv3T``);
    the branches of ``MultiBranchConv3d`` are counted as they are trained: fuse them first with ``switch_to_deploy``.

    Args:
        model: on any device; on 'meta' nothing is computed.
        inputs: shapes of its inputs with the batch axis, (1, 3, 32, 224, 224).
    """
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with _Counter() as counter:
            tensors = [torch.zeros(tuple(shape), device=device) for shape in inputs]
            model(*tensors)
    finally:
        for module in training:
            module.training = True
    return counter.counts


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class BackboneAndHead(nn.Module):
    """A recognizer without data preprocessor and losses, for counting: ``head(backbone(x))``."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, num_classes)."""
        return self.head(self.backbone(x))
