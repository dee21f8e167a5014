"""Batches on their way to a GPU while the host goes on.

A batch of 32 clips of 30 frames of 150x224 is 97 MB in uint8. From ordinary memory the driver copies it piece by piece
through a buffer of its own, and the host waits; from page-locked memory the device fetches it by itself. In a config
that is two settings, and one of them cannot be given: mmaction2's ActionDataPreprocessor does not pass ``non_blocking``
on. PyTorch warns about page-locked memory where there is no GPU, so the hook asks first.
"""
from typing import Optional

import torch
from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, is_model_wrapper
from mmengine.runner import Runner


@HOOKS.register_module()
class PinnedMemoryHook(Hook):
    """Sets ``pin_memory`` of the data loaders and ``non_blocking`` of the data preprocessor, if there is a CUDA device.

    It does nothing without one. A training loop by iterations makes its iterator before any hook runs: give
    ``train_dataloader.pin_memory=True`` there.
    """

    def _pin(self, runner: Runner, loader: Optional[object]) -> None:
        if not torch.cuda.is_available():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        preprocessor = getattr(model, 'data_preprocessor', None)
        if isinstance(preprocessor, BaseDataPreprocessor):
            preprocessor._non_blocking = True
        if isinstance(loader, torch.utils.data.DataLoader) and not loader.pin_memory:
            loader.pin_memory = True
            print_log('PinnedMemoryHook: batches are loaded into page-locked memory', logger='current')

    def before_train(self, runner: Runner) -> None:
        """Before the first batch of the training."""
        self._pin(runner, runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Before the first batch of a validation."""
        self._pin(runner, runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Before the first batch of a test."""
        self._pin(runner, runner.test_dataloader)
