"""Clips that a study under projects/ holds in memory: decoded once, cropped, mirrored and normalised as tensors."""
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from mmaction.registry import TRANSFORMS
from mmcv.transforms import Compose
from torch import Tensor

from ..transforms.ego_motion import moving_offsets
from ..utils.atomic import atomic_open

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's images, as mmaction2 has them


def whole_videos(folder: Path, names: Sequence[str], frames: int, height: int, width: int) -> np.ndarray:
    """``(n, 3, frames, height, width)`` uint8: each of the videos ``folder/name`` from end to end, the whole image."""
    pipeline = Compose([TRANSFORMS.build(step) for step in (
        dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=frames), dict(type='DecordDecode'),
        dict(type='Resize', scale=(width, height), keep_ratio=False), dict(type='FormatShape', input_format='NCTHW'))])
    return np.stack([pipeline(dict(filename=str(folder / name), start_index=0, modality='RGB'))['imgs'][0]
                     for name in names])


def kept(path: Path, names: Callable[[], Sequence[str]],
         make: Callable[[Sequence[str]], np.ndarray]) -> Dict[str, np.ndarray]:
    """{name: array}, made once for all names and kept in the file ``path``, whole or not at all.

    Raises:
        ValueError: if ``path`` is something else.
    """
    if not path.is_file():
        known = sorted(names())
        arrays = make(known)
        with atomic_open(path, 'wb') as file:
            np.savez(file, names=np.array(known), arrays=arrays)
    with np.load(path) as file:
        if set(file.files) != {'names', 'arrays'}:
            raise ValueError(f'{path} has {", ".join(file.files)} instead of names and arrays: something else or an '
                             'older version wrote it. Delete it or choose another folder.')
        return dict(zip(file['names'].tolist(), file['arrays']))


def normalized(clips: Tensor) -> Tensor:
    """``(N, 3, T, H, W)`` uint8 as float32, by the mean and standard deviation of ImageNet's images."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in (MEAN, STD))
    return clips.float().sub_(mean).div_(std)


def drifting_crop(clip: Tensor, start: Tuple[int, int], velocity: np.ndarray, height: int, width: int) -> Tensor:
    """``height x width`` of a clip ``(C, T, H, W)``, from (x, y) = ``start`` in the first frame and then at the places
    of :class:`.EgoMotionCrop` for this velocity, ``(2,)`` pixels per frame."""
    frames, rows, columns = clip.shape[1:]
    places = moving_offsets(start, velocity[None], frames, (columns - width, rows - height))
    return torch.stack([clip[:, i, y:y + height, x:x + width] for i, (x, y) in enumerate(places.tolist())], 1)


def cropped_and_mirrored(clips: Tensor, height: int, width: int, draw: torch.Generator,
                         velocities: Optional[np.ndarray] = None) -> Tensor:
    """A crop of ``height x width`` of every clip ``(N, C, T, H, W)``, perhaps its mirror image; one draw per clip.

    ``velocities``: ``(N, 2)`` pixels per frame, as in :func:`drifting_crop`; None is crops that stand still. The
    draws are the same for both.
    """
    rows, columns = clips.shape[-2] - height + 1, clips.shape[-1] - width + 1
    out = []
    for i, clip in enumerate(clips):
        top, left, mirror = (int(torch.randint(0, n, (), generator=draw)) for n in (rows, columns, 2))
        part = clip[..., top:top + height, left:left + width] if velocities is None else \
            drifting_crop(clip, (left, top), velocities[i], height, width)
        out.append(part.flip(-1) if mirror else part)
    return torch.stack(out)
