"""Start a multi-branch layer as a net that was trained with single filters, 2D or 3D.

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), sec. 3.2:
inflation (Carreira and Zisserman, arXiv:1705.07750) carried over to the free tensors.

Flat filters of different lengths cannot add up to a flat one (the longest alone reaches the outer frames), so the
filter is not spread over the branches. One branch takes over the filter and its norm; the others get the same filter
cut or inflated to their length and a norm of gain 0. They join as soon as the gains learn, which is from the first
step on, since their filters are not 0. So the layer starts as the given net in eval mode and in training mode.

With ``eta=inf`` a branch of several frames holds only filters that add up to zero over time. Then the branch of one
frame takes the filter's sum over time, and the other branch the difference to it. That is exact in eval mode; in
training mode each of the two is normalised by its own variance, which a checkpoint does not tell.
"""
import math
import warnings
from typing import Dict, Mapping, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..maths.temporal_basis import analysis_matrix, apply_in_time

NormState = Union[nn.Module, Mapping[str, Tensor], None]
NORM_KEYS = ('weight', 'bias', 'running_mean', 'running_var')


def centred(kernel: Tensor, length: int) -> Tensor:
    """The middle ``length`` frames of ``kernel (O, I, T, kH, kW)``, with zeros where it has none."""
    pad = (length - kernel.shape[2]) // 2
    return F.pad(kernel, (0, 0, 0, 0, pad, pad))


def inflate_from_2d(layer: nn.Module, weight2d: Tensor, bn: NormState = None, divide: bool = True,
                    bias: Optional[Tensor] = None) -> None:
    """Start as the inflation of a 2D convolution and its batch norm: the kernel repeated over the longest branch.

    Args:
        layer: a ``MultiBranchConv3d``; changed in place.
        weight2d: ``(O, I/groups, kH, kW)``.
        bn: the batch norm after it, as a module or as a mapping with ``weight``, ``bias``, ``running_mean`` and
            ``running_var`` (of the layer's eps); None: a fresh one.
        divide: divide the repeated kernel by its number of frames, so that a still video gives the 2D response.
        bias: of the 2D convolution, ``(O)``.

    Raises:
        ValueError: if shapes do not fit, or the layer has ``eta=inf`` and no branch of one frame.
    """
    own = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size[1:])
    if tuple(weight2d.shape) != own:
        raise ValueError(f'MultiBranchConv3d: the 2D weight has shape {tuple(weight2d.shape)}, this layer needs {own}.')
    flat = {n: weight2d.detach().double()[:, :, None].expand(-1, -1, n, -1, -1) / (n if divide else 1)
            for n in layer.branch_lengths}
    _take_over(layer, flat[max(flat)], flat, bn, bias)


