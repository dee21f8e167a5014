"""2D weights in 3D, 3T, separable and multi-branch ResNets, against a 2D ResNet written with functional calls."""
import logging

import pytest
import torch
import torch.nn.functional as F
from helpers.resnet2d import WIDTH, random_resnet2d, resnet2d
from helpers.scripts import load_script
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from tconv_mmaction.backbones import TemporalResNet3d
from tconv_mmaction.backbones.inflation import InflationReport, inflate_state_dict, read_state_dict
from tconv_mmaction.layers import Conv3T, SeparableConv3d


def build(depth, kind='Conv3d', kernels=(3, 3, 3, 3, 3), **kwargs):
    temporal_cfg = kind if isinstance(kind, dict) else dict(type=kind)
    return TemporalResNet3d(depth, kernels, temporal_cfg, base_channels=WIDTH, **kwargs).double().eval()


def inflated(net, state, **kwargs):
    new, report = inflate_state_dict(state, net, net.key_from_2d, **kwargs)
    net.load_state_dict(new, strict=False)
    return net, report


# Frames so that the zeros around the clip do not reach its centre: one frame on each side per convolution of three
# frames, of which both nets have 17 in a row, two per convolution of five.
FRAMES = {(3, 3, 3, 3, 3): 37, (1, 1, 3, 3, 5): 35, (5, 1, 1, 1, 3): 15}


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('kind, kernels, options', [
    ('Conv3d', (3, 3, 3, 3, 3), {}),
    ('Conv3d', (1, 1, 3, 3, 5), {}),
    ('Conv3T', (3, 3, 3, 3, 3), dict(divide_3t=True)),
    ('Conv3T', (5, 1, 1, 1, 3), dict(divide_3t=True)),
    ('SeparableConv3d', (3, 3, 3, 3, 3), {}),
    ('SeparableConv3d', (1, 1, 3, 3, 5), {}),
    ('MultiBranchConv3d', (1, 1, 3, 3, 5), {}),
    (dict(type='MultiBranchConv3d', eta=float('inf')), (1, 1, 3, 3, 5), {}),
    (dict(type='SeparableConv3d', temporal_cfg=dict(type='MultiBranchConv3d')), (1, 1, 3, 3, 5), {}),
])
def test_a_still_clip_gives_the_features_of_the_2d_net(depth, kind, kernels, options):
    state = random_resnet2d(depth)
    net, report = inflated(build(depth, kind, kernels), state, **options)
    image = torch.randn(1, 3, 33, 40, dtype=torch.float64)
    frames = FRAMES[kernels]
    with torch.no_grad():
        want = resnet2d(state, depth, image)
        got = net(image[:, :, None].expand(-1, -1, frames, -1, -1))
    assert got.shape[2] == frames and want.abs().max() > .1
    tolerance = 1e-9
    if not isinstance(kind, str) or kind == 'SeparableConv3d':
        tolerance = 1e-7
    torch.testing.assert_close(got[:, :, frames // 2], want, rtol=tolerance, atol=tolerance)
    assert sorted(report.skipped) == ['fc.bias', 'fc.weight']
    assert set(report.loaded) | set(report.skipped) == set(state)


@pytest.mark.parametrize('depth, kind', [(34, 'Conv3d'), (34, 'SeparableConv3d'), (101, 'Conv3d')])
def test_the_deeper_nets_too(depth, kind):
    state = random_resnet2d(depth)
    net, report = inflated(build(depth, kind, (1, 1, 1, 1, 3)), state)
    image = torch.randn(1, 3, 33, 40, dtype=torch.float64)
    with torch.no_grad():
        want, got = resnet2d(state, depth, image), net(image[:, :, None].expand(-1, -1, 13, -1, -1))
    torch.testing.assert_close(got[:, :, 6], want, rtol=1e-7, atol=1e-7)
    assert sorted(report.skipped) == ['fc.bias', 'fc.weight']


@pytest.mark.parametrize('depth', [18, 50])
def test_a_3t_convolution_gives_kt_times_its_2d_convolution(depth):
    state = random_resnet2d(depth)
    net, _ = inflated(build(depth, 'Conv3T', (7, 3, 5, 3, 3)), state)
    count = 0
    for name, layer in net.named_modules():
        if isinstance(layer, Conv3T):
            count += 1
            frames = layer.kernel_size[0]
            weight = state[name.removesuffix('.conv') + '.weight']
            image = torch.randn(1, layer.in_channels, 9, 8, dtype=torch.float64)
            got = layer(image[:, :, None].expand(-1, -1, 2 * frames, -1, -1))[:, :, frames]
            want = frames * F.conv2d(image, weight, stride=layer.stride[1:], padding=layer.padding[1:])
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert count == {18: 17, 50: 17}[depth]


def test_the_entries_themselves():
    state = random_resnet2d(18)
    net = build(18, kernels=(5, 3, 3, 3, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    new, report = inflate_state_dict(state, net, net.key_from_2d)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)  # neither changed
    for b in range(5):
        torch.testing.assert_close(new['conv1.conv.weight'][:, :, b], state['conv1.weight'] / 5)
    torch.testing.assert_close(new['layer2.0.downsample.conv.weight'][:, :, 0],
                               state['layer2.0.downsample.0.weight'], rtol=0, atol=0)
    for key in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(new[f'layer2.0.downsample.bn.{key}'], state[f'layer2.0.downsample.1.{key}'])
        torch.testing.assert_close(new[f'layer3.1.conv2.bn.{key}'], state[f'layer3.1.bn2.{key}'])
    assert new['conv1.bn.weight'].data_ptr() != state['bn1.weight'].data_ptr()
    assert report.missing == []
    assert report.loaded['layer1.0.bn2.bias'] == 'layer1.0.conv2.bn.bias'


def test_3t_report_and_options():
    state = random_resnet2d(18)
    net = build(18, 'Conv3T')
    new, report = inflate_state_dict(state, net, net.key_from_2d, copy_norm=False)
    assert report.skipped['bn1.running_mean'] == 'copy_norm=False'
    assert not any(name.endswith('running_mean') for name in new)
    torch.testing.assert_close(new['conv1.conv.weight'][:, :, 0], state['conv1.weight'], rtol=0, atol=0)
    assert 'layer4.1.conv2.conv.translate_y' in report.missing and 'conv1.bn.running_var' in report.missing
    text = str(report)
    assert 'missing  layer4.1.conv2.conv: scale, rotate, translate_x, translate_y' in text
    assert 'skipped  fc.weight: no counterpart' in text
    assert 'loaded   conv1.weight -> conv1.conv.weight' in text
    new, _ = inflate_state_dict(state, net, net.key_from_2d, divide_3t=True)
    torch.testing.assert_close(new['conv1.conv.weight'][:, :, 0], state['conv1.weight'] / 3)


def test_the_norm_after_a_separable_convolution_starts_with_the_statistics_it_will_see():
    """In training mode the norms use the batch, which for a normal distribution is what the inflated ones expect."""
    torch.manual_seed(1)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64) / 6
    x = torch.randn(16, 4, 5, 24, 24, dtype=torch.float64)
    y = F.conv3d(x, weight[:, :, None], padding=(0, 1, 1))
    bn = dict(weight=.5 + torch.rand(6), bias=torch.randn(6) * .5, running_mean=y.mean((0, 2, 3, 4)),
              running_var=y.var((0, 2, 3, 4)))
    bn = {key: value.double() for key, value in bn.items()}
    want = F.batch_norm(y, bn['running_mean'], bn['running_var'], bn['weight'], bn['bias'])
    for activated in (True, False):
        layer = SeparableConv3d(4, 6, 3, padding=1, bias=False).double()
        after = layer.inflate_from_2d(weight, bn, activated=activated)
        norm = nn.BatchNorm3d(6).double()
        norm.load_state_dict({**norm.state_dict(), **after})
        for training in (False, True):
            layer.train(training), norm.train(training)
            got = norm(layer(x))
            error = ((F.relu(got) - F.relu(want)) if activated else got - want).abs().max()
            assert error < (.05 if training else 1e-10)


def test_checkpoints_of_other_projects(tmp_path):
    """torchvision's, mmpretrain's and mmaction2's names give the same."""
    state = random_resnet2d(18)
    mmaction = {}
    for name, value in state.items():
        module, parameter = name.rsplit('.', 1)
        target = TemporalResNet3d.key_from_2d(module)
        mmaction[f'backbone.{target}.{parameter}' if target else f'cls_head.fc_cls.{parameter}'] = value
    assert {'backbone.layer2.0.downsample.bn.running_var', 'backbone.layer1.0.conv2.conv.weight'} <= mmaction.keys()
    mmpretrain = {('head.' if name.startswith('fc') else 'backbone.') + name: value for name, value in state.items()}
    torch.save(state, tmp_path / 'torchvision.pth')
    torch.save(dict(state_dict=mmpretrain, meta=dict(epoch=1)), tmp_path / 'mmpretrain.pth')
    mmaction = {'module.' + name: value for name, value in mmaction.items()}
    torch.save(dict(state_dict=mmaction), tmp_path / 'mmaction.pth')
    net = build(18)
    want, _ = inflate_state_dict(state, net, net.key_from_2d)
    for name in ('torchvision', 'mmpretrain', 'mmaction'):
        read = read_state_dict(str(tmp_path / f'{name}.pth'))
        got, report = inflate_state_dict(read, net, net.key_from_2d)
        assert got.keys() == want.keys() and len(report.skipped) == 2 and not report.missing
        assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize('how', ['pretrained', 'init_cfg', 'recognizer'])
def test_weights_by_config(tmp_path, how):
    state = random_resnet2d(18)
    path = str(tmp_path / 'resnet18.pth')
    torch.save(state, path)
    cfg = dict(type='TemporalResNet3d', depth=18, base_channels=WIDTH, zero_init_residual=True)
    cfg.update(dict(init_cfg=dict(type='Pretrained', checkpoint=path)) if how == 'init_cfg' else
               dict(pretrained=path, pretrained2d=True))
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_instance('inflation', log_level='INFO')
    logger.addHandler(handler)
    try:
        if how == 'recognizer':
            model = MODELS.build(dict(type='Recognizer3D', backbone=cfg, cls_head=dict(
                type='I3DHead', num_classes=3, in_channels=WIDTH * 8)))
            model.init_weights()
            net = model.backbone
        else:
            net = MODELS.build(cfg)
            net.init_weights()
    finally:
        logger.removeHandler(handler)
    assert any('loaded   layer1.0.conv1.weight -> layer1.0.conv1.conv.weight' in m for m in messages)
    want, _ = inflate_state_dict(state, net, net.key_from_2d)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, want[name].to(value.dtype), rtol=0, atol=0)


def test_options_by_config(tmp_path):
    state = random_resnet2d(18)
    path = str(tmp_path / 'resnet18.pth')
    torch.save(state, path)
    net = build(18, 'Conv3T', pretrained=path, inflation_cfg=dict(divide_3t=True, copy_norm=False))
    net.init_weights()
    torch.testing.assert_close(net.conv1.conv.weight[:, :, 0], state['conv1.weight'] / 3)
    torch.testing.assert_close(net.conv1.bn.running_var, torch.ones(WIDTH, dtype=torch.float64))
    with pytest.raises(ValueError, match='Both pretrained and init_cfg'):
        build(18, pretrained=path, init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()
    with pytest.raises(TypeError):
        build(18, pretrained=path, inflation_cfg=dict(scale=2)).init_weights()


def test_what_does_not_fit_raises(tmp_path):
    state = random_resnet2d(18)
    net = build(18)
    with pytest.raises(ValueError, match=r"Not one convolution .* start with \['features.conv1.weight'"):
        inflate_state_dict({'features.' + name: value for name, value in state.items()}, net, net.key_from_2d)
    with pytest.raises(ValueError, match=r'layer1.0.conv1.conv.weight .*: the 2D file has \(8, 8, 1, 1, 1\)|'
                                         r'layer1.0.conv1.conv.weight.*the 2D file has'):
        inflate_state_dict(random_resnet2d(50), net, net.key_from_2d)
    wrong = dict(state, **{'layer1.0.bn1.bias': torch.zeros(9)})
    with pytest.raises(ValueError, match=r'layer1.0.conv1.bn.bias: the 2D file has \(9,\), the model needs \(8,\)'):
        inflate_state_dict(wrong, net, net.key_from_2d)
    torch.save(state, tmp_path / 'r18.pth')
    torch.save(dict(epoch=3), tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='holds 2D kernels: set pretrained2d=True'):
        build(18, pretrained=str(tmp_path / 'r18.pth'), pretrained2d=False).init_weights()
    with pytest.raises(ValueError, match='holds no weights'):
        build(18, pretrained=str(tmp_path / 'empty.pth')).init_weights()
    with pytest.raises(FileNotFoundError, match='missing.pth'):
        build(18, pretrained=str(tmp_path / 'missing.pth')).init_weights()
    torch.save({'state_dict': net.state_dict()}, tmp_path / '3d.pth')
    with pytest.raises(ValueError, match='holds 3D kernels: set pretrained2d=False'):
        build(18, pretrained=str(tmp_path / '3d.pth')).init_weights()


def test_torchvision_urls_say_what_they_need():
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match='torchvision://resnet18 needs torchvision'):
            build(18, pretrained='torchvision://resnet18').init_weights()
    else:
        pytest.skip('torchvision is there, and the weights would be downloaded')


def test_a_neutral_model_and_layers_without_a_rule():
    """Any module of ConvModules will do, and linear layers of another shape are skipped by name."""
    net = nn.ModuleDict(dict(a=ConvModule(3, 4, (3, 1, 1), conv_cfg=dict(type='Conv3d'), norm_cfg=dict(type='BN3d')),
                             fc=nn.Linear(4, 2), aux=nn.Linear(4, 3)))
    names = {'features.0': 'a.conv', 'features.1': 'a.bn', 'fc': 'fc', 'aux': 'aux', 'gone': 'b.conv'}
    state = {'features.0.weight': torch.randn(4, 3, 1, 1), 'fc.weight': torch.randn(2, 4), 'fc.bias': torch.randn(2),
             'aux.weight': torch.randn(7, 4), 'gone.weight': torch.randn(1, 1, 1, 1)}
    new, report = inflate_state_dict(state, net, names.get)
    slices = (state['features.0.weight'] / 3)[:, :, None].expand(-1, -1, 3, 1, 1)
    torch.testing.assert_close(new['a.conv.weight'], slices)
    torch.testing.assert_close(new['fc.weight'], state['fc.weight'])
    assert report.skipped == {'gone.weight': 'the model has no b.conv',
                              'aux.weight': 'shape (7, 4), where aux has (3, 4)'}
    assert report.missing == ['a.bn.weight', 'a.bn.bias', 'a.bn.running_mean', 'a.bn.running_var', 'aux.weight',
                              'aux.bias']
    with pytest.raises(TypeError, match='ConvTranspose3d, and no rule says'):
        inflate_state_dict({'a.weight': torch.randn(2, 2, 3, 3)}, nn.ModuleDict(dict(a=nn.ConvTranspose3d(2, 2, 3))))
    assert 'a.bn: weight, bias' in str(InflationReport(missing=report.missing))


def test_tool(tmp_path, capsys):
    state = random_resnet2d(18)
    torch.save(state, tmp_path / 'resnet18.pth')
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)\ndefault_scope = 'mmaction'\n"
        f"model = dict(type='Recognizer3D', backbone=dict(type='TemporalResNet3d', depth=18, base_channels={WIDTH}, "
        "temporal_cfg=dict(type='Conv3T')), cls_head=dict(type='I3DHead', num_classes=5, in_channels=64))\n")
    tool = load_script('tools/convert/inflate_2d.py')
    tool.main([str(tmp_path / name) for name in ('config.py', 'resnet18.pth', 'out.pth')])
    assert 'loaded   conv1.weight -> conv1.conv.weight' in capsys.readouterr().out
    net = build(18, 'Conv3T').float()
    model = nn.ModuleDict(dict(backbone=net))
    load_checkpoint(model, str(tmp_path / 'out.pth'))
    torch.testing.assert_close(net.conv1.conv.weight[:, :, 0], state['conv1.weight'].float(), rtol=0, atol=0)
    torch.testing.assert_close(net.layer4[1].conv2.bn.running_var, state['layer4.1.bn2.running_var'].float())
    with pytest.raises(FileNotFoundError, match='missing.pth'):
        tool.main([str(tmp_path / name) for name in ('config.py', 'missing.pth', 'out2.pth')])
    assert not (tmp_path / 'out2.pth').exists()
