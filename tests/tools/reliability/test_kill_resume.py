"""tools/reliability/kill_resume.py: its comparison sees a single bit, its plans cover every write, and it runs."""
import os

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
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
    plans = tool.make_plans(24, seed=0, epochs=40)
    assert len(plans) == 24 and sum(plan.delay is not None for plan in plans) == 12
    assert {(plan.target, plan.moment) for plan in plans if plan.target} == {
        (target, moment) for target in tool.TARGETS for moment in tool.MOMENTS}


@pytest.mark.parametrize('kills, epochs', [(1, 2), (6, 8), (10, 14), (10, 11), (24, 40)])
def test_the_training_cannot_be_over_before_its_last_kill(tool, kills, epochs):
    for seed in range(40):
        latest = [plan.latest for plan in tool.make_plans(kills, seed, epochs)]
        assert latest == sorted(set(latest)) and len(latest) == kills
        assert [iteration // 4 for iteration in latest] == list(range(epochs - kills, epochs))
    with pytest.raises(ValueError, match=f'{kills} kills need at least {kills + 1} epochs, got {kills}'):
        tool.make_plans(kills, 0, kills)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork, which this system does not have')
def test_a_life_that_is_killed_at_its_latest_iteration(tool, tmp_path):
    """Nothing else would end it: no delay, and no write to wait for."""
    killed, rows = tool.train_killed(tmp_path, 2, [tool.Plan(latest=1), tool.Plan(latest=5)])
    assert [(row['phase'], row['where'], row['epoch'], row['iteration']) for row in rows] == [
        ('training', 'a random moment', 1, 2), ('training', 'a random moment', 2, 6)]
    assert (killed / 'epoch_2.pth').is_file()
    with pytest.raises(RuntimeError, match='ended by itself with 0, after 0 of 1 kills'):
        tool.train_killed(tmp_path, 2, [tool.Plan()])


def test_seeds_that_are_in_the_table_are_not_run_again(tmp_path, monkeypatch, capsys):
    kill_seeds = load_script('tools/reliability/kill_seeds.py')
    monkeypatch.setattr(kill_seeds, 'train_whole', lambda work, epochs: work)
    ran = []

    def one_seed(whole, work, kills, epochs, seed):
        ran.append((kills, epochs, seed))
        if seed == 5:
            raise KeyboardInterrupt
        return dict(kills=kills, epochs=epochs, seed=seed, in_writes=1, files=20, different=int(seed == 4), seconds=1,
                    differences='a.pth: .info, .lr' if seed == 4 else '')

    monkeypatch.setattr(kill_seeds, 'one_seed', one_seed)
    asked = [str(tmp_path / 'a.csv'), '--shape', '6', '8', '--shape', '10', '14', '--seeds', '3']
    with pytest.raises(KeyboardInterrupt):
        kill_seeds.main([*asked, '6'])
    assert ran == [(6, 8, 3), (10, 14, 3), (6, 8, 4), (10, 14, 4), (6, 8, 5)]
    ran.clear()
    assert kill_seeds.main([*asked, '4']) == 1 and ran == []
    assert '4 runs in ' in (said := capsys.readouterr().out) and '32 kills, 80 files compared; 2 runs differ' in said
    assert [row['differences'] for row in kill_seeds.read_table(tmp_path / 'a.csv')] == [''] * 2 + [
        'a.pth: .info, .lr'] * 2


def test_the_numbers_in_the_docs_are_those_of_the_table():
    table = pd.read_csv(ROOT / 'docs/reliability/kill_seeds.csv')
    runs = table.groupby(['kills', 'epochs']).seed.nunique()
    assert (runs >= 30).all() and list(runs.index) == [(6, 8), (10, 14)] and (table.different == 0).all()
    for page in ('docs/reliability.md', 'docs/reliability/crashes.md'):
        text = ' '.join((ROOT / page).read_text().split())
        for (_, epochs), count in runs.items():
            assert f'{count} trainings of {epochs} epochs' in text or f'{count} of {epochs} epochs' in text
        assert f'{table.kills.sum()}' in text and f'{table.in_writes.sum()}' in text
        assert f'all {table.files.sum():,} files equal' in text


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork, which this system does not have')
def test_killed_runs_equal_the_whole_one_and_the_control_does_not(tool, tmp_path, capsys):
    few = ['--kills', '4', '--epochs', '12']
    assert tool.main([*few, '--out-dir', str(tmp_path / 'a')]) == 0
    table = pd.read_csv(tmp_path / 'a/kills.csv')
    assert len(table) == 4 and 'all equal bit for bit' in (tmp_path / 'a/kills.md').read_text()
    assert tool.main([*few, '--out-dir', str(tmp_path / 'b'), '--control']) == 1
    assert 'files differ' in capsys.readouterr().out
