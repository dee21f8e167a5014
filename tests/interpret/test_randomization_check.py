"""The cascading check: what does not depend on the network is named; measures against loops."""
import numpy as np
import pytest
import torch
from torch import nn

from tconv_mmaction.interpret import METHODS, explain_clip, randomization_check, register_method
from tconv_mmaction.interpret.randomization_check import layers_from_the_top, randomize, spearman, ssim


class Net(nn.Module):
    """Three layers that run in another order than they are written in, and one that does not run."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.second = nn.Sequential(nn.Conv3d(4, 6, 3, padding=1), nn.BatchNorm3d(6))
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.unused = nn.Linear(2, 2)

    def forward(self, clip):
        return self.head(self.second(self.first(clip).tanh()).tanh().mean((2, 3, 4)))


@pytest.fixture
def net():
    net = Net().eval()
    nn.init.normal_(net.second[1].running_mean, std=0.2)
    nn.init.uniform_(net.second[1].running_var, 0.2, 2)
    return net


@pytest.fixture
def edges():
    @register_method('edges', 'differences of neighbours: nothing of the network')
    def run(model, clip, target, layer):
        return clip.diff(dim=4).abs().sum(1)
    yield
    del METHODS['edges']


def test_what_does_not_depend_on_the_network_is_named(net, edges):
    clip = torch.randn(3, 1, 6, 8, 8)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    found = randomization_check(net, clip, ['edges', 'saliency', 'grad_cam', 'centre'], 1, layer='second', stages=4)
    assert found.unchanged == ['edges', 'centre']
    assert found.stages == [['head'], ['second.1'], ['second.0'], ['first']]
    for measure in (found.rank, found.rank_abs, found.ssim):
        assert all(values.shape == (5, 3) for values in measure.values())
        np.testing.assert_allclose(measure['edges'], 1)
        np.testing.assert_allclose(measure['saliency'][0], 1)
    assert np.abs(found.rank['saliency'][-1]).max() < 0.5
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    again = randomization_check(net, clip, ['saliency'], 1, stages=2)
    assert again.stages == [['head', 'second.1'], ['second.0', 'first']]
    np.testing.assert_allclose(again.rank['saliency'][-1], found.rank['saliency'][-1])  # the same draws


def test_a_map_below_the_randomised_layers_changes_through_its_gradient_only(net):
    """The head alone: Grad-CAM has the same activations with other weights, in numbers by a second network."""
    clip = torch.randn(1, 1, 6, 8, 8)
    found = randomization_check(net, clip, ['grad_cam'], 1, layer='first', stages=4, seed=5)
    other = Net().eval()
    other.load_state_dict(net.state_dict())
    randomize(other.head, torch.Generator().manual_seed(5))
    maps = [explain_clip(model, clip, 'grad_cam', 1, 'first').numpy() for model in (net, other)]
    assert found.rank['grad_cam'][1, 0] == pytest.approx(spearman(*maps))


def test_randomised_are_places_and_signs(net):
    before = [p.clone() for p in net.second.parameters()]
    randomize(net.second[1], torch.Generator().manual_seed(0))
    assert torch.equal(before[0], net.second[0].weight)  # only the module's own
    layer = nn.Conv3d(2, 3, 3)
    weight = layer.weight.detach().clone()
    randomize(layer, torch.Generator().manual_seed(0))
    assert not torch.equal(weight, layer.weight)
    found = layer.weight.detach()
    assert torch.equal(weight.abs().flatten().sort().values, found.abs().flatten().sort().values)
    assert 10 < (found > 0).sum() < found.numel() - 10
    assert (net.second[1].running_var > 0).all()
    assert layers_from_the_top(net, torch.randn(1, 1, 4, 6, 6)) == ['head', 'second.1', 'second.0', 'first']


def test_measures_by_hand():
    assert spearman(np.array([1, 2, 3, 4.]), np.array([10, 20, 40, 30.])) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert np.isnan(spearman(np.zeros(4), np.arange(4.)))
    first, second = np.random.default_rng(0).random((2, 3, 9, 10))
    assert ssim(first, first) == pytest.approx(1) and ssim(first, 1 - first) < 0
    a, b = ((values - values.min()) / np.ptp(values) for values in (first, second))
    total = []
    padded = [np.pad(values, [(1, 1), (3, 3), (3, 3)], mode='symmetric') for values in (a, b)]
    for t in range(3):
        for y in range(9):
            for x in range(10):
                p, q = (values[t:t + 3, y:y + 7, x:x + 7] for values in padded)
                covariance = ((p - p.mean()) * (q - q.mean())).mean()
                total.append((2 * p.mean() * q.mean() + 1e-4) * (2 * covariance + 9e-4)
                             / ((p.mean()**2 + q.mean()**2 + 1e-4) * (p.var() + q.var() + 9e-4)))
    assert ssim(first, second) == pytest.approx(np.mean(total))


def test_mistakes_are_named(net):
    clip = torch.randn(1, 1, 4, 6, 6)
    with pytest.raises(ValueError, match='stages must be at least 1'):
        randomization_check(net, clip, ['saliency'], stages=0)
    with pytest.raises(ValueError, match="no method 'guess'"):
        randomization_check(net, clip, ['guess'])
    with pytest.raises(ValueError, match='no parameters to randomise'):
        randomization_check(nn.Flatten(), clip, ['centre'], 0)
