"""From the weights of a 2D network to those of its 3D, 3T or separable counterpart.

A kernel W of the 2D net becomes, along time (kT frames),

* ``nn.Conv3d``: W / kT in every slice, so that a still clip gives what the image gives (Carreira and Zisserman,
  arXiv:1705.07750, sec. 2.4.1). A kernel of one frame is copied.
* ``Conv3T``: K_1 = W, not divided (Ras et al., arXiv:1912.04075, sec. 4): all kT slices equal W at the identity, so
  the layer gives kT times the 2D convolution on a still clip, and running statistics copied from the 2D net adapt
  during training. ``divide_3t=True`` takes W / kT, so that the whole net starts as the 2D net.
* a ``SeparableConv3d``: W in the spatial part and the identity over channels as the centre tap of the temporal part.
* another layer with a method ``inflate_from_2d(weight2d, bn=None, bias=None)``: whatever that does. It gets the kernel
  ``(O, I/groups, kH, kW)``, the batch norm that follows it in the 2D net as a dict with 'weight', 'bias',
  'running_mean' and 'running_var' (None where the file has none or norms are not copied), the convolution's bias, and
  sets its own parameters. It is called on a copy of the layer. If ``layer.has_norm`` it takes the norm over;
  otherwise the norm after it gets the 2D one, or what ``inflate_from_2d`` returns instead of it.

**A backbone** that can start from a 2D net names its modules by a function ``key_from_2d``: the name of a module in
the 2D file -> the name of the module here, or None where there is none (the 2D net's classifier).
"""
import copy
import pickle
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Optional, Tuple

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from ..compat.checkpoints import DamagedCheckpointError
from ..layers import Conv3T, SeparableConv3d

StateDict = Dict[str, Tensor]


@dataclass
class InflationReport:
    """What became of the 2D file, by name.

    Attributes:
        loaded: name in the 2D file -> name in the model (of the module, where a layer distributes its kernel itself).
        skipped: name in the 2D file -> why it was left out.
        missing: names in the model that got nothing and keep their initialisation.
    """
    loaded: Dict[str, str] = field(default_factory=dict)
    skipped: Dict[str, str] = field(default_factory=dict)
    missing: List[str] = field(default_factory=list)

    def __str__(self) -> str:
        missing: Dict[str, List[str]] = {}
        for name in self.missing:
            layer, _, parameter = name.rpartition('.')
            missing.setdefault(layer, []).append(parameter)
        lines = [f'{len(self.loaded)} tensors of the 2D net loaded, {len(self.skipped)} skipped, '
                 f'{len(self.missing)} of the model missing (they keep their initialisation).']
        lines += [f'  loaded   {name} -> {target}' for name, target in self.loaded.items()]
        lines += [f'  skipped  {name}: {why}' for name, why in self.skipped.items()]
        lines += [f'  missing  {layer}: {", ".join(names)}' for layer, names in missing.items()]
        return '\n'.join(lines)


def read_state_dict(checkpoint: str, prefix: str = 'backbone.') -> StateDict:
    """The tensors of a checkpoint file, without 'module.' and, where some names start with it, without ``prefix``.

    Args:
        checkpoint: a path, or whatever mmengine's loader takes ('https://...', 'torchvision://resnet18' where
            torchvision is installed). The loader reads numbers only and never runs code from the file.
        prefix: of the backbone in checkpoints of whole recognizers. Names without it are kept as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for 'torchvision://' without torchvision.
        ValueError: if the file is damaged or holds no dict of tensors.
    """
    if checkpoint.startswith('torchvision://'):
        try:
            import torchvision  # noqa: F401
        except ImportError as error:
            raise ImportError(f'{checkpoint} needs torchvision, which cannot be imported here. Download the weights '
                              'where it can and give the path of the .pth file instead.') from error
    try:
        state_dict = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except (pickle.UnpicklingError, DamagedCheckpointError, OSError, ImportError):
        raise  # these name the file or the connection
    except Exception as error:  # a changed byte can lead PyTorch's unpickler anywhere: KeyError, IndexError, ...
        raise ValueError(f'{checkpoint} cannot be read as a checkpoint ({type(error).__name__}: {error}). It may be '
                         'damaged, or another kind of file. Get it again.') from error
    for key in ('state_dict', 'model'):
        if isinstance(state_dict, dict) and isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    if not isinstance(state_dict, dict) or not any(torch.is_tensor(value) for value in state_dict.values()):
        raise ValueError(f"{checkpoint} holds no weights: a dict of tensors, or one under 'state_dict', is needed.")
    state_dict = {name[7:] if name.startswith('module.') else name: value
                  for name, value in state_dict.items() if torch.is_tensor(value)}
    if prefix and any(name.startswith(prefix) for name in state_dict):
        return {name[len(prefix):] if name.startswith(prefix) else name: value for name, value in state_dict.items()}
    return state_dict


