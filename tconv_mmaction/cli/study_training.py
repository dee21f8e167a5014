"""One short training of a classifier of clips in memory, and its answers."""
from typing import Callable, List

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .study_clips import normalized


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, view: Callable[[Tensor], Tensor], labels: Tensor,
        epochs: int, batch_size: int, draw: torch.Generator) -> List[float]:
    """All learning rates fall to 0 as a cosine; bfloat16 autocast on the CPU. The mean loss of every epoch.

    Args:
        view: indices of clips ``(batch,)`` -> what the model gets, drawn anew for every batch.
        labels: ``(n,)``; an epoch has ``n // batch_size`` steps, what is left over is dropped.
        draw: orders the clips.
    """
    steps = len(labels) // batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    losses = []
    for _ in range(epochs):
        model.train()
        total = []
        for batch in torch.randperm(len(labels), generator=draw)[:steps * batch_size].split(batch_size):
            x = view(batch)
            with torch.autocast('cpu', torch.bfloat16):
                scores = model(x)
            loss = F.cross_entropy(scores.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total.append(loss.item())
        losses.append(float(np.mean(total)))
    return losses


@torch.no_grad()
def answers(model: nn.Module, clips: Tensor, bfloat16: bool = True) -> List[int]:
    """Classes of clips ``(N, 3, T, H, W)`` uint8 in eval mode."""
    model.eval()
    with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
        return [int(label) for part in clips.split(20) for label in model(normalized(part)).float().argmax(1)]


def accuracy(found: List[int], labels: List[int]) -> float:
    """In percent, to three digits.

    >>> accuracy([1, 2, 3], [1, 2, 2])
    66.667
    """
    return round(100 * float(np.mean(np.array(found) == np.array(labels))), 3)
