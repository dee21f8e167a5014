"""Which frames of a video the test pipeline of a config looks at: all over the video, or a stretch of a fixed length.

A sampler is asked, not known by name: it is given videos of two lengths, and what it takes either grows with them or
does not. So it is right for samplers of other packages, too.
"""
from typing import NamedTuple, Optional, Sequence

import numpy as np
from mmaction.registry import TRANSFORMS
from mmengine.config import Config

LONG = 100_000  # frames: a video that no fixed stretch covers


class ClipSampling(NamedTuple):
    """What one clip of the test pipeline covers."""
    sampler: str  # as it prints itself
    frames: int  # of a clip
    span: Optional[int]  # frames from a clip's first to its last; None: the whole video, however long it is


def pipeline_of(config: Config) -> Sequence[dict]:
    """The test pipeline's steps."""
    return config.get('test_pipeline') or config.test_dataloader.dataset.pipeline


def _indices(sampler, total: int, fps: float, whole: bool) -> np.ndarray:
    """The frames of the first clip of a video; ``whole``: of all its clips, which a 2D network sees as one."""
    found = sampler(dict(total_frames=total, start_index=0, avg_fps=fps, modality='RGB', filename='', num_clips=1))
    indices = np.asarray(found['frame_inds']).reshape(-1)
    clips = 1 if whole else max(1, found.get('num_clips') or 1)
    return indices.reshape(clips, -1)[0]


def clip_sampling(config: Config, fps: float = 25.) -> ClipSampling:
    """What one clip of the test pipeline covers.

    Args:
        config: of a 2D or 3D recognizer.
        fps: of the videos, for samplers that count in seconds.

    Raises:
        ValueError: if the pipeline has no sampler that can be asked.
    """
    two_dimensional = 'Recognizer2D' in str(config.model.get('type'))
    for step in pipeline_of(config):
        if 'Sample' not in str(step.get('type')):
            continue
        sampler = TRANSFORMS.build(dict(step))
        try:
            short, long = (_indices(sampler, total, fps, two_dimensional) for total in (LONG, 2 * LONG))
        except Exception as error:  # a sampler of another package, which wants to know more
            raise ValueError(f'{step["type"]} of the test pipeline does not say what it takes of a video '
                             f'({type(error).__name__}: {error}); give --window.') from error
        spans = [int(indices.max() - indices.min()) + 1 for indices in (short, long)]
        if spans[1] > 1.5 * spans[0]:
            return ClipSampling(str(sampler), len(short), None)
        interval = int(np.diff(short)[0]) if len(short) > 1 else 1  # a clip is as long as its last step, too
        return ClipSampling(str(sampler), len(short), max(1, spans[0] - 1 + max(1, interval)))
    raise ValueError('the test pipeline of the config has no sampler of frames; give --window.')
