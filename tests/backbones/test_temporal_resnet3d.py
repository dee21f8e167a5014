"""TemporalResNet3d against mmaction2's ResNet3d, and its training options by numbers for every kind of convolution."""
import logging
import re

import pytest
import torch
from mmaction.models.backbones.resnet3d import ResNet3d
from mmaction.models.backbones.resnet3d_slowonly import ResNet3dSlowOnly
from mmaction.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tconv_mmaction.backbones import TemporalResNet3d
from tconv_mmaction.layers import Conv3T, MultiBranchConv3d, SeparableConv3d, switch_to_deploy

KINDS = ['Conv3d', 'Conv3T', 'SeparableConv3d', 'MultiBranchConv3d', 'SeparableMultiBranch']
WIDTH = 4


def cfg_of(kind):
    if kind == 'SeparableMultiBranch':
        return dict(type='SeparableConv3d', temporal_cfg=dict(type='MultiBranchConv3d'))
    return dict(type=kind)


def build(kind='Conv3d', depth=18, **kwargs):
    return TemporalResNet3d(depth, temporal_cfg=cfg_of(kind), base_channels=WIDTH, **kwargs)


def randomise_norms(net):
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, .5, 1.5)
            nn.init.normal_(module.bias, std=.3)
            nn.init.normal_(module.running_mean, std=.3)
            nn.init.uniform_(module.running_var, .5, 2)
    return net


# -- the same network as mmaction2's where it can be expressed ---------------------------------------------------------

MMACTION = {
    'i3d of the zoo': (ResNet3d, dict(
        depth=50, conv1_kernel=(5, 7, 7), conv1_stride_t=2, pool1_stride_t=2,
        inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)), zero_init_residual=False),
        dict(depth=50, temporal_kernels=(5, 3, 3, 3, 3), conv1_stride_t=2, pool1_stride_t=2, inflate_style='3x1x1',
             inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)), with_pool2=True)),
    'slowonly of the zoo': (ResNet3dSlowOnly, dict(depth=50, lateral=False, inflate=(0, 0, 1, 1)),
                            dict(depth=50, temporal_kernels=(1, 1, 1, 3, 3), inflate_style='3x1x1')),
    '3x3x3': (ResNet3d, dict(depth=50, inflate_style='3x3x3', with_pool2=False),
              dict(depth=50, temporal_kernels=(3, 3, 3, 3, 3))),
    'basic blocks': (ResNet3d, dict(depth=18, with_pool2=False, temporal_strides=(1, 2, 2, 2), out_indices=(0, 2, 3)),
                     dict(depth=18, temporal_strides=(1, 2, 2, 2), out_indices=(0, 2, 3))),
    'caffe style, non-local': (
        ResNet3d, dict(depth=50, inflate_style='3x3x3', style='caffe', non_local=((0, 0, 0), (1, 0, 0, 0), (0, ) * 6,
                       (0, 0, 0)), dilations=(1, 1, 1, 2), spatial_strides=(1, 2, 2, 1)),
        dict(depth=50, style='caffe', non_local=((0, 0, 0), (1, 0, 0, 0), (0, ) * 6, (0, 0, 0)),
             dilations=(1, 1, 1, 2), spatial_strides=(1, 2, 2, 1), with_pool2=True)),
}


