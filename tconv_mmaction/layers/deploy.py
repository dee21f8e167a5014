"""Replace every re-parameterised layer of a model by the plain convolution that computes the same."""
import copy
import warnings
from typing import Dict

from torch import Tensor, nn

# what these hooks do is in the parameters that a kernel was computed from
_FUSED_HOOKS = ('torch.nn.utils.prune', 'torch.nn.utils.spectral_norm', 'torch.nn.utils.weight_norm')


def take_over(layer: nn.Module, conv: nn.Conv3d) -> nn.Conv3d:
    """Give ``conv``, which stands in for ``layer`` from now on, what is not numbers.

    Frozen parameters stay frozen, and forward hooks go on working. Backward hooks are left behind, with a warning.
    """
    learns = any(p.requires_grad for p in layer.parameters())
    conv.requires_grad_(learns)
    for name in ('_forward_hooks', '_forward_hooks_with_kwargs', '_forward_hooks_always_called', '_forward_pre_hooks',
                 '_forward_pre_hooks_with_kwargs'):
        mine, theirs = getattr(conv, name), getattr(layer, name)
        for key, hook in theirs.items():
            if getattr(type(hook), '__module__', '') not in _FUSED_HOOKS:
                mine[key] = hook
    if layer._backward_hooks or layer._backward_pre_hooks:
        warnings.warn(f'switch_to_deploy: the backward hooks of a {type(layer).__name__} do not go along to the '
                      'convolution that replaces it; register them there.', stacklevel=3)
    return conv


def _replace(module: nn.Module, done: Dict[int, nn.Module]) -> nn.Module:
    if id(module) not in done:  # a layer that stands in two places stays one layer
        if hasattr(module, 'switch_to_deploy'):
            done[id(module)] = module.switch_to_deploy()
        else:
            done[id(module)] = module
            for name, child in module._modules.items():
                if child is not None:
                    module._modules[name] = _replace(child, done)
    return done[id(module)]


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which every layer that has ``switch_to_deploy()`` is the ``nn.Conv3d`` it stands for.

    The copy computes the same in eval mode. ``model`` itself does not change. Layers whose parameters were all frozen
    stay frozen, and forward hooks on them are kept.

    Raises:
        RuntimeError: from a layer whose fusion is defined in eval mode only (multi-branch layers with batch norm),
            when the model is in training mode.

    >>> from tconv_mmaction.layers import Conv3T
    >>> network = nn.Sequential(Conv3T(3, 8, 3), nn.ReLU()).eval()
    >>> ' '.join(type(layer).__name__ for layer in switch_to_deploy(network))
    'Conv3d ReLU'
    """
    # Tensors that pruning and weight norms have computed in a forward pass are no leaves, which deepcopy refuses.
    computed = {id(value): value.detach().clone() for module in model.modules() for value in vars(module).values()
                if isinstance(value, Tensor) and not value.is_leaf}
    return _replace(copy.deepcopy(model, computed), {})
