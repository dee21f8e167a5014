"""Replace every re-parameterised layer of a model by the plain convolution that computes the same."""
import copy
from typing import Dict

from torch import nn


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

    The copy computes the same in eval mode. ``model`` itself does not change.

    Raises:
        RuntimeError: from a layer whose fusion is defined in eval mode only (multi-branch layers with batch norm),
            when the model is in training mode.
    """
    return _replace(copy.deepcopy(model), {})
