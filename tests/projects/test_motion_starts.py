"""projects/motion_starts: the clips, the networks and rates, one short training, the page."""
import importlib
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from mmengine.registry import init_default_scope

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.layers import Conv3T

PROJECT = ROOT / 'projects/motion_starts'


@pytest.fixture
def starts(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT))
    sys.modules.pop('motion_starts', None)
    init_default_scope('mmaction')
    yield importlib.import_module('motion_starts')
    sys.modules.pop('motion_starts', None)


def test_backwards_a_clip_is_one_of_the_other_class(starts):
    """The square's place and size are mirrored in time; the noise is not of the class."""
    for label in range(4):
        forward, other = (starts.draw_clip(kind, np.random.default_rng(3)) for kind in (label, label ^ 1))
        squares = [(clip.min(-1) >= 120).mean((1, 2)) for clip in (forward, other[::-1])]
        np.testing.assert_array_equal(*squares)
        rows = [[np.flatnonzero((frame.min(-1) >= 120).any(1)).mean() for frame in clip] for clip in (forward, other)]
        assert rows[0] == rows[1][::-1]
    down = (starts.draw_clip(0, np.random.default_rng(0)).min(-1) >= 120).any(2)
    assert down[0].argmax() < down[-1].argmax()


def test_starts_and_rates(starts):
    """Which transforms move, and that only they and the gains have the other rate."""
    torch.manual_seed(0)
    for name, start in starts.STARTS.items():
        model = starts.build(name)
        layers = [module for module in model.modules() if isinstance(module, Conv3T)]
        assert len(layers) == (0 if name == '3d' else 17)
        groups = starts.parameter_groups(model, 1e-3, start.mult)
        assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))
        if layers:
            assert (layers[3].rotate.abs().mean() > 0.1) == ('moving' in name)
            assert (layers[3].weight.std() > 0.5) == name.startswith('paper')
            assert groups[1]['lr'] == start.mult * 1e-3
            more = (name == 'he_gain') - start.log_scale  # log s is learned at the rate of everything else
            assert len(groups[1]['params']) == 17 * (4 + more)


def test_log_scale_starts_where_the_scale_does_and_learns_its_logarithm(starts):
    torch.manual_seed(0)
    plain = starts.build('he_moving')
    torch.manual_seed(0)
    model = starts.build('he_moving_log')
    x = torch.randn(1, 3, 8, 32, 32)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    first, other = (next(m for m in net.modules() if isinstance(m, Conv3T)) for net in (model, plain))
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(first.parametrizations.scale.original.grad, other.scale.detach() * other.scale.grad,
                               rtol=1e-3, atol=1e-5)


def test_a_short_training(starts, monkeypatch):
    monkeypatch.setattr(starts, 'EPOCHS', 1)
    monkeypatch.setattr(starts, 'TRAIN', 4)
    monkeypatch.setattr(starts, 'TEST', 2)
    key = dict(start='he_moving', lr=1e-3, seed=0)
    run = starts.train(key)
    assert len(run['losses']) == 1 and run == starts.train(key)
    assert {run['test'], run['test_reversed']} <= {12.5 * n for n in range(9)}
    assert starts.train(dict(key, seed=1))['losses'] != run['losses']


def test_tables_by_hand(starts):
    """Pairs share a seed: of three runs and two the differences are 10 and 20, 15 ± 12.7062 * 5."""
    runs = [dict(start=start, lr=1e-3, seed=seed, test=value) for start, seed, value in (
        ('he', 0, 50.), ('he', 1, 60.), ('he', 2, 0.), ('he_moving', 1, 80.), ('he_moving', 0, 60.))]
    difference, = starts.difference_table(runs).splitlines()[2:]
    assert difference == '| 3T, He, moving − 3T, He, identity |  | +15.0 ± 63.5 (2) |  |'
    assert starts.table(runs, 'test').splitlines()[2:] == [
        '| 3T, He, identity |  | 37 ± 32 (3) |  |', '| 3T, He, moving |  | 70 ± 14 (2) |  |']


def test_the_plan_begins_with_what_the_page_says_most_about(starts):
    keys = starts.keys()
    assert len(keys) == 13 * 3 * 5 == len({tuple(key.values()) for key in keys})
    assert {key['lr'] for key in keys[:65]} == {1e-3} and {key['seed'] for key in keys[:13]} == {0}
    assert {key['start'] for key in keys[65:115]} == set(starts.MAIN)


def test_the_page_is_what_the_committed_runs_give(starts, tmp_path):
    runs = read_runs(PROJECT / 'results/runs.jsonl')
    page = tmp_path / 'page.md'
    shutil.copy(starts.PAGE, page)
    text = starts.write_results(runs, tmp_path, page)
    assert page.read_text() == starts.PAGE.read_text() and text == (PROJECT / 'results/table.md').read_text()
