r"""How far a 3D kernel is from every 3T kernel of given motion, and how that changes with the motion.

A filter W with slices :math:`W_b` (P pixels x I inputs) is to be :math:`W_b \approx g_b T_b K`, with one 2D kernel K
(P x I), gains :math:`g_b` and the transforms :math:`T_b` (P x P) of eq. 2 of arXiv:2006.15983, made of a few numbers x:
scale, rotation and translation per step. With A, the :math:`g_b T_b` on top of each other, the best K is linear,

.. math:: K(x) = (A^T A + \lambda)^{-1} A^T W, \qquad f(x) = |W - A K(x)|^2 + \lambda |K(x)|^2,

so only x is searched (variable projection: Golub and Pereyra, 1973). By the envelope theorem

.. math:: \frac{\partial f}{\partial x_k} = -2 \langle \partial_k A\,K,\; W - A K \rangle

exactly, and with Kaufman's (1975) approximation of the derivative of the residual, :math:`J_k = -P^\perp \partial_k A\,
K` where :math:`P^\perp = 1 - A (A^T A + \lambda)^{-1} A^T`, the Gauss-Newton matrix is

.. math:: H_{kl} = \langle \partial_k A\,K, \partial_l A\,K \rangle
          - \langle A^T \partial_k A\,K,\, (A^T A + \lambda)^{-1} A^T \partial_l A\,K \rangle .

Nothing here depends on W but through its Gram matrix :math:`W W^T` (TP x TP). :func:`reduced` therefore replaces the
I inputs by the at most TP rows of a QR decomposition, which has the same Gram matrix and loses no digits to squaring:
the cost of a fit does not depend on the number of input channels.
"""
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .resampling_slopes import affine_slopes, inverse_slopes, resampling_slopes
from .temporal_transform import affine_matrix, resampling_matrices

NUMBERS = {'affine': 4, 'free': 6}  # per step: log s, r, t_x, t_y; or the rows of a 2x3 matrix


def reduced(weight: Tensor) -> Tensor:
    """``(n, I, T, H, W)`` -> ``(n, T*H*W, min(I, T*H*W))`` with the same Gram matrix over the pixels."""
    rows = weight.flatten(2)  # n, I, TP
    if rows.shape[1] > rows.shape[2]:
        rows = torch.linalg.qr(rows, mode='r')[1]
    return rows.mT.contiguous()


def inverse_affine(theta: Tensor) -> Tensor:
    """``(..., 2, 3)`` matrices [A | t] -> [A^-1 | -A^-1 t]: the step back."""
    (a, b, c), (d, e, f) = (row.unbind(-1) for row in theta.unbind(-2))
    scale = 1 / (a * e - b * d)
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    return torch.stack([a, b, -a * c - b * f, d, e, -d * c - e * f], dim=-1).unflatten(-1, (2, 3))


