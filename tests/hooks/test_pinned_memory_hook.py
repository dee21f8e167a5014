"""PinnedMemoryHook: what it sets where there is a GPU, and that it sets nothing elsewhere."""
from types import SimpleNamespace

import pytest
import torch
from mmaction.registry import HOOKS, MODELS
from torch import nn
from torch.utils.data import DataLoader


@pytest.mark.parametrize('has_gpu', [True, False])
@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_loader_and_preprocessor(has_gpu, stage, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: has_gpu)
    model = nn.Module()
    model.data_preprocessor = MODELS.build(dict(type='ActionDataPreprocessor'))
    loader = DataLoader(torch.arange(6), batch_size=2)
    runner = SimpleNamespace(model=model, **{f'{stage}_dataloader': loader})
    getattr(HOOKS.build(dict(type='PinnedMemoryHook')), f'before_{stage}')(runner)
    assert loader.pin_memory is has_gpu and model.data_preprocessor._non_blocking is has_gpu
    monkeypatch.undo()
    loader.pin_memory = False  # no GPU here
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]


def test_without_a_preprocessor_of_mmengine(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    runner = SimpleNamespace(model=nn.Linear(2, 2), train_dataloader=[1, 2])
    HOOKS.build(dict(type='PinnedMemoryHook')).before_train(runner)