@pytest.mark.parametrize('name', MMACTION)
def test_checkpoints_of_mmaction2_load_and_give_the_same(name, tmp_path):
    cls, theirs, ours = MMACTION[name]
    reference = randomise_norms(cls(base_channels=WIDTH, **theirs))
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in reference.state_dict().items()},
                    meta=dict(epoch=3)), tmp_path / 'zoo.pth')
    net = TemporalResNet3d(base_channels=WIDTH, **ours)
    model = nn.ModuleDict(dict(backbone=net))
    load_checkpoint(model, str(tmp_path / 'zoo.pth'), strict=True)
    x = torch.randn(2, 3, 9, 45, 40)
    reference.eval(), net.eval()
    with torch.no_grad():
        want, got = reference(x), net(x)
    for a, b in zip(want if isinstance(want, tuple) else (want, ), got if isinstance(got, tuple) else (got, )):
        assert a.abs().max() > 0
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    # and by config, where the file's names carry the prefix
    for how in (dict(pretrained=str(tmp_path / 'zoo.pth'), pretrained2d=False),
                dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'zoo.pth')))):
        again = TemporalResNet3d(base_channels=WIDTH, **ours, **how)
        again.init_weights()
        for key, value in reference.state_dict().items():
            torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_a_longer_kernel_takes_a_shorter_one_centred_and_says_so():
    short, long = build(temporal_kernels=(1, 3, 3, 3, 3)), build(temporal_kernels=(5, 3, 3, 3, 7))
    logger, messages = MMLogger.get_instance('centred'), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    state = {f'backbone.{key}': value for key, value in short.state_dict().items()}
    torch.nn.ModuleDict(dict(backbone=long)).load_state_dict(state)
    logger.removeHandler(handler)
    assert any('backbone.conv1.conv.weight (1 -> 5)' in m and 'layer4.0.conv1.conv.weight (3 -> 7)' in m
               for m in messages)
    assert state['backbone.conv1.conv.weight'].shape[2] == 1  # the caller's dict is left alone
    torch.testing.assert_close(long.layer4[1].conv2.conv.weight[:, :, 2:5], short.layer4[1].conv2.conv.weight)
    assert long.layer4[1].conv2.conv.weight[:, :, [0, 1, 5, 6]].abs().max() == 0
    x = torch.randn(1, 3, 6, 32, 32)
    torch.testing.assert_close(long.eval()(x), short.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('theirs, ours, message', [
    (dict(temporal_kernels=(3, 3, 3, 3, 5)), {}, 'layer4.0.conv1.conv.weight: .*A kernel is not cut'),
    (dict(depth=50, inflate_style='3x1x1'), dict(depth=50), r'layer1.0.conv1.conv.weight: the checkpoint has '
     r'\(4, 4, 3, 1, 1\), this net needs \(4, 4, 1, 1, 1\). .* inflate_style'),
    (dict(depth=50), {}, 'layer1.0.conv1.conv.weight: the checkpoint has'),
])
@pytest.mark.parametrize('strict', [True, False])
def test_a_checkpoint_of_another_net_raises(theirs, ours, message, strict):
    with pytest.raises(ValueError, match=message):
        build(**ours).load_state_dict(build(**theirs).state_dict(), strict=strict)


def test_2d_names_in_a_3d_net_raise():
    state = build().state_dict()
    state['conv1.conv.weight'] = state['conv1.conv.weight'][:, :, 0]
    with pytest.raises(ValueError, match='That is a 2D kernel: use pretrained='):
        build().load_state_dict(state, strict=False)


# -- what is where -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('depth, count', [(18, 17), (34, 33), (50, 17), (101, 34)])
def test_temporal_convolutions_are_the_stem_and_the_3x3(depth, count):
    with torch.device('meta'):
        net = build('Conv3T', depth, temporal_kernels=(7, 3, 5, 3, 1))
    layers = {name: m for name, m in net.named_modules() if isinstance(m, (nn.Conv3d, Conv3T))}
    temporal = {name for name, m in layers.items() if isinstance(m, Conv3T)}
    assert len(temporal) == count
    for name, layer in layers.items():
        stage = re.match(r'layer(\d)', name)
        frames = (7, 3, 5, 3, 1)[int(stage.group(1)) if stage else 0]
        assert layer.kernel_size in ((frames, 7, 7), (frames, 3, 3)) if name in temporal else (
            layer.kernel_size == (1, 1, 1)), name


def test_stem_rule():
    with torch.device('meta'):
        assert isinstance(build('SeparableConv3d').conv1.conv, nn.Conv3d)
        assert isinstance(build('SeparableMultiBranch').conv1.conv, nn.Conv3d)
        assert isinstance(build('MultiBranchConv3d').conv1.conv, MultiBranchConv3d)
        assert isinstance(build('SeparableConv3d', stem_cfg=dict(type='SeparableConv3d')).conv1.conv, SeparableConv3d)
        assert isinstance(build('Conv3d', stem_cfg=dict(type='Conv3T')).conv1.conv, Conv3T)


def test_sizes_of_the_resnet18_of_the_paper():
    """FACTS of the paper: 30x150x224 -> 15x75x112 -> 8x38x56 -> 4x19x28 -> 2x10x14 -> 1x5x7."""
    with torch.device('meta'):
        net = build(temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=2, pool1_kernel=(3, 3, 3),
                    pool1_stride_t=2, temporal_strides=(1, 2, 2, 2), out_indices=(0, 1, 2, 3))
        x = torch.empty(1, 3, 30, 150, 224)
        assert net.conv1(x).shape[2:] == (15, 75, 112)
        assert [tuple(y.shape[2:]) for y in net(x)] == [(8, 38, 56), (4, 19, 28), (2, 10, 14), (1, 5, 7)]


def test_a_stride_in_time_where_resnet3d_has_no_downsampling():
    net = build(temporal_strides=(2, 1, 1, 1), out_indices=(0, )).eval()
    assert net(torch.rand(1, 3, 7, 32, 32)).shape == (1, WIDTH, 4, 8, 8)


def test_norms_inside_a_layer_replace_the_one_after_it():
    net = build('MultiBranchConv3d', norm_cfg=dict(type='BN3d', eps=1e-3))
    assert net.layer1[0].conv1.norm is None and not hasattr(net.layer1[0].conv1, 'bn')
    assert net.conv1.conv.norms[0].eps == 1e-3
    assert net.layer2[0].downsample.bn.eps == 1e-3
    assert build('SeparableConv3d').layer1[0].conv1.norm is not None
    assert build('SeparableMultiBranch').layer1[0].conv1.norm is None


def test_the_smallest_clip():
    for kind in KINDS:
        net = build(kind).eval()
        assert net.smallest_clip() == (1, 1, 1)
        with torch.no_grad():
            assert net(torch.rand(1, 3, 1, 1, 1)).shape == (1, WIDTH * 8, 1, 1, 1)
    net = build(conv1_stride_t=2, pool1_stride_t=2, with_pool2=True).eval()
    assert net.smallest_clip() == (5, 1, 1)
    assert net(torch.rand(1, 3, 5, 9, 9)).shape[2] == 1
    with pytest.raises(ValueError, match=r'the smallest with \(T, H, W\) = \(5, 1, 1\); got \(1, 3, 4, 9, 9\)'):
        net(torch.rand(1, 3, 4, 9, 9))
    with pytest.raises(ValueError, match=r'clips \(N, 3, T, H, W\)'):
        net(torch.rand(1, 1, 8, 9, 9))
    with pytest.raises(ValueError, match=r'got \(3, 8, 9, 9\)'):
        net(torch.rand(3, 8, 9, 9))


@pytest.mark.parametrize('kwargs, error, message', [
    (dict(depth=20), ValueError, r'one of \[18, 34, 50, 101, 152\], got 20'),
    (dict(temporal_kernels=(3, 3, 3, 3)), ValueError, 'temporal_kernels must be 5 odd positive integers'),
    (dict(temporal_kernels=(3, 3, 2, 3, 3)), ValueError, r'both ends. Got \(3, 3, 2, 3, 3\)'),
    (dict(temporal_kernels=(3, 3, 0, 3, 3)), ValueError, 'odd positive'),
    (dict(temporal_kernels=(3, 3, 3., 3, 3)), ValueError, 'odd positive integers'),
    (dict(pool1_kernel=(2, 3, 3)), ValueError, r'pool1_kernel must be 3 odd .*\(t, h, w\)'),
    (dict(num_stages=5), ValueError, 'num_stages must be'),
    (dict(temporal_strides=(1, 2, 2)), ValueError, 'temporal_strides must have one value for each of the 4 stages'),
    (dict(out_indices=(4, )), ValueError, 'out_indices must be stages from 0 to 3'),
    (dict(frozen_stages=5), ValueError, 'frozen_stages must be from -1 to 4'),
    (dict(inflate_style='1x1x1'), ValueError, "inflate_style must be one of"),
    (dict(style='tensorflow'), ValueError, "style must be one of"),
    (dict(temporal_kernel=3), TypeError, r"takes no \['temporal_kernel'\]"),
    (dict(conv1_kernel=(3, 7, 7)), TypeError, r'the stem is \(t1, 7, 7\) by temporal_kernels'),
    (dict(temporal_cfg=dict(type='Conv7d')), ValueError, 'registered'),
    (dict(temporal_cfg=dict(type='Conv3T'), depth=50, inflate_style='3x1x1'), ValueError, 'single pixel per slice'),
])
def test_mistakes(kwargs, error, message):
    with torch.device('meta'), pytest.raises(error, match=message):
        TemporalResNet3d(**{'depth': 18, 'base_channels': WIDTH, **kwargs})


# -- training options, for every kind of convolution -------------------------------------------------------------------

def statistics(net):
    return {name: value.clone() for name, value in net.state_dict().items() if 'running' in name}


@pytest.mark.parametrize('kind', KINDS)
def test_frozen_stages(kind):
    net = build(kind, frozen_stages=2)
    assert not any(p.requires_grad for p in net.layer1.parameters())  # before the optimizer is built
    assert net.train() is net
    before = statistics(net)
    net(torch.randn(2, 3, 4, 40, 40)).square().mean().backward()
    for name, p in net.named_parameters():
        frozen = name.startswith(('conv1', 'layer1', 'layer2'))
        assert (p.grad is None) == frozen, name
    for name, value in statistics(net).items():
        assert torch.equal(value, before[name]) == name.startswith(('conv1', 'layer1', 'layer2')), name


@pytest.mark.parametrize('kind', KINDS)
def test_norm_eval(kind):
    net = randomise_norms(build(kind, norm_eval=True)).train()
    before = statistics(net)
    x = torch.randn(2, 3, 4, 40, 40)
    out = net(x)
    out.square().mean().backward()
    assert all(torch.equal(value, before[name]) for name, value in statistics(net).items())
    assert all(p.grad is not None for p in net.parameters())
    torch.testing.assert_close(net.eval()(x), out)
    free = build(kind).train()
    before = statistics(free)
    free(x)
    assert not any(torch.equal(value, before[name]) for name, value in statistics(free).items())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('depth', [18, 50])
def test_with_cp(kind, depth):
    net, other = build(kind, depth).double(), build(kind, depth, with_cp=True).double()
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 4, 33, 33, dtype=torch.float64)
    outs = [n.train()(x) for n in (net, other)]
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-10, atol=1e-10)
    for out in outs:
        out.square().sum().backward()
    for name, value in statistics(other).items():  # updated once, though the blocks ran twice
        torch.testing.assert_close(value, statistics(net)[name], rtol=1e-12, atol=1e-12)
    assert other.layer1[0].conv1.norm is None or other.layer1[0].conv1.norm.num_batches_tracked == 1
    gradients = dict(net.named_parameters())
    for name, p in other.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name].grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('depth', [18, 50])
