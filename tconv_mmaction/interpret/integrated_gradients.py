r"""Integrated gradients: what each pixel adds to a score on the way from a baseline to the clip.

Sundararajan et al., "Axiomatic attribution for deep networks" (ICML 2017), with x' the baseline:

.. math:: a_i = (x_i - x'_i) \int_0^1 \frac{\partial F(x' + \alpha (x - x'))}{\partial x_i} d\alpha, \quad
          \sum_i a_i = F(x) - F(x').

Against a frozen clip as baseline, a is what the motion adds; against a grey or blurred one, what the picture does. The
integral is captum's (``captum.attr.IntegratedGradients``, Gauss-Legendre).
"""
from typing import List, Optional, Union

import torch
from torch import Tensor, nn

from .access.attribution import REDUCTIONS, attribute, captum_method, over_colours
from .access.modules import Layer, check_clip
from .perturbations import PERTURBATIONS, perturb


def baseline_of(clip: Tensor, baseline: Union[str, Tensor]) -> Tensor:
    """(N, C, T, H, W): zeros, the clip wholly perturbed by the perturbation of that name, or the tensor given.

    Raises:
        ValueError: for another word, or a tensor that does not fit the clip.
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(clip).expand_as(clip)
        except RuntimeError as error:
            raise ValueError(f'a baseline of {tuple(baseline.shape)} does not fit clips {tuple(clip.shape)}.'
                             ) from error
    if baseline == 'zero':
        return torch.zeros_like(clip)
    if baseline not in PERTURBATIONS:
        raise ValueError(f"baseline must be 'zero', one of {', '.join(map(repr, PERTURBATIONS))} or a tensor, got "
                         f'{baseline!r}.')
    return perturb(clip, torch.ones(clip.size(0), clip.size(2), device=clip.device), baseline)


def integrated_gradients(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]] = 'prediction',
                         layer: Optional[Layer] = None, reduce: str = 'sum', baseline: Union[str, Tensor] = 'zero',
                         steps: int = 32, chunk_size: int = 8) -> Tensor:
    """What each pixel adds to the score between the baseline and the clip.

    Args:
        model, clip, target, layer: as for :func:`.saliency`.
        reduce: over the colours: 'sum', which keeps the sign and the sum, 'max', or 'none' to keep them.
        baseline: 'zero' (after normalisation: the mean colour of the training data), the name of a perturbation (the
            clip wholly frozen, blurred, grey, ...) or a tensor that can be expanded to the clip.
        steps: of the integral.
        chunk_size: clips of the way per forward and backward pass; it bounds the memory.

    Returns:
        (N, T, H, W), or (N, C, T, H, W) with ``reduce='none'``; positive where a pixel speaks for the target.

    Raises:
        ValueError: if steps or chunk_size are below 1, for an unknown baseline, and as :func:`.saliency`.
        ImportError, KeyError: as :func:`.saliency`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = nn.init.constant_(net[1].weight, -3.)
    >>> integrated_gradients(net, torch.arange(4.).view(1, 1, 4, 1, 1), 1).flatten().round(decimals=3).tolist()
    [0.0, -3.0, -6.0, -9.0]
    """
    if steps < 1 or chunk_size < 1:
        raise ValueError(f'steps and chunk_size must be at least 1, got {steps} and {chunk_size}.')
    if reduce not in REDUCTIONS:
        raise ValueError(f'reduce must be one of {REDUCTIONS}, got {reduce!r}.')
    check_clip(clip)
    start, method = baseline_of(clip.detach(), baseline), captum_method('IntegratedGradients')

    def integral(forward, x, index):
        found = [method(forward).attribute(row, begin, target=int(goal), n_steps=steps, method='gausslegendre',
                                           internal_batch_size=chunk_size).detach()
                 for row, begin, goal in zip(x.split(1), start.split(1), index)]
        return torch.cat(found) if found else torch.zeros_like(x)

    return over_colours(attribute(model, clip, target, layer, integral), reduce)
