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