class ProjectedResidual:
    """f of n filters, as a function of the motion and the gains.

    Parameters of a problem are one row: for every step log s, r, t_x, t_y (``transform='affine'``; radians and half
    kernels) or the matrix's six entries ('free'), then T gains if ``gain``.

    Args:
        slices: (n, T*P, m) from :func:`reduced`.
        size: (T, H, W) of the kernel.
        gain: whether slices have gains; else they are 1.
        transform: 'affine', 'free', or None where slices do not move.
        reference: the slice that K is; the steps before it are gone back by their inverse matrices.
        ridge: lambda over the mean of the diagonal of A^T A.
    """

    def __init__(self, slices: Tensor, size: Tuple[int, int, int], gain: bool = False,
                 transform: Optional[str] = 'affine', reference: int = 0, ridge: float = 1e-6) -> None:
        self.slices, self.size, self.gain, self.transform = slices, size, gain, transform
        self.reference, self.ridge = reference, ridge
        self.steps, self.pixels = size[0] - 1, size[1] * size[2]
        self.motions = self.steps * NUMBERS[transform] if transform else 0
        self.count = self.motions + (size[0] if gain else 0)  # parameters per filter

    def bytes_per_problem(self) -> int:
        """About what one problem needs at the peak of :meth:`linearise`."""
        frames, pixels, inputs = self.size[0], self.pixels, self.slices.shape[-1]
        columns = min(inputs, pixels)
        jacobian = frames * pixels * self.count * columns
        matrices = self.steps * pixels**2 * 4 * max(self.motions // max(self.steps, 1), 1)
        return self.slices.element_size() * (4 * jacobian + matrices + 4 * frames * pixels * (pixels + inputs))

    # ------------------------------------------------------------------------------------------------ transforms

    def theta(self, parameters: Tensor) -> Tensor:
        """(n, T-1, 2, 3) matrices of the steps."""
        motion = parameters[:, :self.motions].unflatten(1, (self.steps, -1))
        if self.transform == 'free':
            return motion.unflatten(-1, (2, 3))
        log_scale, *others = motion.unbind(-1)
        return affine_matrix(log_scale.exp(), *others)

    def gains(self, parameters: Tensor) -> Tensor:
        """(n, T)."""
        if self.gain:
            return parameters[:, self.motions:]
        return parameters.new_ones(len(parameters), self.size[0])

    def _resampling(self, parameters: Tensor) -> Tensor:
        """(n, T-1, P, P): from the slice nearer to the reference to the one further away."""
        theta = self.theta(parameters)
        back = inverse_affine(theta[:, :self.reference])
        return resampling_matrices(torch.cat([back, theta[:, self.reference:]], dim=1), self.size[1:])

    def _resampling_slopes(self, parameters: Tensor) -> Tensor:
        """(n, T-1, numbers per step, P, P): the derivatives of :meth:`_resampling`; a step depends on its own only."""
        theta = self.theta(parameters)
        if self.transform == 'affine':
            slopes = affine_slopes(theta)
        else:
            slopes = torch.eye(6, dtype=theta.dtype, device=theta.device).unflatten(1, (2, 3)).expand(
                *theta.shape[:2], -1, -1, -1)
        back = inverse_affine(theta[:, :self.reference])
        slopes = torch.cat([inverse_slopes(back, slopes[:, :self.reference]), slopes[:, self.reference:]], dim=1)
        return resampling_slopes(torch.cat([back, theta[:, self.reference:]], dim=1), slopes, self.size[1:])

    def _walk(self) -> List[Tuple[int, int, int]]:
        """(step, slice it starts from, slice it makes), from the reference outwards."""
        forward = [(b, b, b + 1) for b in range(self.reference, self.steps)]
        return forward + [(b, b + 1, b) for b in reversed(range(self.reference))]

    def transforms(self, parameters: Tensor) -> Tensor:
        """(n, T, P, P): T_b, without the gains."""
        eye = torch.eye(self.pixels, dtype=parameters.dtype, device=parameters.device)
        out = [eye.expand(len(parameters), -1, -1)] * self.size[0]
        if self.transform:
            matrices = self._resampling(parameters)
            for step, start, end in self._walk():
                out[end] = torch.bmm(matrices[:, step], out[start])
        return torch.stack(out, dim=1)

    # -------------------------------------------------------------------------------------------------- residual

    def _solve(self, parameters: Tensor, which: Tensor):
        """A (n, TP, P), Cholesky factor of A^T A + lambda, K (n, P, m), W - A K (n, TP, m), lambda (n,)."""
        a = (self.transforms(parameters) * self.gains(parameters)[..., None, None]).flatten(1, 2)
        w = self.slices[which]
        normal = torch.bmm(a.mT, a)
        ridge = self.ridge * normal.diagonal(dim1=-2, dim2=-1).mean(1) + torch.finfo(a.dtype).tiny
        eye = torch.eye(self.pixels, dtype=a.dtype, device=a.device)
        factor = torch.linalg.cholesky_ex(normal + ridge[:, None, None] * eye)[0]
        kernel = torch.cholesky_solve(torch.bmm(a.mT, w), factor)
        return a, factor, kernel, torch.baddbmm(w, a, kernel, alpha=-1), ridge

    def value(self, parameters: Tensor, which: Tensor) -> Tensor:
        """f (k,) of the filters ``which`` (k,) at ``parameters`` (k, q); infinite where it is no number."""
        _, _, kernel, residual, ridge = self._solve(parameters, which)
        f = residual.square().sum((1, 2)) + ridge * kernel.square().sum((1, 2))
        return torch.where(f.isfinite(), f, torch.inf)

    def kernel(self, parameters: Tensor, which: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
        """The reference slice K (k, P, I) that fits best, and its |W - A K|^2 (k,), for weights (k, T*P, I)."""
        a, factor, *_ = self._solve(parameters, which)
        kernel = torch.cholesky_solve(torch.bmm(a.mT, weight), factor)
        return kernel, torch.baddbmm(weight, a, kernel, alpha=-1).square().sum((1, 2))

    def linearise(self, parameters: Tensor, which: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """f (k,), its gradient (k, q) and the Gauss-Newton matrix (k, q, q)."""
        a, factor, kernel, residual, ridge = self._solve(parameters, which)
        f = residual.square().sum((1, 2)) + ridge * kernel.square().sum((1, 2))
        n, (frames, pixels) = len(parameters), (self.size[0], self.pixels)
        few = kernel.shape[-1] <= pixels
        # either the m columns of K are moved, or all P unit images, and K K^T comes in afterwards: whichever are fewer
        columns = kernel if few else torch.eye(pixels, dtype=a.dtype, device=a.device).expand(n, -1, -1)
        r = columns.shape[-1]
        moved = a.new_empty(n, frames, pixels, r)
        slope = a.new_zeros(n, frames, pixels, self.count, r)  # of g_b T_b columns
        moved[:, self.reference] = columns
        if self.transform:
            numbers = NUMBERS[self.transform]
            matrices, slopes = self._resampling(parameters), self._resampling_slopes(parameters)
            for step, start, end in self._walk():
                low, high = (self.reference, step) if step >= self.reference else (step + 1, self.reference)
                before = slice(low * numbers, high * numbers)
                moved[:, end] = torch.bmm(matrices[:, step], moved[:, start])
                slope[:, end, :, before] = torch.bmm(
                    matrices[:, step], slope[:, start, :, before].flatten(2)).unflatten(2, (-1, r))
                slope[:, end, :, step * numbers:(step + 1) * numbers] = torch.bmm(
                    slopes[:, step].flatten(1, 2), moved[:, start]).unflatten(1, (numbers, -1)).transpose(1, 2)
        else:
            moved[:] = columns[:, None]
        if self.gain:
            slope.mul_(self.gains(parameters)[..., None, None, None])
            for b in range(frames):
                slope[:, b, :, self.motions + b] = moved[:, b]
        slope = slope.flatten(1, 2)  # n, TP, q, r
        across = torch.bmm(a.mT, slope.flatten(2))  # n, P, q r
        solved = torch.cholesky_solve(across, factor)

        def rows(x):
            return x.unflatten(-1, (-1, r)).transpose(1, 2).flatten(2)  # n, q, (TP or P) r

        if few:
            weighted, weighted_across, target = slope.flatten(2), across, residual
        else:
            gram = torch.bmm(kernel, kernel.mT)  # P, P
            weighted = torch.bmm(slope.flatten(1, 2), gram).unflatten(1, (-1, self.count)).flatten(2)
            weighted_across = torch.bmm(
                across.unflatten(-1, (-1, r)).flatten(1, 2), gram).unflatten(1, (-1, self.count)).flatten(2)
            target = torch.bmm(residual, kernel.mT)
        flat = rows(slope.flatten(2))
        gradient = -2 * torch.bmm(flat, target.flatten(1)[..., None])[..., 0]
        hessian = torch.bmm(flat, rows(weighted).mT).sub_(torch.bmm(rows(solved), rows(weighted_across).mT))
        return f, gradient, hessian
