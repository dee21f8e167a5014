"""Primary temporal filters: SVD of hand-made filters, axes, energy shares by hand, and the layers they come from."""
import numpy as np
import pytest
import torch
from torch import nn

from tconv_mmaction.interpret import (
    energy_table,
    filter_distribution,
    primary_temporal_filters,
    temporal_axes,
    temporal_kernels,
)
from tconv_mmaction.interpret.temporal_filters import centre_filter, density, energy_shares
from tconv_mmaction.layers import Conv3T, MultiBranchConv3d, SeparableConv3d

EXACT = dict(rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('t, pixels', [(3, (3, 3)), (5, (3, 3)), (7, (1, 2)), (3, (1, 1)), (2, (5, 5))])
def test_hand_made_filters_come_back(t, pixels):
    """W = U S V^T put together from known parts gives U (up to the sign) and S again."""
    count, pixel_count = 4 * 3, pixels[0] * pixels[1]
    rank = min(t, pixel_count)
    u = torch.linalg.qr(torch.randn(count, t, t, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(count, pixel_count, rank, dtype=torch.float64)).Q
    s = torch.linspace(3, 1, rank, dtype=torch.float64) * (1 + torch.rand(count, 1, dtype=torch.float64))
    weight = (u[..., :rank] * s[:, None]) @ v.transpose(1, 2)
    found = primary_temporal_filters(weight.view(4, 3, t, *pixels))
    assert found.filters.shape == (12, t, t) and found.weights.shape == (12, t)
    torch.testing.assert_close(found.weights[:, :rank], s, **EXACT)
    assert found.weights[:, rank:].abs().sum() == 0
    cosines = (found.filters * u).sum(1)[:, :rank].abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), **EXACT)
    eye = found.filters.transpose(1, 2) @ found.filters
    torch.testing.assert_close(eye, torch.eye(t, dtype=torch.float64).expand_as(eye), **EXACT)
    assert (found.filters.amax(1) >= -found.filters.amin(1) - 1e-12).all()  # the largest entry is positive


def test_each_pair_equals_numpys_svd():
    weight = torch.randn(5, 4, 3, 3, 3)
    found = primary_temporal_filters(weight)
    for o in range(5):
        for i in range(4):
            u, s, _ = np.linalg.svd(weight[o, i].double().reshape(3, 9).numpy())
            np.testing.assert_allclose(found.weights[o * 4 + i], s, rtol=1e-10)
            np.testing.assert_allclose(np.abs((found.filters[o * 4 + i].numpy() * u).sum(0)), 1, rtol=1e-10)


