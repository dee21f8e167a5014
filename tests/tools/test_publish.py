"""tools/publish.py: what it keeps, what it refuses, and the name it gives."""
import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint

CONFIG = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'


publish = load_script('tools/publish.py')


@pytest.fixture
def training(tmp_path):
    """A checkpoint as MMEngine writes it in a training, and its network."""
    model = MODELS.build(Config.fromfile(CONFIG).model)
    history = HistoryBuffer()
    history.update(.5)
    checkpoint = dict(
        meta=dict(epoch=3, iter=180, seed=0, dataset_meta=dict(classes=tuple('0123456789')),
                  cfg="default_scope = 'mmaction'\nwork_dir = '/home/me/secret'\nload_from = '/home/me/a.pth'\n"
                      "resume = False\nlauncher = 'none'\n"),
        state_dict=OrderedDict(('module.' + name, value) for name, value in model.state_dict().items()),
        optimizer=dict(state={}, param_groups=[]), param_schedulers=[],
        message_hub=dict(log_scalars=dict(loss=history), runtime_info=dict(epoch=3), resumed_keys={}))
    return model, checkpoint, tmp_path / 'epoch_3.pth'


def published(checkpoint, path, *options):
    torch.save(checkpoint, path)
    publish.main([str(path), str(path.with_name('net.pth')), *options])
    out, = path.parent.glob('net-*.pth')
    return out


def test_what_is_kept(training, tmp_path, capsys):
    model, checkpoint, path = training
    with torch.no_grad():  # a part of a larger tensor must not bring the whole
        checkpoint['state_dict']['module.cls_head.fc_cls.bias'] = torch.arange(1_000_000.)[5:15]
    out = published(checkpoint, path, '--config', str(CONFIG))
    said = capsys.readouterr().out
    assert 'left out: message_hub, optimizer, param_schedulers' in said and str(out) in said
    assert out.stem == 'net-' + hashlib.sha256(out.read_bytes()).hexdigest()[:8]
    assert out.stat().st_size < 1.1 * 4 * sum(value.numel() for value in model.state_dict().values()) + 20_000
    with publish.nothing_allowed():
        contents = torch.load(out, weights_only=True)
    assert list(contents) == ['meta', 'state_dict']
    assert type(contents['state_dict']) is dict and list(contents['state_dict']) == list(model.state_dict())
    for name, value in model.state_dict().items():
        if name != 'cls_head.fc_cls.bias':
            assert torch.equal(contents['state_dict'][name], value)
    assert contents['state_dict']['cls_head.fc_cls.bias'].tolist() == list(range(5, 15))
    meta = contents['meta']
    assert (meta['epoch'], meta['seed'], meta['dataset_meta']['classes'][3]) == (3, 0, '3')
    assert 'default_scope' in meta['cfg'] and '/home' not in meta['cfg'] and 'resume' not in meta['cfg']
    load_checkpoint(model, str(out), map_location='cpu', strict=True)
    assert model.cls_head.fc_cls.bias.tolist() == list(range(5, 15))


def test_the_same_input_gives_the_same_name_and_a_published_file_stays_as_it_is(training, tmp_path):
    _, checkpoint, path = training
    torch.save(checkpoint, path)
    first, _ = publish.publish(path, tmp_path / 'net.pth')
    assert publish.publish(path, tmp_path / 'net.pth')[0] == first
    again, left_out = publish.publish(first, tmp_path / 'net.pth')
    assert again == first and not left_out


def test_a_bare_state_dict(training, tmp_path):
    model, _, path = training
    out = published(model.state_dict(), path)
    contents = torch.load(out, weights_only=True)
    assert contents['meta'] == {} and len(contents['state_dict']) == len(model.state_dict())


class Strange(str):
    """A subclass of a plain type."""


@pytest.mark.parametrize('place, value, message', [
    (('meta', 'dataset_meta', 'palette'), np.zeros((2, 3), 'uint8'),
     r'meta\.dataset_meta\.palette is a numpy\.ndarray'),
    (('meta', 'scores'), [1., np.float64(2.)], r'meta\.scores\[1\] is a numpy\.float64'),
    (('meta', 'names'), {'a', 'b'}, r'meta\.names is a set'),
    (('extra', ), dict(history=HistoryBuffer()), r'extra\.history is a mmengine\.logging.*\.HistoryBuffer'),
    (('meta', 'by_number'), {torch.float32: 1}, r'meta\.by_number has the key torch\.float32 of type torch\.dtype'),
    (('state_dict', 'module.version'), 2, r'state_dict\.module\.version is a int, and weights are tensors'),
])
def test_objects_are_refused(training, tmp_path, place, value, message):
    _, checkpoint, path = training
    inside = checkpoint
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(TypeError, match=message):
        published(checkpoint, path)
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_3.pth']


@pytest.mark.parametrize('value, message', [(Strange('x'), r'meta\.name is a .*Strange'),
                                            (slice(2), r'meta\.name is a slice'),
                                            (np.arange(2), r'meta\.name is a numpy\.ndarray')])
def test_every_type_but_the_plain_ones_is_named(value, message):
    with pytest.raises(TypeError, match=message):
        publish.stripped(dict(meta=dict(name=value), state_dict=dict(w=torch.zeros(1))))


def test_a_file_that_asks_for_code_is_refused_before_it_runs(training, tmp_path):
    _, checkpoint, path = training
    checkpoint['meta']['path'] = Path('here')  # PyTorch refuses to make it
    with pytest.raises(Exception, match='asks for pathlib'):
        published(checkpoint, path)
    assert not list(tmp_path.glob('net*'))


def test_weights_that_are_no_numbers_or_of_another_net(training, tmp_path):
    _, checkpoint, path = training
    checkpoint['state_dict']['module.backbone.fc1.bias'][3] = float('nan')
    with pytest.raises(ValueError, match=r'state_dict\.module\.backbone\.fc1\.bias has 1 of 120 values'):
        published(checkpoint, path)
    del checkpoint['state_dict']['module.backbone.fc1.bias']
    with pytest.raises(ValueError, match=r'not those of the model in .*lenet5-3t.*Missing key.*backbone\.fc1\.bias'):
        published(checkpoint, path, '--config', str(CONFIG))
    published(checkpoint, path)  # without a config to hold it against, it is a network of its own
    with pytest.raises(ValueError, match='state_dict is empty'):
        publish.stripped(dict(state_dict={}))
    with pytest.raises(TypeError, match='the checkpoint is a list'):
        publish.stripped([torch.zeros(1)])
    with pytest.raises(TypeError, match='layout torch.sparse_coo'):
        publish.stripped(dict(state_dict=dict(w=torch.eye(3).to_sparse())))
    with pytest.raises(FileNotFoundError):
        publish.publish(tmp_path / 'gone.pth', tmp_path / 'net.pth')
    with pytest.raises(SystemExit):
        publish.main([str(path), str(tmp_path / 'net.onnx')])
