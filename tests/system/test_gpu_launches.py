"""What a GPU would be asked to do, counted without one (tests/helpers/fake_cuda): launches, and no waiting in between.

Each case is a training step (forward and backward) on fake CUDA tensors, or a function of helpers/fake_cuda/cases.py.
Counted are operators; docs/recipes.md has the table. The bounds leave a little room for other versions of PyTorch.
"""
import json
import os
import subprocess
import sys

import pytest
from helpers.fake_cuda.build import why_not
from helpers.paths import ROOT

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
BOUNDS = {
    '3T-R18': 460, '3T-R18:bf16': 460, '3T-R18:triton': 330, '3T-R18:bf16:triton': 370, '3T-R18-gain:triton': 330,
    '3T-GoogLeNet:triton': 700, 'C-LSTM:triton': 700, 'C-LSTM:bf16:triton': 700, 'freeze': 30, 'watch_hook': 60,
}
AGAIN = {'3T-R18:again': 460, '3T-R18:bf16:again:triton': 370, 'C-LSTM:again': 900, 'C-LSTM:bf16:again:triton': 700}
SWEEP = {
    '3D-R18': 200, '3D-R18:bf16': 260, '3T-GoogLeNet': 720, '3T-GoogLeNet:bf16:triton': 700,
    '3D-GoogLeNet': 520, 'C-LSTM-clip:triton': 400, 'I3D-R50': 450, 'I3D-R50-mb:again': 650, 'S3D-R50': 650,
    'R(2+1)D': 400, 'LeNet5-3T:triton': 100, 'layers': 5000, 'layers:triton': 5000,
}


def count(cases):
    """{case: what was counted}, from one process."""
    paths = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run([sys.executable, '-m', 'helpers.fake_cuda.cases', *cases], capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))})
    assert done.returncode == 0, done.stderr[-3000:]
    return {row['case']: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope='module')
def counted():
    return count([*BOUNDS, *AGAIN, 'mask_search', 'params_hook'])


@pytest.mark.parametrize('case', BOUNDS)
def test_launches_are_few(counted, case):
    assert 0 < counted[case]['launches'] <= BOUNDS[case]


def test_nothing_waits_for_the_device(counted):
    """But for the one copy of each hook's check or record."""
    one = {'_to_copy between host and device': 1}
    for case, row in counted.items():
        assert row['waits'] == (one if 'hook' in case else {}) and not row['mixed'], row


@pytest.mark.parametrize('case', AGAIN)
def test_a_second_step_can_be_captured_as_a_graph(counted, case):
    """A CUDA graph holds launches alone: in a step after the first nothing goes between host and device."""
    row = counted[case]
    assert 0 < row['launches'] <= AGAIN[case]
    assert row['copies'] == 0 and not row['waits'] and not row['mixed']


def test_the_counter_sees_copies_and_waits(counted):
    assert counted['params_hook']['copies'] >= 1 and counted['params_hook']['waits']


@pytest.mark.slow
def test_every_net_and_layer():
    for case, row in count(SWEEP).items():
        assert 0 < row['launches'] <= SWEEP[case] and not row['waits'] and not row['mixed'], row
