"""The basis of temporal filters: orthonormal, the paper's axes for three frames, its own inverse by eta."""
import math

import numpy as np
import pytest
import torch
from helpers.layer_cases import noise
from maths import naive

from tconv_mmaction.maths.temporal_basis import (
    analysis_matrix,
    apply_in_time,
    coefficients,
    cosine_basis,
    synthesis_matrix,
)


@pytest.mark.parametrize('length', [1, 2, 3, 5, 7, 9])
def test_the_basis_is_orthonormal_and_starts_with_the_average(length):
    basis = cosine_basis(length)
    torch.testing.assert_close(basis.T @ basis, torch.eye(length, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(basis[:, 0], torch.full((length, ), length**-.5, dtype=torch.float64))
    np.testing.assert_allclose(basis.numpy().T, [naive.cosine(length, n) for n in range(length)], rtol=0, atol=1e-14)


def test_three_frames_have_the_papers_axes():
    basis = cosine_basis(3)
    np.testing.assert_allclose(basis[:, 1] * 2**.5, [1, 0, -1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(basis[:, 2] * 6**.5, [1, -2, 1], rtol=0, atol=1e-14)


@pytest.mark.parametrize('length', [1, 3, 5])
@pytest.mark.parametrize('eta', [1., 2., 1e6, math.inf])
def test_analysis_inverts_synthesis(length, eta):
    there, back = synthesis_matrix(length, eta), analysis_matrix(length, eta)
    count = coefficients(length, eta)
    assert there.shape == (length, count) and back.shape == (count, length)
    torch.testing.assert_close(back @ there, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-9)
    if math.isinf(eta) and length > 1:
        assert count == length - 1
        np.testing.assert_allclose(there.sum(0), 0, atol=1e-14)  # every filter adds up to zero over time
        projector = torch.eye(length, dtype=torch.float64) - 1 / length
        torch.testing.assert_close(there @ back, projector, rtol=0, atol=1e-14)
    else:
        torch.testing.assert_close(there @ back, torch.eye(length, dtype=torch.float64), rtol=0, atol=1e-9)


def test_weight_decay_is_the_papers_penalty():
    """|W~|^2 = eta^2 |A|^2 + |B|^2 (eq. 7), with A and B the filter's parts along the average and beside it."""
    free, eta = noise((2, 3, 5, 3, 3), 1), 3.
    filters = apply_in_time(synthesis_matrix(5, eta), free)
    average = filters.sum(2) / 5**.5
    beside = filters - filters.mean(2, keepdim=True)
    torch.testing.assert_close(free.square().sum(), eta**2 * average.square().sum() + beside.square().sum())


@pytest.mark.parametrize('length, eta', [(1, 2.), (1, math.inf), (3, 1.), (3, math.inf), (5, 4.)])
def test_filters_equal_the_naive_loop(length, eta):
    free = noise((2, 3, coefficients(length, eta), 2, 3), 1)
    got = apply_in_time(synthesis_matrix(length, eta), free)
    np.testing.assert_allclose(got.numpy(), naive.branch_filter(free.numpy(), length, eta), rtol=0, atol=1e-14)


def test_gradcheck():
    free = noise((2, 2, 3, 2, 2), 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: apply_in_time(synthesis_matrix(3, 2.), w), free)
