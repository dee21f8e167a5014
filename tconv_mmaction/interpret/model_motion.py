"""The motion in all 3D convolutions of a trained network: every layer fitted and tested against its null.

See :mod:`.fit_temporal_parameters` for the fit of one kernel and :mod:`.motion_null` for the test.
"""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..layers import Conv3T
from .fit_temporal_parameters import FittedMotion, fit_temporal_parameters
from .motion_null import DECISIVE, MotionNull, motion_null
from .temporal_filters import temporal_kernels

Progress = Callable[[str, int, int], None]  # layer that is done, its number, layers in all


class LayerMotion(NamedTuple):
    """One layer."""
    kernel_size: Tuple[int, int, int]
    fit: FittedMotion  # with gains
    null: MotionNull

    def values(self) -> Dict[str, Tensor]:
        """What ``temporal_parameters(model, fit=True)`` gives of a layer, on the CPU."""
        extra = dict(gain=self.fit.gain, explained=self.fit.explained, baseline=self.fit.baseline)
        return {**self.fit.parameters(), **{name: value.cpu() for name, value in extra.items()},
                'above_null': torch.from_numpy(self.null.above)}


def can_be_fitted(weight: Tensor) -> bool:
    """Whether it is a 3D kernel with several slices of several pixels."""
    return weight.dim() == 5 and weight.shape[2] > 1 and weight.shape[3] * weight.shape[4] > 1


def fittable_kernels(model: nn.Module) -> Dict[str, Tensor]:
    """{layer name: weight (O, I, T, H, W)} of the 3D convolutions with T > 1 and H*W > 1, in the model's order.

    ``Conv3T`` layers are not among them (their parameters are known), nor purely temporal kernels (T x 1 x 1), on which
    no motion acts; other re-parameterised layers count as the convolution that they are when deployed.
    """
    try:
        kernels = temporal_kernels(model)
    except ValueError:  # none with T > 1
        return {}
    known = {name for name, module in model.named_modules() if isinstance(module, Conv3T)}
    return {name: weight for name, weight in kernels.items() if name not in known and can_be_fitted(weight)}


def fit_kernels(kernels: Dict[str, Tensor], fits: int = 128, kinds: Sequence[str] = DECISIVE,
                progress: Optional[Progress] = None, **options: Any) -> Dict[str, LayerMotion]:
    """Fit and test every kernel.

    Args:
        kernels: {name: (O, I, T, H, W)}, as of :func:`fittable_kernels` or a state dict.
        fits: randomised filters per layer and null.
        kinds: of nulls, beside the decisive ones.
        progress: called after every layer.
        options: of ``fit_temporal_parameters``, but for ``gain``.

    Raises:
        ValueError: naming the layer, if a kernel cannot be fitted.
    """
    found: Dict[str, LayerMotion] = {}
    for name, weight in kernels.items():
        try:
            fit = fit_temporal_parameters(weight, gain=True, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f'layer {name!r}: {error}') from error
        found[name] = LayerMotion(tuple(weight.shape[2:]), fit, motion_null(weight, fit, fits, kinds, **options))
        if progress is not None:
            progress(name, len(found), len(kernels))
    return found


# ------------------------------------------------------------------------------- fitted values in tables and figures

def is_fitted(values: Dict[str, Tensor]) -> bool:
    """Whether a layer's values are fitted to a plain convolution, not the parameters of a ``Conv3T``."""
    return 'above_null' in values


def to_show(values: Dict[str, Tensor]) -> Tensor:
    """(O,) bool: the filters whose motion is worth a number or a line: all of a 3T layer, those above the null of a
    fitted one."""
    if is_fitted(values):
        return values['above_null']
    return torch.ones(values['scale'].shape[1], dtype=torch.bool)


def steps_to_show(values: Dict[str, Tensor]) -> int:
    """How many steps, from the first on, clips make use of (``temporal_parameters(model, clip_shape=...)``); without
    that known, all. Those that are left out are the last ones."""
    return int(values['used'].sum()) if 'used' in values else len(values['scale'])


def left_out(values: Dict[str, Tensor]) -> int:
    """How many (step, filter) pairs of a layer no clip makes use of."""
    return (len(values['scale']) - steps_to_show(values)) * values['scale'].shape[1]


def unused_layers(parameters: Dict[str, Dict[str, Tensor]]) -> List[str]:
    """The layers with steps that no clip makes use of."""
    return [name for name, values in parameters.items() if left_out(values)]


def explained_text(values: Dict[str, Tensor], channel: int) -> str:
    """What stands beside a fitted filter's motion; '' for a 3T layer's."""
    if not is_fitted(values):
        return ''
    explained, still = (100 * float(values[name][channel]) for name in ('explained', 'baseline'))
    share = f'explains {explained:.0f} %, {still:.0f} % without motion'
    return share if values['above_null'][channel] else f'{share}: not above the null, motion not drawn'
