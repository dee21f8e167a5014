"""Load checkpoints of networks with single filters into networks with multi-branch layers."""
import copy
from typing import Dict

from torch import Tensor, nn

from .branch_inflation import NORM_KEYS
from .multi_branch_conv3d import MultiBranchConv3d


def accept_single_filters(model: nn.Module) -> nn.Module:
    """Let ``model`` load checkpoints in which its multi-branch layers are plain convolutions with a norm behind them.

    From then on every way of loading (``load_state_dict``, mmengine's ``load_checkpoint``, ``load_from``) turns
    ``X.weight`` of a multi-branch layer ``X`` and the batch norm beside it into what the layer starts from: see
    ``inflate_from_3d`` in :mod:`.branch_inflation`, or ``inflate_from_2d`` for a 4-D weight. The norm is looked for
    where mmcv's ConvModule (``conv`` and ``bn``), torchvision (``conv2`` and ``bn2``) and ``nn.Sequential`` (``0`` and
    ``1``) have it. Other checkpoints load as before.

    Returns:
        ``model``, for chaining.
    """
    model._register_load_state_dict_pre_hook(_convert_single_filters, with_module=True)
    return model


def _convert_single_filters(model: nn.Module, state_dict: Dict[str, Tensor], prefix: str, *unused) -> None:
    own_keys = {f'{prefix}{name}.' for name, _ in model.named_modules()}
    for name, layer in model.named_modules():
        key = f'{prefix}{name}.' if name else prefix
        if not isinstance(layer, MultiBranchConv3d) or f'{key}weight' not in state_dict:
            continue
        # The temporal part of a SeparableConv3d has the norm that stands beside the whole.
        beside = [_norm_beside(path) for path in (key[:-1], key[:-1].rpartition('.')[0])]
        norm_prefix = next((p for p in beside if f'{p}running_var' in state_dict and p not in own_keys), None)
        if norm_prefix is None:
            continue  # the layer's own loading says what is wrong
        norm = {k: state_dict[norm_prefix + k] for k in (*NORM_KEYS, 'num_batches_tracked')
                if norm_prefix + k in state_dict}
        weight = state_dict.pop(f'{key}weight')
        bias = state_dict.pop(f'{key}bias', None)
        for k in norm:
            del state_dict[norm_prefix + k]
        start = copy.deepcopy(layer)  # the layer itself changes only when the converted tensors are loaded
        (start.inflate_from_2d if weight.dim() == 4 else start.inflate_from_3d)(weight, norm, bias=bias)
        state_dict.update({key + k: value for k, value in start.state_dict().items()})


def _norm_beside(path: str) -> str:
    """Where the norm of the convolution at ``path`` is by convention, with a dot at the end."""
    parent, dot, last = path.rpartition('.')
    return parent + dot + (str(int(last) + 1) if last.isdigit() else last.replace('conv', 'bn')) + '.'
