"""LeNet-5: parameter counts of the paper's table from the configs, and the network against functional calls."""

import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from mmaction.registry import MODELS
from mmengine.config import Config

from tconv_mmaction.backbones import LeNet5

CONFIGS = ROOT / 'configs/recognition/lenet5'


@pytest.mark.parametrize('name, channels, count', [
    ('3d', (6, 16), 263_906), ('3t', (6, 16), 254_058), ('3d', (12, 22), 375_668), ('3t', (12, 22), 348_612),
    ('3d', (18, 28), 496_430), ('3t', (18, 28), 444_966)])
def test_parameter_counts(name, channels, count):
    config = Config.fromfile(next(CONFIGS.glob(f'lenet5-{name}_*.py')))
    config.model.backbone.channels = channels
    model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_forward_equals_functional_calls():
    net = LeNet5(dict(type='Conv3T')).double()
    x = torch.rand(2, 1, 30, 28, 28, dtype=torch.float64)
    y = F.max_pool3d(F.relu(F.conv3d(x, net.conv1.kernel(), net.conv1.bias, padding=2)), 2)
    y = F.max_pool3d(F.relu(F.conv3d(y, net.conv2.kernel(), net.conv2.bias)), 2)
    y = F.relu(F.linear(F.relu(F.linear(y.flatten(1), net.fc1.weight, net.fc1.bias)), net.fc2.weight, net.fc2.bias))
    torch.testing.assert_close(net(x), y[..., None, None, None], rtol=1e-12, atol=1e-12)


def test_other_clip_shapes_and_errors():
    net = LeNet5(dict(type='Conv3d'), in_channels=3, clip_shape=(16, 32, 40))
    assert net.fc1.in_features == 16 * 2 * 6 * 8
    assert net(torch.rand(1, 3, 16, 32, 40)).shape == (1, 84, 1, 1, 1)
    with pytest.raises(ValueError, match=r'built for clips \(N, 3, 16, 32, 40\), got \(1, 3, 16, 32, 32\)'):
        net(torch.rand(1, 3, 16, 32, 32))
    with pytest.raises(ValueError, match=r'at least \(T, H, W\) = \(12, 12, 12\)'):
        LeNet5(dict(type='Conv3d'), clip_shape=(8, 28, 28))
    with pytest.raises(ValueError, match='two convolutions'):
        LeNet5(dict(type='Conv3d'), channels=(6, 16, 32))
