"""Validate and test the fused model instead of the one that is trained.

Multi-branch filters (Kobayashi and Ye, WACV 2024, sec. 3.1) and other re-parameterised layers compute the same in eval
mode once they are one convolution, only faster. The hook does that for a test run without writing anything:
``tools/test.py CONFIG CHECKPOINT --cfg-options custom_hooks="[dict(type='DeployModelHook')]"``. For a fused checkpoint
use tools/deploy/reparameterize_model.py.
"""
from typing import Optional, Tuple

from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..layers import switch_to_deploy
from ..utils.wrappers import unwrap


@HOOKS.register_module()
class DeployModelHook(Hook):
    """Puts a fused copy of the model in the runner while it tests, and the model itself back afterwards.

    It comes after EMAHook, so that what is fused are the averaged weights where there are some.

    Args:
        test: fuse for the test loop.
        val: fuse for the validation loop as well, also during training.

    Raises:
        ValueError: at the start of the test, if no layer of the model can be fused.
    """

    priority = 'LOW'

    def __init__(self, test: bool = True, val: bool = False) -> None:
        self.test, self.val = test, val
        self._original: Optional[Tuple[nn.Module, nn.Module]] = None  # as the runner has it, and inside

    def _fuse(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        count = sum(hasattr(module, 'switch_to_deploy') for module in model.modules())
        if count == 0:
            raise ValueError(f'DeployModelHook: {type(model).__name__} has no layer that can be fused. Remove the hook '
                             'from custom_hooks, or test the config the checkpoint was trained with.')
        training = model.training
        self._original = runner.model, model
        fused = switch_to_deploy(model.eval())
        if is_model_wrapper(runner.model) and runner.model.module is model:
            runner.model.module = fused
        else:  # plain, or inside several wrappers: a test needs none of them
            runner.model = fused
        model.train(training)
        print_log(f'DeployModelHook: {count} layers are fused into plain convolutions', logger='current')

    def _restore(self, runner: Runner) -> None:
        runner.model, model = self._original
        if is_model_wrapper(runner.model) and unwrap(runner.model) is not model:  # the fused one stands in it
            runner.model.module = model
        self._original = None

    def before_test_epoch(self, runner: Runner) -> None:
        if self.test:
            self._fuse(runner)

    def after_test_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        if self.test:
            self._restore(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        if self.val:
            self._fuse(runner)

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        if self.val:
            self._restore(runner)
