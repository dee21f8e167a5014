"""Video-MNIST: handwritten digits that move, one kind of motion per class, drawn while training.

Ras et al., "Temporal Factorization of 3D Convolutional Kernels", arXiv:1912.04075, appendix B: one video per digit
image, 30 frames of 28x28 grey pixels, class = digit = motion (:mod:`tconv_mmaction.datasets.digit_motions`).
"""
from typing import Callable, List, Optional, Sequence, Union

import numpy as np
from mmaction.datasets.base import BaseActionDataset
from mmaction.registry import DATASETS

from .digit_images import SPLITS, mnist_digits, sklearn_digits
from .digit_motions import MOTIONS, SIDE, digit_motion, draw


@DATASETS.register_module()
class VideoMNIST(BaseActionDataset):
    """Videos of moving digits, for pipelines that start where decoding has ended (``FormatShape``, ...).

    A video depends on ``seed``, ``split`` and the number of its digit image in the split alone: it is the same in
    every epoch, in any worker, in any order, and in every subset. Frames are drawn when a video is asked for.

    A sample has ``imgs``, a list of (size, size, 1) uint8 arrays, ``label``, and the keys that mmaction2's samplers and
    decoders set: ``num_clips``, ``clip_len``, ``frame_interval``, ``frame_inds``, ``total_frames``,
    ``original_shape``, ``img_shape``, ``modality``, ``start_index``; beside them ``source_index``, the number of the
    digit image in its split, and ``video_id``.

    Args:
        pipeline: transforms after decoding, ``[dict(type='FormatShape', input_format='NCTHW'),
            dict(type='PackActionInputs')]`` for a network with one input channel.
        split: 'train', 'val' or 'test'.
        data_root: folder with the four MNIST idx files, plain or .gz: 50,000, 10,000 and 10,000 videos. None: the
            digits that scikit-learn brings, upscaled from 8x8: 1197, 300 and 300 videos.
        videos_per_class: take a random subset with this many videos of every class; None: take all.
        subset_seed: draws that subset. With the same seed, a smaller subset is part of a larger one.
        num_frames: frames per video; the motions were designed for 30.
        size: side of a frame in pixels; other sizes than 28 scale the whole scene.
        seed: draws the speeds, directions, radii and walks.
        indices, test_mode, lazy_init: as in MMEngine's BaseDataset.

    Raises:
        FileNotFoundError: if ``data_root`` or a file in it is not there.
        ValueError: for an unknown split, a damaged idx file, a number out of range, or a class with fewer videos than
            ``videos_per_class``.
    """
    METAINFO = dict(classes=tuple('0123456789'), motions=MOTIONS)

    def __init__(self, pipeline: List[Union[dict, Callable]], split: str = 'train', data_root: Optional[str] = None,
                 videos_per_class: Optional[int] = None, subset_seed: int = 0, num_frames: int = 30, size: int = SIDE,
                 seed: int = 0, indices: Optional[Union[int, Sequence[int]]] = None, test_mode: bool = False,
                 lazy_init: bool = False) -> None:
        if split not in SPLITS:
            raise ValueError(f'split must be one of {", ".join(map(repr, SPLITS))}, got {split!r}.')
        lowest = dict(num_frames=1, size=1, seed=0, subset_seed=0, videos_per_class=1)
        given = dict(num_frames=num_frames, size=size, seed=seed, subset_seed=subset_seed)
        if videos_per_class is not None:
            given['videos_per_class'] = videos_per_class
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest[name]:
                raise ValueError(f'{name} must be a whole number of at least {lowest[name]}, got {value!r}.')
        self.split, self.videos_per_class, self.subset_seed = split, videos_per_class, subset_seed
        self.num_frames, self.size, self.seed, self._digits_root = num_frames, size, seed, data_root
        # The base class joins data_root with ann_file and data_prefix, of which there are none.
        super().__init__(ann_file='', pipeline=pipeline, data_prefix=dict(), data_root=data_root or '',
                         indices=indices, test_mode=test_mode, lazy_init=lazy_init, modality='RGB')

    def load_data_list(self) -> List[dict]:
        if self._digits_root is None:
            self.images, labels = sklearn_digits(self.split)
        else:
            self.images, labels = mnist_digits(self._digits_root, self.split)
        chosen = np.arange(len(labels)) if self.videos_per_class is None else self._balanced_subset(labels)
        return [dict(source_index=int(i), label=int(labels[i]), video_id=f'{self.split}_{i:05d}') for i in chosen]

    def _balanced_subset(self, labels: np.ndarray) -> np.ndarray:
        rng, chosen = np.random.default_rng(self.subset_seed), []
        for label in range(10):
            members = np.flatnonzero(labels == label)
            if len(members) < self.videos_per_class:
                source = 'scikit-learn' if self._digits_root is None else repr(self._digits_root)
                raise ValueError(
                    f"class {label} has {len(members)} videos in split {self.split!r} of the digits from {source}, "
                    f"fewer than videos_per_class={self.videos_per_class}. Ask for at most {len(members)}, or give "
                    "data_root a folder with more digits.")
            chosen.append(rng.permutation(members)[:self.videos_per_class])
        return np.sort(np.concatenate(chosen))

    def get_cat_ids(self, idx: int) -> List[int]:
        """The class in a list: lets MMEngine's ClassBalancedDataset wrap this one."""
        return [self.get_data_info(idx)['label']]

    def motion(self, idx: int) -> np.ndarray:
        """``(T, 4)`` side in pixels, clockwise degrees, pixels right and down (of a 28-pixel frame) of a video."""
        info = self.get_data_info(idx)
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), info['source_index']))
        return digit_motion(info['label'], self.num_frames, rng)

    def frames(self, idx: int) -> np.ndarray:
        """``(T, size, size)`` uint8, the video itself."""
        motion = self.motion(idx)  # first, because it loads the images of a lazy dataset
        return draw(self.images[self.get_data_info(idx)['source_index']], motion, self.size)

    def prepare_data(self, idx: int) -> dict:
        results = self.get_data_info(idx)
        results.update(
            imgs=list(self.frames(idx)[..., None]), num_clips=1, clip_len=self.num_frames, frame_interval=1,
            frame_inds=np.arange(self.num_frames), total_frames=self.num_frames,
            original_shape=(self.size, self.size), img_shape=(self.size, self.size))
        return self.pipeline(results)
