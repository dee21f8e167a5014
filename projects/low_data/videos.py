"""The videos of the study: this package's Video-MNIST, the authors' with their two slips, and one without digits.

digits    as :class:`VideoMNIST` draws them: class = digit = motion
authors   the same, but digit 2 ends in a black frame and digit 5 takes its 12 degrees for radians, which is a turn of
          -32.45 degrees per frame: what the published numbers were measured on
motion    the class is the motion alone: the digits are dealt out to the ten motions at random
"""
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from tconv_mmaction.datasets import VideoMNIST
from tconv_mmaction.datasets.digit_images import SPLITS
from tconv_mmaction.datasets.digit_motions import SIDE, STEP, digit_motion, draw
from tconv_mmaction.utils.atomic import atomic_open

KINDS = ('digits', 'authors', 'motion')


def authors_video(image: np.ndarray, digit: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """``(T, 28, 28)`` with the two slips; everything else as :func:`digit_motion`."""
    if digit == 5:
        radius, direction = rng.integers(4, 13), rng.choice((-1, 1))
        angle = STEP * np.arange(num_frames) * direction  # degrees, taken for radians
        motion = np.stack((np.full(num_frames, float(SIDE)), np.zeros(num_frames), radius * np.cos(angle),
                           radius * np.sin(angle)), axis=1)
    else:
        motion = digit_motion(digit, num_frames, rng)
    frames = draw(image, motion)
    if digit == 2:
        frames[-1] = 0
    return frames


def _motion_seed(split: str, repeat: int) -> int:
    return zlib.crc32(f'{split} {repeat}'.encode())


def draw_set(kind: str, split: str, per_class: int, repeat: int, data_root: Optional[str]
             ) -> Tuple[np.ndarray, np.ndarray]:
    """``(n, 30, 28, 28)`` uint8 and classes ``(n,)`` of a balanced random subset.

    Raises:
        ValueError: for a kind that is not in ``KINDS``.
    """
    if kind not in KINDS:
        raise ValueError(f'kind of videos must be one of {", ".join(KINDS)}, got {kind!r}.')
    data = VideoMNIST([], split=split, data_root=data_root, videos_per_class=per_class, subset_seed=repeat)
    labels = np.array([data.get_data_info(i)['label'] for i in range(len(data))])
    if kind == 'digits':
        return np.stack([data.frames(i) for i in range(len(data))]), labels
    sources = [data.get_data_info(i)['source_index'] for i in range(len(data))]
    if kind == 'motion':  # as many of each motion, whatever the digit
        labels = np.random.default_rng(_motion_seed(split, repeat)).permutation(labels)
    videos = []
    for source, label in zip(sources, labels):
        rng = np.random.default_rng((data.seed, SPLITS.index(split), source))
        image = data.images[source]
        videos.append(authors_video(image, label, data.num_frames, rng) if kind == 'authors' else
                      draw(image, digit_motion(int(label), data.num_frames, rng)))
    return np.stack(videos), labels


@lru_cache(maxsize=8)
def videos(kind: str, split: str, per_class: int, repeat: int, data_root: Optional[str], cache: str
           ) -> Tuple[Tensor, Tensor]:
    """The same as tensors, drawn once and kept in a file of the folder ``cache``."""
    path = Path(cache) / f'{kind}_{split}_{per_class}_{repeat}.npz'
    if not path.is_file():
        frames, labels = draw_set(kind, split, per_class, repeat, data_root)
        with atomic_open(path, 'wb') as file:
            np.savez_compressed(file, videos=frames, labels=labels)
    with np.load(path) as kept:
        return torch.from_numpy(kept['videos']), torch.from_numpy(kept['labels'])
