r"""Levenberg-Marquardt for many small least-squares problems at once.

Each of n problems has q parameters x and a value :math:`f(x) = |r(x)|^2`. From its gradient g and the Gauss-Newton
matrix H (half the second derivative of f, without the residual's own curvature) a step is

.. math:: \delta = -(H + \mu\,\mathrm{diag} H)^{-1} g / 2

(Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", 1963): it is taken where it lowers f,
and :math:`\mu` becomes smaller; elsewhere :math:`\mu` grows and the step is tried again, shorter and closer to the
steepest descent. Parameters may be bounded: one at its bound that would go further is left out of the step, the others
are cut where they meet theirs. f never grows, so a problem ends no worse than it starts, whatever kinks f has. A
problem that has converged leaves the batch, so that the rest costs less.
"""
from typing import Callable, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

GROW, SHRINK = 4., 0.3
SMALLEST, LARGEST = 1e-9, 1e7  # of mu; a problem whose mu has grown past LARGEST has no step that lowers f


class Minimum(NamedTuple):
    """The best point of every problem."""
    parameters: Tensor  # (n, q)
    values: Tensor  # (n,)
    steps: Tensor  # (n,) how many were tried
    converged: Tensor  # (n,) bool: the last step changed next to nothing, or none lowers f


def levenberg_marquardt(value: Callable[[Tensor, Tensor], Tensor],
                        linearise: Callable[[Tensor, Tensor], Tuple[Tensor, Tensor, Tensor]], start: Tensor,
                        iterations: int = 50, tolerance: Union[float, Tensor] = 1e-8,
                        bounds: Optional[Tuple[Tensor, Tensor]] = None) -> Minimum:
    """Minimise f of every problem from its start.

    Args:
        value: (parameters (k, q), which (k,)) -> f (k,); ``which`` are the numbers of the problems asked for.
        linearise: the same -> (f (k,), gradient (k, q), Gauss-Newton matrix (k, q, q)).
        start: (n, q).
        iterations: steps tried, at most.
        tolerance: a problem has converged when a step lowers f by less than this, in the units of f; a
            number, or one for each (n,).
        bounds: the least and the largest value of every parameter, (q,) each; the starts are moved between them.

    Example: the squared distance of a point from a circle of radius 2, for two starts.

    >>> import torch
    >>> def linearise(x, which):
    ...     radius = x.norm(dim=1, keepdim=True)
    ...     r, J = radius - 2, x / radius
    ...     return r.square()[:, 0], 2 * r * J, J[:, :, None] * J[:, None]
    >>> starts = torch.tensor([[3., 4.], [1., 0.]])
    >>> found = levenberg_marquardt(lambda x, which: linearise(x, which)[0], linearise, starts)
    >>> found.parameters.norm(dim=1)
    tensor([2., 2.])
    """
    parameters = start.clone() if bounds is None else start.clamp(*bounds)
    values, gradient, hessian = linearise(parameters, torch.arange(len(start), device=start.device))
    damping = torch.full_like(values, 1e-2)
    tolerance = torch.as_tensor(tolerance).to(values).expand_as(values)
    steps = torch.zeros(len(start), dtype=torch.long, device=start.device)
    converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    active = torch.arange(len(start), device=start.device)
    for _ in range(iterations if start.shape[1] else 0):
        if not len(active):
            break
        system, slope = hessian, gradient
        if bounds is not None:
            x = parameters[active]
            held = ((x <= bounds[0]) & (gradient > 0)) | ((x >= bounds[1]) & (gradient < 0))
            system = hessian.masked_fill(held[:, :, None] | held[:, None], 0.)
            slope = gradient.masked_fill(held, 0.)
        diagonal = system.diagonal(dim1=-2, dim2=-1)
        # a parameter that nothing depends on has a zero row: the small constant keeps the system regular
        added = damping[:, None] * diagonal + 1e-12 * diagonal.amax(1, keepdim=True) + torch.finfo(start.dtype).tiny
        step = torch.linalg.solve_ex(system + torch.diag_embed(added), -slope / 2)[0]
        there = parameters[active] + torch.nan_to_num(step, 0., 0., 0.)
        if bounds is not None:
            there = there.clamp(*bounds)
        f = value(there, active)
        better = f < values[active]
        gain = torch.where(better, values[active] - f, f.new_zeros(()))
        steps[active] += 1
        damping = torch.where(better, (SHRINK * damping).clamp(min=SMALLEST), GROW * damping)
        done = (better & (gain < tolerance[active])) | (damping > LARGEST)
        taken = active[better]
        parameters[taken], values[taken] = there[better], f[better]
        converged[active[done]] = True
        again = better & ~done
        if again.any():
            _, gradient[again], hessian[again] = linearise(there[again], active[again])
        left = ~done
        active, damping, gradient, hessian = active[left], damping[left], gradient[left], hessian[left]
    return Minimum(parameters, values, steps, converged)
