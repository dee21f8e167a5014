r"""The motion in any trained 3D convolution: for every filter, the 3T kernel nearest to it.

Ras et al. (arXiv:2006.15983, sec. 5) leave open whether temporal parameters can be read from trained 3D convolutions.
Here each filter W (I, T, H, W) is compared with all kernels that a 3T filter can be,

.. math:: W_b \approx g_b\, T_b K_1, \qquad b = 1, \dots, T,

K_1 its first slice, T_b the product of the affine steps of eq. 2 to 5, g_b = 1 or, with ``gain=True``, one factor per
slice. The search is in :mod:`tconv_mmaction.maths.nearest_3t_kernel`. A good fit is not yet motion: any kernel is
explained a little better by a model that can move. :func:`.motion_null.motion_null` says what is more than that, and
docs/fit.md what cannot be identified.
"""
from typing import Callable, Dict, NamedTuple, Optional

import torch
from torch import Tensor

from ..layers import TEMPORAL_PARAMETERS
from ..maths.nearest_3t_kernel import nearest_3t_kernel, still_explained
from ..maths.projected_residual import ProjectedResidual

REFERENCES = ('first', 'middle')
Progress = Callable[[int, int], None]


class FittedMotion(NamedTuple):
    """A 3D kernel read as a 3T kernel, on the kernel's device. Steps are from one slice to the next."""
    first: Tensor  # (O, I, H, W) K_1
    scale: Tensor  # (T-1, O), above 0: the content is zoomed by 1/s
    rotate: Tensor  # (T-1, O) radians, in (-pi, pi]; the content turns counter-clockwise by r
    translate_x: Tensor  # (T-1, O) half kernels; the content moves to the left
    translate_y: Tensor  # (T-1, O) half kernels; the content moves up
    explained: Tensor  # (O,) share of the squared weight that the fit explains; 1 for a filter of zeros
    baseline: Tensor  # (O,) the same for the best kernel of this kind that does not move
    gain: Tensor  # (T, O) g_b; 1 without gains, else of root mean square 1, the largest positive
    sensitivity: Dict[str, Tensor]  # name of a parameter -> (T-1, O), see fit_temporal_parameters

    def parameters(self) -> Dict[str, Tensor]:
        """{'scale', 'rotate', 'translate_x', 'translate_y'} as ``temporal_parameters`` gives them, on the CPU."""
        return {name: getattr(self, name).cpu() for name in TEMPORAL_PARAMETERS}

    def motion_share(self) -> Tensor:
        """(O,) the part of what the kernel without motion leaves that motion explains, 0 to 1."""
        left = 1 - self.baseline
        # a filter that is still to the last digit leaves nothing to explain
        small = left < 10 * torch.finfo(left.dtype).eps
        return torch.where(small, 0., (self.explained - self.baseline) / torch.where(small, 1., left)).clamp(0, 1)


