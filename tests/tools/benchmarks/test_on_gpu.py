"""The benchmark for a machine with a GPU: that it runs, on a CPU and with tiny sizes, and what it writes."""
import json
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from helpers.scripts import load_script


def test_parts_fit_in_eight_minutes():
    script = load_script('tools/benchmarks/on_gpu.py')
    assert sum(script.LIMITS.values()) <= script.TOTAL < 480 and set(script.LIMITS) == {'tests', *script.PARTS}


def test_ratio_and_table():
    script = load_script('tools/benchmarks/on_gpu.py')
    assert script.against({'a': dict(wall=2.), 'b': dict(wall=3.)}, 'a', 'b') == dict(ratio=1.5)
    assert script.against({'b': dict(wall=3.)}, 'a', 'b') == {}
    assert script.table([dict(a=1), dict(b=2)]) == ['| a | b |', '| --- | --- |', '| 1 |  |', '|  | 2 |']


def test_without_a_gpu_it_says_so(monkeypatch):
    script = load_script('tools/benchmarks/on_gpu.py')
    monkeypatch.setattr(script.torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit, match='--dry tries the script itself'):
        script.main(['--parts', 'machine'])


def test_a_part_writes_its_rows_one_by_one(monkeypatch, tmp_path):
    script = load_script('tools/benchmarks/on_gpu.py')
    monkeypatch.setattr(script, 'DRY', True)
    monkeypatch.setattr(script, 'DEVICE', 'cpu')
    script.run_part('layers', tmp_path / 'layers.jsonl')
    rows = [json.loads(line) for line in (tmp_path / 'layers.jsonl').read_text().splitlines()]
    assert [row['way'] for row in rows] == 2 * ['nn.Conv3d', 'kernel_triton', 'kernel_product', 'reference']
    assert all(row['ratio'] > 0 for row in rows)

    def fails(say):
        say(what='first', value=1)
        raise RuntimeError('no memory\nand more')

    monkeypatch.setitem(script.PARTS, 'layers', fails)
    with pytest.raises(RuntimeError):
        script.run_part('layers', tmp_path / 'layers.jsonl')
    first, second = (tmp_path / 'layers.jsonl').read_text().splitlines()
    assert json.loads(first) == dict(what='first', value=1)
    assert json.loads(second) == dict(error='RuntimeError: no memory')


def test_what_was_reached_before_a_limit_stays(monkeypatch, tmp_path):
    """The second part of three runs into its limit; the others are in the table, which names the machine."""
    script = load_script('tools/benchmarks/on_gpu.py')

    def stands_in(command, timeout, **others):
        part = command[command.index('--inside') + 1]
        (tmp_path / f'on_gpu/{part}.jsonl').write_text(json.dumps(dict(part=part, ratio=1.25)) + '\n')
        if part == 'layers':
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script, 'machine_name', lambda: 'NVIDIA X')  # asks the system, in a process
    monkeypatch.setattr(script.subprocess, 'run', stands_in)
    assert script.main(['--dry', '--out-dir', str(tmp_path), '--parts', 'machine', 'layers', 'masks']) == 1
    text = (tmp_path / 'on_gpu.md').read_text()
    parts = ['machine', 'layers', 'masks']
    assert text.startswith('on_gpu on NVIDIA X; 20')
    assert [line.split('**')[1] for line in text.splitlines() if line.startswith('**')] == parts
    assert text.count('stopped at its limit') == 1 and all(f'| {part} | 1.25 |' in text for part in parts)


@pytest.mark.slow
def test_dry_run(tmp_path):
    """All parts, from the shell script."""
    done = subprocess.run(['sh', str(ROOT / 'tools/benchmarks/on_gpu.sh'), '--dry', '--out-dir', str(tmp_path)],
                          capture_output=True, text=True, env={**os.environ, 'PYTHON': sys.executable})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    text = (tmp_path / 'on_gpu.md').read_text()
    assert text.startswith('on_gpu on ') and '(dry run)' in text and 'stopped at its limit' not in text
    rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in (tmp_path / 'on_gpu').glob('*.jsonl')}
    assert {row['net'] for row in rows['steps']} == {'3D-ResNet18', '3T-ResNet18'}
    assert all('ratio' in row for row in rows['steps'])
    assert all(float(row['worst_gradient']) < (1e-3 if row['type'] == 'fp32' else .1) for row in rows['errors'])
    assert {row['way'] for row in rows['layers']} == {'nn.Conv3d', 'kernel_triton', 'kernel_product', 'reference'}
