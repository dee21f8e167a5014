"""The methods by name, where the important frames and places are known; equality with captum and with loops."""
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradientXActivation, NoiseTunnel, Saliency
from torch import nn

from tconv_mmaction.interpret import (
    METHODS,
    channel_saliency,
    explain_clip,
    grad_cam,
    integrated_gradients,
    occlusion,
    over_frames,
    perturb,
    saliency,
    smooth_grad,
    temporal_occlusion,
)

EVENT = range(5, 10)
PLACE = (slice(0, 6), slice(12, 18))  # rows and columns of the 18 x 18 frame where the event is


class EventNet(nn.Module):
    """Class 1: how bright the place is in the frames of the event; softmax scores. conv has the clip's resolution."""

    def __init__(self, frames=16):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1, bias=False)
        nn.init.constant_(self.conv.weight, 1.)
        weight = torch.zeros(1, 1, frames, 18, 18)
        weight[:, :, EVENT.start:EVENT.stop, PLACE[0], PLACE[1]] = 1
        self.register_buffer('weight', weight / weight.sum())

    def forward(self, clip):
        evidence = (self.conv(clip).tanh() * self.weight).sum((1, 2, 3, 4))
        return torch.stack([torch.zeros_like(evidence), 4 * evidence - 2], 1).softmax(1)


def event_clip(count=1):
    """Noise everywhere, and more light where and when the event is."""
    clip = 0.1 * torch.rand(count, 1, 16, 18, 18)
    clip[:, :, EVENT.start:EVENT.stop, PLACE[0], PLACE[1]] += 0.8
    return clip


@pytest.fixture(scope='module')
def net():
    return EventNet().eval()


@pytest.mark.parametrize('name', [name for name, entry in METHODS.items() if not entry.baseline])
def test_every_method_finds_the_frames_and_the_place(net, name):
    clip = event_clip(2)
    settings = dict(temporal_mask=dict(iterations=60),
                    occlusion=dict(window=(2, 1, 1), stride=(1, 1, 1))).get(name, {})
    maps = explain_clip(net, clip, name, 1, layer='conv', **settings)
    assert len(maps) == 2 and maps.size(1) == 16
    for row in over_frames(maps, 16):
        assert sorted(row.topk(5).indices.tolist()) == list(EVENT), row
    if maps.dim() == 4:
        inside = torch.zeros(maps.shape[1:], dtype=torch.bool)
        unit = maps.size(3) / 18
        inside[EVENT.start:EVENT.stop, :round(6 * unit), round(12 * unit):] = True
        # grad_cam_clip has one weight for all times and places: it is bright where the clip is
        assert maps[:, inside].mean() > 5 * maps[:, ~inside].abs().mean(), name


def test_baselines_know_nothing_of_the_clip(net):
    first, second = event_clip(), torch.randn(1, 1, 16, 18, 18)
    assert torch.equal(explain_clip(net, first, 'centre', 1), explain_clip(net, second, 'centre', 0))
    centre = explain_clip(net, first, 'centre', 1)
    assert over_frames(centre, 16)[0].topk(2).indices.sort().values.tolist() == [7, 8]
    assert centre[0, 7].argmax() in (8 * 18 + 8, 8 * 18 + 9, 9 * 18 + 8, 9 * 18 + 9)
    both = explain_clip(net, torch.cat([first, second]), 'random', 1)
    assert torch.equal(both[1:], explain_clip(net, second, 'random', 1)) and not torch.equal(both[0], both[1])
    assert not torch.equal(both[:1], explain_clip(net, first, 'random', 1, seed=1))
    assert 0.4 < both.mean() < 0.6


def test_names_and_default_targets(net):
    clip = event_clip()
    with pytest.raises(ValueError, match="no method 'lime'; there is 'grad_cam'"):
        explain_clip(net, clip, 'lime')
    assert int(net(clip).argmax()) == 1
    torch.testing.assert_close(explain_clip(net, clip, 'saliency'), saliency(net, clip, 1))
    with pytest.raises(ValueError, match=r'a map must be \(N, 8\)'):
        over_frames(torch.rand(1, 7), 8)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(2, 3, 3, stride=(1, 2, 2))
        self.second = nn.Conv3d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, clip):
        return self.fc(self.second(self.first(clip).relu()).relu().mean((2, 3, 4)))


@pytest.fixture(scope='module')
def deep():
    torch.manual_seed(2)
    return Deep().double().eval()


@pytest.fixture(scope='module')
def clip():
    torch.manual_seed(3)
    return torch.randn(2, 2, 5, 9, 9, dtype=torch.float64)


