"""Effective receptive field: stacks of box filters have a known one; random inputs average as the formula says."""
import pytest
import torch
from torch import nn

from tconv_mmaction.interpret import effective_receptive_field, field_marginals


def boxes(*sizes, channels=1):
    layers = []
    for i, size in enumerate(sizes):
        conv = nn.Conv3d(channels if i == 0 else 1, 1, size, padding=tuple(s // 2 for s in size), bias=False)
        nn.init.ones_(conv.weight)
        layers.append(conv)
    return nn.Sequential(*layers)


def box_power(*widths):
    """The product of polynomials of ones: what stacked box filters weigh their inputs with."""
    curve = torch.ones(1, dtype=torch.float64)
    for width in widths:
        curve = torch.nn.functional.conv1d(curve[None, None], torch.ones(1, 1, width, dtype=torch.float64),
                                           padding=width - 1)[0, 0]
    return curve


@pytest.mark.parametrize('widths', [(3,), (3, 3), (3, 5, 3), (7, 1, 3)])
def test_known_width_of_stacked_boxes(widths):
    net = boxes(*[(w, 3, 1) for w in widths]).double()
    field = effective_receptive_field(net, (1, 21, 15, 5), repeats=2)
    curve = box_power(*widths)
    marginals = field_marginals(field)
    start = 10 - len(curve) // 2
    torch.testing.assert_close(marginals.time[start:start + len(curve)], curve / curve.sum())
    assert marginals.time.sum() == pytest.approx(1) and (marginals.time > 1e-12).sum() == len(curve)
    # variances of boxes add up: (w^2 - 1) / 12 each
    assert marginals.std == pytest.approx(sum((w * w - 1) / 12 for w in widths)**.5)
    space = box_power(*[3] * len(widths))
    rows = marginals.xy[:, 2]
    torch.testing.assert_close(rows[7 - len(space) // 2:8 + len(space) // 2], space * curve.sum())
    assert field[:, :, [0, 1, 3, 4]].sum() == 0
    torch.testing.assert_close(marginals.xt[:, 2], field.sum((1, 2)))


def test_colours_and_several_outputs():
    net = nn.Conv3d(3, 2, (3, 1, 1), padding=(1, 0, 0), bias=False).double()
    field = effective_receptive_field(net, (3, 5, 3, 3), repeats=1)
    weight = net.weight.detach()[..., 0, 0].sum(0)  # both outputs get a gradient of 1
    torch.testing.assert_close(field[1:4, 1, 1], weight.square().mean(0).sqrt())
    moved = effective_receptive_field(net, (3, 5, 3, 3), repeats=1, position=(1, 0, 2))
    torch.testing.assert_close(moved[0:3, 0, 2], field[1:4, 1, 1])


def test_root_mean_square_over_inputs():
    class Square(nn.Module):
        def forward(self, clip):
            return clip.square().sum(1, keepdim=True)

    field = effective_receptive_field(Square(), (1, 1, 1, 1), repeats=4, seed=3)
    generator = torch.Generator().manual_seed(3)
    inputs = torch.stack([torch.randn(1, generator=generator) for _ in range(4)]).double()
    torch.testing.assert_close(field.flatten(), (2 * inputs).square().mean(0).sqrt())


def test_state_and_random_numbers_are_left_alone():
    net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.ReLU())
    net[1].eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    field = effective_receptive_field(net, (3, 4, 5, 6), repeats=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(field, effective_receptive_field(net, (3, 4, 5, 6), repeats=2))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert [m.training for m in net] == [True, False, True, True] and net[0].weight.requires_grad
    assert net[0].weight.grad is None


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r'shape must be \(C, T, H, W\)'):
        effective_receptive_field(boxes((3, 3, 3)), (8, 8, 8))
    with pytest.raises(ValueError, match='feature map'):
        effective_receptive_field(nn.Flatten(), (1, 2, 2, 2))
    with pytest.raises(ValueError, match='0 .or NaN. everywhere'):
        field_marginals(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match=r'\(T, H, W\)'):
        field_marginals(torch.zeros(2, 2))
