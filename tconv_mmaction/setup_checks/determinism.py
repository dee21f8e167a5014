"""``randomness.deterministic=True`` on a GPU: what PyTorch would refuse in the first step, said before it.

PyTorch has no deterministic version of some operators on CUDA and raises an error where one runs, after the data are
loaded and often only in the backward pass. ``torch.use_deterministic_algorithms`` lists them. A clip without content
goes through the network here, every operator is seen as it is called, and those of the list are named with their layer.
"""
import collections
import os
from typing import Any, Dict, List, Set, Tuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .data import ClipSize
from .problems import Problems

WORKSPACES = (':4096:8', ':16:8')  # that cuBLAS is deterministic with
# Operators of recognizers, by their names in PyTorch's list. Not here: bilinear interpolation and padding by edges,
# which F.interpolate and F.pad compute in another way then; trilinear interpolation is seen where it has no other way.
IN_BACKWARD = dict(
    max_pool3d_with_indices='MaxPool3d', avg_pool3d='AvgPool3d', _adaptive_avg_pool2d='AdaptiveAvgPool2d',
    _adaptive_avg_pool3d='AdaptiveAvgPool3d', adaptive_max_pool2d='AdaptiveMaxPool2d',
    upsample_linear1d='interpolate', upsample_bicubic2d='interpolate', upsample_trilinear3d='interpolate',
    reflection_pad1d='ReflectionPad1d', reflection_pad2d='ReflectionPad2d', reflection_pad3d='ReflectionPad3d',
    grid_sampler_2d='grid_sample', grid_sampler_3d='grid_sample')
IN_FORWARD = dict(cumsum='cumsum')  # of floating-point numbers
SHOWN = 4  # layers of one kind that are named


def refused_names() -> Set[str]:
    """The names above that the installed PyTorch refuses, by its own list.

    The list gets shorter: PyTorch 2.13 has a deterministic backward pass of MaxPool3d.
    """
    names = {*IN_BACKWARD.values(), *IN_FORWARD.values()}
    text = (torch.use_deterministic_algorithms.__doc__ or '').partition('will throw a')[2]
    return {name for name in names if f'.{name}`' in text} if text else names  # python -OO has no list


class _Seen(TorchDispatchMode):
    """``found``: names of the operators above that were called, each with the modules at work then."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.at_work = ['model']
        self.found: Dict[str, Dict[str, None]] = collections.defaultdict(dict)
        self.handles = []
        for name, module in model.named_modules():
            self.handles += [module.register_forward_pre_hook(lambda *_, name=name: self.at_work.append(name)),
                             module.register_forward_hook(self._leave)]

    def _leave(self, *_) -> None:
        self.at_work.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator, given = func.overloadpacket.__name__, [t for t in args if isinstance(t, torch.Tensor)]
        name = IN_BACKWARD.get(operator) if any(t.requires_grad for t in given) else None
        if operator in IN_FORWARD and given[0].is_floating_point():
            name = IN_FORWARD[operator]
        if name is not None:
            self.found[name][self.at_work[-1]] = None
        return func(*args, **(kwargs or {}))


def operators_without(model: nn.Module, clip: Tuple[int, ...], training: bool) -> Dict[str, List[str]]:
    """Names of PyTorch's list that a step of this network needs, each with the modules that call it.

    Args:
        model: a recognizer on the meta device; it is left as it is.
        clip: (C, T, H, W).
        training: False for a test, where only what is refused in the forward pass counts.

    Raises:
        Exception: what the network itself raises for such a clip.
    """
    was_training, refused = model.training, refused_names()
    mode = torch.get_deterministic_debug_mode()
    seen = _Seen(model)
    try:
        model.train(training)
        torch.set_deterministic_debug_mode('warn')  # interpolate asks, and goes another way
        with torch.set_grad_enabled(training), torch.device('meta'), seen:
            features = model.backbone(torch.empty((2, *clip)))
            if model.with_neck:
                features = model.neck(features)[0]
            model.cls_head(features)
            if training:  # GoogLeNetHead has more classifiers for its losses alone
                for name, feature in zip(getattr(model.cls_head, 'aux_names', ()), features):
                    getattr(model.cls_head, name)(feature)
    finally:
        torch.set_deterministic_debug_mode(mode)
        model.train(was_training)
        for handle in seen.handles:
            handle.remove()
    return {name: list(modules) for name, modules in seen.found.items() if name in refused}


def check_determinism(cfg: Any, model: nn.Module, model_cfg: Any, sizes: Dict[str, ClipSize], training: bool,
                      problems: Problems) -> None:
    """Where ``randomness.deterministic=True`` meets a GPU: cuBLAS's workspace, and layers that raise.

    Args:
        cfg: the whole config.
        model, model_cfg: on the meta device, and its config.
        sizes: of the clips, by the key that says so.
        training: whether there is a backward pass.
        problems: what is found goes there.
    """
    randomness = cfg.get('randomness')
    if not isinstance(randomness, dict) or not randomness.get('deterministic') or not torch.cuda.is_available():
        return
    key = 'randomness.deterministic'
    workspace = os.environ.get('CUBLAS_WORKSPACE_CONFIG')
    if workspace not in WORKSPACES:
        given = 'is not set' if workspace is None else f'is {workspace!r}'
        problems.add(key, f'True needs CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]} (or {WORKSPACES[1]}) in the '
                     f'environment, and it {given}: PyTorch refuses the first matrix product on the GPU. Start it so: '
                     f'CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]} python tools/train.py ...')
    if not (hasattr(model, 'backbone') and getattr(model, 'with_cls_head', False)):
        return
    mean = (model_cfg.get('data_preprocessor') or {}).get('mean')
    channels = len(mean) if isinstance(mean, (list, tuple)) else 3
    for where, size in sizes.items():
        if None in size:
            continue
        try:
            found = operators_without(model, (channels, *size), training)
        except Exception as error:  # every network has errors of its own; those of a clip are said by check_model
            problems.notes.append(f'{where}: which layers are deterministic ({str(error)[:200]})')
            continue
        for name, modules in found.items():
            more = f' and {len(modules) - SHOWN} more' if len(modules) > SHOWN else ''
            what = 'version' if name in IN_FORWARD.values() else 'backward pass'
            newer = ' PyTorch 2.13 has one;' if name == 'MaxPool3d' else ''
            problems.add(key, f'True: PyTorch {torch.__version__} has no deterministic {what} of {name} on CUDA and '
                         f'raises an error in the first step; it is in {", ".join(modules[:SHOWN])}{more}.{newer} '
                         'Otherwise take it out: --cfg-options randomness.deterministic=False. With a seed the order '
                         'of the samples and the first weights are the same then, and sums may be rounded otherwise.')
        return  # one size tells all layers
