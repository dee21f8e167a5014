r"""Multi-branch 3D convolution with a regularised average filter.

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), sec. 3.
One filter of kT frames is trained as a sum of filters of tau = 1, 3, ..., kT frames about the same centre (eq. 2),

.. math::  \gamma\, conv(X; W) + \beta = \sum_\tau \gamma_\tau\, conv(X; \hat W_\tau) + \beta_\tau,
           \qquad \hat W_\tau = [\tfrac{1}{\eta} \mu, U_\perp] \tilde W_\tau \qquad (eq. 6)

each with a batch norm of its own. Weight decay on the free tensors W~ weighs the average filter eta^2 times as much
as the rest (eq. 7), see :mod:`.temporal_basis`. After training the sum is one ``nn.Conv3d``.
"""
import math
from typing import Iterator, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..maths.temporal_basis import apply_in_time, coefficients, synthesis_matrix
from ..ops.conditions import eager
from ..ops.conv3d.implementations import CONV3D, filter_is_weight, made_filter
from ..ops.dispatch import dispatch
from ..ops.geometry import Geometry
from .branch_inflation import NormState, centred, inflate_from_2d, inflate_from_3d
from .conv_base import ConvBase, NoSingleWeight, without_autocast
from .deploy import take_over
from .registry import register_layer


class TemporalBranch(nn.Module):
    """The free tensor W~ of one branch; calling it gives the filter of eq. 6.

    It is a module of its own without children, so that an optimizer constructor that goes through the leaf modules
    (mmaction2's ``TSMOptimWrapperConstructor``) meets it, and says so if it does not know it.
    """

    def __init__(self, out_channels: int, in_channels: int, kernel_size: Tuple[int, int, int], eta: float) -> None:
        super().__init__()
        self.length, self.eta = kernel_size[0], eta
        self.weight = nn.Parameter(torch.empty(
            out_channels, in_channels, coefficients(self.length, eta), *kernel_size[1:]))

    def reference(self) -> Tensor:
        """The filter by eq. 6, in float32 or better."""
        if filter_is_weight(self):
            return self.weight
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        matrix = synthesis_matrix(self.length, self.eta).to(self.weight.device, dtype)
        with without_autocast(self.weight.device):
            return apply_in_time(matrix, self.weight.to(dtype)).to(self.weight.dtype)

    def made(self) -> Tensor:
        """The filter in the fastest way."""
        if not eager():
            return self.reference()
        with without_autocast(self.weight.device):
            return made_filter(self)

    def forward(self, x: Optional[Tensor] = None, geometry: Optional[Geometry] = None) -> Tensor:
        """The filter ``(O, I/groups, length, kH, kW)``; computed in float32 or better, also under autocast.

        With ``x (N, I, T, H, W)`` and the geometry of a convolution: ``F.conv3d`` of x with the filter. The layer calls
        it so, and not by another method, because pruning and old weight norms put the weight in place in hooks.
        """
        return self.made() if x is None else dispatch(CONV3D, self, x, geometry).run(self, x, geometry)

    def extra_repr(self) -> str:
        return f'length={self.length}, eta={self.eta:g}, weight={tuple(self.weight.shape)}'


