"""tools/reliability/soak.py: the slopes of samples made by hand, and a real soak of two minutes."""
import json
import runpy

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT

TOOL = runpy.run_path(str(ROOT / 'tools/reliability/soak.py'))


def samples(folder, leak, hours=2., every=30):
    """Main process: ``leak`` MB per hour on 600 MB after a start of 300 MB that grows fast; two workers, flat."""
    rng, rows = np.random.default_rng(0), []
    for number, seconds in enumerate(np.arange(0., hours * 3600, every)):
        iteration = int(seconds)  # one per second
        rss = 600 + leak * seconds / 3600 + rng.normal(0, 2) - 300 * np.exp(-seconds / 60)
        common = dict(seconds=seconds, iteration=iteration, epoch=iteration // 20, pss_mb=1., threads=3)
        rows.append(dict(common, role='main', pid=1, rss_mb=rss, uss_mb=1., files=40 + number % 3, cpu_s=seconds / 2,
                         children=2))
        rows += [dict(common, role='worker', pid=10 + 2 * number + k, rss_mb=400., uss_mb=12. + k, files=20 + k,
                      cpu_s=0.1) for k in (0, 1)]
    folder.mkdir()
    pd.DataFrame(rows, columns=TOOL['COLUMNS']).to_csv(folder / 'samples.csv', index=False)


@pytest.mark.parametrize('leak', [0., 24.])
def test_slopes(tmp_path, leak, capsys):
    folder = tmp_path / 'out'
    samples(folder, leak)
    with (folder / 'samples.csv').open('a') as file:
        file.write('7200.0,7200,36')  # a running soak is in the middle of a line
    TOOL['main']([str(folder), '--report-only'])
    report = json.loads((folder / 'report.json').read_text())
    per_hour, per_step = report['main_rss']['per_hour'], report['main_rss']['per_1000_iterations']
    assert abs(per_hour['slope'] - leak) < per_hour['high'] - per_hour['low'] < 2.  # twice the half of the interval
    assert per_step['slope'] == pytest.approx(per_hour['slope'] / 3.6, rel=1e-9)  # 3600 iterations per hour
    assert (per_hour['low'] > 10) == (leak > 10)
    for name, value in (('worker_rss', 400.), ('worker_uss', 12.5), ('worker_files', 21.)):
        assert report[name]['per_hour'] == dict(slope=0., low=0., high=0.)
        assert report[name]['first_tenth'] == report[name]['last_tenth'] == value
    assert report['workers_seen'] == 480 and report['samples'] == 240 and report['samples_after_warm_up'] == 220
    assert report['iterations'] == 7170 and report['end'] == 'still running'
    assert (folder / 'soak.png').stat().st_size > 10000
    per_cpu = report['main_rss']['per_cpu_hour']
    assert per_cpu['slope'] == pytest.approx(2 * per_hour['slope'], rel=1e-9)  # half of the time is CPU time
    table = (folder / 'table.md').read_text()
    assert table in capsys.readouterr().out and '| a data worker, RSS in MB | 400.0 | 400.0 | +0.00 [' in table


def test_too_short_and_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='run the soak test into this folder first'):
        TOOL['main']([str(tmp_path), '--report-only'])
    samples(tmp_path / 'out', 0., hours=0.2)
    with pytest.raises(ValueError, match='too few for a slope'):
        TOOL['main']([str(tmp_path / 'out'), '--report-only', '--warm-up', '11'])
    with pytest.raises(FileExistsError, match='give a new folder'):
        TOOL['main']([str(tmp_path / 'out')])


@pytest.mark.slow
def test_a_real_soak_of_two_minutes(tmp_path):
    TOOL['main']([str(tmp_path / 'out'), '--hours', '0.04', '--every', '2', '--warm-up', '0.5'])
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert report['iterations'] > 0 and report['workers_seen'] >= 2
    assert report['end']['ended_by_itself'] is None and report['end']['leftover_processes'] == []