def test_axes():
    expected = [np.array([1, 1, 1]) / 3**.5, np.array([-1, 0, 1]) / 2**.5, np.array([-1, 2, -1]) / 6**.5]
    np.testing.assert_allclose(temporal_axes(3), expected, rtol=1e-12, atol=1e-15)
    # for t = 5 the textbook orthogonal polynomials
    np.testing.assert_allclose(temporal_axes(5)[1], np.array([-2, -1, 0, 1, 2]) / 10**.5, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(temporal_axes(5)[2], -np.array([2, -1, -2, -1, 2]) / 14**.5, rtol=1e-12, atol=1e-15)
    for t in (1, 2, 4, 7):
        axes = temporal_axes(t)
        torch.testing.assert_close(axes @ axes.T, torch.eye(min(t, 3), dtype=torch.float64), **EXACT)
    assert centre_filter(4).tolist() == pytest.approx([0, .5**.5, .5**.5, 0])


def test_distribution_and_density():
    weight = torch.zeros(1, 2, 3, 3, 3)
    weight[0, 0, :, 1, 1] = torch.tensor([-1., 0, 1])  # 1st differential, weight sqrt(2)
    weight[0, 1, 1] = 2.  # the centre filter, weight 6
    distribution = filter_distribution(weight)
    assert distribution.points.shape == (12, 3)
    strong = distribution.weights > 1e-6
    rounded = np.round(distribution.points[strong].numpy(), 6) + 0.
    points = {tuple(point): float(w) for point, w in zip(rounded, distribution.weights[strong])}
    centre = tuple(np.round([1 / 3**.5, 0, 2 / 6**.5], 6))
    assert points[(0, 1, 0)] == pytest.approx(2**.5) and points[(0, -1, 0)] == pytest.approx(2**.5)
    assert points[centre] == pytest.approx(6) and points[tuple(-x for x in centre)] == pytest.approx(6)
    np.testing.assert_allclose(distribution.centre, centre, atol=1e-6)
    counts, edges = density(distribution, (0, 1), bins=5)
    assert counts.sum() == pytest.approx(1) and edges[0] == -1 and edges[-1] == 1
    # average 0.577 is in column 3, first differential 0 in row 2; both signs
    assert counts[2, 3] == pytest.approx(6 / (2 * (6 + 2**.5))) == pytest.approx(counts[2, 1])
    assert counts[4, 2] == pytest.approx(2**.5 / (2 * (6 + 2**.5))) == pytest.approx(counts[0, 2])
    unit = filter_distribution(torch.randn(4, 4, 3, 3, 3)).points.norm(dim=1)
    torch.testing.assert_close(unit, torch.ones_like(unit), **EXACT)  # t = 3: on the sphere


def test_energy_shares_by_hand_and_by_svd():
    weight = torch.zeros(1, 1, 3, 1, 1, dtype=torch.float64)
    weight[0, 0, :, 0, 0] = torch.tensor([1., 1, 1])
    assert energy_shares(weight) == pytest.approx(dict(centre=1 / 3, average=1, differential_1=0, differential_2=0))
    weight[0, 0, :, 0, 0] = torch.tensor([0., 1, 0])
    assert energy_shares(weight) == pytest.approx(dict(centre=1, average=1 / 3, differential_1=0, differential_2=2 / 3))
    for t in (3, 5):
        weight = torch.randn(4, 3, t, 3, 3, dtype=torch.float64)
        found, shares = primary_temporal_filters(weight), energy_shares(weight)
        for name, axis in zip(('average', 'differential_1', 'differential_2'), temporal_axes(t)):
            cosines = torch.einsum('t,ntk->nk', axis, found.filters).square()
            expected = (cosines * found.weights.square()).sum() / found.weights.square().sum()
            assert shares[name] == pytest.approx(float(expected))
        assert shares['centre'] == pytest.approx(float(weight[:, :, t // 2].square().sum() / weight.square().sum()))
    assert np.isnan(energy_shares(torch.ones(1, 1, 2, 1, 1))['differential_2'])
    assert np.isnan(energy_shares(torch.zeros(1, 1, 3, 1, 1))['average'])


def test_kernels_of_a_model_and_its_table():
    net = nn.Sequential(nn.Conv3d(1, 2, (3, 3, 3)), Conv3T(2, 3, 3), nn.Conv3d(3, 3, (1, 3, 3)),
                        SeparableConv3d(3, 2, 3), nn.Conv2d(3, 3, 3))
    kernels = temporal_kernels(net)
    assert set(kernels) >= {'0', '1'} and '2' not in kernels and all(k.size(2) == 3 for k in kernels.values())
    assert any(name.startswith('3.') and k.shape[2:] == (3, 1, 1) for name, k in kernels.items())
    torch.testing.assert_close(kernels['1'], net[1].kernel().detach())
    assert isinstance(net[1], Conv3T) and net.training  # untouched
    multi = nn.Sequential(MultiBranchConv3d(3, 2, (5, 3, 3), padding=(2, 1, 1)))
    for module in multi.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    fused, = temporal_kernels(multi).values()
    impulse = torch.zeros(1, 3, 9, 7, 7)
    impulse[0, 1, 4, 3, 3] = 1
    multi.eval()
    answer = (multi(impulse) - multi(torch.zeros_like(impulse)))[0, :, 2:7, 2:5, 2:5]  # the kernel, mirrored
    torch.testing.assert_close(fused[:, 1], answer.flip(1, 2, 3).detach(), rtol=1e-4, atol=1e-5)
    table = energy_table(kernels)
    assert table.loc['0', 'filters'] == 2 and table.loc['1', 't'] == 3
    torch.testing.assert_close(table.loc['1', 'average'], energy_shares(net[1].kernel())['average'])
    assert table[['average', 'differential_1', 'differential_2']].sum(axis=1).to_numpy() == pytest.approx(1)
    with pytest.raises(ValueError, match='no 3D convolution with more than one time step'):
        temporal_kernels(nn.Conv3d(3, 3, (1, 3, 3)))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r'\(O, I, t, h, w\) as in nn.Conv3d, got \(2, 3, 3, 3\)'):
        primary_temporal_filters(torch.zeros(2, 3, 3, 3))
    with pytest.raises(ValueError, match='NaN or infinite'):
        primary_temporal_filters(torch.full((1, 1, 3, 1, 1), float('nan')))
    with pytest.raises(ValueError, match='one time step'):
        filter_distribution(torch.zeros(1, 1, 1, 3, 3))
    assert primary_temporal_filters(torch.zeros(0, 3, 3, 3, 3)).filters.shape == (0, 3, 3)
