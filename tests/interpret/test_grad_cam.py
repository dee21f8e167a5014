"""Grad-CAM over time: against naive loops and captum, on a patch that moves, on 2D, recurrent and in-place layers."""
import warnings

import pytest
import torch
from captum.attr import LayerGradCam
from mmaction.registry import MODELS
from torch import nn

from tconv_mmaction.interpret import find_layer, grad_cam, normalise_maps, upsample_maps
from tconv_mmaction.layers import ConvLSTM2d


class Net(nn.Module):
    """(N, 3, T, H, W) -> (N, 4); an in-place ReLU follows the layers, and one module runs twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 5, 3, padding=1), nn.BatchNorm3d(5), nn.ReLU(inplace=True))
        self.body = nn.Conv3d(5, 6, 3, stride=(1, 2, 2), padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)
        self.unused = nn.Conv3d(3, 3, 1)
        self.mix = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, clip):
        x = self.act(self.body(self.stem(clip)))
        x = self.act(self.mix(x) + x.square())
        return self.head(x.mean((2, 3, 4)))


def naive(net, clip, target, layer, frame):
    """Eq. 2 as loops, with the gradient of the layer's output taken by autograd on an out-of-place network."""
    stored = {}
    handle = dict(net.named_modules())[layer].register_forward_hook(
        lambda m, i, o: stored.update(a=o.detach().clone().requires_grad_()) or stored['a'] * 1)
    scores = net(clip)
    handle.remove()
    a = stored['a']
    gradient, = torch.autograd.grad(scores[range(len(clip)), target].sum(), a)
    maps = torch.zeros(a.size(0), *a.shape[2:], dtype=a.dtype)
    for n in range(a.size(0)):
        for t in range(a.size(2)):
            for k in range(a.size(1)):
                w = gradient[n, k, t].mean() if frame else gradient[n, k].mean()
                maps[n, t] += w * a[n, k, t].detach()
    return maps


@pytest.mark.parametrize('layer', ['stem.0', 'stem.1', 'stem.2', 'body', 'mix'])
@pytest.mark.parametrize('weights', ['frame', 'clip'])
def test_equals_loops_and_captum(layer, weights):
    net, clip = Net().double().eval(), torch.randn(2, 3, 4, 6, 8, dtype=torch.float64)
    target = [1, 3]
    maps = grad_cam(net, clip, target, layer, weights)
    torch.testing.assert_close(maps, naive(net, clip, target, layer, weights == 'frame'), rtol=1e-9, atol=1e-12)
    if weights == 'clip':
        # captum reads the layer's output after the in-place ReLU has changed it, so it gets a net without
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        captum = LayerGradCam(net, find_layer(net, layer)[1]).attribute(clip, target=torch.tensor(target))
        torch.testing.assert_close(maps, captum.detach()[:, 0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad_cam(net, clip, target, layer, weights, relu=True), maps.clamp(min=0))


def test_targets_by_number_label_and_prediction():
    net, clip = Net().eval(), torch.randn(3, 3, 4, 6, 8)
    prediction = net(clip).argmax(1)
    by_prediction = grad_cam(net, clip, 'prediction', net.body)
    torch.testing.assert_close(by_prediction, grad_cam(net, clip, prediction, 'body'))
    torch.testing.assert_close(by_prediction, grad_cam(net, clip, prediction.tolist(), 'body'))
    two = grad_cam(net, clip, 2, 'body')
    torch.testing.assert_close(two[1:2], grad_cam(net, clip[1:2], 2, 'body'))


class Patch(nn.Module):
    """Class 1 is brightness: channel 0 of the layer lights up where the clip does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 27)
            self.conv.weight[1] *= -1

    def forward(self, clip):
        x = self.conv(clip).relu()
        return torch.stack([x[:, 1].mean((1, 2, 3)), x[:, 0].square().mean((1, 2, 3))], 1)


def moving_patch(frames=12, size=32, side=5):
    clip, centres = torch.zeros(1, 1, frames, size, size), []
    for t in range(frames):
        x, y = 4 + 2 * t, 20 - t
        clip[0, 0, t, y - side // 2:y + side // 2 + 1, x - side // 2:x + side // 2 + 1] = 1
        centres.append((y, x))
    return clip, centres


def test_peaks_on_a_moving_patch_in_every_frame():
    clip, centres = moving_patch()
    maps = upsample_maps(grad_cam(Patch(), clip, 1, 'conv'), clip.shape[2:])[0]
    for frame, (y, x) in zip(maps, centres):
        peak = divmod(int(frame.argmax()), frame.size(1))
        assert abs(peak[0] - y) <= 2 and abs(peak[1] - x) <= 2
        assert frame[abs(torch.arange(32) - y) > 6].abs().max() < 1e-6


def test_2d_networks_get_their_time_back():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, clip):
            x = self.conv(clip.transpose(1, 2).flatten(0, 1)).relu().mean((2, 3))
            return self.fc(x).unflatten(0, (clip.size(0), -1)).mean(1)

    class AsVideo(Frames):
        def forward(self, clip):
            x = nn.functional.conv3d(clip, self.conv.weight[:, :, None], self.conv.bias)
            return self.fc(self.identity(x).relu().mean((2, 3, 4)))

    two, three, clip = Frames(), AsVideo(), torch.randn(2, 3, 5, 7, 7)
    three.load_state_dict(two.state_dict())
    three.identity = nn.Identity()
    for weights in ('frame', 'clip'):
        expected = grad_cam(three, clip, 1, 'identity', weights)
        torch.testing.assert_close(grad_cam(two, clip, 1, 'conv', weights), expected)


class Recurrent(nn.Module):
    """A layer that returns (sequence, state), as ConvLSTM2d does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x).tanh().cumsum(2)
        return y, (y[:, :, -1], y[:, :, -1])


