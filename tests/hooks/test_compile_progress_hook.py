"""CompileProgressHook: speaks in the first step only, says how long it took, and is silent without compile."""
import threading
import time

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tconv_mmaction.hooks import CompileProgressHook


class Slow(BaseModel):
    """Its first step takes a while, as a compiled one's does."""

    def __init__(self, fails=False):
        super().__init__()
        self.layer, self.steps, self.fails = torch.nn.Linear(1, 1), 0, fails

    def forward(self, x, mode='loss'):
        self.steps += 1
        time.sleep(.5 if self.steps == 1 else 0)
        if self.fails:
            raise RuntimeError('no compiler')
        return dict(loss=self.layer(torch.ones(1, 1)).sum())


def logged(tmp_path, monkeypatch, compile_option, model=None):
    monkeypatch.setattr(torch, 'compile', lambda function, **options: function)  # what it does is not tested here
    runner = Runner(
        model or Slow(), str(tmp_path), DataLoader([dict(x=0)] * 3, batch_size=1),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(optimizer=dict(type='SGD', lr=.1)),
        default_scope='mmaction', log_level='WARNING',
        custom_hooks=[dict(type='CompileProgressHook', interval=.1)], experiment_name=f'{time.monotonic_ns()}',
        cfg=dict(compile=compile_option), default_hooks=dict(logger=None))
    lines = []
    runner.logger.info = lines.append
    try:
        runner.train()
    finally:
        runner.call_hook('after_run')
    return [line for line in lines if 'torch.compile' in line or 'first step took' in line]


@pytest.mark.parametrize('option', [True, dict(backend='inductor')], ids=str)
def test_it_speaks_while_the_first_step_compiles(option, tmp_path, monkeypatch):
    lines = logged(tmp_path, monkeypatch, option)
    assert lines[0].startswith('torch.compile is at work')
    assert 2 <= sum('still at work' in line for line in lines) <= 5  # of at most 5 in half a second
    assert lines[-1].startswith('The first step took 0.') and sum('first step took' in line for line in lines) == 1


@pytest.mark.parametrize('option', [False, dict(disable=True)], ids=str)
def test_without_compile_it_is_silent(option, tmp_path, monkeypatch):
    assert logged(tmp_path, monkeypatch, option) == []


def test_nothing_speaks_after_a_run_that_failed(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match='no compiler'):
        logged(tmp_path, monkeypatch, True, Slow(fails=True))
    for thread in threading.enumerate():
        if thread.name == 'compile_progress':
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize('interval', [0, -1, float('inf'), float('nan'), True, '30'])
def test_interval(interval):
    with pytest.raises(ValueError, match='positive number of seconds, got'):
        CompileProgressHook(interval=interval)