def check_kernel(weight: Tensor) -> None:
    """Raise TypeError or ValueError unless ``weight`` is a finite 3D kernel with several slices of several pixels."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f'weight must be a floating point tensor (O, I, T, H, W) as of nn.Conv3d, got {kind}.')
    if weight.dim() != 5 or 0 in weight.shape:
        raise ValueError(f'weight must be (O, I, T, H, W) as of nn.Conv3d, none of them 0, got {tuple(weight.shape)}.')
    frames, height, width = weight.shape[2:]
    if frames < 2 or height == width == 1:
        what = 'one slice, so there is no step' if frames < 2 else 'one pixel per slice, on which no motion acts'
        raise ValueError(f'a kernel of (T, H, W) = {(frames, height, width)} has {what}. Motion can be read from '
                         'kernels with T > 1 and H*W > 1.')
    if not torch.isfinite(weight).all():
        raise ValueError('the weight holds NaN or infinite values: the training diverged; take an earlier checkpoint.')


@torch.no_grad()
def fit_temporal_parameters(weight: Tensor, gain: bool = False, reference: str = 'first', starts: int = 8,
                            iterations: int = 40, ridge: float = 1e-6, seed: int = 0, memory: int = 1 << 28,
                            progress: Optional[Progress] = None) -> FittedMotion:
    r"""Read a 3D kernel as a 3T kernel.

    ``explained`` is :math:`1 - \sum_b |W_b - g_b T_b K_1|^2 / |W|^2` of every filter, ``baseline`` the same without
    motion: one slice repeated, with gains the first temporal filter of the singular value decomposition. Both count
    nothing but the weight: what the filter does to a clip may depend on small parts of it.

    ``sensitivity`` says which numbers mean something: how much of the squared weight is lost per squared change of a
    parameter (of log s, of radians, of half kernels), all others re-fitted. Near 0 the parameter is not identifiable:
    the rotation of a K_1 that looks the same from all sides, a shift along the stripes of a K_1 of stripes, everything
    about a slice whose gain is 0.

    Args:
        weight: (O, I, T, H, W) of an ``nn.Conv3d`` (I per group); T > 1 and H*W > 1. Half precision is computed in
            float32.
        gain: one factor per filter and slice, as in ``Conv3T(gain=True)``: filters that also weigh their slices
            (differences, averages) are no 3T kernel without it.
        reference: 'first': the kernel of ``Conv3T``, each slice made from the one before it. 'middle': slices are made
            from the middle one outwards, earlier ones by the inverse motion; the numbers are those of the steps
            forward all the same, and ``first`` is the middle slice moved to the first.
        starts: of the search per filter; one of them is "no motion".
        iterations: Levenberg-Marquardt steps, at most.
        ridge: how much K_1 is held back, relative to the mean of the diagonal of its normal equations: pixels that no
            slice shows become 0 instead of anything.
        seed: the same gives the same result.
        memory: bytes of work space, about; more filters are done at once the more there is.
        progress: called with (filters done, filters in all).

    Returns:
        ``FittedMotion``, in the weight's dtype, float32 at least.

    Raises:
        TypeError, ValueError: for a weight of another kind, NaN, or an option out of range.

    >>> import torch
    >>> from tconv_mmaction.layers import Conv3T
    >>> layer = Conv3T(8, 2, 3)
    >>> _ = torch.nn.init.constant_(layer.translate_x, 0.2)
    >>> found = fit_temporal_parameters(layer.kernel().detach())
    >>> found.translate_x.shape, bool((found.translate_x - 0.2).abs().max() < 1e-3), bool(found.explained.min() > 0.999)
    (torch.Size([2, 2]), True, True)
    """
    check_kernel(weight)
    if reference not in REFERENCES:
        raise ValueError(f"reference must be 'first' or 'middle', got {reference!r}.")
    if starts < 1 or iterations < 0 or ridge < 0 or memory < 1:
        raise ValueError('starts and memory must be at least 1, iterations and ridge at least 0; got '
                         f'starts={starts}, memory={memory}, iterations={iterations}, ridge={ridge}.')
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    frames, height, width = weight.shape[2:]
    middle = frames // 2 if reference == 'middle' else 0
    found = nearest_3t_kernel(weight, gain, 'affine', middle, starts, iterations, ridge, seed, memory,
                              progress=progress)
    steps = frames - 1
    motion = found.parameters[:, :4 * steps].unflatten(1, (steps, 4)).permute(2, 1, 0)  # 4, T-1, O
    curvature = found.curvature[:, :4 * steps].unflatten(1, (steps, 4)).permute(2, 1, 0)
    log_scale, rotate, x, y = motion
    static, with_gains, _ = still_explained(weight)
    kernel = found.kernel
    gains = weight.new_ones(len(weight), frames)
    if gain:
        raw = found.parameters[:, 4 * steps:]
        size = raw.square().mean(1, keepdim=True).sqrt()
        peak = raw.gather(1, raw.abs().argmax(1, keepdim=True))
        size = torch.where(size == 0, 1., size) * torch.where(peak < 0, -1., 1.)
        gains, kernel = raw / size, kernel * size[..., None]
    if middle:
        kernel = moved_to_first(found.parameters, kernel, tuple(weight.shape[2:]), gain, middle)
    rotate = torch.remainder(rotate + torch.pi, 2 * torch.pi) - torch.pi
    rotate = torch.where(rotate == -torch.pi, torch.pi, rotate)
    return FittedMotion(
        kernel.mT.unflatten(2, (height, width)), log_scale.exp(), rotate, x, y, found.explained,
        with_gains if gain else static, gains.T, dict(zip(TEMPORAL_PARAMETERS, curvature)))


def moved_to_first(parameters: Tensor, kernel: Tensor, size, gain: bool, reference: int) -> Tensor:
    """The fitted reference slices (O, P, I) moved to the first slice."""
    problem = ProjectedResidual(kernel.new_empty(0, 1, 1), size, gain, 'affine', reference)
    return torch.bmm(problem.transforms(parameters)[:, 0], kernel)