def test_hires_cam_is_captums_gradient_times_activation(deep, clip):
    expected = LayerGradientXActivation(deep, deep.second).attribute(clip, target=1).sum(1).detach()
    torch.testing.assert_close(grad_cam(deep, clip, 1, 'second', weights='pixel'), expected)
    # where all that follows is a mean and a linear layer, a gradient is the same at every pixel: all CAMs are one
    net = nn.Sequential(nn.Conv3d(2, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    for weights in ('frame', 'clip'):
        torch.testing.assert_close(grad_cam(net, clip, 1, '0', 'pixel'), grad_cam(net, clip, 1, '0', weights))


def test_integrated_gradients_are_captums_and_add_up(deep, clip):
    found = integrated_gradients(deep, clip, [1, 2], reduce='none', steps=16)
    expected = IntegratedGradients(deep).attribute(clip, 0., target=torch.tensor([1, 2]), n_steps=16,
                                                   method='gausslegendre')
    torch.testing.assert_close(found, expected)
    for name, baseline in (('freeze', perturb(clip, torch.ones(2, 5), 'freeze')), ('zero', torch.zeros_like(clip)),
                           ('grey', clip.mean((2, 3, 4), keepdim=True).expand_as(clip))):
        total = integrated_gradients(deep, clip, [1, 2], baseline=name, steps=200).sum((1, 2, 3))
        with torch.no_grad():
            difference = (deep(clip) - deep(baseline))[[0, 1], [1, 2]]
        torch.testing.assert_close(total, difference, rtol=0, atol=2e-3)
    # what stands still is worth nothing against the freeze
    still = clip[:, :, :1].expand_as(clip).contiguous()
    assert integrated_gradients(deep, still, 1, baseline='freeze').abs().max() == 0
    with pytest.raises(ValueError, match="baseline must be 'zero', one of 'freeze'"):
        integrated_gradients(deep, clip, 1, baseline='black')
    with pytest.raises(ValueError, match=r'a baseline of \(2, 3\) does not fit'):
        integrated_gradients(deep, clip, 1, baseline=torch.zeros(2, 3))


def test_smooth_grad_is_captums_and_its_mean_is_the_loop(deep, clip):
    state = torch.random.get_rng_state()
    found = smooth_grad(deep, clip, 2, reduce='none', samples=6, noise=0.2, seed=4, chunk_size=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for n in range(2):
        deviation = 0.2 * float(clip[n].max() - clip[n].min())
        torch.manual_seed(4)
        expected = NoiseTunnel(Saliency(deep)).attribute(
            clip[n:n + 1].clone().requires_grad_(), nt_samples=6, nt_samples_batch_size=3, stdevs=deviation, target=2,
            abs=False)
        torch.testing.assert_close(found[n], expected[0].abs())
    alone = smooth_grad(deep, clip[1:], 2, reduce='none', samples=6, noise=0.2, seed=4, chunk_size=3)
    torch.testing.assert_close(found[1:], alone)
    torch.testing.assert_close(smooth_grad(deep, clip, 2, noise=0., samples=2), saliency(deep, clip, 2))
    with pytest.raises(ValueError, match='noise not negative'):
        smooth_grad(deep, clip, 2, noise=-1.)


def test_a_stride_makes_a_checkerboard_of_the_gradient_and_not_of_integrated_gradients(clip):
    """The channel of a first layer: on a flat background its gradient has the stride's pattern; what a clip shows
    against a black baseline is where the object is."""
    net = nn.Conv3d(1, 1, (1, 3, 3), stride=(1, 2, 2), bias=False)
    nn.init.constant_(net.weight, 1.)
    model = nn.Sequential(net, nn.AdaptiveAvgPool3d(1), nn.Flatten())
    frames = torch.zeros(1, 1, 2, 19, 19)
    frames[..., 6:12, 6:12] = 1
    frames += 1e-3  # so that the channel is just positive on the background
    plain = channel_saliency(model, frames, '0', [0])[0, 0]
    corner = plain[:4, :4]  # a pattern, as strong as anywhere, far from the object
    assert corner.max() == plain.max() >= 4 * corner[2:, 2:].min()
    integrated = channel_saliency(model, frames, '0', [0], integrated_gradients)[0, 0]
    inside = torch.zeros(19, 19, dtype=torch.bool)
    inside[6:12, 6:12] = True
    assert integrated[inside].sum() > 0.97 * integrated.sum()
    assert integrated[inside].min() > 100 * integrated[~inside].max()


def test_occlusion_equals_loops(deep, clip):
    model = nn.Sequential(deep, nn.Softmax(1))
    with torch.no_grad():
        scores = model(clip)[:, 1]
        drops, counts = torch.zeros(2, 5, dtype=torch.float64), torch.zeros(5)
        for start in (0, 2):  # windows of three frames, every second frame
            mask = torch.zeros(2, 5, dtype=torch.float64)
            mask[:, start:start + 3] = 1
            drops[:, start:start + 3] += (scores - model(perturb(clip, mask, 'freeze'))[:, 1])[:, None]
            counts[start:start + 3] += 1
    found = temporal_occlusion(model, clip, 1, 'freeze', window=3, stride=2, chunk_size=4)
    torch.testing.assert_close(found, drops / counts, rtol=1e-5, atol=1e-7)  # captum divides in float32
    found = occlusion(model, clip, 1, 'blur', cells=(2, 3), window=(5, 1, 2), stride=(5, 1, 1))
    assert found.shape == (2, 5, 2, 3)
    with torch.no_grad():
        mask = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
        mask[:, :, 1, :2] = 1  # the only box over cell (1, 0)
        drop = scores - model(perturb(clip, mask, 'blur'))[:, 1]
    torch.testing.assert_close(found[:, :, 1, 0], drop[:, None].expand(-1, 5), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match=r'window must be 1 to \(5,\), got \(6,\)'):
        temporal_occlusion(model, clip, 1, window=6)
    with pytest.raises(ValueError, match=r'stride must be 1 to \(2,\), got \(3,\)'):
        temporal_occlusion(model, clip, 1, window=2, stride=3)
    with pytest.raises(ValueError, match="no perturbation 'slow' of single cells"):
        occlusion(model, clip, 1, 'slow')
