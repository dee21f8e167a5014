"""kill -9 in the middle of a training, ``--resume``, and the weights of a training that nobody touched."""
import pytest
import torch
from tiny_project import ROOT, make_project, run

TRAIN = ['python', ROOT / 'tools/train.py', 'tiny.py', '--seed', '0']


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('resume')
    make_project(folder)
    run([*TRAIN, '--work-dir', 'whole'], folder)
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
    done = run([*TRAIN, '--work-dir', name], whole, check=False, **moment)
    assert done.returncode == -9
    assert (whole / name / 'epoch_1.pth').is_file() and not (whole / name / 'epoch_2.pth').exists()
    done = run([*TRAIN, '--work-dir', name, '--resume'], whole)
    assert 'resumed epoch: 1, iter: 4' in done.stdout
    first, second = (torch.load(whole / folder / 'epoch_3.pth') for folder in ('whole', name))
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key
    assert (first['state_dict']['backbone.conv1.scale'] != 1).any()
    assert equal(first['optimizer'], second['optimizer'])
    assert equal(first['param_schedulers'], second['param_schedulers'])
    losses = [checkpoint['message_hub']['log_scalars']['train/loss'].data[0] for checkpoint in (first, second)]
    assert len(losses[0]) == 12 and losses[0].tolist() == losses[1].tolist()
