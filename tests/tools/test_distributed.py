"""Two processes over gloo on a machine without CUDA: dist_train.sh and dist_test.sh, as they are."""
import json
import re
import runpy

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_project import make_project, run

pytestmark = pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.device_count() < 2,
                                reason='one GPU: two processes need two, or none for gloo')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('distributed')
    make_project(folder)
    done = run(['bash', ROOT / 'tools/dist_train.sh', 'tiny.py', '2', '--work-dir', 'work', '--seed', '0',
                '--cfg-options', 'train_cfg.max_epochs=2'], folder)
    return folder, done.stdout


def test_both_processes_hold_the_same_finite_parameters(trained):
    folder, output = trained
    assert re.search(r'Epoch\(train\) +\[2\]\[2/2\]', output)  # 16 clips, batches of 4, shared by two processes
    ranks = [torch.load(folder / f'work/rank{rank}.pth') for rank in (0, 1)]
    saved = torch.load(folder / 'work/epoch_2.pth')['state_dict']
    assert list(ranks[0]) == list(ranks[1]) == list(saved)
    for name, value in ranks[0].items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, ranks[1][name]) and torch.equal(value, saved[name]), name
    for name in ('scale', 'rotate', 'translate_x', 'translate_y'):
        for layer in ('conv1', 'conv2'):
            moved = saved[f'backbone.{layer}.{name}'] != (1. if name == 'scale' else 0.)
            assert moved.any(), f'{layer}.{name} did not train'  # not all: a filter that ReLU silences stays


def test_the_gradients_of_both_are_averaged(trained):
    """Four steps on 4 + 4 clips are the four steps that one process makes on the same 8."""
    folder, _ = trained
    hub = torch.load(folder / 'work/epoch_2.pth')['message_hub']['log_scalars']['train/loss']
    assert len(hub.data[0]) == 4
    done = run(['python', ROOT / 'tools/train.py', 'tiny.py', '--work-dir', 'alone', '--seed', '0', '--cfg-options',
                'train_cfg.max_epochs=2', 'train_dataloader.batch_size=8'], folder)
    assert re.search(r'Epoch\(train\) +\[2\]\[2/2\]', done.stdout)
    alone = torch.load(folder / 'alone/epoch_2.pth')['state_dict']
    both = torch.load(folder / 'work/epoch_2.pth')['state_dict']
    # the sampler deals the same shuffled list to the two, so the 4 + 4 clips are those of one batch of 8, up to the
    # order of the sums: Adam's step is +-lr, and a rounding error can only flip one that is next to zero
    for name, value in alone.items():
        assert torch.allclose(value, both[name], rtol=1e-3, atol=1e-4), name


def test_dist_test_counts_every_clip_once(trained):
    folder, _ = trained
    command = ['work/epoch_2.pth', '--work-dir', 'test']
    both = run(['bash', ROOT / 'tools/dist_test.sh', 'tiny.py', command[0], '2', *command[1:]], folder)
    one = run(['python', ROOT / 'tools/test.py', 'tiny.py', *command], folder)
    scores = [re.findall(r'acc/top1: ([\d.]+)', done.stdout)[-1] for done in (both, one)]
    assert scores[0] == scores[1] and 'Epoch(test) [2/2]' in both.stdout and 'Epoch(test) [4/4]' in one.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('loopback', [False, True], ids=['namespaces', 'loopback'])
def test_two_nodes(tmp_path, loopback):
    """dist_train.sh on two nodes: the weights of one process; a killed rank, or a dead link, ends both launchers."""
    main = runpy.run_path(str(ROOT / 'tools/reliability/two_nodes.py'))['main']
    try:
        code = main([str(tmp_path / 'nodes'), '--processes', '1', *(['--loopback'] if loopback else [])])
    except PermissionError as error:
        pytest.skip(str(error))
    result = json.loads((tmp_path / 'nodes/result.json').read_text())
    assert code == 0, result
    assert result['train']['iterations'] == 10 and result['train']['largest_difference'] < 1e-4  # 40 videos, batch 8
    for case in ('kill',) if loopback else ('kill', 'link'):
        assert all(end['exit_code'] > 0 for end in result[case]['launchers']) and result[case]['left_over'] == 0
