"""Saliency against gradients by hand, active channels, and activation maximisation against known optima."""
import sys

import pytest
import torch
from mmaction.registry import MODELS
from torch import nn

from tconv_mmaction.interpret import (
    channel_saliency,
    maximize_activation,
    most_active_channels,
    saliency,
    strongest_frame,
)
from tconv_mmaction.interpret.maximize_activation import colour_axes, frequency_scale


class Linear(nn.Module):
    """A layer of fixed filters: channel k is w_k * x, and class scores are the channels' means."""

    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv3d(2, channels, 1, bias=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, clip):
        return self.drop(self.conv(clip)).mean((2, 3, 4))


def test_linear_network_by_hand():
    net, clip = Linear().double(), torch.randn(3, 2, 2, 3, 4, dtype=torch.float64)
    weight = net.conv.weight.detach().flatten(1)  # 4, 2
    expected = weight.abs() / 24
    chosen = expected[[0, 3, 1]][..., None, None, None].expand_as(clip)
    torch.testing.assert_close(saliency(net, clip, [0, 3, 1], reduce='none'), chosen)
    # a channel's positive part: the same where its output is positive, nothing elsewhere
    on = (net.conv(clip)[range(3), [0, 3, 1]] > 0)[:, None].expand_as(clip)
    assert 0 < on.sum() < on.numel()
    for layer in ('conv', net.conv):
        torch.testing.assert_close(saliency(net, clip, [0, 3, 1], layer, reduce='none'), chosen * on)
    torch.testing.assert_close(saliency(net, clip, 2)[0], expected[2].max().expand(2, 3, 4))
    torch.testing.assert_close(saliency(net, clip, 2, reduce='sum')[0], expected[2].sum().expand(2, 3, 4))
    assert net.training and net.conv.weight.requires_grad and net.conv.weight.grad is None and clip.grad is None


def test_prediction_is_the_highest_score_or_channel():
    net, clip = Linear().eval(), torch.randn(3, 2, 2, 3, 4)
    best = net(clip).argmax(1)
    torch.testing.assert_close(saliency(net, clip), saliency(net, clip, best))
    best = net.conv(clip).relu().mean((2, 3, 4)).argmax(1)
    torch.testing.assert_close(saliency(net, clip, layer='conv'), saliency(net, clip, best, 'conv'))


def test_finite_differences_of_a_deep_network():
    net = nn.Sequential(nn.Conv3d(1, 3, 3), nn.Tanh(), nn.Conv3d(3, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    net = net.double()
    clip, eps = torch.randn(1, 1, 4, 4, 4, dtype=torch.float64), 1e-6
    expected = torch.zeros(4, 4, 4, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(4)] * 3).tolist():
        step = torch.zeros_like(clip)
        step[(0, 0, *index)] = eps
        expected[tuple(index)] = ((net(clip + step) - net(clip - step))[0, 1] / (2 * eps)).abs().detach()
    torch.testing.assert_close(saliency(net, clip, 1)[0], expected, rtol=1e-6, atol=1e-9)


def test_strongest_frame_and_channels():
    maps = torch.zeros(2, 5, 3, 3)
    maps[0, 3, 1, 1], maps[1, 2] = 1, 0.1
    assert strongest_frame(maps).tolist() == [3, 2]
    net = Linear(3)
    with torch.no_grad():
        net.conv.weight.copy_(torch.tensor([[1., 0], [3, 0], [-9, 0]])[..., None, None, None])
    clip = torch.rand(2, 2, 2, 3, 3)
    active = most_active_channels(net, clip, 'conv', 2)
    assert active.channels.tolist() == [[1, 0], [1, 0]]  # channel 2 is negative: its positive part is 0
    torch.testing.assert_close(active.activations[:, 1], clip[:, 0].mean((1, 2, 3)))
    assert most_active_channels(net, clip, 'conv', 10).channels.shape == (2, 3)
    maps = channel_saliency(net, clip[:1], 'conv', [1, 2])
    torch.testing.assert_close(maps.amax((1, 2, 3)), torch.tensor([3., 0]) / 18)  # channel 2 is never positive
    with pytest.raises(ValueError, match='at least 1 channel'):
        most_active_channels(net, clip, 'conv', 0)


def test_recognizer_logits():
    model = MODELS.build(dict(
        type='Recognizer3D',
        backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, clip_shape=(12, 16, 16)),
        cls_head=dict(type='I3DHead', num_classes=5, in_channels=84, dropout_ratio=0.5, init_std=0.5)))
    clip = torch.randn(2, 3, 12, 16, 16)
    maps = saliency(model, clip, 3)
    leaf = clip.clone().requires_grad_()
    model.eval()
    features, _ = model.extract_feat(leaf[:, None], test_mode=True)
    gradient, = torch.autograd.grad(model.cls_head(features)[:, 3].sum(), leaf)
    torch.testing.assert_close(maps, gradient.abs().amax(1))
    active = most_active_channels(model, clip, 'backbone.conv2', 3)
    assert channel_saliency(model, clip[:1], 'backbone.conv2', active.channels[0].tolist()).shape == (3, 12, 16, 16)


