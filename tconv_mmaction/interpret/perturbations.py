r"""What can be done to the frames of a clip that a mask names: the perturbations, by name.

Each takes a clip (N, C, T, H, W) and a mask m (N, T) in [0, 1] and gives the clip back where the mask is 0. *freeze*
and *reverse* are the paper's (:mod:`.freeze`); the others answer what it leaves open: is it the motion that a network
needs, the picture, the order or the speed?

=========  ============================================================================  =======================
name       frame t where the mask is on                                                  takes away
=========  ============================================================================  =======================
freeze     the result of frame t - 1                                                     motion and new pictures
reverse    its mirror image in the run                                                   the direction of time
shuffle    another frame of the clip, in a drawn order                                   the order
slow       the clip at half speed from the frame before the run on                       the speed
still      itself, warped along the optical flow to where things were before the run     motion, not light or detail
blur       itself, blurred in space                                                      detail, not motion
grey       the mean colour of the clip                                                   everything
=========  ============================================================================  =======================

*freeze*, *blur* and *grey* also take a mask of cells (N, T, h, w), which is laid over the frames: each pixel is then
perturbed for itself. All but *reverse* are continuous in the mask: :func:`.find_temporal_mask` searches with them. The
runs that *reverse* plays backwards come and go with a threshold, which has no gradient.

*slow*: with l_t the lag behind the clip's own time, l_t = m_t (l_{t-1} + 1/2), frame t is the clip at time t - l_t,
linear between frames; lag 1 instead of 1/2 per frame would be the freeze. *still* is the same in space: with f_t the
optical flow from frame t - 1 to t (OpenCV's, after Farnebaeck), d_t(x) = m_t (d_{t-1}(x) + f_t(x + d_{t-1}(x))) is how
far what was at x before the run has moved, and frame t is x_t(x + d_t(x)).

>>> import torch
>>> clip = torch.arange(6.).view(1, 1, 6, 1, 1)
>>> mask = torch.tensor([[0., 0, 1, 1, 1, 0]])
>>> perturb(clip, mask, 'freeze').flatten().tolist()
[0.0, 1.0, 1.0, 1.0, 1.0, 5.0]
>>> perturb(clip, mask, 'slow').flatten().tolist()
[0.0, 1.0, 1.5, 2.0, 2.5, 5.0]
>>> perturb(clip, mask, 'grey').flatten().tolist()
[0.0, 1.0, 2.5, 2.5, 2.5, 5.0]
"""
from typing import Callable, Dict, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .freeze import check_mask, freeze_frames, reverse_frames

BLUR = 8  # the standard deviation of the blur is the longer side of a frame divided by this
SPEED = 0.5  # of slowed time
THRESHOLD = 0.1  # from here a frame is in a run, for the reverse


class Perturbation(NamedTuple):
    """How to prepare a clip once, and how to perturb it by any mask."""
    prepare: Callable[[Tensor], Tensor]  # clip -> (N, ...) what is computed once
    apply: Callable[[Tensor, Tensor, Tensor], Tensor]  # (clip, mask, prepared) -> clip, differentiable in the mask
    cells: bool = False  # whether it takes masks (N, T, h, w)
    searched: bool = True  # whether a mask can be found for it by gradient descent


def _nothing(clip: Tensor) -> Tensor:
    return clip.new_empty(len(clip), 0)


def _over_pixels(clip: Tensor, mask: Tensor) -> Tensor:
    """A mask (N, T) or of cells (N, T, h, w) as (N, 1, T, H, W) or (N, 1, T, 1, 1)."""
    if mask.dim() == 4 and mask.shape[2:] != clip.shape[3:]:
        mask = F.interpolate(mask, clip.shape[3:], mode='nearest')
    return (mask if mask.dim() == 4 else mask[:, :, None, None])[:, None]


def _freeze(clip: Tensor, mask: Tensor, _prepared: Tensor) -> Tensor:
    if mask.dim() == 2:
        return freeze_frames(clip, mask)
    mask = _over_pixels(clip, mask)[:, 0]  # N, T, H, W: every pixel is a clip of its own
    pixels = clip.permute(0, 3, 4, 1, 2)  # N, H, W, C, T
    frozen = freeze_frames(pixels.flatten(0, 2)[..., None, None], mask.permute(0, 2, 3, 1).flatten(0, 2))
    return frozen.view(pixels.shape).permute(0, 3, 4, 1, 2)


def _mix(clip: Tensor, mask: Tensor, other: Tensor) -> Tensor:
    return torch.lerp(clip, other.expand_as(clip), _over_pixels(clip, mask).to(clip))


def _reverse(clip: Tensor, mask: Tensor, _prepared: Tensor) -> Tensor:
    return reverse_frames(clip, mask, THRESHOLD)


def shuffled_order(frames: int) -> np.ndarray:
    """Which frame is shown instead of each of so many: always the same draw, and no frame in its own place."""
    rng = np.random.default_rng(frames)
    order = rng.permutation(frames)
    while frames > 1 and (order == np.arange(frames)).any():
        order = rng.permutation(frames)
    return order


