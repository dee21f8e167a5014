"""Training in several processes on a machine without CUDA.

mmengine 0.10's launcher calls ``torch.cuda.set_device`` and hands device ids to DistributedDataParallel whatever the
machine has; both fail without CUDA. With CUDA (or another accelerator) none of this is used.
"""
import functools
from typing import Any, Tuple
from unittest import mock

import torch


def apply() -> Tuple[bool, str]:
    """Let ``--launcher pytorch`` (and slurm, mpi) work on the CPU: gloo instead of NCCL, no device ids."""
    from mmengine.device import get_device
    from mmengine.model import MMDistributedDataParallel
    from mmengine.runner import runner

    init_dist, init_wrapper = runner.init_dist, MMDistributedDataParallel.__init__

    @functools.wraps(init_dist)
    def init_dist_anywhere(launcher: str, backend: str = 'nccl', **kwargs: Any) -> None:
        if get_device() != 'cpu':
            return init_dist(launcher, backend=backend, **kwargs)
        # the process has no CUDA device to choose, and without CUDA the call itself is an error
        with mock.patch.object(torch.cuda, 'set_device', lambda device: None):
            return init_dist(launcher, backend='gloo' if backend == 'nccl' else backend, **kwargs)

    @functools.wraps(init_wrapper)
    def init_wrapper_anywhere(self: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if kwargs.get('device_ids') and all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            kwargs['device_ids'] = None  # DistributedDataParallel refuses ids for a module on the CPU
        init_wrapper(self, module, *args, **kwargs)

    runner.init_dist = init_dist_anywhere
    MMDistributedDataParallel.__init__ = init_wrapper_anywhere
    if get_device() != 'cpu':
        return False, 'there is an accelerator: mmengine works as it is'
    return True, 'no accelerator: several processes talk through gloo'