def test_the_first_tensor_of_a_tuple():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.fc = Recurrent(), nn.Linear(4, 2)

        def forward(self, clip):
            y, (h, _) = self.cell(clip)
            return self.fc(y.square().mean((2, 3, 4)) + 0 * h.mean((2, 3)))

    net, clip = Net(), torch.randn(2, 3, 5, 4, 4)
    y = net.cell(clip)[0].detach()
    # d score / d y = fc.weight * 2 y / (T H W)
    gradient = net.fc.weight[1].detach()[None, :, None, None, None] * 2 * y / 80
    torch.testing.assert_close(grad_cam(net, clip, 1, 'cell'), (gradient.mean((3, 4), keepdim=True) * y).sum(1))


def test_conv_lstm_sequence():
    """A real C-LSTM layer: its sequence is (N, F, T, H, W), the gradients go through time by BPTT."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.second, self.fc = ConvLSTM2d(3, 4, 3), ConvLSTM2d(4, 4, 3), nn.Linear(4, 3)

        def forward(self, clip):
            y, _ = self.second(self.cell(clip)[0])
            return self.fc(y[:, :, -1].mean((2, 3)))

    net, clip = Net().double(), torch.randn(2, 3, 5, 6, 6, dtype=torch.float64)
    y = net.cell(clip)[0].detach().requires_grad_()
    score = net.fc(net.second(y)[0][:, :, -1].mean((2, 3)))[:, 1].sum()
    gradient, = torch.autograd.grad(score, y)
    expected = (gradient.mean((3, 4), keepdim=True) * y.detach()).sum(1)
    torch.testing.assert_close(grad_cam(net, clip, 1, 'cell'), expected)
    assert (expected.abs().amax((2, 3)) > 0).all()  # every step speaks for the class, though only the last is read
    last = grad_cam(net, clip, 1, 'second')
    assert last[:, :-1].abs().max() == 0 < last[:, -1].abs().max()


def test_recognizers_of_mmaction2():
    three = MODELS.build(dict(
        type='Recognizer3D', backbone=dict(type='ResNet3dSlowOnly', depth=18, base_channels=4, pretrained=None,
                                           conv1_kernel=(1, 3, 3), inflate=(0, 0, 1, 1), norm_eval=False),
        cls_head=dict(type='I3DHead', num_classes=3, in_channels=32, init_std=1.)))
    two = MODELS.build(dict(
        type='Recognizer2D', backbone=dict(type='MobileNetV2', widen_factor=0.1, pretrained=None),
        cls_head=dict(type='TSNHead', num_classes=3, in_channels=1280, init_std=1.)))
    clip = torch.randn(2, 3, 4, 64, 64)
    for model, layer, size in ((three, 'backbone.layer3', (4, 4, 4)), (two, 'backbone.layer6', (4, 2, 2))):
        model.init_weights()
        modes = [module.training for module in model.modules()]
        flags = [p.requires_grad for p in model.parameters()]
        maps = grad_cam(model, clip, 'prediction', layer)
        assert maps.shape == (2, *size) and torch.isfinite(maps).all() and maps.abs().max() > 0
        torch.testing.assert_close(maps[1:], grad_cam(model, clip[1:], 'prediction', layer), rtol=1e-3, atol=1e-6)
        assert [module.training for module in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == flags
        assert all(p.grad is None for p in model.parameters())
        with pytest.raises(KeyError, match='Close to it: backbone.layer3, '):
            grad_cam(three, clip, 0, 'layer3')


def test_hooks_mode_and_flags_come_back_after_an_error():
    net = Net()
    net.head.weight.requires_grad_(False)
    net.stem.eval()
    modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    for bad_clip, target, layer, error in (
            (torch.randn(1, 4, 4, 6, 8), 0, 'body', RuntimeError),  # four colours
            (torch.randn(1, 3, 4, 6, 8), 9, 'body', ValueError),  # no such class
            (torch.randn(1, 3, 4, 6, 8), 0, 'act', ValueError),  # runs twice
            (torch.randn(1, 3, 4, 6, 8), 0, 'head', ValueError),  # no map
            (torch.randn(1, 3, 4, 6, 8), 0, 'unused', RuntimeError)):
        with pytest.raises(error):
            grad_cam(net, bad_clip, target, layer)
        assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in net.modules())
        assert [m.training for m in net.modules()] == modes
        assert [p.requires_grad for p in net.parameters()] == flags


def test_mistakes_are_named():
    net, clip = Net(), torch.randn(1, 3, 4, 6, 8)
    with pytest.raises(KeyError, match=r"no layer 'stem.conv'. Close to it: .*stem\.0"):
        grad_cam(net, clip, 0, 'stem.conv')
    with pytest.raises(KeyError, match='no layer'):
        grad_cam(net, clip, 0, '')
    with pytest.raises(ValueError, match='not a part of the Net'):
        grad_cam(net, clip, 0, nn.Conv3d(3, 3, 1))
    with pytest.raises(TypeError, match='dotted name or a module'):
        grad_cam(net, clip, 0, 3)
    with pytest.raises(ValueError, match="'frame', 'clip'"):
        grad_cam(net, clip, 0, 'body', weights='all')
    with pytest.raises(ValueError, match=r'\(N, C, T, H, W\), got \(3, 4, 6, 8\)'):
        grad_cam(net, clip[0], 0, 'body')
    with pytest.warns(UserWarning, match="layer 'body' has one time step"):
        grad_cam(net, clip[:, :, :1], 0, 'body')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        grad_cam(net, clip, 0, 'body')


def test_upsample_and_normalise():
    maps = torch.tensor([[[[0., 2.]]], [[[-1., -3.]]]])  # 2, 1, 1, 2
    # linear between pixel centres, which lie at 0.5 and 2.5 of four columns
    torch.testing.assert_close(upsample_maps(maps, (2, 1, 4))[0], torch.tensor([[[0, .5, 1.5, 2]], [[0, .5, 1.5, 2]]]))
    assert normalise_maps(maps).tolist() == [[[[0, 1]]], [[[0, 0]]]]
    with pytest.raises(ValueError, match=r'size \(T, H, W\)'):
        upsample_maps(maps, (4, 4))
