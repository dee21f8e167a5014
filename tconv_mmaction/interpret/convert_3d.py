"""A trained 3D network as a 3T network: every kernel replaced by the 3T kernel nearest to it.

Nearest means in the weights (:func:`.fit_temporal_parameters.fit_temporal_parameters`), not in what the network
answers: what the fit does not explain is lost until the network is fine-tuned. The network's names and shapes stay, so
everything but the 3T layers is taken as it is.
"""
from typing import Any, Callable, Dict, NamedTuple, Optional

from torch import Tensor, nn

from ..layers import TEMPORAL_PARAMETERS, Conv3T
from ..maths.nearest_3t_kernel import still_explained
from .fit_temporal_parameters import FittedMotion, fit_temporal_parameters
from .temporal_parameters import temporal_layers

Progress = Callable[[str, float], None]  # layer, share of its squared weight that is explained


class Converted(NamedTuple):
    """A state dict for the 3T network, and what each 3T layer keeps."""
    state_dict: Dict[str, Tensor]
    explained: Dict[str, float]  # layer -> share of the layer's squared weight, all filters together
    still: Dict[str, float]  # the same for the best kernel that does not move


def layer_entries(layer: Conv3T, fit: FittedMotion, prefix: str) -> Dict[str, Tensor]:
    """The fit as entries of the layer's state dict."""
    entries = {f'{prefix}weight': fit.first[:, :, None]}
    entries.update({prefix + name: getattr(fit, name) for name in TEMPORAL_PARAMETERS})
    if layer.gain is not None:
        entries[f'{prefix}gain'] = fit.gain
    return entries


def convert_3d(state_dict: Dict[str, Tensor], model: nn.Module, progress: Optional[Progress] = None,
               **options: Any) -> Converted:
    """The state dict of a 3D network for the same network with ``Conv3T`` layers.

    Args:
        state_dict: of the 3D network, names as in ``model``.
        model: the 3T network. Its layers with ``gain=True`` take the gains too.
        progress: called after every layer.
        options: of ``fit_temporal_parameters``, but for ``gain``.

    Raises:
        ValueError: if an entry is missing, is too many or has another shape; if a 3T layer with kT > 1 has
            ``transform='free'``; or if no layer is there to convert.
    """
    needed, layers = model.state_dict(), temporal_layers(model)
    new, explained, still = dict(state_dict), {}, {}
    for name, layer in layers.items():
        prefix = f'{name}.' if name else ''
        weight = state_dict.get(f'{prefix}weight')
        shape = (*layer.weight.shape[:2], *layer.kernel_size)
        if weight is None or tuple(weight.shape) != shape:
            found = 'is missing' if weight is None else f'has {tuple(weight.shape)}'
            raise ValueError(f'{prefix}weight of the 3D network {found}; the 3T layer needs {shape}. Give the config '
                             'of the same network, with Conv3T in the place of Conv3d.')
        if layer.kernel_size[0] == 1:  # one slice: nothing moves
            new.update({prefix + key: needed[prefix + key] for key in (*TEMPORAL_PARAMETERS, 'gain', 'theta')
                        if prefix + key in needed})
            continue
        if layer.transform != 'affine':
            raise ValueError(f"layer {name!r} has transform={layer.transform!r}; a kernel is read as "
                             "transform='affine'.")
        fit = fit_temporal_parameters(weight, gain=layer.gain is not None, **options)
        energy = weight.to(fit.explained.dtype).flatten(1).square().sum(1)
        static, gains, _ = still_explained(weight.to(fit.explained.dtype))
        for shares, kept in ((fit.explained, explained), (static if layer.gain is None else gains, still)):
            kept[name] = float((shares * energy).sum() / energy.sum())
        new.update(layer_entries(layer, fit, prefix))
        if progress is not None:
            progress(name, explained[name])
    if not explained:
        raise ValueError(f'{type(model).__name__} has no Conv3T layer with kT > 1: there is nothing to convert.')
    wrong = sorted((needed.keys() ^ new.keys()) | {key for key in needed.keys() & new.keys()
                                                   if needed[key].shape != new[key].shape})
    if wrong:
        raise ValueError(f'{wrong[0]} ({len(wrong)} such) is not in both networks with the same shape. Give the config '
                         'of the same network, with Conv3T in the place of Conv3d.')
    return Converted({key: new[key].to(needed[key].dtype) for key in needed}, explained, still)
