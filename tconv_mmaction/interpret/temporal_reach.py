"""Which slices of temporal kernels never meet a frame: they see padding only, learn nothing and do nothing.

A kernel of L slices with stride s, padding p and dilation d over a clip of T frames computes, at step o, slice b from
frame o*s - p + b*d. A slice is dead where that lies outside of 0 ... T-1 for every step. It happens in the last stages
of networks that halve the frames more often than the clip is long: there a clip has one step left, and of a kernel of 3
frames only the middle slice meets it.

In a ``Conv3T`` layer transform b makes slice b + 1 from slice b, and with it all later ones. If these are all dead, the
transform gets no gradient at any time: it stays as it started and says nothing about motion. Such steps are always the
last ones of a layer. :func:`used_steps` finds the others, from one forward pass at the clip's length.
"""
import contextlib
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmaction.models.recognizers import Recognizer2D, Recognizer3D
from torch import Tensor, nn

from ..layers import Conv3T
from ..utils.wrappers import unwrap
from .access.adapters import RecognizerScores
from .access.modules import frozen

LONGEST = 1024  # frames that are tried


def dead_slices(frames: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> List[int]:
    """The slices of one kernel that see no frame, counted from 0.

    >>> dead_slices(1, 3, padding=1), dead_slices(2, 3, padding=1), dead_slices(2, 3, stride=2, padding=1)
    ([0, 2], [], [0])
    """
    steps = (frames + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return [b for b in range(kernel)
            if not any(0 <= o * stride - padding + b * dilation < frames for o in range(max(steps, 0)))]


def _dead(module: nn.Module, frames: int) -> List[int]:
    """Of a layer whose input has so many frames."""
    if getattr(module, 'padding_mode', 'zeros') != 'zeros':  # what is padded is made of frames
        return []
    kernel, stride, dilation = (getattr(module, name, (1, ))[0] for name in ('kernel_size', 'stride', 'dilation'))
    padding: Union[str, int, Sequence[int]] = module.padding
    if isinstance(padding, str):
        padding = dilation * (kernel - 1) // 2 if padding == 'same' else 0  # an odd rest is after the clip
    return dead_slices(frames, kernel, stride, padding if isinstance(padding, int) else padding[0], dilation)


def _convolutions(network: nn.Module) -> Dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules()
            if isinstance(getattr(module, 'kernel_size', None), (tuple, list)) and len(module.kernel_size) == 3
            and module.kernel_size[0] > 1 and any(True for _ in module.parameters())}  # pools have none


@contextlib.contextmanager
def _shapes_only(layers: Sequence[nn.Module]) -> Iterator[None]:
    """On the meta device: 3T layers give the shape of their output without the maths of their kernel."""
    chosen = [layer for layer in layers if isinstance(layer, Conv3T) and layer.weight.is_meta]

    def shape_of(layer: Conv3T):
        def forward(x: Tensor) -> Tensor:
            kernel = x.new_empty(*layer.weight.shape[:2], *layer.kernel_size)
            return nn.functional.conv3d(x, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return forward

    for layer in chosen:
        layer.forward = shape_of(layer)
    try:
        yield
    finally:
        for layer in chosen:
            del layer.forward


def reach_of(network: nn.Module, shape: Sequence[int]) -> Dict[str, List[int]]:
    """{layer: its dead slices, often none} of all 3D convolutions with kT > 1 that a clip of ``shape`` meets.

    The network runs once on zeros, in eval mode and without gradients, on its own device (also the meta device, where
    no memory is needed). A layer is any module with parameters and a kernel, a stride and a padding in three dimensions
    that takes (N, C, T, H, W): nn.Conv3d, Conv3T, the branches of MultiBranchConv3d. One that runs several times has
    those slices that are dead every time.

    Args:
        network: a backbone or any module that takes (N, C, T, H, W), or a recognizer, whose head runs too.
        shape: (C, T, H, W).
    """
    network = unwrap(network)
    layers, found = _convolutions(network), {}

    def look(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            dead = _dead(module, inputs[0].shape[-3])
            found[name] = [b for b in found[name] if b in dead] if name in found else dead
        return hook

    def run(clip: Tensor) -> Any:
        if not isinstance(network, (Recognizer2D, Recognizer3D)):
            return network(clip)
        return RecognizerScores(network, 'logits')(clip) if network.with_cls_head else network.backbone(clip)

    handles = [module.register_forward_pre_hook(look(name)) for name, module in layers.items()]
    reference = next(network.parameters(), torch.zeros(()))
    try:
        with frozen(network), torch.no_grad(), _shapes_only(list(layers.values())):
            run(torch.zeros(1, *shape, device=reference.device, dtype=reference.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found


def dead_slices_of(backbone: nn.Module, shape: Sequence[int]) -> Dict[str, Tuple[int, List[int]]]:
    """{layer: (slices of its kernel, dead ones)} of :func:`reach_of`, for the layers that have some."""
    layers = _convolutions(unwrap(backbone))
    return {name: (layers[name].kernel_size[0], dead) for name, dead in reach_of(backbone, shape).items() if dead}


def used_steps(model: nn.Module, shape: Sequence[int]) -> Dict[str, Tensor]:
    """{layer: (kT-1,) bool}, the steps from slice to slice that clips of ``shape`` make use of.

    Of a ``Conv3T`` layer a step is used if a slice after it sees a frame: the others get no gradient. Of any other
    convolution, each slice of which has weights of its own, it is used if it and all before it lie between slices that
    see frames: from a slice that never learned no motion can be read. A layer that the clip does not meet has no entry.

    Args:
        model: as for :func:`reach_of`.
        shape: (C, T, H, W) of a clip of the training.

    >>> from torch import nn
    >>> net = nn.Sequential(Conv3T(1, 2, 3, padding=1), nn.MaxPool3d(2), Conv3T(2, 2, 3, padding=1))
    >>> {name: used.tolist() for name, used in used_steps(net, (1, 2, 8, 8)).items()}
    {'0': [True, True], '2': [True, False]}
    """
    layers = _convolutions(unwrap(model))
    return {name: _used(layers[name], dead) for name, dead in reach_of(model, shape).items()}


def _used(layer: nn.Module, dead: List[int]) -> Tensor:
    alive = [b for b in range(layer.kernel_size[0]) if b not in dead]
    if isinstance(layer, Conv3T):
        steps = max(alive, default=0)
    else:
        steps = max(next((b for b in range(layer.kernel_size[0]) if b in dead), layer.kernel_size[0]) - 1, 0)
    return torch.arange(layer.kernel_size[0] - 1) < steps


class UnusedMotion:
    """What clips of one length leave unused in the ``Conv3T`` layers of a model.

    Args:
        model: as for :func:`reach_of`.
        shape: (C, T, H, W).
    """

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        layers = dict(unwrap(model).named_modules())
        self.frames = shape[1]
        self.layers: List[str] = []  # that have unused steps
        self.values = self.all_values = 0  # temporal parameters: steps x filters x numbers per transform
        for name, used in used_steps(model, shape).items():
            if not isinstance(layers[name], Conv3T):
                continue
            each = sum(tensor[0].numel() for tensor in layers[name].temporal_tensors())
            self.all_values += each * len(used)
            self.values += each * int((~used).sum())
            if not used.all():
                self.layers.append(name)

    @property
    def share(self) -> float:
        """Of the temporal parameters, in [0, 1]."""
        return self.values / self.all_values if self.all_values else 0.


def least_clip_length(model: nn.Module, shape: Sequence[int]) -> Optional[int]:
    """The fewest frames, from ``shape``'s on, with which every step of every ``Conv3T`` layer is used.

    None if :data:`LONGEST` frames are not enough, or the model does not take other lengths.
    """
    def enough(frames: int) -> bool:
        return not UnusedMotion(model, (shape[0], frames, *shape[2:])).values

    low, high = 0, shape[1]
    try:
        while not enough(high):
            low, high = high, 2 * high
            if high > LONGEST:
                return None
        while high - low > 1 and low:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
    except Exception:  # a network for one length has errors of its own
        return None
    return high
