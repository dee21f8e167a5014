"""projects/jhmdb_nets/jhmdb_nets.py: its networks, its clips, its tables by hand, and the command on drawn videos."""
import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.videos import write_film

from tconv_mmaction.layers import Conv3T, MultiBranchConv3d

PROJECT = ROOT / 'projects/jhmdb_nets'


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT))
    yield importlib.import_module('jhmdb_nets')
    sys.modules.pop('jhmdb_nets', None)


@pytest.fixture
def data(tmp_path):
    """Two videos of 15 frames, one lighter on the left and one on the right, whose grey value grows with time."""
    root = tmp_path / 'data'
    for folder, name, side in (('sit', 'a', slice(0, 40)), ('stand', 'b', slice(40, 80))):
        frames = np.stack([np.full((60, 80, 3), 10 * t, np.uint8) for t in range(15)])
        frames[:, :, side] += 60
        write_film(root / f'videos/{folder}/{name}.avi', frames)
    for split in (1, 2, 3):
        for part in ('train', 'test'):
            (root / f'sitstand_{part}_split{split}.txt').write_text('sit/a.avi 0\nstand/b.avi 1\n')
    return root


@pytest.mark.parametrize('name, layer, count', [
    ('3t', Conv3T, 17), ('3d', Conv3T, 0), ('3t_fast', Conv3T, 17), ('r2plus1d', Conv3T, 0),
    ('i3d_multi', MultiBranchConv3d, 17), ('clstm', Conv3T, 0)])
def test_networks_learn_two_clips(study, name, layer, count):
    """Each is made of the layers of its paper, and a few steps lower the loss."""
    settings = study.Settings('', epochs=4, clip_len=4, height=24, width=32, base_channels=4)
    torch.manual_seed(0)
    model = study.build(name, 2, settings)
    assert sum(isinstance(module, layer) for module in model.modules()) == count
    frames = torch.randint(0, 256, (4, 3, 4, 24, 32), dtype=torch.uint8)
    losses = study.fit(model, frames, torch.tensor([0, 1, 0, 1]), 1e-3, settings)
    assert len(losses) == 4 and losses[3] < losses[0]


def test_predictions_of_reversed_clips(study):
    class Last(torch.nn.Module):
        """The class is the value of the last frame."""

        def forward(self, x):
            return torch.nn.functional.one_hot((x[:, 0, -1, 0, 0] > 0).long(), 2)

    frames = torch.zeros(3, 3, 5, 2, 2, dtype=torch.uint8)
    frames[0, :, -1], frames[1, :, 0] = 200, 200
    assert study.predict(Last(), frames, False) == [1, 0, 0]
    assert study.predict(Last(), frames, True) == [0, 1, 0]
    assert study.normalized(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1., 1.]


def test_clips_cover_the_video(study, data, tmp_path):
    settings = study.Settings(str(data), clip_len=8, height=24, width=32)
    for _ in range(2):  # decoded, then read from the file
        study.clips.cache_clear()
        frames, labels = study.clips('sitstand', 'train', 1, settings, str(tmp_path))
        assert frames.shape == (2, 3, 8, 24, 32) and labels.tolist() == [0, 1]
        # frames round(k * 14 / 7) = 0, 2, ..., 14, ten grey values per frame; the lighter half is left, then right
        wanted = 20 * torch.arange(8.)
        for clip, dark, light in ((frames[0], slice(20, 32), slice(0, 12)), (frames[1], slice(0, 12), slice(20, 32))):
            torch.testing.assert_close(clip[..., dark].float().mean(dim=(0, 2, 3)), wanted, rtol=0, atol=3.)
            torch.testing.assert_close(clip[..., light].float().mean(dim=(0, 2, 3)), wanted + 60, rtol=0, atol=3.)
        for path in (data / 'videos').rglob('*.avi'):
            path.unlink()


def run(model, split, normal, backwards, trained, label=(0, 0, 1, 1), data='sitstand'):
    tests = [dict(clips=part, order=order, label=list(label), predicted=list(predicted)) for part, order, predicted in
             (('test', 'normal', normal), ('test', 'reversed', backwards), ('train', 'normal', trained))]
    return dict(data=data, model=model, split=split, parameters=1234, losses=[0.9, 0.5], tests=tests, cpu_seconds=1.)


