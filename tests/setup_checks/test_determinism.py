"""Layers that PyTorch refuses with deterministic algorithms on CUDA, found before a start."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn import functional as F

from tconv_mmaction.setup_checks import determinism
from tconv_mmaction.setup_checks.data import ClipSize
from tconv_mmaction.setup_checks.determinism import check_determinism, operators_without, refused_names
from tconv_mmaction.setup_checks.network import build_on_meta
from tconv_mmaction.setup_checks.problems import Problems

EVERY = {*determinism.IN_BACKWARD.values(), *determinism.IN_FORWARD.values()}
ALWAYS = {'AvgPool3d', 'AdaptiveAvgPool2d', 'AdaptiveAvgPool3d', 'AdaptiveMaxPool2d', 'ReflectionPad1d',
          'ReflectionPad2d', 'ReflectionPad3d', 'grid_sample', 'cumsum', 'interpolate'}
RESNET = dict(type='TemporalResNet3d', depth=18, base_channels=2, temporal_kernels=(3, 3, 1, 1, 1))
GOOGLENET = dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T'),
                 out_layers=('inception4a', 'inception4d', 'inception5b'))
LSTM = dict(type='ConvLSTMNet', num_layers=1)


class Step(nn.Module):
    """A backbone of one convolution and one function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv3d(3, 8, 1), function

    def forward(self, x):
        return self.function(self.conv(x))


@pytest.fixture
def all_refused(monkeypatch):
    """As in a PyTorch that refuses everything that any version does."""
    monkeypatch.setattr(determinism, 'refused_names', lambda: EVERY)


def on_meta(backbone, head=None):
    init_default_scope('mmaction')
    head = head or dict(type='I3DHead', num_classes=3, in_channels=16)
    return build_on_meta(dict(type='Recognizer3D', backbone=backbone, cls_head=head), Problems())


def with_function(function):
    model = on_meta(RESNET)
    with torch.device('meta'):
        model.backbone, model.cls_head = Step(function), nn.Identity()
    return model


def test_the_list_is_that_of_the_installed_pytorch():
    refused = refused_names()
    assert ALWAYS <= set(refused) <= EVERY
    text = torch.use_deterministic_algorithms.__doc__
    at = text.index('torch.nn.MaxPool3d`')
    assert ('MaxPool3d' in refused) == (at > text.index('will throw a'))


def test_without_the_list_everything_is_named(monkeypatch):
    monkeypatch.setattr(torch.use_deterministic_algorithms, '__doc__', None)
    assert set(refused_names()) == EVERY


@pytest.mark.parametrize('backbone, head, size, found', [
    (dict(RESNET, temporal_cfg=dict(type='Conv3T')), None, (8, 32, 32), {'MaxPool3d': ['backbone.maxpool']}),
    (dict(RESNET, temporal_cfg=dict(type='Conv3T'), frozen_stages=1), None, (8, 32, 32), {}),  # nothing below learns
    (dict(RESNET, temporal_cfg=dict(type='Conv3T', padding_mode='reflect')), None, (8, 64, 64), {
        'MaxPool3d': ['backbone.maxpool'], 'ReflectionPad3d': [
            f'backbone.layer{stage}.{i}.conv{j}.conv' for stage in (1, 2, 3, 4) for i in (0, 1) for j in (1, 2)]}),
    (GOOGLENET, dict(type='GoogLeNetHead', num_classes=3), (32, 64, 64), {
        'AdaptiveAvgPool3d': ['cls_head.aux1.pool', 'cls_head.aux2.pool']}),
    (LSTM, dict(type='SequenceHead', num_classes=3, in_channels=32, clip_len=2, feature_size=(4, 4)), (2, 16, 16), {}),
])
def test_layers_of_our_networks(all_refused, backbone, head, size, found):
    got = operators_without(on_meta(backbone, head), (3, *size), training=True)
    if backbone is GOOGLENET:
        pools = got.pop('MaxPool3d')
        assert pools[0] == 'backbone.maxpool1' and len(pools) == 13  # 4, and one in each of 9 modules
    assert got == found


@pytest.mark.parametrize('function, name', [
    (lambda x: F.avg_pool3d(x, 2), 'AvgPool3d'), (lambda x: F.adaptive_avg_pool3d(x, 2), 'AdaptiveAvgPool3d'),
    (lambda x: F.adaptive_avg_pool3d(x, 1), None),  # is a mean
    (lambda x: F.max_pool3d(x, 2), 'MaxPool3d'), (lambda x: F.max_pool2d(x[:, :, 0], 2), None),
    (lambda x: F.interpolate(x[:, :, 0], scale_factor=2., mode='bilinear'), None),
    (lambda x: F.interpolate(x[:, :, 0], scale_factor=2., mode='bicubic'), 'interpolate'),
    (lambda x: F.interpolate(x, scale_factor=2., mode='nearest'), None),
    (lambda x: F.grid_sample(x, x.new_zeros(2, 4, 4, 4, 3), align_corners=False), 'grid_sample'),
    (lambda x: F.pad(x, (1, ) * 6, mode='reflect'), 'ReflectionPad3d'),
    (lambda x: F.pad(x, (1, ) * 6, mode='replicate'), None),
    (lambda x: x.cumsum(2), 'cumsum'), (lambda x: x.long().cumsum(2), None)])
def test_operators(all_refused, function, name):
    got = operators_without(with_function(function), (3, 4, 8, 8), training=True)
    assert got == ({name: ['backbone']} if name else {})
    in_test = operators_without(with_function(function), (3, 4, 8, 8), training=False)
    assert in_test == ({name: ['backbone']} if name == 'cumsum' else {})  # the others are refused in the backward pass


def found(monkeypatch, gpu=True, deterministic=True, workspace=':4096:8', training=True, backbone=RESNET):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    if workspace is None:
        monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    else:
        monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', workspace)
    problems, model = Problems(), on_meta(dict(backbone, temporal_cfg=dict(type='Conv3T')))
    was, modes = torch.get_deterministic_debug_mode(), [part.training for part in model.modules()]
    check_determinism(Config(dict(randomness=dict(seed=1, deterministic=deterministic))), model, {},
                      {'train_dataloader.dataset.pipeline': ClipSize(8, 32, 32)}, training, problems)
    assert torch.get_deterministic_debug_mode() == was and [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert {problem.key for problem in problems} <= {'randomness.deterministic'} and not problems.notes
    return [problem.text for problem in problems]


def test_the_pool_of_a_resnet_and_the_way_out(all_refused, monkeypatch):
    text, = found(monkeypatch)
    assert f'PyTorch {torch.__version__} has no deterministic backward pass of MaxPool3d on CUDA' in text
    assert 'it is in backbone.maxpool. PyTorch 2.13 has one' in text and 'randomness.deterministic=False' in text


@pytest.mark.parametrize('workspace, words', [(None, 'it is not set'), (':4096:2', "it is ':4096:2'"), (':16:8', '')])
def test_the_workspace_of_cublas(monkeypatch, workspace, words):
    monkeypatch.setattr(determinism, 'refused_names', set)
    texts = found(monkeypatch, workspace=workspace)
    assert len(texts) == bool(words)
    assert all(words in text and 'CUBLAS_WORKSPACE_CONFIG=:4096:8 python tools/train.py' in text for text in texts)


@pytest.mark.parametrize('off', [dict(gpu=False, workspace=None), dict(deterministic=False, workspace=None),
                                 dict(training=False)])
def test_nothing_is_said_where_it_does_not_concern_the_run(all_refused, monkeypatch, off):
    assert found(monkeypatch, **off) == []
