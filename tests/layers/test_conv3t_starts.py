"""From where a 3T convolution starts: the statistics of each start, in layers, configs and inflated networks."""
import math

import pytest
import torch
from helpers.resnet2d import WIDTH, random_resnet2d
from torch import nn

from tconv_mmaction.backbones import TemporalResNet3d
from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T
from tconv_mmaction.maths.temporal_transform import affine_matrix

FILTERS = 4096
STD = (0.5, 0.3, 0.1)  # standard deviations of shift, turn in radians, logarithm of the scale


def assert_normal(values, std):
    """Mean and deviation within five times what n numbers of N(0, std) have: std/sqrt(n) and std/sqrt(2n)."""
    n = values.numel()
    assert abs(values.mean()) < 5 * std / math.sqrt(n) and abs(values.std() - std) < 5 * std / math.sqrt(2 * n)


def assert_moving(layer):
    """One velocity per filter, the same at every step, with the standard deviations STD."""
    for name in TEMPORAL_PARAMETERS:
        values = getattr(layer, name).detach()
        assert torch.equal(values, values[:1].expand_as(values))
        assert_normal(values[0].log() if name == 'scale' else values[0],
                      dict(scale=STD[2], rotate=STD[1]).get(name, STD[0]))
    first, second = (getattr(layer, name)[0] for name in ('translate_x', 'translate_y'))
    assert abs(torch.corrcoef(torch.stack((first, second)).detach())[0, 1]) < 5 / math.sqrt(layer.out_channels)


def test_he_and_moving():
    """Uniform up to sqrt(5 / (I kT kH kW)), whose deviation is that by sqrt(3)."""
    torch.manual_seed(0)
    layer = Conv3T(64, FILTERS, 3, init='he', motion_std=STD)
    bound = math.sqrt(5 / (64 * 27))
    weight = layer.weight.detach()
    assert 0.999 * bound < weight.abs().max() <= bound
    assert abs(weight.std() / (bound / math.sqrt(3)) - 1) < 0.002 and abs(weight.mean()) < 0.002 * bound
    assert layer.bias.abs().max() <= (64 * 27)**-0.5
    assert_moving(layer)


@pytest.mark.parametrize('groups', [1, 4])
def test_first_slices(groups):
    """'conv3d', the default, is where nn.Conv3d starts, 'paper' N(0, 1); groups count as inputs of a filter do."""
    torch.manual_seed(0)
    theirs = nn.Conv3d(16, 512, 3, groups=groups).weight
    ours = Conv3T(16, 512, 3, groups=groups).weight
    assert ours.abs().max() <= (16 / groups * 27)**-0.5
    assert abs(ours.std() / theirs.std() - 1) < 0.02
    assert abs(Conv3T(16, 512, 3, groups=groups, init='he').weight.std() / ours.std() - math.sqrt(5)) < 0.03
    assert_normal(Conv3T(16, 512, 3, groups=groups, init='paper').weight.detach(), 1.)


def test_without_motion_std_it_is_the_identity_and_nothing_more_is_drawn():
    torch.manual_seed(0)
    layer = Conv3T(2, 3, 3, bias=False)
    after = torch.rand(())
    torch.manual_seed(0)
    torch.rand(3, 2, 1, 3, 3)
    assert torch.equal(after, torch.rand(()))
    kernel = layer.kernel()
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 2])


def test_free_transforms_start_with_the_same_motion():
    torch.manual_seed(0)
    affine = Conv3T(2, 5, 4, motion_std=STD)
    torch.manual_seed(0)
    free = Conv3T(2, 5, 4, motion_std=STD, transform='free')
    assert torch.equal(free.theta, affine_matrix(*(getattr(affine, name) for name in TEMPORAL_PARAMETERS)))


def test_in_networks_and_behind_weights_of_a_2d_net(tmp_path):
    """By the config; K_1 from the 2D net, the motion still random."""
    path = tmp_path / 'resnet18.pth'
    torch.save(random_resnet2d(18), path)
    torch.manual_seed(0)
    net = TemporalResNet3d(18, temporal_cfg=dict(type='Conv3T', init='he', motion_std=STD), base_channels=WIDTH,
                           pretrained=str(path))
    net.init_weights()
    layer = net.layer4[1].conv2.conv
    assert torch.equal(layer.weight[:, :, 0], torch.load(path)['layer4.1.conv2.weight'].float())
    assert_moving(layer)