def test_captum_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, 'captum.attr', None)
    with pytest.raises(ImportError, match='pip install captum'):
        saliency(Linear(), torch.rand(1, 2, 2, 3, 4), 0)


def test_maximum_of_a_linear_channel():
    """With -w.x + l2 * mean(x^2) the optimum is known: x = w / (2 l2) for every pixel (both terms are means)."""
    net = Linear().double()
    weight = net.conv.weight.detach().flatten(1)
    for mode, how in (('frame', 'pixel'), ('clip', 'pixel'), ('frame', 'fourier'), ('clip', 'fourier')):
        best = maximize_activation(net, 'conv', [1, 3], (2, 3, 4, 4), mode, steps=800, lr=0.02, l2=0.5, tv=0.,
                                   tv_time=0., parametrization=how, scales=(1., 1.))  # a zoom weighs the middle more
        # l2 * mean over C*T*H*W of x^2 against mean over T*H*W of w.x: x = C w / (2 l2)
        expected = (2 * weight[[1, 3]] / (2 * 0.5))[..., None, None, None].expand(2, 2, 3, 4, 4)
        torch.testing.assert_close(best.clip, expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(best.activation[-1], 2 * weight[[1, 3]].square().sum(1), rtol=1e-3, atol=1e-3)
        # of a class, which is the channel's mean, the same
        classes = maximize_activation(net, None, [1, 3], (2, 3, 4, 4), mode, steps=100, lr=0.02, parametrization=how)
        channels = maximize_activation(net, 'conv', [1, 3], (2, 3, 4, 4), mode, steps=100, lr=0.02,
                                       parametrization=how)
        torch.testing.assert_close(classes.clip, channels.clip, rtol=0, atol=1e-3)
    assert best.activation.shape == (801, 2) and best.channels == (1, 3)


def test_colours_and_pixels_stay_what_they_can_be():
    net, colours = Linear().double(), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    best = maximize_activation(net, 'conv', [0, 1], (2, 2, 6, 6), steps=60, lr=0.5, l2=0., tv=0.,
                               value_range=(-1., 2.), scales=(1., 1.))
    assert -1 <= best.clip.min() and best.clip.max() <= 2
    sign = net.conv.weight.detach().flatten(1)[:2].sign()
    assert ((best.clip.mean((2, 3, 4)) - 0.5) * sign > 0.5).all()  # well on its side of the middle
    plain, turned = (maximize_activation(net, 'conv', 0, (2, 2, 4, 4), steps=0, colours=axes).clip
                     for axes in (None, colours))
    torch.testing.assert_close(turned[0, 1], 0.6 * plain[0, 0] + 0.8 * plain[0, 1])
    grey = torch.rand(1, 1, 3, 4, 4, dtype=torch.float64).expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(colour_axes(grey), torch.full((3, 3), 3**-0.5, dtype=torch.float64))


def test_fourier_coefficients_are_weighed_by_their_frequency():
    scale = frequency_scale((1, 8, 6))
    assert scale.shape == (1, 8, 6) and scale[0, 0, 0] == scale[0, 1, 0] == 8  # the constant as the lowest there is
    assert scale[0, 2, 0] == pytest.approx(4) and scale[0, 3, 1] == pytest.approx(((3 / 8)**2 + (1 / 6)**2)**-0.5)
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU())
    start = maximize_activation(net, '0', [0, 1], (1, 4, 16, 16), steps=0, init_std=0.3).clip
    assert start.square().mean().sqrt() == pytest.approx(0.3, rel=0.3)  # one draw, of few strong coefficients

    def fine(clip):  # share of the energy in the upper half of the frequencies
        energy = torch.fft.fft2(clip - clip.mean()).abs().square()
        return float(energy[..., 4:13, 4:13].sum() / energy.sum())

    # a layer that answers to one pixel's grain as to a shape: the pixels take the grain, the coefficients do not
    settings = dict(shape=(1, 4, 16, 16), steps=40, l2=0., tv=0., tv_time=0.)
    nn.init.normal_(net[0].weight)
    found = {how: fine(maximize_activation(net, '1', [0, 1], parametrization=how, scales=scales, jitter=jitter,
                                           **settings).clip)
             for how, scales, jitter in (('pixel', (1., 1.), 0), ('fourier', (0.9, 1.1), 4))}
    assert found['fourier'] < 0.5 * found['pixel']


