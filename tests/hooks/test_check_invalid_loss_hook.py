"""CheckInvalidLossHook raises on NaN and inf at its interval, and at no other time."""
from types import SimpleNamespace

import pytest
import torch
from mmaction.registry import HOOKS


def test_raises_at_the_interval():
    hook = HOOKS.build(dict(type='CheckInvalidLossHook', interval=2))
    bad = dict(loss=torch.tensor(float('nan')))
    hook.after_train_iter(SimpleNamespace(iter=0), 0, None, bad)  # iteration 1 is not looked at
    hook.after_train_iter(SimpleNamespace(iter=1), 1, None, dict(loss=torch.tensor(1.)))
    with pytest.raises(FloatingPointError, match="iteration 2: {'loss': nan}.*lower learning rate"):
        hook.after_train_iter(SimpleNamespace(iter=1), 1, None, bad)
    with pytest.raises(FloatingPointError, match='inf'):
        hook.after_train_iter(SimpleNamespace(iter=3), 3, None, dict(loss=torch.tensor(float('inf'))))
    with pytest.raises(ValueError, match='interval must be at least 1'):
        HOOKS.build(dict(type='CheckInvalidLossHook', interval=0))
