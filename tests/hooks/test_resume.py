"""kill -9 in the middle of a training, ``--resume``, and the weights of a training that nobody touched."""
import multiprocessing
import os
import runpy
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_project import inside, make_project

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='trainings are forked, which no CUDA process can be')


def train_here(folder, arguments, environment):
    with inside(folder), open('train.log', 'w', buffering=1) as log:
        os.environ.update(environment, OMP_NUM_THREADS='1')
        torch.set_num_threads(1)  # a fork does not inherit OpenMP's threads, and a parallel region would wait for them
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        sys.argv = ['train.py', 'tiny.py', '--seed', '0', *arguments]
        try:
            runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
        except SystemExit as error:
            log.flush()
            os._exit(error.code or 0)


def run(folder, *arguments, **environment):
    """tools/train.py in a process forked from this one, which spares the imports; its exit code and what it said."""
    process = multiprocessing.get_context('fork').Process(target=train_here, args=(folder, arguments, environment))
    process.start()
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode, (folder / 'train.log').read_text()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('resume')
    make_project(folder)
    code, said = run(folder, '--work-dir', 'whole')
    assert code == 0, said
    return folder


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize('moment', [dict(KILL_AFTER_EPOCH='1'), dict(KILL_AFTER_ITER='7')],
                         ids=['at the end of an epoch', 'in the middle of one'])
def test_killed_and_resumed_is_bit_for_bit_the_whole_training(whole, moment):
    name, = moment
    code, said = run(whole, '--work-dir', name, **moment)
    assert code == -9, said
    assert (whole / name / 'epoch_1.pth').is_file() and not (whole / name / 'epoch_2.pth').exists()
    code, said = run(whole, '--work-dir', name, '--resume')
    assert code == 0 and 'resumed epoch: 1, iter: 4' in said, said
    first, second = (torch.load(whole / folder / 'epoch_3.pth') for folder in ('whole', name))
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key
    assert (first['state_dict']['backbone.conv1.scale'] != 1).any()
    assert equal(first['optimizer'], second['optimizer'])
    assert equal(first['param_schedulers'], second['param_schedulers'])
    losses = [checkpoint['message_hub']['log_scalars']['train/loss'].data[0] for checkpoint in (first, second)]
    assert len(losses[0]) == 12 and losses[0].tolist() == losses[1].tolist()
