"""The 3T maths against golden files, a naive loop, hand-computed motions and finite differences."""
import math

import numpy as np
import pytest
import torch
from helpers.layer_cases import noise
from helpers.paths import golden
from maths import naive

from tconv_mmaction.maths.temporal_transform import (
    affine_matrix,
    hat,
    resampling_matrices,
    sample_positions,
    slice_transforms,
    temporal_kernel,
)

GOLDEN = golden('conv3t_*.npz')
SIZES = [(3, 3), (2, 2), (1, 4), (4, 1), (5, 3), (2, 5), (7, 7)]


def of_steps(*arrays):
    return affine_matrix(*(torch.as_tensor(a) for a in arrays))


@pytest.mark.parametrize('name', sorted(GOLDEN))
def test_golden_kernels(name):
    data = GOLDEN[name]
    theta = of_steps(*(data[n].astype(float) for n in ('scale', 'rotate', 'translate_x', 'translate_y')))
    kernel = temporal_kernel(torch.tensor(data['weight']).double(), theta)
    np.testing.assert_allclose(kernel.numpy(), data['kernel'], rtol=0, atol=1e-10 * np.abs(data['kernel']).max())


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('gain', [False, True])
def test_kernel_equals_the_naive_loop(size, gain):
    weight = noise((2, 3, *size), 1)
    theta = torch.eye(2, 3, dtype=torch.float64) + .4 * noise((2, 2, 2, 3), 2)  # free matrices
    gains = noise((3, 2), 3) if gain else None
    want = naive.kernel_3t(weight.numpy(), theta.numpy(), None if gains is None else gains.numpy())
    np.testing.assert_allclose(temporal_kernel(weight, theta, gains).numpy(), want, rtol=0, atol=1e-13)


def test_affine_matrix_equals_the_equation():
    values = [noise((3, 2), seed).numpy() for seed in range(4)]
    found = of_steps(*values)
    for b in range(3):
        for o in range(2):
            np.testing.assert_allclose(found[b, o], naive.affine(*(v[b, o] for v in values)), rtol=0, atol=1e-15)


@pytest.mark.parametrize('size', SIZES)
def test_the_identity_is_exact(size):
    for dtype in (torch.float32, torch.float64):
        theta = affine_matrix(*(torch.full((2, 3), v, dtype=dtype) for v in (1., 0., 0., 0.)))
        weight = noise((3, 2, *size), dtype=dtype)
        assert torch.equal(temporal_kernel(weight, theta), weight[:, :, None].expand(-1, -1, 3, -1, -1))


@pytest.mark.parametrize('x, y', [(1, 0), (-1, 0), (0, 1), (1, -1), (2, 0), (3, 0)])
def test_whole_pixels_move_the_image(x, y):
    """A translation of 2 / (k-1) half extents reads one pixel further."""
    weight = noise((1, 1, 5, 5), 1)
    theta = of_steps(*(np.array([[v]]) for v in (1., 0., x / 2, y / 2)))
    moved = temporal_kernel(weight, theta)[0, 0, 1]
    want = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            if 0 <= i + y < 5 and 0 <= j + x < 5:
                want[i, j] = weight[0, 0, i + y, j + x]
    torch.testing.assert_close(moved, want, rtol=0, atol=1e-15)


def test_a_quarter_turn_and_a_half_turn():
    weight = noise((1, 1, 3, 3), 1)
    quarter, half = (temporal_kernel(weight, of_steps(*(np.array([[v]]) for v in (1., turn, 0., 0.))))[0, 0, 1]
                     for turn in (math.pi / 2, math.pi))
    torch.testing.assert_close(quarter, weight[0, 0].rot90(1), rtol=0, atol=1e-15)  # counter-clockwise on the screen
    torch.testing.assert_close(half, weight[0, 0].flip(0, 1), rtol=0, atol=1e-15)


def test_steps_compose():
    """Slice b is slice b - 1 transformed by step b, not the first slice by all."""
    weight, theta = noise((2, 3, 3, 3), 1), torch.eye(2, 3, dtype=torch.float64) + .3 * noise((3, 2, 2, 3), 2)
    kernel = temporal_kernel(weight, theta)
    for b in range(3):
        torch.testing.assert_close(temporal_kernel(kernel[:, :, b], theta[b:b + 1])[:, :, 1], kernel[:, :, b + 1])
    transforms = slice_transforms(theta, (3, 3))
    torch.testing.assert_close(torch.einsum('obpq,oiq->oibp', transforms, weight.flatten(2)).reshape(kernel.shape),
                               kernel)


