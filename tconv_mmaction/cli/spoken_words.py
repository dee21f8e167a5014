"""MIRACL-VC1 for studies: lists that keep speakers apart, balanced parts of them, and the clips in memory.

A clip is the whole video in a number of frames of 32x64 pixels; training crops them from 36x72.
"""
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from torch import Tensor

from .study_clips import kept, whole_videos

WORDS = ('begin', 'choose', 'connection', 'navigation', 'next', 'previous', 'start', 'stop', 'hello', 'web')
HEIGHT, WIDTH, MARGIN = 32, 64, 4  # what a network sees; training crops it from MARGIN (2 MARGIN) more
Clips = Tuple[List[str], List[int]]  # names and classes


def read_list(data_root: str, part: str, fold: int) -> Clips:
    """Names and classes of ``words_{part}_unseen{fold}.txt``."""
    path = Path(data_root) / f'words_{part}_unseen{fold}.txt'
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there; --data-root must have the lists and videos/ of MIRACL-VC1.')
    lines = [line.rsplit(' ', 1) for line in path.read_text().splitlines() if line.strip()]
    return [name for name, _ in lines], [int(label) for _, label in lines]


def speaker(name: str) -> str:
    """``words/begin/F02_01.avi`` -> ``F02``."""
    return Path(name).stem.split('_')[0]


@lru_cache(maxsize=1)
def decoded(data_root: str, cache: str, frames: int) -> Dict[str, np.ndarray]:
    """All clips as (3, T, H, W) uint8, the whole video in ``frames`` frames, decoded once and kept in a file."""
    def make(names: Sequence[str]) -> np.ndarray:
        return whole_videos(Path(data_root) / 'videos', names, frames, HEIGHT + MARGIN, WIDTH + 2 * MARGIN)

    return kept(Path(cache) / f'words_{frames}x{HEIGHT + MARGIN}x{WIDTH + 2 * MARGIN}.npz',
                lambda: {name for part in ('train', 'test') for name in read_list(data_root, part, 1)[0]}, make)


def middle_crop(clips: Tensor) -> Tensor:
    """What is tested: 32x64 pixels of the middle of ``(..., 36, 72)``."""
    return clips[..., MARGIN // 2:MARGIN // 2 + HEIGHT, MARGIN:MARGIN + WIDTH]


def subset(names: Sequence[str], labels: Sequence[int], per_class: int, seed: int) -> List[int]:
    """Indices of ``per_class`` clips of every class, as equally many of each speaker as possible, drawn by ``seed``."""
    rng, chosen = np.random.default_rng(seed), []
    for label in sorted(set(labels)):
        by_speaker = {}
        for index in rng.permutation([i for i, own in enumerate(labels) if own == label]):
            by_speaker.setdefault(speaker(names[index]), []).append(int(index))
        order = rng.permutation(sorted(by_speaker))
        rounds = [by_speaker[name][turn] for turn in range(max(map(len, by_speaker.values()))) for name in order
                  if turn < len(by_speaker[name])]
        if len(rounds) < per_class:
            raise ValueError(f'class {label} has {len(rounds)} clips, fewer than {per_class}.')
        chosen += rounds[:per_class]
    return sorted(chosen)


def lists(data_root: str, fold: int, per_class: int, seed: int, tuning: bool) -> Tuple[Clips, Clips]:
    """Training and test (names, classes). Tuning: two speakers of the training list are tested on, nobody else's."""
    names, labels = read_list(data_root, 'train', fold)
    tested = read_list(data_root, 'test', fold)
    if tuning:
        held = sorted({speaker(name) for name in names})[::5][:2]
        out = [i for i, name in enumerate(names) if speaker(name) in held]
        tested = [names[i] for i in out], [labels[i] for i in out]
        keep = [i for i, name in enumerate(names) if speaker(name) not in held]
        names, labels = [names[i] for i in keep], [labels[i] for i in keep]
    chosen = subset(names, labels, per_class, seed)
    return ([names[i] for i in chosen], [labels[i] for i in chosen]), tested