@register_layer
class MultiBranchConv3d(NoSingleWeight, ConvBase):
    """A 3D convolution that is trained as a sum of filters of several temporal lengths, each with its own norm.

    There is no activation inside. The norm is (``has_norm`` is True): put none after the layer.

    A branch of one frame has no complement: its average is the filter. With a finite ``eta`` it is W~/eta as eq. 6
    says. With ``eta=inf`` it is W~ itself and stays: its norm undoes 1/eta for every finite eta, so the kept branch
    is the limit; without it a layer with kT = 1 would have no filter at all, and the multi-branch net of the paper's
    Table 3, which loses 1 % at eta = inf where the single filter loses 14 %, could not see what stands still.

    ``eta`` is a part of the architecture like the kernel size: a checkpoint means the same filters only at the
    ``eta`` it was trained with.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as for
            ``nn.Conv3d``; kT must be odd.
        bias: adds a bias after the sum. The norms already have one; it is there for callers that always ask for it.
        branches: temporal lengths, odd and at most kT; None is 1, 3, ..., kT (eq. 2). ``(kT,)`` is the paper's
            regularised single filter.
        eta: weight of the average filter in the penalty, at least 1 (1: ordinary weight decay, inf: no average).
            In configs write 'inf': mmengine dumps ``float('inf')`` as the bare name inf, which it cannot read.
        norm_cfg: a batch norm of mmcv, one per branch, or None for none.

    Raises:
        ValueError: if a length is even or longer than kT, ``eta`` is below 1, or the norm is no 3D batch norm.

    >>> layer = MultiBranchConv3d(16, 32, (5, 3, 3), padding=(2, 1, 1))
    >>> layer(torch.randn(2, 16, 8, 14, 14)).shape
    torch.Size([2, 32, 8, 14, 14])
    >>> layer.branch_kernel(1).shape  # of 1, 3 and 5 frames
    torch.Size([32, 16, 3, 3, 3])
    """

    has_norm = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1,
                 groups: int = 1, bias: bool = False, branches: Optional[Sequence[int]] = None, eta: float = 2.0,
                 norm_cfg: Optional[dict] = dict(type='BN3d'), padding_mode: str = 'zeros') -> None:  # noqa: B006
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._refuse_single_weight()
        depth = self.kernel_size[0]
        if depth % 2 == 0:
            raise ValueError(f'MultiBranchConv3d: the temporal kernel size must be odd, so that branches of 1, 3, ... '
                             f'frames have the same centre; got kernel_size={self.kernel_size}.')
        lengths = tuple(range(1, depth + 1, 2)) if branches is None else tuple(branches)
        if not lengths or any(not isinstance(n, int) or n < 1 or n > depth or n % 2 == 0 for n in lengths):
            raise ValueError(f'MultiBranchConv3d: branches must be odd temporal lengths from 1 to the temporal kernel '
                             f'size {depth}, got branches={branches!r}.')
        if eta == 'inf':
            eta = math.inf
        if isinstance(eta, bool) or not isinstance(eta, (int, float)) or not eta >= 1:
            raise ValueError(f"MultiBranchConv3d: eta must be a number >= 1 or 'inf', got {eta!r}.")
        self.branch_lengths, self.eta = lengths, float(eta)
        self.branches = nn.ModuleList(
            TemporalBranch(out_channels, in_channels // groups, (length, *self.kernel_size[1:]), self.eta)
            for length in lengths)
        self.norms = nn.ModuleList()
        if norm_cfg is None:
            self.has_norm = False
        else:
            self.norms.extend(build_norm_layer(norm_cfg, out_channels)[1] for _ in lengths)
            for norm in self.norms:
                if not isinstance(norm, _BatchNorm) or isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    raise ValueError(f'MultiBranchConv3d: norm_cfg must be a batch norm of 5-D input (BN3d, SyncBN), '
                                     f'which can be fused with a convolution, or None; got {norm_cfg}, which is '
                                     f'{type(norm).__name__}.')
        self.register_parameter('bias', nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """He initialisation of every free tensor by its branch's fan-out, as mmcv's ConvModule does; fresh norms."""
        area = self.kernel_size[1] * self.kernel_size[2]
        for branch in self.branches:
            fan_out = self.out_channels * branch.length * area // self.groups
            nn.init.normal_(branch.weight, std=math.sqrt(2 / fan_out))
        for norm in self.norms:
            norm.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    # mmcv's ConvModule and mmengine's BaseModule leave a layer that has this method to itself.
    init_weights = reset_parameters

    @torch.no_grad()
    def zero_init(self) -> None:
        """Make the output 0 by the gains of the norms, as ``zero_init_residual`` does for a norm after the layer."""
        for norm in self.norms:
            nn.init.zeros_(norm.weight)

    def branch_kernel(self, i: int) -> Tensor:
        """The filter of branch i: ``(O, I/groups, branches[i], kH, kW)``."""
        return self.branches[i]()

    def _branch_calls(self, x: Tensor) -> Iterator[Tuple[int, Tensor, Geometry]]:
        """For every branch: its number, the frames that it sees, and the geometry of its convolution."""
        (time, _), *space = self._pads()  # kT is odd, so the padding in time is the same at both ends
        if self.padding_mode != 'zeros':
            x = F.pad(x, [p for pair in (*reversed(space), (time, time)) for p in pair], mode=self.padding_mode)
            time, space = 0, ((0, 0), (0, 0))
        elif any(before != after for before, after in space):  # 'same' with an even kernel
            x = F.pad(x, [p for pair in reversed(space) for p in pair])
            space = ((0, 0), (0, 0))
        for i, length in enumerate(self.branch_lengths):
            # A shorter filter about the same centre starts that many frames later than the longest.
            pad = time - self.dilation[0] * (self.kernel_size[0] - length) // 2
            frames = x if pad >= 0 else x.narrow(-3, -pad, x.shape[-3] + 2 * pad)
            padding = max(pad, 0), space[0][0], space[1][0]
            yield i, frames, Geometry(self.stride, padding, self.dilation, self.groups)

    def calls(self, x: Tensor) -> Iterator[tuple]:
        """For :func:`tconv_mmaction.ops.explain`: what ``forward`` dispatches."""
        self.check_input(x)
        for i, frames, geometry in self._branch_calls(x if x.dim() == 5 else x[None]):
            yield f'branch of {self.branch_lengths[i]}', CONV3D, (self.branches[i], frames, geometry), ('auto', )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        self.check_input(x)
        if x.dim() == 4 and self.has_norm:
            raise ValueError(f'MultiBranchConv3d has batch norms, which need (N, C, T, H, W); got {tuple(x.shape)}.')
        out = None
        for i, frames, geometry in self._branch_calls(x if x.dim() == 5 else x[None]):
            y = self.branches[i](frames, geometry)
            if self.has_norm:
                y = self.norms[i](y)
            out = y if out is None else out + y
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)[:, None, None, None]
        return out if x.dim() == 5 else out[0]

    @torch.no_grad()
    def fused(self) -> Tuple[Tensor, Tensor]:
        """Kernel ``(O, I/groups, kT, kH, kW)`` and bias ``(O)`` of the one convolution, in float64.

        Raises:
            RuntimeError: in training mode, where the norms use each batch's own statistics and no fixed kernel exists.
            ValueError: if a norm keeps no running statistics.
        """
        if self.training or any(norm.training for norm in self.norms):
            raise RuntimeError('MultiBranchConv3d can be fused in eval mode only: in training mode its norms use the '
                               'statistics of the batch. Call model.eval() first.')
        depth = self.kernel_size[0]
        bias = torch.zeros(self.out_channels, dtype=torch.float64, device=self.branches[0].weight.device)
        kernel = 0
        for i, branch in enumerate(self.branches):
            part = apply_in_time(synthesis_matrix(branch.length, self.eta).to(bias.device), branch.weight.double())
            if self.has_norm:
                norm = self.norms[i]
                if norm.running_var is None:
                    raise ValueError('MultiBranchConv3d: a norm with track_running_stats=False depends on its batch '
                                     'in eval mode too, so it cannot be fused.')
                gain = (norm.running_var.double() + norm.eps).rsqrt()
                if norm.weight is not None:
                    gain = gain * norm.weight.double()
                    bias = bias + norm.bias.double()
                bias = bias - gain * norm.running_mean.double()
                part = part * gain[:, None, None, None, None]
            kernel = kernel + centred(part, depth)
        return kernel, bias if self.bias is None else bias + self.bias.double()

    @torch.no_grad()
    def switch_to_deploy(self) -> nn.Conv3d:
        """A plain ``nn.Conv3d`` with bias that computes the same in eval mode; see :meth:`fused` for errors."""
        kernel, bias = self.fused()
        conv = self.plain_conv(bias=True).to(self.branches[0].weight)
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)
        return take_over(self, conv).eval()

    def inflate_from_2d(self, weight2d: Tensor, bn: NormState = None, divide: bool = True,
                        bias: Optional[Tensor] = None) -> None:
        """Start as the inflation of a 2D convolution: see :func:`.branch_inflation.inflate_from_2d`."""
        inflate_from_2d(self, weight2d, bn, divide, bias)

    def inflate_from_3d(self, weight: Tensor, bn: NormState = None, bias: Optional[Tensor] = None) -> None:
        """Start as a trained 3D convolution: see :func:`.branch_inflation.inflate_from_3d`."""
        inflate_from_3d(self, weight, bn, bias)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        weight = state_dict.get(prefix + 'weight')
        if weight is not None:
            # mmengine loads with strict=False and would only log this
            raise ValueError(
                f'{prefix}weight: the checkpoint has one filter {tuple(weight.shape)} where this model has the '
                f'branches {self.branch_lengths}. '
                + ('It has a bias as well: for a fused model use the config that was written next to it, with '
                   'type=DeployedConv3d.' if prefix + 'bias' in state_dict else
                   'To start from it, call tconv_mmaction.layers.accept_single_filters(model) before loading.'))
        for i, branch in enumerate(self.branches):
            given = state_dict.get(f'{prefix}branches.{i}.weight')
            if given is not None and given.shape != branch.weight.shape:
                raise ValueError(f'{prefix}branches.{i}.weight: the checkpoint has {tuple(given.shape)}, this '
                                 f'MultiBranchConv3d with eta={self.eta:g} needs {tuple(branch.weight.shape)}.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return (super().extra_repr() + f', branches={self.branch_lengths}, eta={self.eta:g}'
                + ('' if self.bias is None else ', bias=True'))


@register_layer
class DeployedConv3d(nn.Conv3d):
    """What a fused :class:`MultiBranchConv3d` is, for configs of fused models: always has a bias, needs no norm."""

    has_norm = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1,
                 groups: int = 1, bias: bool = True, padding_mode: str = 'zeros') -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, True, padding_mode)
