"""The projected residual against an explicit least-squares solution, its slopes against autograd and definition."""
import itertools

import pytest
import torch

from tconv_mmaction.maths.projected_residual import ProjectedResidual, inverse_affine, reduced
from tconv_mmaction.maths.temporal_transform import affine_matrix, slice_transforms

CASES = [(reference, transform, gain, inputs)
         for reference, transform, gain, inputs in itertools.product((0, 1, 2), ('affine', 'free', None),
                                                                     (True, False), (2, 16)) if transform or gain]


def problem(reference, transform, gain, inputs, filters=2):
    weight = torch.randn(filters, inputs, 3, 3, 3, dtype=torch.float64)
    made = ProjectedResidual(reduced(weight), (3, 3, 3), gain, transform, reference, ridge=0.)
    x = 0.1 * torch.randn(filters, made.count, dtype=torch.float64)
    if transform == 'free':
        x[:, :made.motions] += torch.eye(2, 3, dtype=torch.float64).flatten().repeat(2)
    if gain:
        x[:, made.motions:] += 1
    return weight, made, x


@pytest.mark.parametrize(('reference', 'transform', 'gain', 'inputs'), CASES)
def test_value_gradient_and_gauss_newton_matrix(reference, transform, gain, inputs):
    weight, made, x = problem(reference, transform, gain, inputs)
    everyone = torch.arange(len(x))
    f, gradient, hessian = made.linearise(x, everyone)

    def stacked(row):  # A of the first filter
        return (made.transforms(row[None]) * made.gains(row[None])[..., None, None]).flatten(1, 2)[0]

    w, a = weight[0].flatten(1).T, stacked(x[0])
    kernel = torch.linalg.lstsq(a, w).solution
    torch.testing.assert_close(f[0], (w - a @ kernel).square().sum())
    torch.testing.assert_close(f, made.value(x, everyone))

    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(made.value(leaf, everyone).sum(), leaf)[0])

    slopes = torch.autograd.functional.jacobian(stacked, x[0])  # TP, P, q
    outside = torch.eye(len(a), dtype=a.dtype) - a @ torch.linalg.pinv(a)
    jacobian = torch.einsum('ij,jpq,pm->qim', outside, slopes, kernel).flatten(1)
    torch.testing.assert_close(hessian[0], jacobian @ jacobian.T)


def test_the_first_slice_as_reference_is_the_reference_maths():
    _, made, x = problem(0, 'affine', False, 4)
    motion = x.unflatten(1, (2, 4)).permute(2, 1, 0)
    theta = affine_matrix(motion[0].exp(), *motion[1:])
    torch.testing.assert_close(made.transforms(x), slice_transforms(theta, (3, 3)))


def test_the_inverse_step_leads_back():
    theta = torch.randn(5, 2, 3, dtype=torch.float64)
    back = inverse_affine(theta)
    point = torch.randn(5, 2, 1, dtype=torch.float64)
    there = theta[..., :2] @ point + theta[..., 2:]
    torch.testing.assert_close(back[..., :2] @ there + back[..., 2:], point)


def test_reduced_keeps_the_gram_matrix():
    weight = torch.randn(3, 40, 2, 3, 3, dtype=torch.float64)
    rows = weight.flatten(2)
    few = reduced(weight)
    assert few.shape == (3, 18, 18)
    torch.testing.assert_close(few @ few.mT, rows.mT @ rows)
