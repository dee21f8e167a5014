"""The module inside what trainings wrap around it."""
from mmengine.model import BaseAveragedModel, is_model_wrapper
from torch import nn
from torch.optim.swa_utils import AveragedModel


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel, MMEngine's wrappers, averaged (EMA) models and ``torch.compile``.

    Wrappers around wrappers are taken off too. A module without any is returned as it is.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 3)
    >>> unwrap(torch.nn.DataParallel(layer)) is layer
    True
    """
    while True:
        if isinstance(getattr(module, '_orig_mod', None), nn.Module):  # torch.compile's OptimizedModule
            module = module._orig_mod
        elif is_model_wrapper(module) or isinstance(module, (AveragedModel, BaseAveragedModel)):
            module = module.module
        else:
            return module
