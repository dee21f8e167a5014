"""A batch as one tensor instead of a list of clips: one piece passes between a worker and the training process.

mmaction2's loaders pass lists (``pseudo_collate``). Each clip is then handed over by itself, which for small clips
takes longer than reading them from a pack, and copied to the GPU by itself; stacking follows there. Asked for by

    train_dataloader = dict(collate_fn=dict(type='stacked_collate'))

and understood by the ``ActionDataPreprocessor`` of this package.
"""
from typing import Any, List

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS


@FUNCTIONS.register_module()
def stacked_collate(samples: List[dict]) -> Any:
    """``pseudo_collate``, with 'inputs' stacked to (B, ...) where all clips of the batch have one shape and type.

    >>> clips = [dict(inputs=torch.zeros(1, 3, 4, 8, 8), data_samples=None) for _ in range(2)]
    >>> stacked_collate(clips)['inputs'].shape
    torch.Size([2, 1, 3, 4, 8, 8])
    """
    batch = pseudo_collate(samples)
    clips = batch.get('inputs') if isinstance(batch, dict) else None
    if isinstance(clips, list) and clips and all(isinstance(clip, torch.Tensor) for clip in clips) \
            and len({(clip.shape, clip.dtype) for clip in clips}) == 1:
        batch['inputs'] = torch.stack(clips)
    return batch