def is_2d(state_dict: StateDict) -> bool:
    """Whether convolution kernels are (O, I, kH, kW), as in image networks.

    Raises:
        ValueError: if no kernel is there to tell by.
    """
    ranks = {value.dim() for value in state_dict.values() if value.dim() in (4, 5)}
    if not ranks:
        raise ValueError('No convolution kernel (4 or 5 dimensions) in these weights; their names start with '
                         f'{list(state_dict)[:3]}.')
    return ranks == {4}


def _check_shape(given: Tensor, needed, what: str) -> None:
    if tuple(given.shape) != tuple(needed):
        raise ValueError(f'{what}: the 2D file has {tuple(given.shape)}, the model needs {tuple(needed)}. Is it the '
                         '2D net of the same depth and width?')


def _inflate_conv(layer: nn.Module, group: StateDict, divide_3t: bool, what: str) -> StateDict:
    """The entries of a ``Conv3d`` or ``Conv3T``."""
    weight, frames = group['weight'], layer.kernel_size[0]
    if isinstance(layer, Conv3T):
        entries = dict(weight=(weight / frames if divide_3t else weight).unsqueeze(2))
    elif isinstance(layer, nn.Conv3d):
        entries = dict(weight=(weight / frames).unsqueeze(2).expand(-1, -1, frames, -1, -1).clone())
    else:
        raise TypeError(f'{what} is a {type(layer).__name__}, and no rule says how a 2D kernel gets into it. Give that '
                        'class a method inflate_from_2d (see tconv_mmaction.backbones.inflation).')
    _check_shape(entries['weight'], layer.weight.shape, what + '.weight with its time axis')
    if 'bias' in group and layer.bias is not None:
        entries['bias'] = group['bias']
        _check_shape(entries['bias'], layer.bias.shape, what + '.bias')
    return entries