def test_zero_init_residual(kind, depth):
    net = build(kind, depth, zero_init_residual=True)
    net.init_weights()
    net.eval()
    x = torch.randn(2, WIDTH * (4 if depth == 50 else 1), 3, 8, 8)
    for block in list(net.layer1)[1:]:
        torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=0)
    plain = build(kind, depth)
    plain.init_weights()
    assert (plain.eval().layer1[1](x) - x.relu()).abs().max() > .01
    # gradients reach the gain that is zero, so the branch wakes up
    net.train()(torch.randn(2, 3, 4, 32, 32)).square().mean().backward()
    last = net.layer1[1].conv3 if depth == 50 else net.layer1[1].conv2
    norms = [m for m in last.modules() if isinstance(m, _BatchNorm)]
    assert max(norm.weight.grad.abs().max() for norm in norms if norm.weight.abs().max() == 0) > 0


@pytest.mark.parametrize('kind', KINDS)
def test_out_indices_and_num_stages(kind):
    net = build(kind, out_indices=(0, 1, 2, 3)).eval()
    x = torch.randn(1, 3, 5, 40, 40)
    outs = net(x)
    last = build(kind, out_indices=(3, )).eval()
    last.load_state_dict(net.state_dict())
    torch.testing.assert_close(last(x), outs[3], rtol=0, atol=0)
    two = build(kind, num_stages=2, temporal_kernels=(3, 3, 3), out_indices=(1, ), spatial_strides=(1, 2),
                temporal_strides=(1, 1), dilations=(1, 1)).eval()
    two.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith(('layer3', 'layer4'))})
    torch.testing.assert_close(two(x), outs[1], rtol=0, atol=0)


