"""projects/conv3t_head: the truth in the head's parameters, agreement and its null, a short training with its page."""
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT

from tconv_mmaction.backbones.moving_start import velocities
from tconv_mmaction.cli.run_log import read_runs

MODULES = ('conv3t_head', 'tables', 'truth')


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
