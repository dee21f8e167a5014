"""SeparableConv3d against its definition in functional calls."""
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn

from tconv_mmaction.layers import MultiBranchConv3d, SeparableConv3d, switch_to_deploy
from tconv_mmaction.layers.separable_conv3d import complete_conv_cfg, rectified_normal


def randomised(layer):
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, .5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, .5, 2)
    return layer.double()


@pytest.mark.parametrize('kernel, stride, padding, dilation', [
    (3, 1, 1, 1), ((5, 3, 1), (2, 1, 3), (2, 0, 1), (1, 2, 1)), ((3, 5, 3), (1, 2, 2), (0, 2, 1), (2, 1, 1))])
@pytest.mark.parametrize('training', [False, True])
def test_definition(kernel, stride, padding, dilation, training):
    layer = randomised(SeparableConv3d(4, 6, kernel, stride, padding, dilation, norm_cfg=dict(type='BN3d', eps=1e-3)))
    layer.train(training)
    x = torch.randn(2, 4, 7, 11, 13, dtype=torch.float64)
    kt, *ks = layer.kernel_size
    (st, *ss), (pt, *ps), (dt, *ds) = layer.stride, layer.padding, layer.dilation
    norm = layer.spatial.bn
    y = F.conv3d(x, layer.spatial.conv.weight, None, (1, *ss), (0, *ps), (1, *ds))
    y = F.relu(F.batch_norm(y, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias, training,
                            eps=1e-3))
    y = F.conv3d(y, layer.temporal.weight, layer.temporal.bias, (st, 1, 1), (pt, 0, 0), (dt, 1, 1))
    torch.testing.assert_close(layer(x), y, rtol=1e-12, atol=1e-12)
    assert layer.spatial.conv.weight.shape == (6, 4, 1, *ks) and layer.temporal.weight.shape == (6, 6, kt, 1, 1)
    assert layer.spatial.conv.bias is None and layer.temporal.bias is not None


def test_one_frame_has_no_temporal_part():
    layer = SeparableConv3d(4, 6, (1, 3, 3), (2, 2, 2), (0, 1, 1), bias=False).double()
    x = torch.randn(1, 4, 5, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv3d(x, layer.spatial.weight, None, 2, (0, 1, 1)))
    assert sum(p.numel() for p in layer.parameters()) == 6 * 4 * 9
    assert layer.temporal is None and not layer.has_norm


def test_as_conv_cfg_and_named_padding():
    module = ConvModule(4, 6, 3, padding=1, conv_cfg=dict(type='SeparableConv3d'), norm_cfg=dict(type='BN3d'))
    assert sum(p.numel() for p in module.parameters()) == 4 * 6 * 9 + 12 + 6 * 6 * 3 + 12
    same = SeparableConv3d(4, 6, 3, padding='same', bias=False)
    padded = SeparableConv3d(4, 6, 3, padding=1, bias=False)
    padded.load_state_dict(same.state_dict())
    x = torch.randn(1, 4, 5, 6, 7)
    torch.testing.assert_close(same.eval()(x), padded.eval()(x))
    valid = SeparableConv3d(4, 6, 3, padding='valid', bias=False)
    valid.load_state_dict(same.state_dict())
    torch.testing.assert_close(valid.eval()(x), padded(x)[:, :, 1:-1, 1:-1, 1:-1])


def test_multi_branch_temporal_part():
    layer = randomised(SeparableConv3d(3, 5, 3, padding=1, norm_cfg=dict(type='BN3d', eps=1e-2),
                                       temporal_cfg=dict(type='MultiBranchConv3d')))
    assert isinstance(layer.temporal, MultiBranchConv3d) and layer.has_norm
    assert all(norm.eps == 1e-2 for norm in layer.temporal.norms)
    x = torch.randn(2, 3, 5, 6, 6, dtype=torch.float64)
    layer.eval()
    deployed = switch_to_deploy(layer)
    assert type(deployed.temporal) is not MultiBranchConv3d
    torch.testing.assert_close(deployed(x), layer(x), rtol=1e-10, atol=1e-10)
    layer.zero_init()
    assert layer(x).abs().max() == 0


def test_initialisation_of_the_spatial_and_temporal_part():
    """He et al., fan-out: std = sqrt(2 / (channels x taps))."""
    layer = SeparableConv3d(64, 128, 3)
    assert layer.spatial.conv.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=.02)
    assert layer.temporal.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 3)), rel=.02)
    assert layer.temporal.bias.abs().max() == 0


def test_rectified_normal_against_samples_and_known_values():
    mean, var = torch.tensor([0., 1., -2., 3., .5]), torch.tensor([1., 4., 1., 0., .25])
    got_mean, got_var = rectified_normal(mean, var)
    assert got_mean[0].item() == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert got_var[0].item() == pytest.approx(.5 - 1 / (2 * math.pi))
    assert (got_mean[3].item(), got_var[3].item()) == pytest.approx((3, 0))
    samples = (mean + var.sqrt() * torch.randn(400_000, 5)).relu()
    torch.testing.assert_close(got_mean, samples.mean(0), rtol=.02, atol=.002)
    torch.testing.assert_close(got_var, samples.var(0), rtol=.03, atol=.002)


def test_inflation_of_a_layer_by_hand():
    layer = SeparableConv3d(2, 3, (5, 3, 3), bias=False)
    weight = torch.randn(3, 2, 3, 3)
    assert layer.inflate_from_2d(weight) is None
    torch.testing.assert_close(layer.spatial.conv.weight, weight[:, :, None])
    taps = torch.zeros(3, 3, 5)
    taps[torch.arange(3), torch.arange(3), 2] = 1
    torch.testing.assert_close(layer.temporal.weight, taps[..., None, None])
    # a bias of the 2D convolution goes into the mean of the norm
    bn = dict(weight=torch.ones(3), bias=torch.zeros(3), running_mean=torch.full((3, ), 2.), running_var=torch.ones(3))
    layer.inflate_from_2d(weight, bn, bias=torch.tensor([1., 2., 3.]))
    torch.testing.assert_close(layer.spatial.bn.running_mean, torch.tensor([1., 0., -1.]))
    with pytest.raises(ValueError, match='no norm is copied'):
        layer.inflate_from_2d(weight, bias=torch.zeros(3))


def test_mistakes():
    with pytest.raises(ValueError, match='groups must be 1, got 2'):
        SeparableConv3d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match='kernel_size'):
        SeparableConv3d(4, 4, (3, 0, 3))
    with pytest.raises(ValueError, match="registered type; got {'type': 'Conv5d'}"):
        complete_conv_cfg(dict(type='Conv5d'))
    with pytest.raises(ValueError, match='built for in_channels=4, got an input of 3'):
        SeparableConv3d(4, 4, 3)(torch.rand(1, 3, 5, 5, 5))
    assert complete_conv_cfg(dict(type='Conv3d'), norm_cfg=1) == dict(type='Conv3d')
    assert complete_conv_cfg(dict(type='SeparableConv3d', act_cfg=None), norm_cfg=1, act_cfg=2) == dict(
        type='SeparableConv3d', norm_cfg=1, act_cfg=None)