def test_relative_regularisers_do_the_same_for_layers_of_any_scale():
    net, large = (nn.Sequential(nn.Conv3d(1, 2, 3, bias=False), nn.Tanh()) for _ in range(2))
    large[0].load_state_dict(net[0].state_dict())
    large.append(nn.AdaptiveAvgPool3d(2))
    net.append(nn.AdaptiveAvgPool3d(2))
    large[1].register_forward_hook(lambda module, inputs, output: 1000 * output)
    settings = dict(shape=(1, 4, 8, 8), steps=12, tv=2., value_range=(0., 1.))
    plain, scaled = (maximize_activation(model, '2', [0, 1], relative=True, **settings) for model in (net, large))
    torch.testing.assert_close(scaled.clip, plain.clip, rtol=0, atol=1e-2)
    torch.testing.assert_close(scaled.activation, 1000 * plain.activation, rtol=0.02, atol=2)
    other = maximize_activation(large, '2', [0, 1], **settings)
    assert (other.clip - plain.clip).abs().max() > 0.05


def test_a_frame_is_stacked_and_the_regularisers_do_what_they_say():
    net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU())
    settings = dict(shape=(3, 6, 10, 10), steps=30, lr=0.1)
    stacked = maximize_activation(net, '0', 2, mode='frame', **settings)
    assert torch.equal(stacked.clip, stacked.clip[:, :, :1].expand_as(stacked.clip))
    assert stacked.activation[-1, 0] > stacked.activation[0, 0]

    def roughness(clip):
        return clip.diff(dim=3).square().mean(), clip.diff(dim=2).square().mean(), clip.square().mean()

    plain = roughness(maximize_activation(net, '0', 2, l2=0., tv=0., tv_time=0., **settings).clip)
    for index, name in enumerate(('tv', 'tv_time', 'l2')):
        others = dict(l2=0., tv=0., tv_time=0.)
        others[name] = 5.
        assert roughness(maximize_activation(net, '0', 2, **others, **settings).clip)[index] < 0.5 * plain[index]
    one = maximize_activation(net, '0', 2, **settings)
    beside = maximize_activation(net, '0', [0, 2], **settings).clip[1]
    torch.testing.assert_close(one.clip[0], beside, rtol=0, atol=1e-3)
    assert torch.equal(one.clip, maximize_activation(net, '0', 2, **settings).clip)
    assert not torch.equal(one.clip, maximize_activation(net, '0', 2, seed=1, **settings).clip)


def test_mistakes_are_named():
    net = Linear()
    with pytest.raises(IndexError, match=r"'conv' has 4 channels \(0 to 3\), got \(4,\)"):
        maximize_activation(net, 'conv', 4, (2, 1, 4, 4), steps=1)
    with pytest.raises(ValueError, match="'frame', 'clip'"):
        maximize_activation(net, 'conv', 1, mode='video')
    with pytest.raises(ValueError, match="'fourier', 'pixel'"):
        maximize_activation(net, 'conv', 1, parametrization='wavelet')
    with pytest.raises(ValueError, match='0 < smallest <= largest'):
        maximize_activation(net, 'conv', 1, scales=(1.1, 0.9))
    with pytest.raises(ValueError, match=r'shape must be \(C, T, H, W\)'):
        maximize_activation(net, 'conv', 1, (3, 4, 4))
    with pytest.raises(KeyError, match='Close to it: conv'):
        saliency(net, torch.rand(1, 2, 2, 3, 4), 0, 'conv1')
    with pytest.raises(ValueError, match="'max', 'sum', 'none'"):
        saliency(net, torch.rand(1, 2, 2, 3, 4), 0, reduce='mean')
    with pytest.raises(ValueError, match='one clip'):
        channel_saliency(net, torch.rand(2, 2, 2, 3, 4), 'conv', [0])