def inflate_from_3d(layer: nn.Module, weight: Tensor, bn: NormState = None,
                    bias: Optional[Tensor] = None) -> None:
    """Start as a trained ``nn.Conv3d`` and its batch norm, of the same or a shorter temporal length.

    Args:
        layer, bn, bias: as for :func:`inflate_from_2d`.
        weight: ``(O, I/groups, t, kH, kW)``, t odd and at most the longest branch.

    Raises:
        ValueError: as :func:`inflate_from_2d`.
    """
    longest = max(layer.branch_lengths)
    own = (layer.out_channels, layer.in_channels // layer.groups, longest, *layer.kernel_size[1:])
    fits = weight.dim() == 5 and (*weight.shape[:2], *weight.shape[3:]) == (*own[:2], *own[3:])
    if not fits or weight.shape[2] % 2 == 0 or weight.shape[2] > longest:
        raise ValueError(f'MultiBranchConv3d: the 3D weight has shape {tuple(weight.shape)}, this layer needs {own}, '
                         f'or an odd number of frames below {longest}.')
    weight = weight.detach().double()
    _take_over(layer, weight, {n: centred(weight, n) for n in layer.branch_lengths}, bn, bias)


@torch.no_grad()
def _take_over(layer: nn.Module, kernel: Tensor, spare: Dict[int, Tensor], bn: NormState,
               bias: Optional[Tensor]) -> None:
    """Make the sum equal to ``kernel`` and ``bn``; branches without a part in it get ``spare[length]`` and gain 0."""
    lengths = layer.branch_lengths
    carrier = lengths.index(min(n for n in lengths if n >= kernel.shape[2]))
    filters = {carrier: centred(kernel, lengths[carrier])}
    if math.isinf(layer.eta):
        still = kernel.sum(2, keepdim=True)
        if lengths[carrier] > 1 and still.abs().max() > 1e-6 * kernel.abs().max():
            if 1 not in lengths:
                raise ValueError(
                    f'MultiBranchConv3d: with eta=inf and branches={lengths} every filter adds up to zero over time, '
                    'so the layer cannot start as a net whose filters do not. Add a branch of length 1, use a finite '
                    'eta, or train from scratch.')
            filters = {lengths.index(1): still, carrier: filters[carrier] - centred(still, lengths[carrier])}
        spare = {n: s if n == 1 else centred(s[:, :, n // 2:n // 2 + 1], n) for n, s in spare.items()}
        spare = {n: s if n == 1 else s - s.mean(2, keepdim=True) for n, s in spare.items()}
    norm = _norm_state(layer, bn, bias)
    first = next(iter(filters))  # the sum needs the shift and the mean once
    for i, branch in enumerate(layer.branches):
        value = filters.get(i, spare[branch.length] if layer.has_norm else torch.zeros_like(spare[branch.length]))
        branch.weight.copy_(apply_in_time(analysis_matrix(branch.length, layer.eta).to(value.device), value))
        if not layer.has_norm:
            continue
        own = layer.norms[i]
        for key in NORM_KEYS:
            zero = (key == 'weight' and i not in filters or key == 'bias' and i != first
                    or key == 'running_mean' and i in filters and i != first)
            getattr(own, key).copy_(torch.zeros_like(norm[key]) if zero else norm[key])
        if 'num_batches_tracked' in norm:
            own.num_batches_tracked.copy_(norm['num_batches_tracked'])
        if i not in filters and not own.weight.requires_grad:
            warnings.warn(f'MultiBranchConv3d: the branch of length {branch.length} starts with gain 0, and '
                          'requires_grad=False in norm_cfg keeps it there: it will never take part.', stacklevel=4)
    if layer.bias is not None:
        layer.bias.copy_(torch.zeros_like(norm['bias']) if layer.has_norm else norm['bias'])


def _norm_state(layer: nn.Module, bn: NormState, bias: Optional[Tensor]) -> Dict[str, Tensor]:
    """The batch norm to take over as float64 tensors, with the layer's eps and the convolution's bias put into it."""
    zeros = torch.zeros(layer.out_channels, dtype=torch.float64, device=layer.branches[0].weight.device)
    if not layer.has_norm:
        if bn is not None or (bias is not None and layer.bias is None):
            raise ValueError('MultiBranchConv3d: a layer with norm_cfg=None cannot take over a batch norm, and with '
                             'bias=False no bias either. Give it a norm_cfg.')
        return dict(bias=zeros if bias is None else bias.detach().to(zeros))
    if any(norm.weight is None or norm.running_var is None for norm in layer.norms):
        raise ValueError('MultiBranchConv3d: taking over a trained net needs norms with affine=True and '
                         'track_running_stats=True.')
    state = dict(zip(NORM_KEYS, (zeros + 1, zeros, zeros, zeros + 1)))
    eps = own_eps = layer.norms[0].eps
    if bn is not None:
        eps = getattr(bn, 'eps', own_eps)
        given = bn.state_dict() if isinstance(bn, nn.Module) else bn
        missing = [key for key in NORM_KEYS if key not in given]
        if missing:
            raise ValueError(f'MultiBranchConv3d: the batch norm to take over has no {missing}, only {sorted(given)}.')
        for key in NORM_KEYS:
            if given[key].shape != zeros.shape:
                raise ValueError(f"MultiBranchConv3d: the batch norm's {key} has shape {tuple(given[key].shape)}, "
                                 f'this layer has {layer.out_channels} channels.')
            state[key] = given[key].detach().to(zeros)
        if 'num_batches_tracked' in given:
            state['num_batches_tracked'] = given['num_batches_tracked']
    var = state['running_var']
    state['weight'] = state['weight'] * ((var + own_eps) / (var + eps)).sqrt()
    if bias is not None:
        state['running_mean'] = state['running_mean'] - bias.detach().to(zeros)
    return state