def inflate_state_dict(state_dict: StateDict, model: nn.Module,
                       key_from_2d: Callable[[str], Optional[str]] = lambda name: name, divide_3t: bool = False,
                       copy_norm: bool = True) -> Tuple[StateDict, InflationReport]:
    """The weights of a 2D net, inflated for ``model``; neither of the two is changed.

    Args:
        state_dict: of the 2D net.
        model: the network in time. Its layers say which rule holds.
        key_from_2d: name of a module in ``state_dict`` ('layer1.0.bn1') -> its name in ``model``
            ('layer1.0.conv1.bn'), or None if it has no counterpart.
        divide_3t: K_1 = W / kT in ``Conv3T`` instead of W.
        copy_norm: also take the parameters and running statistics of batch norms.

    Returns:
        New tensors for ``model.load_state_dict(..., strict=False)``, and the report.

    Raises:
        ValueError: if no convolution finds its place, or a kernel or norm does not have the shape it needs. Only
            linear layers of another shape are skipped: another number of classes is the rule there.
        TypeError: if a layer is of a type without a rule.
    """
    groups: Dict[str, StateDict] = {}  # module of the 2D net -> its tensors
    for name, value in state_dict.items():
        module, _, parameter = name.rpartition('.')
        groups.setdefault(module, {})[parameter] = value
    modules = dict(model.named_modules())
    targets = {module: key_from_2d(module) for module in groups}
    norms = {targets[module].rpartition('.')[0]: module for module, group in groups.items()
             if targets[module] and 'running_mean' in group}  # where a norm belongs -> its name in the 2D net
    new: StateDict = {}
    report = InflationReport()
    norm_dicts = dict(groups)  # a layer with norms inside may change what the norm after it gets
    taken = set()  # norms that such a layer took in

    def enter(entries: StateDict, into: str) -> None:
        for parameter, value in entries.items():
            new[f'{into}.{parameter}'] = value.detach().clone()

    def skip(module: str, why: str) -> None:
        report.skipped.update({f'{module}.{parameter}'.lstrip('.'): why for parameter in groups[module]})

    convolutions = [module for module, group in groups.items() if 'weight' in group and group['weight'].dim() == 4]
    for module in convolutions:
        group, target = groups[module], targets[module]
        layer = modules.get(target)
        if layer is None:
            skip(module, 'no counterpart' if target is None else f'the model has no {target}')
            continue
        parent = target.rpartition('.')[0]
        if hasattr(layer, 'inflate_from_2d'):
            _check_shape(group['weight'], (layer.out_channels, layer.in_channels // layer.groups,
                                           *layer.kernel_size[1:]), target)
            norm = norms.get(parent) if copy_norm else None
            options = {}
            if isinstance(layer, SeparableConv3d):
                options = dict(activated=getattr(modules[parent], 'with_activation', True))
            inflated = copy.deepcopy(layer)
            after = inflated.inflate_from_2d(group['weight'], norm and dict(groups[norm]), bias=group.get('bias'),
                                             **options)
            entries = inflated.state_dict()
            if norm and getattr(layer, 'has_norm', False):
                taken.add(norm)
                report.loaded.update({f'{norm}.{parameter}': target for parameter in groups[norm]})
            elif norm and after is not None:
                norm_dicts[norm] = after
            report.loaded.update({f'{module}.{parameter}': target for parameter in group})
        else:
            entries = _inflate_conv(layer, group, divide_3t, target)
            report.loaded.update({f'{module}.{parameter}': f'{target}.{parameter}'
                                  for parameter in group if parameter in entries})
        for parameter in group:
            if f'{module}.{parameter}' not in report.loaded:
                report.skipped[f'{module}.{parameter}'] = f'{target} has no {parameter}'
        enter(entries, target)
    if not new:
        wanted = [name for name, module in modules.items() if hasattr(module, 'kernel_size')][:3]
        raise ValueError(
            'Not one convolution of the 2D weights has a counterpart in the model. Their names start with '
            f'{list(state_dict)[:3]}, mapped to {[targets[module] for module in list(groups)[:3]]}; the model has '
            f'{wanted}, ... Use weights of the same family, or name the prefix of its backbone.')

    for module, group in groups.items():
        target = targets[module]
        if module in convolutions or module in taken:
            continue
        layer = modules.get(target)
        is_norm = 'running_mean' in group
        if layer is None or not module:
            skip(module, 'no counterpart' if target is None or not module else f'the model has no {target}')
        elif is_norm and not copy_norm:
            skip(module, 'copy_norm=False')
        else:
            own = layer.state_dict()
            for parameter, value in norm_dicts[module].items():
                name = f'{module}.{parameter}'
                if parameter not in own:
                    report.skipped[name] = f'{target} has no {parameter}'
                elif value.shape != own[parameter].shape and isinstance(layer, nn.Linear):
                    report.skipped[name] = (f'shape {tuple(value.shape)}, where {target} has '
                                            f'{tuple(own[parameter].shape)}')
                else:
                    _check_shape(value, own[parameter].shape, f'{target}.{parameter}')
                    enter({parameter: value}, target)
                    report.loaded[name] = f'{target}.{parameter}'
    report.missing = [name for name in model.state_dict()
                      if name not in new and not name.endswith('num_batches_tracked')]
    return new, report


def load_pretrained(model: nn.Module, checkpoint: str, key_from_2d: Callable[[str], Optional[str]],
                    pretrained2d: Optional[bool] = None, prefix: str = 'backbone.', divide_3t: bool = False,
                    copy_norm: bool = True) -> Optional[InflationReport]:
    """Read a checkpoint into a backbone: a 2D one is inflated, a 3D one is loaded under its own names.

    Args:
        model, key_from_2d, divide_3t, copy_norm: as for :func:`inflate_state_dict`.
        checkpoint, prefix: as for :func:`read_state_dict`.
        pretrained2d: what the file is said to hold; None looks at its kernels.

    Returns:
        The report of the inflation, which is also logged; None for a 3D checkpoint.

    Raises:
        ValueError: if the file does not hold what ``pretrained2d`` says, nothing in it matches, or shapes differ.
    """
    state_dict = read_state_dict(checkpoint, prefix)
    flat = is_2d(state_dict)
    if pretrained2d is not None and flat != pretrained2d:
        raise ValueError(f'{checkpoint} holds {"2D" if flat else "3D"} kernels: set pretrained2d={flat}.')
    if flat:
        new, report = inflate_state_dict(state_dict, model, key_from_2d, divide_3t, copy_norm)
        model.load_state_dict(new, strict=False)
        print_log(f'{checkpoint} inflated: {report}', logger='current')
        return report
    if not set(state_dict) & set(model.state_dict()):
        raise ValueError(f'Not one name in {checkpoint} is in the model: it has {list(state_dict)[:3]}, the model has '
                         f'{list(model.state_dict())[:3]}.')
    print_log(f'load {checkpoint}', logger='current')
    load_state_dict(model, state_dict, strict=False, logger=MMLogger.get_current_instance())
    return None
