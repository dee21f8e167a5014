"""projects/learned_motion: clips, starts from a 2D network, words, tables."""
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.resnet2d import random_resnet2d
from helpers.videos import smooth_clip
from mmengine.registry import init_default_scope

MODULES = ('learned_motion', 'words', 'clips', 'nets', 'tables')


@pytest.fixture
def project(monkeypatch):
    """The modules of the project; their short names are taken away again afterwards."""
    for name in MODULES:
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(ROOT / 'projects/learned_motion'))
    init_default_scope('mmaction')
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name, None)


def test_motion_clips_are_balanced_whatever_the_digit(project):
    x, y = project.clips.clips('motion', 'train', 3, 0, None)
    assert x.shape == (30, 16, 28, 28) and torch.bincount(y).tolist() == [3] * 10
    digits = project.clips.clips('digits', 'train', 3, 0, None)
    assert torch.equal(digits[0][:, 0][digits[1] == 3][0], digits[0][digits[1] == 3][0, 0])
    assert not torch.equal(y, digits[1]) and torch.equal(project.clips.clips('motion', 'train', 3, 0, None)[0], x)
    with pytest.raises(ValueError, match='kind of clips'):
        project.clips.clips('words', 'train', 3, 0, None)


def test_a_still_clip_gives_what_a_frame_gives_the_2d_net(project):
    torch.manual_seed(0)
    flat, model = project.nets.LeNet2d(), project.nets.build('3t')
    project.nets.inflate(model, flat)
    frame = torch.rand(1, 1, 28, 28)
    still = model.backbone.conv1(frame[:, :, None].expand(-1, -1, 16, -1, -1))
    torch.testing.assert_close(still[:, :, 8], flat.conv1(frame))  # a frame with all five slices within the clip


def test_runs_and_tables(project, tmp_path):
    lm = project.learned_motion
    key = {**lm.key_of('start', '3t', 'motion', 0, 1e-3, start='flow'), 'per_class': 2, 'epochs': 1}
    runs = [{**key, 'start': start, **lm.run({**key, 'start': start}, None)} for start in ('identity', 'flow')]
    assert runs[0]['started'] == (0., 0., 0.) and min(runs[1]['started']) > 0
    text = project.tables.write_results(runs, tmp_path, None)
    assert 'velocities of the training clips' in text and 'No runs yet.' in text


def test_gains_are_compared_with_3d_and_with_the_same_start_by_hand(project):
    """Over two seeds: with gains 1 and 3 points behind 3D, -2 ± 12.7062 * 1; 4 and 6 ahead of 3T without."""
    runs = [dict(part='gains', videos='motion', tuning=False, net=net, seed=seed, test=test, parameters=1, lr=1e-3)
            for net, tests in (('3d', (90., 93.)), ('3t', (85., 84.)), ('3t_gain', (89., 90.)))
            for seed, test in enumerate(tests)]
    *_, last = project.tables.gains_table(runs, 'motion').splitlines()
    assert last.endswith('| 2 | 89.5 ± 0.7 | -2.0 ± 12.7 | +5.0 ± 12.7 |')


def test_words_start_as_asked_from_a_2d_net(project, tmp_path, monkeypatch):
    words = project.words
    words.decoded.cache_clear()
    for name, value in dict(CHANNELS=8, PER_CLASS=1, EPOCHS=1).items():
        monkeypatch.setattr(words, name, value)
    torch.save(random_resnet2d(18), tmp_path / 'resnet18.pth')
    names = [f'{word}.avi' for word in range(10)]
    for part in ('train', 'test'):
        (tmp_path / f'words_{part}_unseen1.txt').write_text(''.join(f'{n} {i}\n' for i, n in enumerate(names)))
    clips = np.stack([smooth_clip(8, 36, 72) for _ in names]).transpose(0, 4, 1, 2, 3)
    np.savez(tmp_path / 'words_8x36x72.npz', arrays=clips, names=np.array(names))
    key = dict(words.keys()[0], start='flow')
    found = words.run(key, str(tmp_path), str(tmp_path / 'resnet18.pth'), str(tmp_path))
    assert min(found['started']) > 0 and 0 <= found['reversed'] <= 100
    assert words.mean_motion(words.build(str(tmp_path / 'resnet18.pth'))) == (0., 0., 0.)


def test_words_are_paired_by_fold_and_seed(project, tmp_path):
    runs = [dict(part='words', start=start, fold=fold, seed=0, test=test, reversed=10., started=(0., 0., 0.),
                 motion=(0., 0., 0.)) for start, fold, test in (
                     ('identity', 1, 20.), ('identity', 2, 30.), ('flow', 2, 34.), ('flow', 1, 22.))]
    assert '+3.0 ± 12.7' in project.tables.words_table(runs)  # 2 and 4: 3 ± 12.706 * 1
