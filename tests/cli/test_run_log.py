"""The log of finished runs: resumed, torn, shared by two processes."""
import json

import pytest

from tconv_mmaction.cli.run_log import append_run, as_table, is_done, read_runs, run_all, time_text


def test_what_is_there_is_not_run_again(tmp_path):
    log, calls, said = tmp_path / 'new/runs.jsonl', [], []
    keys = [dict(net=net, channels=[6, 16], seed=seed) for seed in (0, 1) for net in ('a', 'b')]

    def run(key):
        calls.append((key['net'], key['seed']))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return dict(accuracy=len(calls))

    with pytest.raises(KeyboardInterrupt):
        run_all(log, keys, run, say=said.append)
    assert [(r['net'], r['seed'], r['accuracy']) for r in read_runs(log)] == [('a', 0, 1), ('b', 0, 2)]
    assert run_all(log, keys, run, say=said.append) == (2, 0)
    assert calls == [('a', 0), ('b', 0), ('a', 1), ('a', 1), ('b', 1)]
    assert said[0] == '0 of 4 runs are there, 4 to do' and '2 of 4 runs are there, 2 to do' in said
    assert run_all(log, keys, run, say=said.append) == (0, 0)
    assert as_table(read_runs(log)).channels.tolist() == [(6, 16)] * 4
    assert is_done(read_runs(log), dict(net='a', seed=1)) and not is_done(read_runs(log), dict(net='a', seed=2))


def test_another_process_s_run_is_not_done_twice(tmp_path):
    log = tmp_path / 'runs.jsonl'

    def run(key):
        if key['seed'] == 0:  # meanwhile somebody else does the next one
            append_run(log, dict(seed=1, by='other'))
        return dict(by='us')

    run_all(log, [dict(seed=seed) for seed in range(3)], run, say=lambda text: None)
    assert [(r['seed'], r['by']) for r in read_runs(log)] == [(1, 'other'), (0, 'us'), (2, 'us')]


def test_a_torn_last_line_is_left_out_and_replaced(tmp_path):
    log = tmp_path / 'runs.jsonl'
    append_run(log, dict(seed=0, x=1.5))
    whole = log.read_bytes()
    log.write_bytes(whole + json.dumps(dict(seed=1, x=2)).encode()[:7])
    with pytest.warns(UserWarning, match='the last line is incomplete'):
        assert read_runs(log) == [dict(seed=0, x=1.5)]
    append_run(log, dict(seed=1, x=3))
    assert read_runs(log) == [dict(seed=0, x=1.5), dict(seed=1, x=3)]
    log.write_text('{"seed": 0}\nno run\n{"seed": 1}\n')
    with pytest.raises(ValueError, match='line 2, is not the record of a run'):
        read_runs(log)
    assert read_runs(tmp_path / 'none.jsonl') == []


def test_time_left_follows_the_costs(tmp_path, monkeypatch):
    """Runs of 1, 2 and 3 units, 10 s each unit: after the first 50 s are left, after the second 30 s."""
    now, said = [0.], []
    monkeypatch.setattr('tconv_mmaction.cli.run_log.time.time', lambda: now[0])

    def run(key):
        now[0] += 10 * key['size']
        return {}

    done = run_all(tmp_path / 'runs.jsonl', [dict(size=size) for size in (1, 2, 3)], run, cost=lambda key: key['size'],
                   deadline=25., say=said.append)
    assert '10 s, about 50 s left' in said[1] and '20 s, about 30 s left' in said[2]
    assert done == (2, 1) and said[-1] == 'the time is over: 1 runs are not begun'
    assert [time_text(s) for s in (45, 720, 11520)] == ['45 s', '12 min', '3.2 h']
