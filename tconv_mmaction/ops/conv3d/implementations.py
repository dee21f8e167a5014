"""How a branch of a multi-branch layer may be convolved: a call is the branch, clips (N, I, T, H, W) and geometry.

The branch is what has the free tensor ``weight``, its ``length`` and ``eta``, ``reference()``, the filter by the
paper's equation, and ``made()``, the same in the fastest way.
"""
import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditions import cpu_refusal
from ..context import context_refusal
from ..dispatch import Implementation, always, operator, supports_all
from ..geometry import Geometry
from . import minimal_filtering, single_clip
from .basis_rule import BasisRule, basis_for, multiply_in_time
from .kernel_in_place import kernel_in_place_conv3d


def filter_is_weight(branch) -> bool:
    """Whether the filter is the free tensor itself."""
    return branch.length == 1 and (branch.eta == 1 or math.isinf(branch.eta))


def made_filter(branch) -> Tensor:
    """The branch's filter ``(O, I/groups, length, kH, kW)`` in the fastest way; where tensors are eager."""
    if filter_is_weight(branch):
        return branch.weight
    basis = basis_for(branch.length, branch.eta, branch.weight)
    return multiply_in_time(basis, branch.weight.to(basis.dtype)).to(branch.weight.dtype)


def _training_refusal(branch, x: Tensor, geometry: Geometry) -> Optional[str]:
    if filter_is_weight(branch):
        return 'the filter is the parameter itself'
    if x.shape[0] == 0:
        return 'the batch is empty'
    why = cpu_refusal(x, branch.weight)
    if why is None and not (torch.is_grad_enabled() and branch.weight.requires_grad):
        return 'no gradients of parameters are wanted'
    return why


def _shape(branch) -> tuple:
    weight = branch.weight
    return (*weight.shape[:2], branch.length, *weight.shape[3:])


def _tile(branch, x: Tensor, geometry: Geometry) -> Optional[int]:
    return minimal_filtering.choose(x.shape, x.dtype, _shape(branch), *geometry)


def _filtering_refusal(branch, x: Tensor, geometry: Geometry) -> Optional[str]:
    why = _training_refusal(branch, x, geometry)
    if why is None and _tile(branch, x, geometry) is None:
        return 'minimal filtering does not save enough products here'
    return why


def _convolve_in_place(branch, x: Tensor, geometry: Geometry, tile: Optional[int]) -> Tensor:
    rule = BasisRule(basis_for(branch.length, branch.eta, branch.weight), branch.length)
    return kernel_in_place_conv3d(x, rule, geometry, tile, branch.weight)


def _run_filtering(branch, x: Tensor, geometry: Geometry) -> Tensor:
    return _convolve_in_place(branch, x, geometry, _tile(branch, x, geometry))


def _run_in_place(branch, x: Tensor, geometry: Geometry) -> Tensor:
    return _convolve_in_place(branch, x, geometry, None)


def _made_refusal(branch, x: Tensor, geometry: Geometry) -> Optional[str]:
    return context_refusal()


def _run_made(branch, x: Tensor, geometry: Geometry) -> Tensor:
    return single_clip.conv3d(x, branch.made(), None, *geometry)


def _run_reference(branch, x: Tensor, geometry: Geometry) -> Tensor:
    return F.conv3d(x, branch.reference(), None, *geometry)


CONV3D = operator(
    'Conv3d with a computed kernel',
    Implementation('minimal_filtering', _filtering_refusal, always, _run_filtering),
    Implementation('kernel_in_place', _training_refusal, always, _run_in_place),
    Implementation('made_kernel', _made_refusal, always, _run_made),
    Implementation('reference', supports_all, always, _run_reference),
)