@pytest.mark.parametrize('name', [0, 2, 3])
@pytest.mark.parametrize('value', [math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_infinite_parameters_read_zeros_and_have_finite_gradients(name, value, dtype):
    values = [torch.full((2, 2), v, dtype=dtype) for v in (1.1, .2, .3, -.2)]
    values[name][0, 1] = value
    values = [v.requires_grad_() for v in values]
    weight = noise((2, 3, 3, 3), 1, dtype).requires_grad_()
    kernel = temporal_kernel(weight, affine_matrix(*values))
    assert kernel.isfinite().all() and not kernel[1, :, 1:].any() and kernel[0, :, 1:].any()
    grads = torch.autograd.grad((kernel * noise(kernel.shape, 2, dtype)).sum(), [weight, *values])
    assert all(g.isfinite().all() for g in grads)
    assert not grads[1 + name][0, 1].any()


def test_infinity_times_nothing_is_the_centre():
    """Scale 0 reads the centre everywhere, however far the translation; infinite scale reads outside but in the centre.
    """
    values = [torch.tensor([[v]]).double() for v in (0., .3, math.inf, -math.inf)]
    weight = noise((1, 1, 3, 3), 1)
    torch.testing.assert_close(temporal_kernel(weight, affine_matrix(*values))[0, 0, 1],
                               weight[0, 0, 1, 1].expand(3, 3))
    values = [torch.tensor([[v]]).double() for v in (math.inf, .3, 0., 0.)]
    want = torch.zeros(3, 3).double()
    want[1, 1] = weight[0, 0, 1, 1]
    assert torch.equal(temporal_kernel(weight, affine_matrix(*values))[0, 0, 1], want)


@pytest.mark.parametrize('name', range(4))
def test_nan_stays_nan(name):
    values = [torch.full((1, 2), v, dtype=torch.float64) for v in (1.1, .2, .3, -.2)]
    values[name][0, 1] = math.nan
    kernel = temporal_kernel(noise((2, 3, 3, 3), 1), affine_matrix(*values))
    assert kernel[1, :, 1].isnan().all() and kernel[0].isfinite().all() and kernel[1, :, 0].isfinite().all()


def test_slope_of_the_hat_at_its_kinks():
    """The mean of both sides' slopes: 0 at the top, half of one side's at the ends."""
    points = torch.tensor([-1.5, -1., -.5, 0., .5, 1., 1.5]).double().requires_grad_()
    values = hat(points)
    assert values.tolist() == [0, 0, .5, 1, .5, 0, 0]
    slope, = torch.autograd.grad(values.sum(), points)
    assert slope.tolist() == [0, .5, 1, 0, -1, -.5, 0]


@pytest.mark.parametrize('size', [(3, 3), (4, 4), (5, 3), (1, 3)])
def test_gradient_at_the_identity_is_the_mean_of_both_sides(size):
    weight, steps, filters = noise((3, 4, *size), 1), 2, 3
    start = [torch.full((steps, filters), v, dtype=torch.float64) for v in (1., 0., 0., 0.)]
    of_kernel = noise((3, 4, 3, *size), 2)

    def loss(*values):
        return (temporal_kernel(weight, affine_matrix(*values)) * of_kernel).sum()

    grads = torch.autograd.grad(loss(*(v.requires_grad_() for v in start)), start)
    step = 1e-6
    for number, grad in enumerate(grads):
        for b in range(steps):
            for o in range(filters):
                sides = []
                for sign in (1, -1):
                    values = [v.detach().clone() for v in start]
                    values[number][b, o] += sign * step
                    sides.append(loss(*values))
                want = (sides[0] - sides[1]) / (2 * step)
                assert grad[b, o] == pytest.approx(float(want), abs=2e-4)  # second derivatives of both sides differ


@pytest.mark.parametrize('size', [(2, 2), (1, 3)])
def test_gradcheck(size):
    weight = noise((1, 1, *size), 1).requires_grad_()
    values = [(noise((1, 1), seed) * .2 + start).requires_grad_() for seed, start in enumerate((1.1, .2, .1, -.1))]
    gain = noise((2, 1), 9).requires_grad_()

    def kernel(weight, gain, *values):
        return temporal_kernel(weight, affine_matrix(*values), gain)

    assert torch.autograd.gradcheck(kernel, (weight, gain, *values))
    assert torch.autograd.gradgradcheck(kernel, (weight, gain, *values))


def test_positions_and_matrices_take_leading_axes():
    theta = torch.eye(2, 3, dtype=torch.float64) + .3 * noise((4, 5, 2, 3), 2)
    x, y = sample_positions(theta, (3, 2))
    matrices = resampling_matrices(theta, (3, 2))
    assert x.shape == y.shape == (4, 5, 6) and matrices.shape == (4, 5, 6, 6)
    torch.testing.assert_close(resampling_matrices(theta[1, 2], (3, 2)), matrices[1, 2])
    assert (matrices >= 0).all() and (matrices.sum(-1) <= 1 + 1e-12).all()  # a sub-convex mix
