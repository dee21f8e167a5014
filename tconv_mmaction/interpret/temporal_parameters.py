"""What a 3T network has learned about motion: the temporal parameters of all its layers.

Ras et al., "Explainable 3D Convolutional Neural Networks by Learning Temporal Transformations" (arXiv:2006.15983),
sec. 3.4. How to read a number (each of them is one step from a slice of a kernel to the next, of one filter):

=============  ======================================================================================================
scale s        the slice is read s times further out: its content is zoomed by 1/s. 1 is no change.
rotate r       radians; the content turns by r counter-clockwise on the screen, by -r clockwise. 0 is no change.
translate_x t  1 is half the slice, from its centre to the border pixel: the content moves by t*(kW-1)/2 pixels of the
               kernel to the LEFT. The papers multiply the raw number with the width of the frame, px = t*W, as if
               it were a fraction of the frame.
translate_y t  the same upwards: t*(kH-1)/2 pixels of the kernel.
=============  ======================================================================================================

A layer with ``transform='free'`` has matrices theta = [A | b] and no s, r, t. It is read as the similarity closest to
it: A = sR(r) + D with the smallest |D| (Frobenius norm), and t from b = sR(r) t, as eq. 3 composes them. |D|, the part
of the matrix that zoom and rotation cannot express (shear, mirroring, unequal zoom), is given as ``residual``.

``fit=True`` reads plain 3D convolutions as well, as the 3T kernels nearest to them (:mod:`.fit_temporal_parameters`).
"""
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import TEMPORAL_PARAMETERS, Conv3T
from ..utils import atomic_open
from ..utils.wrappers import unwrap
from .model_motion import fit_kernels, fittable_kernels, is_fitted
from .temporal_reach import used_steps


