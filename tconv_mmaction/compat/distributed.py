"""Training in several processes on a machine without CUDA, and resuming under FSDP.

mmengine 0.10's launcher calls ``torch.cuda.set_device`` and hands device ids to DistributedDataParallel and to
FullyShardedDataParallel whatever the machine has; all three fail without CUDA. With CUDA (or another accelerator) none
of this is used. Runner and FlexibleRunner's strategies (DDPStrategy, FSDPStrategy) are both covered.

On any machine, FSDPStrategy hands the arguments of ``optim_state_dict_to_load`` over in the order of PyTorch 2.0, which
later ones refuse, so a training under FSDP could be saved but not resumed.
"""
import functools
import inspect
from typing import Any, Callable, Tuple
from unittest import mock

import torch


def _init_dist_anywhere(init_dist: Callable) -> Callable:
    from mmengine.device import get_device

    @functools.wraps(init_dist)
    def anywhere(launcher: str, backend: str = 'nccl', **kwargs: Any) -> None:
        if get_device() != 'cpu':
            return init_dist(launcher, backend=backend, **kwargs)
        # the process has no CUDA device to choose, and without CUDA the call itself is an error
        with mock.patch.object(torch.cuda, 'set_device', lambda device: None):
            return init_dist(launcher, backend='gloo' if backend == 'nccl' else backend, **kwargs)

    return anywhere


def _wrap_anywhere(init_wrapper: Callable, key: str, on_cpu: Any) -> Callable:
    """``__init__`` of a model wrapper, with the argument that names a CUDA device replaced for a model on the CPU."""

    @functools.wraps(init_wrapper)
    def anywhere(self: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if kwargs.get(key) is not None and all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            kwargs[key] = on_cpu
        init_wrapper(self, module, *args, **kwargs)

    return anywhere


def _keep_on_cpu(init_config: Callable) -> Callable:
    """FSDPStrategy offloads a full state dict to the CPU; torch frees what it would copy if that is there already."""

    @functools.wraps(init_config)
    def anywhere(self: Any, state_dict_cfg: Any) -> None:
        init_config(self, state_dict_cfg)
        for config in (self.state_dict_config, self.optim_state_dict_config):
            config.offload_to_cpu = False

    return anywhere


def _load_optim_state_dict(self: Any, state_dict: dict) -> None:
    """FSDPStrategy's method with today's order of the arguments."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    optimizer = self.optim_wrapper.optimizer
    self.optim_wrapper.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(
        model=self.model, optim=optimizer, optim_state_dict=state_dict))


def apply() -> Tuple[bool, str]:
    """Let ``--launcher pytorch`` (and slurm, mpi) work on the CPU: gloo instead of NCCL, no device ids; FSDP resume."""
    from mmengine._strategy import distributed as strategy
    from mmengine._strategy.fsdp import FSDPStrategy
    from mmengine.device import get_device
    from mmengine.model import MMDistributedDataParallel
    from mmengine.model.wrappers import MMFullyShardedDataParallel
    from mmengine.runner import runner
    from torch.distributed.fsdp import FullyShardedDataParallel

    if next(iter(inspect.signature(FullyShardedDataParallel.optim_state_dict_to_load).parameters)) == 'model':
        FSDPStrategy.load_optim_state_dict = _load_optim_state_dict
    if get_device() != 'cpu':
        return False, 'there is an accelerator: mmengine works as it is, but for resuming under FSDP'
    runner.init_dist = _init_dist_anywhere(runner.init_dist)
    strategy.init_dist = _init_dist_anywhere(strategy.init_dist)
    # DistributedDataParallel refuses ids for a module on the CPU; FullyShardedDataParallel takes a number for a CUDA id
    MMDistributedDataParallel.__init__ = _wrap_anywhere(MMDistributedDataParallel.__init__, 'device_ids', None)
    MMFullyShardedDataParallel.__init__ = _wrap_anywhere(
        MMFullyShardedDataParallel.__init__, 'device_id', torch.device('cpu'))
    FSDPStrategy._init_state_dict_cfg = _keep_on_cpu(FSDPStrategy._init_state_dict_cfg)
    return True, 'no accelerator: several processes talk through gloo'
