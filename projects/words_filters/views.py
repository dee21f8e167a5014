"""What a network sees of a word: 8 frames of 29 over the whole video, and a crop of 32x64 pixels.

At interval 4 the 8 frames are, to the frame, those that the other study of the words takes of a video: frame k of 29 is
round(k (n-1) / 28), frame k of 8 round(k (n-1) / 7). The random sampling rate (Kobayashi and Ye, eq. 8) draws the
interval of the package's ``RandomRateSampleFrames`` from 2 to 8: half to twice the nominal one, as 1 to 4 is of the
paper's 2. Past the end of the video the last frame that was taken is repeated. The random ego-motion (eq. 9) lets
the crop drift with the velocities of ``EgoMotionCrop``, sigma = 2 pixels per frame: over 8 frames of 64 pixels as far,
relative to the crop's width, as the paper's 2 pixels over 32 frames of 224.
"""
from typing import Callable

import numpy as np
import torch
from mmaction.registry import TRANSFORMS
from torch import Tensor

from tconv_mmaction.cli.spoken_words import HEIGHT, MARGIN, WIDTH, middle_crop
from tconv_mmaction.cli.study_clips import cropped_and_mirrored, drifting_crop, normalized

TIMELINE, FRAMES, NOMINAL, RATES, SIGMA = 29, 8, 4, (2, 8), 2.
TESTS = ('accuracy', 'accuracy_reversed', 'slow', 'fast', 'drift')  # as they stand in the log


def sampler(rates: tuple = RATES, test_interval: int = NOMINAL, test: bool = False) -> Callable[[], np.ndarray]:
    """Gives the indices of 8 frames of the timeline, in training drawn from NumPy's global generator."""
    transform = TRANSFORMS.build(dict(type='RandomRateSampleFrames', clip_len=FRAMES, frame_intervals=rates,
                                      test_interval=test_interval, out_of_bound_opt='repeat_last', test_mode=test))
    return lambda: transform(dict(total_frames=TIMELINE, start_index=0))['frame_inds']


def training_view(clips: Tensor, rate: bool, ego: bool, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Indices of clips ``(N, 3, 29, 36, 72)`` uint8 -> what a network is trained on ``(n, 3, 8, 32, 64)`` float32.

    ``draw`` draws crops and mirror images, the same ones with and without augmentation; rates and velocities are drawn
    from NumPy's global generator.
    """
    indices = sampler(RATES if rate else (NOMINAL, NOMINAL))
    velocity = TRANSFORMS.build(dict(type='EgoMotionCrop', crop_size=HEIGHT, sigma=SIGMA)).draw_velocity

    def view(batch: Tensor) -> Tensor:
        part = torch.stack([clips[i][:, indices()] for i in batch.tolist()])
        crops = cropped_and_mirrored(part, HEIGHT, WIDTH, draw, velocity(len(batch)) if ego else None)
        return normalized(crops).contiguous(memory_format=torch.channels_last_3d)

    return view


def test_view(clips: Tensor, test: str) -> Tensor:
    """Clips ``(N, 3, 29, 36, 72)`` as they are tested, ``(N, 3, 8, 32, 64)`` uint8.

    'slow' is the middle half of the word at half the speed, 'fast' the word at twice the speed, after which it
    stands still.
    'drift' is the nominal clip with a crop that starts in the middle and drifts as in training, the same for all
    networks.
    """
    interval = dict(slow=RATES[0], fast=RATES[1]).get(test, NOMINAL)
    clips = clips[:, :, sampler(test_interval=interval, test=True)()]
    if test == 'drift':
        velocities = np.random.default_rng(0).normal(0., SIGMA, (len(clips), 2))
        clips = torch.stack([drifting_crop(clip, (MARGIN, MARGIN // 2), velocity, HEIGHT, WIDTH)
                             for clip, velocity in zip(clips, velocities)])
    else:
        clips = middle_crop(clips)
    clips = clips.flip(2) if test == 'accuracy_reversed' else clips
    return clips.contiguous(memory_format=torch.channels_last_3d)
