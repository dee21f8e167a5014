"""A batch as one tensor instead of a list of clips: one piece passes between a worker and the training process.

mmaction2's loaders pass lists (``pseudo_collate``). Each clip is then handed over by itself, which for small clips
takes longer than reading them from a pack, and copied to the GPU by itself; stacking follows there. Asked for by

    train_dataloader = dict(collate_fn=dict(type='stacked_collate'))

and understood by the ``ActionDataPreprocessor`` of this package.

A clip that a pipeline has brought into the order of channels, frames, rows and columns is a view of frames with their
channels side by side. The batch keeps that order in memory, which is a plain copy. The numbers are put in order on the
model's device, where the preprocessor stacks them anyway. A worker hands the batch over as hand_over.py has it.
"""
from typing import Any, List

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.utils.data import get_worker_info

from .hand_over import HandedOver, empty, memory_order


def _stack(clips: List[Tensor]) -> Tensor:
    """``torch.stack(clips)``, in the order in which the clips lie in memory if that is the same for all."""
    strides = {clip.stride() for clip in clips}
    order = memory_order(clips[0])
    if len(strides) > 1 or not clips[0].permute(order).is_contiguous():
        order = list(range(clips[0].dim()))
    ordered = [clip.permute(order) for clip in clips]
    place = None
    if get_worker_info() is not None and all(clip.device.type == 'cpu' and not clip.requires_grad for clip in clips):
        place = empty((len(clips), *ordered[0].shape), ordered[0].dtype)  # right where it is handed over
    batch = torch.stack(ordered, out=place)
    return batch.permute(0, *(1 + order.index(axis) for axis in range(len(order))))


@FUNCTIONS.register_module()
def stacked_collate(samples: List[dict]) -> Any:
    """``pseudo_collate``, with 'inputs' stacked to (B, ...) where all clips of the batch have one shape and type.

    The strides of the batch are those of the clips, see above; ``.contiguous()`` puts it in the order of its axes.

    >>> clips = [dict(inputs=torch.zeros(1, 3, 4, 8, 8), data_samples=None) for _ in range(2)]
    >>> stacked_collate(clips)['inputs'].shape
    torch.Size([2, 1, 3, 4, 8, 8])
    """
    batch = pseudo_collate(samples)
    clips = batch.get('inputs') if isinstance(batch, dict) else None
    if isinstance(clips, list) and clips and all(isinstance(clip, Tensor) for clip in clips) \
            and len({(clip.shape, clip.dtype) for clip in clips}) == 1:
        batch['inputs'] = _stack(clips)
    return HandedOver(batch) if type(batch) is dict and get_worker_info() is not None else batch
