"""projects/temporal_filters: its data, its statistics by hand, resumption, and a run of two small nets."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script

from tconv_mmaction.datasets import VideoMNIST

TOOL = ROOT / 'projects/temporal_filters/temporal_filters.py'


@pytest.fixture(scope='module')
def study():
    return load_script('projects/temporal_filters/temporal_filters.py', 'temporal_filters_study')  # registers a layer


def fake_runs(**nominal):
    """{net: {seed: accuracy}} -> the data frame; every other test set is 10 lower."""
    return pd.DataFrame([
        dict(net=net, seed=seed, nominal=value, fused_parameters=7,
             **{test: value - 10 for test in ('interval 1', 'interval 4', 'ego-motion')})
        for net, values in nominal.items() for seed, value in values.items()])


HAND = {'11335': {2: 70., 0: 50., 1: 60., 9: 0.}, '33333': {0: 40., 1: 55., 2: 58.}, '11333': {0: 49., 1: 62., 2: 69.}}


def test_paired_difference_by_hand(study):
    # differences 10, 5, 12 (seed 9 has no partner): mean 9, squares about it 1 + 16 + 9 = 26, variance 13
    mean, error, half, n = study.paired_difference(fake_runs(**HAND), '11335', '33333', 'nominal')
    assert n == 3 and mean == pytest.approx(9)
    assert error == pytest.approx((13 / 3)**0.5)
    assert half == pytest.approx(4.302653 * (13 / 3)**0.5, rel=1e-6)  # Student's t, 97.5 %, 2 degrees of freedom
    mean, error, half, n = study.paired_difference(
        fake_runs(**{'11335': {0: 50.}, '33333': {0: 40.}}), '11335', '33333', 'nominal')
    assert (mean, n) == (10, 1) and np.isnan([error, half]).all()


def test_table_by_hand(study):
    table = study.make_table(fake_runs(**HAND))
    assert '| 33333 | 3 | 7 | 51.0 ± 9.6 | 41.0 ± 9.6 | 41.0 ± 9.6 | 41.0 ± 9.6 |' in table  # variance 186 / 2
    bold = '**+9.0 ± 2.1**'  # 9 > 4.30 * 2.08 = 8.96
    assert f'| 11335 − 33333 | {bold} | {bold} | {bold} | {bold} | +1.29 |' in table
    # 1, -2, 1: mean 0, variance 3, error 1
    assert '| 11335 − 11333 | +0.0 ± 1.0 | +0.0 ± 1.0 | +0.0 ± 1.0 | +0.0 ± 1.0 | +0.76 |' in table
    assert '11111' not in table and '(b)' not in table  # nets that have not run


def test_videos(study):
    settings = study.Settings()
    own, labels = study.render('train', 2, 3, study.dataclasses.replace(settings, digits='own'))
    dataset = VideoMNIST([], videos_per_class=2, subset_seed=3, seed=3, num_frames=48, size=36)
    assert np.array_equal(own[5], dataset.frames(5)) and labels.bincount().tolist() == [2] * 10
    shuffled, same_labels = study.render('train', 2, 3, settings)
    assert torch.equal(labels, same_labels)
    # the motions stay, the digits change places: the first frames of 3, 4 and 8 show the digit as it is
    upright = [i for i in range(20) if labels[i] in (3, 4, 8)]
    first = {own[i, 0].tobytes() for i in range(20) if labels[i] not in (2, 5, 6)}
    assert sum(shuffled[i, 0].tobytes() in first for i in upright) >= 2
    assert any(not np.array_equal(shuffled[i, 0], own[i, 0]) for i in upright)


def test_test_sets(study):
    settings = study.Settings(test_videos_per_class=1)
    sets, labels = study.test_sets(settings)
    videos, expected = study.render('test', 1, 0, settings)
    assert torch.equal(labels, expected)
    for name, frames in (('nominal', slice(12, 36, 2)), ('interval 1', slice(18, 30)), ('interval 4', slice(1, 48, 4))):
        clips = torch.from_numpy(videos[:, frames, 4:32, 4:32]) / 255
        assert torch.equal(sets[name][:, 0], clips), name
    moved = (sets['ego-motion'][:, 0] * 255).round().byte().numpy()
    video, clip = videos[4, 12:36:2], moved[4]  # each frame is the same frame of the video, cropped somewhere
    windows = np.lib.stride_tricks.sliding_window_view(video, (28, 28), axis=(1, 2))
    at = [np.argwhere((w == frame).all(axis=(2, 3))) for w, frame in zip(windows, clip)]
    assert all(len(a) for a in at) and len({tuple(a[0]) for a in at}) > 1


def test_regularized_single_filter(study):
    layer = study.RegularizedConv3d(2, 3, (5, 3, 3), padding=(2, 1, 1), eta='inf')
    assert layer.branch_lengths == (5, ) and layer.branch_kernel(0).mean(dim=2).abs().max() < 1e-6
    assert study.RegularizedConv3d(2, 3, (1, 3, 3), eta=2.).branch_lengths == (1, )


def test_resumes(study, tmp_path, monkeypatch):
    calls, broken = [], [True]

    def train(name, seed, settings):
        calls.append((name, seed))
        if broken[0] and len(calls) == 3:
            raise KeyboardInterrupt
        return dict(net=name, seed=seed, nominal=10 * seed + len(name))

    monkeypatch.setattr(study, 'train', train)
    nets, settings = ('11335', 'multi eta=2'), study.Settings(epochs=1)
    with pytest.raises(KeyboardInterrupt):
        study.run_all(tmp_path, nets, range(2), settings, jobs=1)
    assert calls == [('11335', 0), ('multi eta=2', 0), ('11335', 1)]
    assert pd.read_csv(tmp_path / 'runs.csv').nominal.tolist() == [5, 11]
    broken[0] = False
    calls.clear()
    runs = study.run_all(tmp_path, nets, range(3), settings, jobs=1)  # one more seed as well
    assert calls == [('11335', 1), ('multi eta=2', 1), ('11335', 2), ('multi eta=2', 2)]
    assert runs.nominal.tolist() == [5, 11, 15, 21, 25, 31]
    calls.clear()
    study.run_all(tmp_path, nets, range(3), settings, jobs=1)
    assert calls == []
    with pytest.raises(ValueError, match=r"other settings .*'epochs': \(1, 2\)"):
        study.run_all(tmp_path, nets, range(3), study.Settings(epochs=2), jobs=1)
    (tmp_path / 'settings.json').unlink()
    with pytest.raises(ValueError, match='nobody knows how its runs were made'):
        study.run_all(tmp_path, nets, range(3), settings, jobs=1)


def test_quick_run(study, tmp_path, capsys):
    nets = ('11335', 'single eta=inf', 'multi eta=2 + both')
    assert study.main([str(tmp_path), '--quick', '--nets', *nets]) == 0
    runs = pd.read_csv(tmp_path / 'runs.csv').set_index('net')
    assert list(runs.index) == list(nets)
    assert (runs.nominal == runs.unfused_nominal).all()
    # one filter of the same size, and a bias per convolution instead of gain and bias of a norm: of (1+2*4) layers
    # with 8, 2x8, 2x16, 2x32, 2x64 channels
    channels = 8 + 2 * (8 + 16 + 32 + 64)
    assert (runs.fused_parameters[1:] == runs.fused_parameters['11335'] - channels).all()
    assert runs.train_loss.between(1.5, 4).all()
    assert 'single eta=inf − 11335' in (tmp_path / 'table.md').read_text()
    assert (tmp_path / 'figure.png').read_bytes()[:4] == b'\x89PNG'
    assert study.main([str(tmp_path), '--epochs', '3']) == 2
    assert 'error: ' in capsys.readouterr().err


def test_same_seed_same_run(study):
    settings = study.Settings(epochs=1, videos_per_class=2, test_videos_per_class=1, clip_len=4)
    first, again = (study.train('multi eta=2 + both', 4, settings) for _ in range(2))
    other = study.train('multi eta=2 + both', 5, settings)
    assert {k: v for k, v in first.items() if k != 'seconds'} == {k: v for k, v in again.items() if k != 'seconds'}
    assert first['train_loss'] != other['train_loss']


def test_the_page_is_what_the_committed_runs_give(study, tmp_path, capsys):
    results = ROOT / 'projects/temporal_filters/results'
    (tmp_path / 'runs.csv').write_bytes((results / 'runs.csv').read_bytes())
    assert study.main([str(tmp_path), '--table-only']) == 0
    table = (tmp_path / 'table.md').read_text()
    assert table == (results / 'table.md').read_text()
    page = (ROOT / 'docs/temporal_filters_study.md').read_text().splitlines()
    assert not [line for line in table.splitlines() if line.startswith('|') and line not in page]
    assert study.main([str(tmp_path / 'none'), '--table-only']) == 2
    assert 'no run has ended yet' in capsys.readouterr().err
