"""Stop a training whose loss is no number any more."""
from typing import Optional

import torch
from mmaction.registry import HOOKS
from mmengine.hooks import Hook


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Checks the loss every ``interval`` iterations; MMDetection has one of the same name, mmaction2 has none.

    Raises:
        FloatingPointError: if the loss is NaN or infinite. Checkpoints already written stay.
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'CheckInvalidLossHook: interval must be at least 1 iteration, got {interval}.')
        self.interval = interval

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        if not self.every_n_train_iters(runner, self.interval) or outputs is None:
            return
        bad = {name: value.item() for name, value in outputs.items()
               if torch.is_tensor(value) and value.numel() == 1 and not torch.isfinite(value)}
        if bad:
            raise FloatingPointError(
                f'iteration {runner.iter + 1}: {bad}. The training has diverged. Use a lower learning rate (the '
                'temporal parameters of Conv3T need a lower one than the rest, see paramwise_cfg in docs/configs.md), '
                'clip gradients (optim_wrapper.clip_grad), or look for bad input.')
