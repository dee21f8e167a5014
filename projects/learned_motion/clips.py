"""Clips of Video-MNIST in 16 frames, with the digit's own motion or with any: class = motion either way.

digits   class = digit = motion, as :class:`VideoMNIST` draws them
motion   the class is the motion alone: the ten motions are dealt out to the digits at random
"""
import zlib
from typing import Optional, Tuple

import numpy as np
import torch
from nets import FRAMES  # beside this file
from torch import Tensor

from tconv_mmaction.datasets import VideoMNIST
from tconv_mmaction.datasets.digit_motions import digit_motion, draw

KINDS = ('digits', 'motion')


def clips(kind: str, split: str, per_class: int, seed: int, data_root: Optional[str]) -> Tuple[Tensor, Tensor]:
    """``(n, 16, 28, 28)`` uint8 and classes ``(n,)`` of a balanced random subset; the same for the same arguments.

    Args:
        kind: see the module.
        split: 'train', 'val' or 'test'.
        per_class: videos.
        seed: of the subset and of everything that is drawn.
        data_root: with MNIST's files; None: the digits that scikit-learn brings.
    """
    if kind not in KINDS:
        raise ValueError(f'kind of clips must be one of {", ".join(KINDS)}, got {kind!r}.')
    data = VideoMNIST([], split=split, data_root=data_root, videos_per_class=per_class, subset_seed=seed,
                      num_frames=FRAMES)
    infos = [data.get_data_info(i) for i in range(len(data))]
    labels = np.array([info['label'] for info in infos])
    if kind == 'motion':
        labels = np.random.default_rng(zlib.crc32(f'{split} {seed}'.encode())).permutation(labels)
    videos = [draw(data.images[info['source_index']],
                   digit_motion(int(label), FRAMES, np.random.default_rng((seed, info['source_index']))))
              for info, label in zip(infos, labels)]
    return torch.from_numpy(np.stack(videos)), torch.from_numpy(labels)
