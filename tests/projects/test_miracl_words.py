"""projects/miracl_words: the networks, one short training, tables and page."""
import importlib
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.spoken_words import noise_clips, short_lists
from mmengine.registry import init_default_scope
from torch import nn

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.spoken_words import HEIGHT, MARGIN, WIDTH
from tconv_mmaction.cli.study_clips import MEAN, STD, cropped_and_mirrored

PROJECT = ROOT / 'projects/miracl_words'
MODULES = ('miracl_words', 'nets', 'plan', 'tables')


@pytest.fixture
def project(monkeypatch):
    """The modules of the project; their short names are taken away again afterwards."""
    for name in MODULES:
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(PROJECT))
    init_default_scope('mmaction')
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_best_rate_is_taken(project):
    plan = project.plan
    for setting in plan.SETTINGS.values():
        keys = plan.tuning_keys(setting, ['3d'])
        assert [key['lr'] for key in keys] == list(setting.lrs)
        runs = [dict(key, accuracy=accuracy) for key, accuracy in zip(keys, (30., 40., 35.))]
        assert plan.chosen_lr(runs, setting, '3d') == setting.lrs[1]
        assert plan.chosen_lr(runs[:2], setting, '3d') is None and plan.chosen_lr(runs, setting, '3t') is None
        assert all(plan.setting_of(run) is setting for run in runs)
        assert {setting.rate_of(name) for name in project.nets.NETS} <= set(project.nets.NETS)
    assert plan.chosen_lr(runs, plan.NARROW, '3d') is None  # those are of the other setting
    own = dict(plan.tuning_keys(plan.NARROW, ['3t'])[0], accuracy=1.)
    assert plan.tuning_keys(plan.NARROW, ['3t_x10'])[0]['net'] == '3t' and own['epochs'] == 20
    assert plan.key_of(plan.NARROW, '3d', 5, 1, 0, 1e-3, False)['epochs'] == 80  # as many steps


def test_networks(project):
    """Starts, what is trained at which rate, and that 2D sees no order while 3D does."""
    nets, x = project.nets, torch.randn(2, 3, 8, 32, 64)
    torch.manual_seed(0)
    for name, net in nets.NETS.items():
        model = nets.build(name, 10, 16)
        layers = nets.layers_3t(model)
        assert len(layers) == (13 if net.layer == 'Conv3T' else 0)
        groups = nets.parameter_groups(model, name, 1e-4, 1e-3)
        grouped = [id(p) for group in groups for p in group['params']]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
        if layers:
            statistics, _ = nets.motion(model)
            assert (statistics['shift'] > 0.3) == net.moving and (layers[0].gain is not None) == net.gain
            assert layers[0].scale.requires_grad == bool(net.mult)
            if net.mult:
                assert groups[-1]['lr'] == net.mult * 1e-4
    with torch.no_grad():
        for name, ordered in (('2d', False), ('3d', True)):
            model = nets.build(name, 10, 16).eval()
            change = (model(x) - model(x.flip(2))).abs().max().item()
            assert (change > 1e-4) == ordered, (name, change)


def test_motion_by_hand(project):
    from tconv_mmaction.layers import Conv3T
    layer = Conv3T(1, 2, 3)
    with torch.no_grad():
        layer.translate_x.copy_(torch.tensor([[1., 0], [0, 0]]))
        layer.translate_y.copy_(torch.tensor([[0., 0], [0, -3]]))
        layer.rotate.fill_(-0.25)
        layer.scale.fill_(np.exp(0.5))
    assert project.nets.motion(layer)[0] == {'shift': 0.5, 'turn': 0.25, 'log_scale': 0.5}
    assert project.nets.motion(nn.Linear(1, 1)) == (None, [])