def _shuffled(clip: Tensor) -> Tensor:
    return clip.detach()[:, :, torch.from_numpy(shuffled_order(clip.size(2))).to(clip.device)]


def _slow(clip: Tensor, mask: Tensor, _prepared: Tensor) -> Tensor:
    lag, times = mask.new_zeros(len(mask)), []
    for t in range(mask.size(1)):
        # the first frame has nothing before it to lag behind
        lag = mask[:, t] * (lag + (1 - SPEED)) if t else lag
        times.append(t - lag)
    frames = torch.arange(mask.size(1), device=mask.device)
    weights = (1 - (torch.stack(times, 1)[:, :, None] - frames).abs()).relu()  # N, T, T: linear between two frames
    return torch.matmul(weights.to(clip)[:, None], clip.flatten(3)).view(clip.shape)


def _optical_flow(clip: Tensor) -> Tensor:
    """(N, T, 2, H, W), on the clip's device: pixels right and down from frame t - 1 to t, 0 for the first."""
    grey = clip.detach().mean(1).cpu().double().numpy()
    flows = np.zeros((*grey.shape[:2], *grey.shape[2:], 2), dtype=np.float32)
    window = max(5, min(grey.shape[2:]) // 8)
    for frames, flow in zip(grey, flows):
        low, high = frames.min(), frames.max()
        bytes_ = np.rint((frames - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
        for t in range(1, len(frames)):
            flow[t] = cv2.calcOpticalFlowFarneback(bytes_[t - 1], bytes_[t], None, 0.5, 3, window, 5, 5, 1.1, 0)
    return torch.from_numpy(flows).permute(0, 1, 4, 2, 3).to(clip)


def _sample(images: Tensor, position: Tensor) -> Tensor:
    """Images (N, C, H, W) at positions (N, 2, H, W) in pixels right and down, bilinear, the border goes on."""
    height, width = images.shape[2:]
    sizes = position.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = position.permute(0, 2, 3, 1) * 2 / sizes - 1
    return F.grid_sample(images, grid, padding_mode='border', align_corners=True)


def _still(clip: Tensor, mask: Tensor, flow: Tensor) -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(n, device=clip.device) for n in clip.shape[3:]), indexing='ij')
    at = torch.stack((x, y)).to(clip)[None]  # 1, 2, H, W
    moved, frames = torch.zeros_like(flow[:, 0]), [clip[:, :, 0]]
    for t in range(1, clip.size(2)):
        moved = mask[:, t, None, None, None].to(clip) * (moved + _sample(flow[:, t], at + moved))
        frames.append(_sample(clip[:, :, t], at + moved))
    return torch.stack(frames, 2)


def _blurred(clip: Tensor) -> Tensor:
    sigma = max(clip.shape[3:]) / BLUR
    images = clip.detach().transpose(1, 2).flatten(0, 2).cpu()  # N*T*C, H, W
    images = (images if images.dtype == torch.float64 else images.float()).numpy()  # OpenCV knows no other floats
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images]) if len(images) else images
    return torch.from_numpy(blurred).to(clip).view(clip.transpose(1, 2).shape).transpose(1, 2)


def _mean_colour(clip: Tensor) -> Tensor:
    return clip.detach().mean((2, 3, 4), keepdim=True)


PERTURBATIONS: Dict[str, Perturbation] = {
    'freeze': Perturbation(_nothing, _freeze, cells=True),
    'reverse': Perturbation(_nothing, _reverse, searched=False),
    'shuffle': Perturbation(_shuffled, _mix),
    'slow': Perturbation(_nothing, _slow),
    'still': Perturbation(_optical_flow, _still),
    'blur': Perturbation(_blurred, _mix, cells=True),
    'grey': Perturbation(_mean_colour, _mix, cells=True),
}
OF_CELLS = tuple(name for name, entry in PERTURBATIONS.items() if entry.cells)


def find_perturbation(name: str, cells: bool = False) -> Perturbation:
    """The perturbation of that name.

    Raises:
        ValueError: if there is none, or it takes no masks of cells and ``cells`` asks for them.
    """
    names = OF_CELLS if cells else tuple(PERTURBATIONS)
    if name not in names:
        why = ' of single cells' if cells and name in PERTURBATIONS else ''
        raise ValueError(f'there is no perturbation {name!r}{why}; there is {", ".join(map(repr, names))}.')
    return PERTURBATIONS[name]


def perturb(clip: Tensor, mask: Tensor, perturbation: str = 'freeze') -> Tensor:
    """The clip, perturbed where the mask is on.

    Args:
        clip: (N, C, T, H, W), floating point.
        mask: (N, T) in [0, 1], or of cells (N, T, h, w) for those that take them.
        perturbation: a name of the table above.

    Returns:
        (N, C, T, H, W), differentiable in the mask.

    Raises:
        ValueError: if there is no such perturbation, or the shapes do not fit.
        TypeError: if the clip is not floating point.
    """
    entry = find_perturbation(perturbation, mask.dim() == 4)
    check_mask(clip, mask.amax((2, 3)) if mask.dim() == 4 and mask.numel() else mask)
    return entry.apply(clip, mask.to(clip), entry.prepare(clip))