def test_table_by_hand(study):
    runs = [run('3t', 1, (0, 0, 1, 0), (1, 1, 1, 1), (0, 0, 1, 1)), run('3t', 2, (1, 0, 0, 0), (1, 0, 0, 0), (0, ) * 4),
            run('clstm', 1, (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1))]
    rows = study.result_rows(runs)
    assert rows.right.tolist() == [3, 2, 4, 1, 1, 2, 2, 2, 3]
    assert rows.accuracy_low[2] == pytest.approx(0.025**0.25)  # all four right: the exact interval ends at 1
    assert rows.f1[6] == pytest.approx(1 / 3)  # 2*2 / (2*2 + 2) for one class, 0 for the other
    results = pd.concat([rows, study.majority_rows(runs)])
    table = study.table(results, study.change_rows(runs), study.loss_rows(runs))
    assert '### sitstand' in table and 'jhmdb5' not in table and 'training/test clips: 4/4, 4/4' in table
    assert '| 3T-ResNet18 | 1,234 | 0.50 ± 0.35 | 0.75, 0.25 | 0.47 ± 0.38 | 0.38 ± 0.18 | 0.75 ± 0.35 |' in table
    assert '| C-LSTM | 1,234 | 0.50 | 0.50 | 0.33 | 0.50 | 0.75 | 0.50 |' in table
    assert '| always the majority of the training clips |  | 0.50 ± 0.00 | 0.50, 0.50 | 0.33 ± 0.00 |' in table
    # three of eight answers change: two right ones become wrong, one wrong one right
    assert '| 3T-ResNet18 | 8 | 3 | 2 | 1 | 1.000 |' in table and '| C-LSTM | 4 | 0 | 0 | 0 |  |' in table
    losses = study.loss_rows(runs)
    assert losses[['epoch', 'loss']].values[:2].tolist() == [[1, 0.9], [2, 0.5]] and len(losses) == 6


def test_the_command_resumes(study, data, tmp_path, capsys, monkeypatch):
    arguments = [str(tmp_path / 'out'), '--data-root', str(data), '--data', 'sitstand', '--nets', '3t_fast', '3d',
                 '--splits', '1', '2', '--epochs', '1', '--base-channels', '2']
    original, calls = study.train, []

    def train(*job):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(job[:3])
        return original(*job)

    monkeypatch.setattr(study, 'train', train)
    with pytest.raises(KeyboardInterrupt):
        study.main(arguments)
    calls.clear()
    monkeypatch.setattr(study, 'train', lambda *job: calls.append(job[:3]) or original(*job))
    assert study.main(arguments) == 0
    # 3d of split 1 was there; the higher learning rate comes last
    assert calls == [('sitstand', '3d', 2), ('sitstand', '3t_fast', 1), ('sitstand', '3t_fast', 2)]
    assert '4 runs' not in capsys.readouterr().err
    kept = json.loads((tmp_path / 'out/runs/sitstand_3d_split1.json').read_text())
    assert [test['label'] for test in kept['tests']] == [[0, 1]] * 3 and len(kept['losses']) == 1
    assert len((tmp_path / 'out/results.csv').read_text().splitlines()) == 1 + 4 * 3 + 2
    assert (tmp_path / 'out/table.md').is_file()
    assert study.main([*arguments[:-3], '2', '--base-channels', '2']) == 2
    assert "'epochs': 1" in capsys.readouterr().err
    assert study.main([str(tmp_path / 'new'), '--data-root', str(tmp_path)]) == 2
    assert '--data-root must have videos/' in capsys.readouterr().err


def test_the_page_is_what_the_committed_files_give(study, tmp_path, capsys):
    for path in (PROJECT / 'results').glob('*.csv'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert study.main([str(tmp_path), '--table-only']) == 0
    table = (tmp_path / 'table.md').read_text()
    assert table == (PROJECT / 'results/table.md').read_text()
    page = (ROOT / 'docs/jhmdb_nets.md').read_text().splitlines()
    assert not [line for line in table.splitlines() if line.startswith('|') and line not in page]
    (tmp_path / 'changes.csv').unlink()
    assert study.main([str(tmp_path), '--table-only']) == 2
    assert 'has no changes.csv' in capsys.readouterr().err
