"""Batched Levenberg-Marquardt against scipy, and its bounds."""
import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from tconv_mmaction.maths.levenberg_marquardt import levenberg_marquardt

TIME = torch.linspace(0, 2, 20, dtype=torch.float64)
TRUTH = torch.tensor([[2., 1.5, .3], [-1., .4, 1.], [.5, 3., -.2]], dtype=torch.float64)  # a exp(-b t) + c


def curve(x, t=TIME):
    return x[:, :1] * torch.exp(-x[:, 1:2] * t) + x[:, 2:]


@pytest.fixture
def problem():
    data = curve(TRUTH) + 0.05 * torch.sin(7 * TIME)

    def linearise(x, which):
        r = curve(x) - data[which]
        decay = torch.exp(-x[:, 1:2] * TIME)
        jacobian = torch.stack([decay, -x[:, :1] * TIME * decay, torch.ones_like(decay)], dim=1)  # n, 3, t
        return r.square().sum(1), 2 * (jacobian @ r[:, :, None])[..., 0], jacobian @ jacobian.mT

    return data, linearise


def minimise(linearise, start, **options):
    return levenberg_marquardt(lambda x, which: linearise(x, which)[0], linearise, start, **options)


def test_every_problem_ends_where_scipy_does(problem):
    data, linearise = problem
    start = TRUTH + torch.tensor([.5, .3, -.4], dtype=torch.float64)
    found = minimise(linearise, start, iterations=100, tolerance=1e-14)
    assert found.converged.all()
    for x, x0, y, value in zip(found.parameters, start, data, found.values):
        other = least_squares(lambda p, y=y: (curve(torch.tensor(p[None]))[0] - y).numpy(), x0.numpy(), xtol=1e-12)
        np.testing.assert_allclose(x.numpy(), other.x, atol=1e-5)
        np.testing.assert_allclose(value.item(), 2 * other.cost, atol=1e-10)


def test_bounds_hold_and_the_rest_is_optimal_within_them(problem):
    data, linearise = problem
    lower, upper = torch.full((3, ), -torch.inf).double(), torch.tensor([torch.inf, 1., torch.inf]).double()
    found = minimise(linearise, TRUTH + .2, iterations=200, tolerance=1e-14, bounds=(lower, upper))
    for x, y in zip(found.parameters, data):
        other = least_squares(lambda p, y=y: (curve(torch.tensor(p[None]))[0] - y).numpy(), [1., .5, 0.],
                              bounds=(-np.inf, [np.inf, 1., np.inf]), xtol=1e-12, ftol=1e-12)
        np.testing.assert_allclose(x.numpy(), other.x, atol=1e-4)


def test_never_worse_than_the_start_even_where_the_slope_lies():
    def linearise(x, which):  # |x| with a wrong gradient
        return x.abs()[:, 0], -x.sign(), torch.ones(len(x), 1, 1)

    start = torch.tensor([[1.], [-2.], [0.]])
    found = minimise(linearise, start, iterations=30)
    assert torch.equal(found.values, start.abs()[:, 0]) and torch.equal(found.parameters, start)