def temporal_layers(model: nn.Module) -> Dict[str, Conv3T]:
    """The ``Conv3T`` layers by their dotted name in the unwrapped model, in the model's order.

    A layer that stands in several places is listed once, under its first name. A model that is itself a ``Conv3T``
    gives ``{'': model}``.
    """
    layers: Dict[str, Conv3T] = {}
    seen = set()

    def walk(module: nn.Module, name: str) -> None:
        module = unwrap(module)  # at every level: MMSeparateDistributedDataParallel wraps the parts of a model
        if id(module) in seen:
            return
        seen.add(id(module))
        if isinstance(module, Conv3T):
            layers[name] = module
        for child_name, child in module.named_children():
            walk(child, f'{name}.{child_name}' if name else child_name)

    walk(model, '')
    return layers


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP has split the parameters over the processes, so that no process has a whole one to read."""
    return (any(type(module).__name__ in ('FullyShardedDataParallel', 'MMFullyShardedDataParallel')
                for module in model.modules())
            or any(hasattr(parameter, 'to_local') for parameter in model.parameters()))  # FSDP2's DTensors


def check_finite(layer: str, name: str, values: Tensor) -> None:
    """Raise ValueError if a parameter holds NaN or infinity, saying where."""
    bad = ~torch.isfinite(values)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f'{name} of layer {layer!r} holds {int(bad.sum())} value(s) that are NaN or infinite, the first at '
            f'{where} (step, filter, ...): {values[where].item()}. No statistic of it would mean anything: the '
            'training diverged. Take an earlier checkpoint, or train with a lower learning rate or gradient clipping '
            '(optim_wrapper.clip_grad).')


def closest_similarity(theta: Tensor) -> Tuple[Dict[str, Tensor], Tensor]:
    """Eq. 3 solved for its parameters, in the least-squares sense.

    Args:
        theta: ``(..., 2, 3)`` affine matrices.

    Returns:
        ({'scale', 'rotate' (radians, in (-pi, pi]), 'translate_x', 'translate_y'}, residual), each ``(...)``. The
        residual is the Frobenius norm of theta minus the similarity's matrix: 0 for a matrix that eq. 3 can make with
        s > 0. The translation is NaN or infinite where the scale is 0 (a pure mirroring).
    """
    a, b, c = theta[..., 0, 0], theta[..., 0, 1], theta[..., 0, 2]
    d, e, f = theta[..., 1, 0], theta[..., 1, 1], theta[..., 1, 2]
    cos, sin = (a + e) / 2, (d - b) / 2  # s cos r, s sin r
    square = cos.square() + sin.square()
    parameters = {
        'scale': square.sqrt(),
        'rotate': torch.atan2(sin, cos),
        'translate_x': (cos * c + sin * f) / square,
        'translate_y': (cos * f - sin * c) / square,
    }
    return parameters, (((a - e).square() + (b + d).square()) / 2).sqrt()


def _on_cpu(tensors: Sequence[Tensor]) -> List[Tensor]:
    """Copies on the CPU; from a device those of one type travel together, since each copy waits for the device."""
    copies: List[Optional[Tensor]] = [None] * len(tensors)
    kinds: Dict[tuple, List[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(i)
    for (device, _), members in kinds.items():
        if device.type == 'cpu':
            together = [tensors[i].detach().clone() for i in members]
        else:
            flat = torch.cat([tensors[i].detach().flatten() for i in members]).cpu()
            together = flat.split([tensors[i].numel() for i in members])
        for i, copy in zip(members, together):
            copies[i] = copy.view(tensors[i].shape)
    return copies


def _read(name: str, values: Dict[str, Tensor]) -> Dict[str, Tensor]:
    for key, value in values.items():
        check_finite(name, key, value)
    if 'theta' not in values:
        return values
    theta = values['theta']
    values, residual = closest_similarity(theta)
    mirrored = values['scale'] == 0
    if mirrored.any():
        where = tuple(mirrored.nonzero()[0].tolist())
        raise ValueError(
            f'theta of layer {name!r} at {where} (step, filter) is {theta[where].tolist()}: a pure mirroring has no '
            'closest scale, rotation and translation. Read layer.theta itself.')
    return {**values, 'residual': residual, 'theta': theta}


def temporal_parameters(model: nn.Module, fit: bool = False, clip_shape: Optional[Sequence[int]] = None,
                        **options: Any) -> Dict[str, Dict[str, Tensor]]:
    """The learned transforms of all 3T layers and, with ``fit``, what comes nearest to them in 3D convolutions.

    Args:
        model: any module that holds ``Conv3T`` layers, also wrapped in DDP, MMEngine's wrappers or ``torch.compile``.
        fit: read every other 3D convolution with kT > 1 and kH*kW > 1 as well, as the 3T kernel with gains that is
            nearest to it. The values of such a layer have besides ``'gain' (kT, O)``, ``'explained' (O,)``, the share
            of the squared weight that the fit explains, ``'baseline' (O,)``, what it explains without motion, and
            ``'above_null' (O,)``, whether a filter is explained by motion better than one whose changes are random.
            The motion of a filter that is not above the null means nothing. Purely temporal kernels (kT x 1 x 1) are
            left out: no motion acts on one pixel.
        clip_shape: (C, T, H, W) of the clips of the training. With it the values have besides ``'used' (kT-1,)``, of
            which steps such clips make use (:func:`.temporal_reach.used_steps`, one forward pass). The others cannot
            get a gradient; statistics and figures leave them out.
        options: with ``fit``, of :func:`.model_motion.fit_kernels`: fits, progress, starts, iterations, memory, ...

    Returns:
        ``{layer name: {'scale', 'rotate' (radians), 'translate_x', 'translate_y' (half kernel sizes)}}``; every tensor
        is a copy on the CPU of shape ``(kT-1, O)``, empty for kT = 1. Layers with ``transform='free'`` give the
        closest similarity under these names (see the module), and besides ``'residual' (kT-1, O)`` and
        ``'theta' (kT-1, O, 2, 3)``. A model without such layers gives ``{}``.

    Raises:
        ValueError: naming the layer and the parameter, if one is NaN or infinite.
        TypeError: for options without ``fit``.
    """
    if options and not fit:
        raise TypeError(f'{", ".join(options)}: only with fit=True; 3T layers are read as they are.')
    layers = temporal_layers(model)
    copies = iter(_on_cpu([tensor for layer in layers.values() for tensor in layer.temporal_tensors()]))
    read = {name: _read(name, {key: next(copies) for key in (
        TEMPORAL_PARAMETERS if layer.transform == 'affine' else ('theta', ))}) for name, layer in layers.items()}
    if not fit:
        return with_used(model, read, clip_shape)
    model = unwrap(model)
    found = fit_kernels(fittable_kernels(model), **options)
    read.update({name: motion.values() for name, motion in found.items()})
    places = {name: place for place, (name, _) in enumerate(model.named_modules())}
    ordered = dict(sorted(read.items(), key=lambda item: places.get(item[0], len(places))))
    return with_used(model, ordered, clip_shape)


def with_used(model: nn.Module, read: Dict[str, Dict[str, Tensor]],
              clip_shape: Optional[Sequence[int]]) -> Dict[str, Dict[str, Tensor]]:
    """What :func:`temporal_parameters` gave, with ``'used'`` for clips of ``clip_shape`` (C, T, H, W)."""
    if clip_shape is None:
        return read
    places = {id(module): name for name, module in unwrap(model).named_modules()}
    names = {name: places.get(id(layer), name) for name, layer in temporal_layers(model).items()}
    used = used_steps(model, clip_shape)
    return {name: {**values, 'used': used[names.get(name, name)]} if names.get(name, name) in used else values
            for name, values in read.items()}


def kernel_sizes(model: nn.Module, fit: bool = False) -> Dict[str, Tuple[int, int, int]]:
    """(kT, kH, kW) of all 3T layers, with ``fit`` of all that can be read so: what turns a translation into pixels of
    the kernel."""
    sizes = {name: layer.kernel_size for name, layer in temporal_layers(model).items()}
    if fit:
        sizes.update({name: tuple(weight.shape[2:]) for name, weight in fittable_kernels(unwrap(model)).items()})
    return sizes


def require_temporal_layers(model: nn.Module, fit: bool = False) -> List[str]:
    """The names of the 3T layers that have steps (kT > 1), with ``fit`` also of the 3D convolutions that can be read
    so; ValueError if there are none."""
    names = [name for name, size in kernel_sizes(model, fit).items() if size[0] > 1]
    if not names and fit:
        raise ValueError(f'{type(unwrap(model)).__name__} has no 3D convolution with kT > 1 and kH*kW > 1, so there is '
                         'no motion to read. Purely temporal kernels (kT x 1 x 1) act on one pixel.')
    if not names:
        raise ValueError(
            f'{type(unwrap(model)).__name__} has no Conv3T layer with kT > 1, so there are no temporal parameters to '
            "read. Build the model with temporal_cfg=dict(type='Conv3T') (a *-3t_* config), and read it before "
            'switch_to_deploy(), which turns the layers into plain Conv3d; or fit the 3T kernels nearest to its 3D '
            'convolutions: temporal_parameters(model, fit=True), --fit of the tools.')
    return names


def save_parameters(path: Union[str, 'os.PathLike[str]'], model: nn.Module,
                    parameters: Optional[Dict[str, Dict[str, Tensor]]] = None) -> None:
    """All temporal parameters as a compressed npz file, whole or not at all.

    The keys are those of the state dict, ``backbone.conv1.scale``, and ``backbone.conv1.kernel_size``; the arrays
    have the shapes of ``temporal_parameters``. No pickles are inside; numpy or ``load_parameters`` reads it.
    bfloat16, which numpy does not know, becomes float32.

    Args:
        path: of the file.
        model: holds ``Conv3T`` layers.
        parameters: what ``temporal_parameters(model)`` gave, if it was read before; with ``fit=True``, fitted motion
            is written too.
    """
    arrays = {}
    parameters = temporal_parameters(model) if parameters is None else parameters
    sizes = kernel_sizes(model, fit=any(map(is_fitted, parameters.values())))
    for layer, values in parameters.items():
        size = sizes[layer]
        prefix = f'{layer}.' if layer else ''
        for name, value in values.items():
            arrays[prefix + name] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        arrays[f'{prefix}kernel_size'] = np.array(size)
    with atomic_open(path, 'wb') as file:
        np.savez_compressed(file, **arrays)


def load_parameters(path: Union[str, 'os.PathLike[str]']) -> Tuple[Dict[str, Dict[str, Tensor]],
                                                                   Dict[str, Tuple[int, int, int]]]:
    """What ``save_parameters`` wrote, as ``temporal_parameters`` and ``kernel_sizes`` give it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged or of another kind.
    """
    parameters: Dict[str, Dict[str, Tensor]] = {}
    sizes = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                layer, _, name = key.rpartition('.')
                if name == 'kernel_size':
                    sizes[layer] = tuple(int(size) for size in file[key])
                else:
                    parameters.setdefault(layer, {})[name] = torch.from_numpy(file[key])
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, zlib, numpy and torch each have errors of their own for damaged content
        raise ValueError(f'{path} is no file of temporal parameters, or it is damaged: {type(error).__name__}: {error}.'
                         ' Write it again with tools/analysis/temporal_params.py or TemporalParamsHook.') from error
    return parameters, sizes