def test_a_short_training(project, monkeypatch, tmp_path):
    """Two steps on noise: the line that is written, the same again with the same seed, the classes backwards."""
    words, data = project.miracl_words, short_lists(tmp_path)
    clips = noise_clips(data, words.FRAMES)
    monkeypatch.setattr(words, 'decoded', lambda *_: clips)
    key = dict(project.plan.key_of(project.plan.NARROW, '3t_moving', 20, 1, 0, 1e-3, False), per_class=10, epochs=1)
    run = words.train(key, data, None, '', keep=tmp_path / 'weights')
    kept, = (tmp_path / 'weights').iterdir()
    assert kept.name == '3t_moving-w16-10-fold1-seed0.pth'
    assert sum('cls_head' in name for name in torch.load(kept, weights_only=True)) == 2
    assert run['labels'] == '01' and len(run['predicted']) == len(run['predicted_reversed']) == 2
    assert len(run['losses']) == 1 and run['motion']['shift'] > 0.3 and len(run['moved']) == 3
    assert run['accuracy'] == 50. * sum(a == b for a, b in zip(run['labels'], run['predicted']))
    again = words.train(key, data, None, '')
    assert again['losses'] == run['losses'] and again['moved'] == run['moved']


def test_the_better_optimiser_of_six_tries(project):
    plan = project.plan
    adam = [dict(key, accuracy=value) for key, value in zip(plan.tuning_keys(plan.NARROW, ['3d']), (20., 30., 10.))]
    sgd = [dict(key, accuracy=value) for key, value in zip(plan.tuning_keys(plan.SGD, ['3d']), (30., 5., 1.))]
    assert plan.better_optimiser(adam, '3d') is None and plan.better_optimiser(adam + sgd, '3d') is plan.NARROW
    sgd[2]['accuracy'] = 31.
    assert plan.better_optimiser(adam + sgd, '3d') is plan.SGD and plan.chosen_lr(sgd, plan.SGD, '3d') == 0.1


def test_sgd_decays_weights_but_no_transforms(project):
    model = project.nets.build('3t', 10, 8)
    groups = project.nets.parameter_groups(model, '3t', 0.03, 0.03)
    optimizer = project.miracl_words.optimizer_of(project.plan.SGD, groups)
    assert [group['weight_decay'] for group in optimizer.param_groups] == [0.005, 0.005, 0]
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    layer = project.nets.layers_3t(model)[0]
    assert decay[id(layer.weight)] == 0.005 and decay[id(layer.scale)] == 0
    assert isinstance(project.miracl_words.optimizer_of(project.plan.NARROW, groups), torch.optim.Adam)
    assert project.plan.setting_of(project.plan.key_of(project.plan.SGD, '3d', 20, 1, 0, 0.03, False)).name == 'sgd'


def test_crops_and_backwards(project):
    words = project.miracl_words

    class Reader(nn.Module):
        """Answers with the class in the first frame of the middle crop's corner."""

        def forward(self, x):
            value = x[:, 0, 0, 0, 0] * STD[0] + MEAN[0]
            return nn.functional.one_hot(value.round().long(), 10).float()

    clips = torch.zeros(1, 3, words.FRAMES, HEIGHT + MARGIN, WIDTH + 2 * MARGIN,
                        dtype=torch.uint8)
    clips[0, 0, 0, MARGIN // 2, MARGIN], clips[0, 0, -1, MARGIN // 2, MARGIN] = 3, 7
    assert words.predict(Reader(), clips, False) == [3] and words.predict(Reader(), clips, True) == [7]
    crops = {tuple(cropped_and_mirrored(torch.arange(36 * 72).reshape(1, 1, 1, 36, 72), HEIGHT, WIDTH,
                                        draw)[0, 0, 0, 0, :2].tolist())
             for draw in [torch.Generator().manual_seed(0)] for _ in range(1200)}
    assert len(crops) == 2 * (MARGIN + 1) * (2 * MARGIN + 1)  # every place, mirrored or not


def test_the_page_is_what_the_committed_runs_give(project, tmp_path):
    runs = read_runs(PROJECT / 'results/runs.jsonl')
    page = tmp_path / 'page.md'
    (tmp_path / 'images').mkdir()
    shutil.copy(project.tables.PAGE, page)
    text = project.tables.write_results(runs, tmp_path, page)
    assert text == (PROJECT / 'results/table.md').read_text() == (tmp_path / 'table.md').read_text()
    assert page.read_text() == project.tables.PAGE.read_text()
    for run in runs:  # accuracies are those of the predictions
        if run.get('predicted'):
            right = np.mean([a == b for a, b in zip(run['labels'], run['predicted'])])
            assert run['accuracy'] == pytest.approx(100 * right, abs=1e-3)
