"""Occlusion: how much a class score drops when some frames, or some place for some time, are taken away.

Zeiler and Fergus (ECCV 2014) slide a grey box over a picture. Here the box slides over a mask, of frames
(:func:`temporal_occlusion`) or of cells of space and time (:func:`occlusion`), and what happens under it is a
perturbation by name (:mod:`.perturbations`). The sliding is captum's (``captum.attr.Occlusion``), on the mask; where
boxes overlap, the drops are averaged.
"""
from typing import List, Sequence, Union

import torch
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.attribution import captum_method
from .access.modules import check_clip, choose_target, frozen
from .perturbations import find_perturbation


def _slide(model: nn.Module, clip: Tensor, target, perturbation: str, mask: Tensor, window: Sequence[int],
           stride: Sequence[int], chunk_size: int) -> Tensor:
    check_clip(clip)
    for name, values, most in (('window', window, mask.shape[1:]), ('stride', stride, window)):
        if any(not 1 <= value <= size for value, size in zip(values, most)):
            raise ValueError(f'{name} must be 1 to {tuple(most)}, got {tuple(values)}.')
    if chunk_size < 1:
        raise ValueError(f'chunk_size must be at least 1, got {chunk_size}.')
    how, method = find_perturbation(perturbation, mask.dim() == 4), captum_method('Occlusion')
    score_fn, clip = as_score_function(model, 'probabilities'), clip.detach()

    def perturbed_score(covered, clips, prepared):
        return score_fn(how.apply(clips, covered, prepared))

    with frozen(model), torch.no_grad():
        index = choose_target(score_fn(clip), target)
        if not len(clip):
            return mask
        return method(perturbed_score).attribute(
            mask, tuple(window), tuple(stride), baselines=1, target=index, perturbations_per_eval=max(
                1, chunk_size // len(clip)), additional_forward_args=(clip, how.prepare(clip))).detach().to(clip)


def temporal_occlusion(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]] = 'prediction',
                       perturbation: str = 'grey', window: int = 1, stride: int = 1, chunk_size: int = 16) -> Tensor:
    """The drop of the class score when the frames of a window are perturbed, for windows all over the clip.

    Args:
        model: (N, C, T, H, W) -> (N, K), or a recognizer of mmaction2 (then of its softmax scores).
        clip: (N, C, T, H, W).
        target: a class for all, one per clip, or 'prediction'.
        perturbation: a name of :mod:`.perturbations`. A frozen frame is the one before: of an event that lasts, the
            freeze finds the beginning.
        window, stride: frames.
        chunk_size: perturbed clips per forward pass.

    Returns:
        (N, T): per frame the mean drop of the windows that hold it; negative where the score rises.

    Raises:
        ValueError: if window is not 1 to T or stride 1 to window, or for an unknown perturbation or target.
        ImportError: if captum is missing.

    The score is the mean of frames 1 and 2, and grey frames have the mean of the clip:

    >>> clip = torch.tensor([0., 3, 3, 0]).view(1, 1, 4, 1, 1)
    >>> class Net(nn.Module):
    ...     def forward(self, clip):
    ...         return clip[:, :, 1:3].mean((2, 3, 4))
    >>> temporal_occlusion(Net(), clip, 0).tolist()
    [[0.0, 0.75, 0.75, 0.0]]
    """
    mask = clip.new_zeros(clip.size(0), clip.size(2)) if clip.dim() == 5 else clip
    return _slide(model, clip, target, perturbation, mask, (window, ), (stride, ), chunk_size)


def occlusion(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]] = 'prediction',
              perturbation: str = 'grey', cells: Sequence[int] = (7, 7), window: Sequence[int] = (4, 1, 1),
              stride: Sequence[int] = (2, 1, 1), chunk_size: int = 16) -> Tensor:
    """The drop of the class score when a box of cells is perturbed, for boxes all over the clip.

    Args:
        model, clip, target, chunk_size: as for :func:`temporal_occlusion`.
        perturbation: 'freeze', 'blur' or 'grey'.
        cells: rows and columns that a frame is divided into.
        window, stride: of the box: frames, rows and columns of cells. A window of more frames than the clip is cut.

    Returns:
        (N, T, rows, columns): per frame and cell the mean drop of the boxes that hold it.

    Raises:
        ValueError: if window or stride do not fit, and as :func:`temporal_occlusion`.
        ImportError: if captum is missing.
    """
    check_clip(clip)
    frames = clip.size(2)
    cells = tuple(min(count, side) for count, side in zip(cells, clip.shape[3:]))
    mask = clip.new_zeros(clip.size(0), frames, *cells)
    window, stride = ((min(value[0], frames), *value[1:]) for value in (window, stride))
    return _slide(model, clip, target, perturbation, mask, window, stride, chunk_size)
