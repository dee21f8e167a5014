"""tools/reliability/kill_resume.py: its comparison sees a single bit, its plans cover every write, and it runs."""
import os

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.scripts import load_script


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/reliability/kill_resume.py')


def test_the_comparison_sees_a_bit_a_key_a_type_and_a_length(tool):
    weights = torch.tensor([0., 1., float('nan')])
    other = weights.clone()
    assert tool.differences(dict(w=weights, lr=[.1, None]), dict(w=other, lr=[.1, None])) == []
    other[0] = -0.
    assert tool.differences(dict(w=weights), dict(w=other)) == ['.w']
    assert tool.differences(dict(w=weights), dict(w=weights.double())) == ['.w']
    assert tool.differences(dict(a=1), dict(b=1)) == [": keys ['a', 'b']"]
    assert tool.differences(dict(a=[1, 2]), dict(a=[1])) == ['.a: 2 and 1 entries']
    assert tool.differences(dict(a=float('nan'), b=.1), dict(a=float('nan'), b=np.nextafter(.1, 1))) == [
        f'.b: 0.1 and {np.nextafter(.1, 1)!r}']
    assert tool.differences(dict(a=np.arange(3)), dict(a=np.arange(3) + 1)) == ['.a']


def test_files_that_one_run_lacks_and_temporary_files_are_differences(tool, tmp_path):
    for run in ('whole', 'killed'):
        (tmp_path / run / 'temporal_params').mkdir(parents=True)
        np.savez(tmp_path / run / 'temporal_params/epoch_1.npz', scale=np.ones(2))
        (tmp_path / run / 'last_checkpoint').write_text(f'{tmp_path / run}/epoch_1.pth')
        (tmp_path / run / '20260101_000000').mkdir()
        (tmp_path / run / '20260101_000000/a.log').write_text(run)
    rows = tool.compare(tmp_path / 'whole', tmp_path / 'killed')
    assert [(row['file'], row['differences']) for row in rows] == [
        ('last_checkpoint', ''), ('temporal_params/epoch_1.npz', '')]
    (tmp_path / 'killed/.epoch_2.pth.0123abcd.tmp').write_text('half')
    np.savez(tmp_path / 'killed/temporal_params/epoch_1.npz', scale=np.array([1, 1 + 1e-16 + 2.3e-16]))
    rows = {row['file']: row['differences'] for row in tool.compare(tmp_path / 'whole', tmp_path / 'killed')}
    assert rows['.epoch_2.pth.0123abcd.tmp'] == 'not in the uninterrupted run'
    assert rows['temporal_params/epoch_1.npz'] == '.scale' and rows['last_checkpoint'] == ''


def test_every_write_is_met_at_every_moment(tool):
    plans = tool.make_plans(24, seed=0)
    assert len(plans) == 24 and sum(plan.delay is not None for plan in plans) == 12
    assert {(plan.target, plan.moment) for plan in plans if plan.target} == {
        (target, moment) for target in tool.TARGETS for moment in tool.MOMENTS}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork, which this system does not have')
def test_killed_runs_equal_the_whole_one_and_the_control_does_not(tool, tmp_path, capsys):
    few = ['--kills', '4', '--epochs', '12']
    assert tool.main([*few, '--out-dir', str(tmp_path / 'a')]) == 0
    table = pd.read_csv(tmp_path / 'a/kills.csv')
    assert len(table) == 4 and 'all equal bit for bit' in (tmp_path / 'a/kills.md').read_text()
    assert tool.main([*few, '--out-dir', str(tmp_path / 'b'), '--control']) == 1
    assert 'files differ' in capsys.readouterr().out
