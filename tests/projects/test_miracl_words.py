"""projects/miracl_words: lists that keep speakers apart, the networks, one short training, tables and page."""
import importlib
import shutil
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT, SHARED
from mmengine.registry import init_default_scope
from torch import nn

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.study_clips import MEAN, STD, cropped_and_mirrored

PROJECT = ROOT / 'projects/miracl_words'
MODULES = ('miracl_words', 'nets', 'plan', 'tables')
SPEAKERS = [f'{sex}{number:02}' for sex in 'FM' for number in range(1, 6)]


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


@pytest.fixture
def data(tmp_path):
    """Lists of two words, ten training speakers with three repetitions each, one other for the test."""
    lines = [f'words/{word}/{who}_{i:02}.avi {label}\n' for label, word in enumerate(('begin', 'stop'))
             for who in SPEAKERS for i in range(3)]
    (tmp_path / 'words_train_unseen1.txt').write_text(''.join(lines))
    (tmp_path / 'words_test_unseen1.txt').write_text('words/begin/X01_01.avi 0\nwords/stop/X01_01.avi 1\n')
    return str(tmp_path)


def test_every_speaker_says_as_much(project, data):
    (names, labels), (tested, _) = project.miracl_words.lists(data, 1, 20, 0, tuning=False)
    assert Counter(labels) == {0: 20, 1: 20} and len(set(names)) == 40
    said = Counter((project.miracl_words.speaker(name), label) for name, label in zip(names, labels))
    assert set(said.values()) == {2} and len(said) == 20  # two clips of each word from each of ten speakers
    assert tested == ['words/begin/X01_01.avi', 'words/stop/X01_01.avi']
    assert project.miracl_words.lists(data, 1, 20, 0, False)[0][0] == names
    assert project.miracl_words.lists(data, 1, 20, 1, False)[0][0] != names
    with pytest.raises(ValueError, match='class 0 has 30 clips, fewer than 31'):
        project.miracl_words.lists(data, 1, 31, 0, False)


def test_rates_are_chosen_on_speakers_of_the_training_list(project, data):
    speaker = project.miracl_words.speaker
    (names, _), (tested, _) = project.miracl_words.lists(data, 1, 20, 0, tuning=True)
    held, trained = {speaker(name) for name in tested}, {speaker(name) for name in names}
    assert len(held) == 2 and len(trained) == 8 and not held & trained and 'X01' not in held
    assert len(tested) == 12  # everything they say


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


def test_a_short_training(project, data, monkeypatch, tmp_path):
    """Two steps on noise: the line that is written, the same again with the same seed, the classes backwards."""
    words = project.miracl_words
    rng = np.random.default_rng(0)
    shape = (3, words.FRAMES, words.HEIGHT + words.MARGIN, words.WIDTH + 2 * words.MARGIN)
    clips = {name: rng.integers(0, 256, shape, dtype=np.uint8)
             for part in ('train', 'test') for name in words.read_list(data, part, 1)[0]}
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


def test_crops_and_backwards(project):
    words = project.miracl_words

    class Reader(nn.Module):
        """Answers with the class in the first frame of the middle crop's corner."""

        def forward(self, x):
            value = x[:, 0, 0, 0, 0] * STD[0] + MEAN[0]
            return nn.functional.one_hot(value.round().long(), 10).float()

    clips = torch.zeros(1, 3, words.FRAMES, words.HEIGHT + words.MARGIN, words.WIDTH + 2 * words.MARGIN,
                        dtype=torch.uint8)
    clips[0, 0, 0, words.MARGIN // 2, words.MARGIN], clips[0, 0, -1, words.MARGIN // 2, words.MARGIN] = 3, 7
    assert words.predict(Reader(), clips, False) == [3] and words.predict(Reader(), clips, True) == [7]
    crops = {tuple(cropped_and_mirrored(torch.arange(36 * 72).reshape(1, 1, 1, 36, 72), words.HEIGHT, words.WIDTH,
                                        draw)[0, 0, 0, 0, :2].tolist())
             for draw in [torch.Generator().manual_seed(0)] for _ in range(1200)}
    assert len(crops) == 2 * (words.MARGIN + 1) * (2 * words.MARGIN + 1)  # every place, mirrored or not


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


@pytest.mark.skipif(not (SHARED / 'data/miracl').is_dir(),
                    reason='the clips of MIRACL-VC1 are not beside this checkout')
def test_real_clips(project, tmp_path, monkeypatch):
    words = project.miracl_words
    own = words.read_list(str(SHARED / 'data/miracl'), 'train', 1)[0][:3]
    monkeypatch.setattr(words, 'read_list', lambda root, part, fold: (own, [0] * 3))
    words.decoded.cache_clear()
    clips = words.decoded(str(SHARED / 'data/miracl'), str(tmp_path))
    words.decoded.cache_clear()
    assert sorted(clips) == sorted(own)
    for clip in clips.values():
        assert clip.shape == (3, 8, 36, 72) and clip.std() > 5 and not (clip[:, 0] == clip[:, -1]).all()