@pytest.mark.parametrize('kind', ['Conv3T', 'MultiBranchConv3d', 'SeparableMultiBranch'])
def test_deployed_network_is_the_same(kind):
    net = randomise_norms(build(kind, temporal_kernels=(1, 1, 3, 3, 5))).double().eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(('scale', 'rotate', 'translate_x', 'translate_y')):
                p.add_(torch.randn_like(p) * .1)
    deployed = switch_to_deploy(net)
    assert not any(isinstance(m, (Conv3T, MultiBranchConv3d)) for m in deployed.modules())
    x = torch.randn(1, 3, 5, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(deployed(x), net(x), rtol=1e-8, atol=1e-8)


def test_initialisation_is_resnet3ds():
    """Norms 1 and 0, He initialisation, and Conv3T's own, uniform within sqrt(1 / 3456)."""
    torch.manual_seed(0)
    net = randomise_norms(TemporalResNet3d(18, temporal_cfg=dict(type='Conv3T'), base_channels=16))
    nn.init.zeros_(net.layer4[1].conv2.conv.weight)
    net.init_weights()
    assert net.layer4[1].conv2.conv.weight.std().item() == pytest.approx((1 / 3456 / 3)**.5, rel=.02)
    down = net.layer4[0].downsample.conv.weight
    assert down.std().item() == pytest.approx((2 / 128)**.5, rel=.05)
    assert net.layer3[0].conv1.bn.weight.eq(1).all() and net.layer3[0].conv1.bn.bias.eq(0).all()
    net = TemporalResNet3d(18, base_channels=8, init_cfg=dict(type='Constant', layer='Conv3d', val=.5))
    net.init_weights()
    assert net.conv1.conv.weight.eq(.5).all()


def test_through_the_recognizer():
    model = MODELS.build(dict(
        type='Recognizer3D', backbone=dict(type='TemporalResNet3d', depth=18, base_channels=WIDTH,
                                           temporal_cfg=dict(type='MultiBranchConv3d')),
        cls_head=dict(type='I3DHead', num_classes=3, in_channels=WIDTH * 8)))
    model.init_weights()
    from mmaction.structures import ActionDataSample
    samples = [ActionDataSample().set_gt_label(i) for i in (0, 2)]
    loss = model.loss(torch.rand(2, 1, 3, 4, 32, 32), samples)['loss_cls']
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in model.parameters())
