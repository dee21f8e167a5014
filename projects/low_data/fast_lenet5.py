"""LeNet5 stepped without its overheads on a CPU: the same function of the same parameters, in less time.

PyTorch's 3D convolution is slow for one input channel. With b output frames taken together as channels, conv1 is a 2D
convolution over blocks of b + kT - 1 frames,

    y[g b + j, o] = sum_i W[j, o, i] * x[g b - pad + i],    W[j, o, i] = K[o, i - j] if 0 <= i - j < kT else 0,

whose channels fill the processor's registers. ReLU comes after the pool, which gives the same with an eighth of the
work. Gradients reach the same parameters through W.
"""
import torch
import torch.nn.functional as F
from mmaction.models.recognizers import BaseRecognizer
from nets import R2Plus1dConv  # beside this file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCK = 4  # output frames per block: even for the pool; 8 input frames with kT = 5, a full AVX register


def kernel_of(conv: nn.Module) -> Tensor:
    """(O, I, kT, kH, kW) of a Conv3d or Conv3T."""
    return conv.weight if isinstance(conv, nn.Conv3d) else conv.kernel()


class PairMax(torch.autograd.Function):
    """Maximum over a dimension of two; where both are equal all of the gradient goes to the first, as in a max pool."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int) -> Tensor:
        first, second = x.unbind(dim)
        wins = torch.ge(first, second, out=torch.empty_like(first))  # as a float: multiplied with the gradient later
        ctx.save_for_backward(wins)
        ctx.shape, ctx.strides, ctx.dim = x.shape, x.stride(), dim
        return torch.maximum(first, second)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        wins, = ctx.saved_tensors
        both = torch.empty_strided(ctx.shape, ctx.strides, dtype=grad.dtype, device=grad.device)
        first, second = both.unbind(ctx.dim)
        torch.mul(grad, wins, out=first)
        torch.sub(grad, first, out=second)
        return both, None


def first_block(conv: nn.Module, x: Tensor) -> Tensor:
    """ReLU and 2x2x2 max pool of ``conv``, 5x5x5 with padding 2: ``(N, T, H, W)`` -> ``(N, O, T/2, H/2, W/2)``.

    Raises:
        ValueError: for odd sizes, which a pool would cut, and for another convolution.
    """
    n, frames, height, width = x.shape
    if frames % 2 or height % 2 or width % 2:
        raise ValueError(f'first_block needs even sizes, got (T, H, W) = {tuple(x.shape[1:])}.')
    if tuple(conv.kernel_size) != (5, 5, 5) or tuple(conv.padding) != (2, 2, 2) or conv.in_channels != 1:
        raise ValueError(f'first_block is for one channel, kernel_size 5 and padding 2, got {conv}.')
    kernel = kernel_of(conv)[:, 0]  # O, kT, kH, kW
    out, length = kernel.shape[:2]
    blocks = -(-frames // BLOCK)
    steps = (*range(0, BLOCK, 2), *range(1, BLOCK, 2))  # the even ones first: the pool compares halves of the channels
    weight = torch.cat([F.pad(kernel, (0, 0, 0, 0, j, BLOCK - 1 - j)) for j in steps])  # b*O, kT+b-1, kH, kW
    x = F.pad(x, (0, 0, 0, 0, length // 2, blocks * BLOCK - frames + length // 2))
    x = x.unfold(1, BLOCK + length - 1, BLOCK).contiguous()  # N, blocks, H, W, kT+b-1: channels last
    x = x.flatten(0, 1).permute(0, 3, 1, 2)
    x = F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), conv.bias.repeat(BLOCK), padding=2)
    x = PairMax.apply(x.unflatten(1, (2, -1)), 1)  # N*blocks, b/2*O, H, W
    x = PairMax.apply(x.unflatten(3, (-1, 2)), 4)
    x = PairMax.apply(x.unflatten(2, (-1, 2)), 3).relu()
    x = x.reshape(n, blocks, BLOCK // 2, out, height // 2, width // 2).permute(0, 3, 1, 2, 4, 5)
    return x.reshape(n, out, blocks * BLOCK // 2, height // 2, width // 2)[:, :, :frames // 2].contiguous()


def scores(model: BaseRecognizer, videos: Tensor, raw: bool = False) -> Tensor:
    """What the recognizer of the LeNet5 configs scores before the softmax.

    Args:
        videos: (N, T, H, W) grey values, uint8.
        raw: keep 0..255 instead of dividing by 255.

    Returns:
        (N, classes)
    """
    net, x = model.backbone, videos.float()
    if not raw:
        x.div_(255)
    if isinstance(net.conv1, R2Plus1dConv):
        x = F.max_pool3d(net.conv1(x[:, None]), 2).relu()
    else:
        x = first_block(net.conv1, x)
    x = F.max_pool3d(net.conv2(x), 2).relu()
    x = net.fc2(net.fc1(x.flatten(1)).relu()).relu()
    return model.cls_head.fc_cls(x)
