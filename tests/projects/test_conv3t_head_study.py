"""projects/conv3t_head: the truth in the head's parameters, agreement and its null, a short training with its page."""
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.resnet2d import random_resnet2d
from helpers.videos import smooth_clip

from tconv_mmaction.backbones.moving_start import velocities
from tconv_mmaction.cli.run_log import read_runs

MODULES = ('conv3t_head', 'real_videos', 'tables', 'truth')


@pytest.fixture
def project(monkeypatch):
    """The modules of the project; their short names are taken away again afterwards."""
    for name in MODULES:
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(ROOT / 'projects/conv3t_head'))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_truth_is_what_a_layer_behind_stride_4_sees(project):
    truth = project.truth
    motion = torch.tensor(list(truth.CLASSES.values()))
    scale, *others = velocities(motion, (1., 4., 4.), (5, 7, 7))
    expected = torch.stack([scale.log(), *others], dim=1)
    np.testing.assert_allclose(truth.true_parameters(), expected.numpy(), atol=1e-6)


def test_clips_move_as_their_classes(project):
    motion = project.truth.motion_of(list(project.truth.CLASSES).index('clockwise'), np.random.default_rng(0))
    assert motion.shape == (12, 4)
    np.testing.assert_allclose(np.diff(motion, axis=0), np.tile([0., 12., 0., 0.], (11, 1)), atol=1e-9)
    grows = project.truth.motion_of(list(project.truth.CLASSES).index('grow'), np.random.default_rng(0))
    np.testing.assert_allclose(grows[1:, 0] / grows[:-1, 0], 1.12)


def test_agreement_and_its_null(project):
    truth, rng = project.truth, np.random.default_rng(0)
    right = truth.true_parameters()
    np.testing.assert_allclose(truth.agreement(0.3 * right), 1)  # half as fast is the same motion
    np.testing.assert_allclose(truth.agreement(-right), -1)
    assert (truth.permutation_p(np.stack([right] * 3), 99) == 0.01).all()
    # filters that know nothing: p-values all over the place
    p = np.array([truth.permutation_p(rng.normal(size=(2, 10, 4)), 49, seed)[4] for seed in range(20)])
    assert p.min() < 0.4 and p.max() > 0.6 and 0.25 < p.mean() < 0.75


def test_one_short_run(project, tmp_path):
    assert project.conv3t_head.main(['--out', str(tmp_path), '--quick']) == 0
    runs = read_runs(tmp_path / 'runs.jsonl')
    assert {(run['clips'], run['head']) for run in runs} == {
        ('motion', 'conv3t'), ('motion', 'i3d'), ('motion', 'conv3t_gain'), ('digits', 'conv3t'), ('digits', 'i3d')}
    assert np.shape(runs[0]['motion']['scale']) == (4, 10) and 'motion' not in runs[1]
    assert (tmp_path / 'classes.png').stat().st_size > 10000
    assert 'counter-clockwise' in (tmp_path / 'tables.md').read_text()


def test_frozen_features_are_those_of_single_frames(project, tmp_path, monkeypatch):
    monkeypatch.setattr(project.real_videos, 'STEM', 8)
    torch.save(random_resnet2d(18), tmp_path / 'resnet18.pth')
    clip = smooth_clip(3, 32, 48).transpose(3, 0, 1, 2)[None]
    maps, single = (project.real_videos.features_of(frames, str(tmp_path / 'resnet18.pth'))
                    for frames in (clip, clip[:, :, 1:2]))
    assert maps.shape == (1, 16, 3, 4, 6) and maps.dtype == torch.float16
    torch.testing.assert_close(maps[:, :, 1:2], single)


def test_one_head_on_features(project, tmp_path, monkeypatch):
    monkeypatch.setattr(project.real_videos, 'STEM', 2)
    names = [f'{i}.avi' for i in range(20)]
    (tmp_path / 'jhmdb').mkdir()
    for part in ('train', 'test'):
        lines = ''.join(f'{name} {i % 5}\n' for i, name in enumerate(names))
        (tmp_path / f'jhmdb/jhmdb5_{part}_split1.txt').write_text(lines)
    maps = torch.randn(20, 4, 4, 3, 3).half()
    maps[torch.arange(20), torch.arange(20) % 4, :] += 3 * (torch.arange(20) % 5 > 0)[:, None, None, None]
    np.savez(tmp_path / 'jhmdb_of_frames.npz', arrays=maps.numpy(), names=np.array(names))
    runs = []
    for head in ('conv3t', 'i3d'):
        key = project.real_videos.key_of('jhmdb', head, 1, 0, 3e-2)
        runs.append({**key, **project.real_videos.run(key, tmp_path, '', str(tmp_path))})
    assert runs[0]['parameters'] == 5 * (4 * 9 + 8 + 1) and min(run['accuracy'] for run in runs) > 30
    assert runs[1]['accuracy'] == runs[1]['accuracy_reversed']  # averages of frames have no order
    assert 'five actions' in project.tables.real_table(runs)
