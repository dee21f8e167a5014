"""Smallest and largest value and norm of many small tensors, in a few operations for all of them.

A network has a few dozen temporal parameters of a few hundred numbers each. On a GPU what looking at them costs is the
number of operations, so they are laid end to end and gathered as the rows of one matrix.
"""
from typing import Sequence, Tuple

import torch
from torch import Tensor


class RaggedRows:
    """Rows of different lengths in one vector.

    Args:
        sizes: how many numbers each row has, at least one.
        device: of the vectors. Copied to here, not later: a copy from the host waits for the device.

    >>> rows = RaggedRows([2, 3], torch.device('cpu'))
    >>> rows.extremes(torch.tensor([4., 1., 0., 7., 2.]))
    (tensor([1., 0.]), tensor([4., 7.]))
    >>> rows.norms(torch.tensor([3., 4., 0., 0., 2.]))
    tensor([5., 2.])
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        lengths = torch.tensor(sizes)[:, None]
        starts = lengths.cumsum(0) - lengths
        position = torch.arange(max(sizes))
        self.inside = (position < lengths).to(device)
        self.index = torch.where(position < lengths, starts + position, starts).to(device)  # filled with the first

    def extremes(self, vector: Tensor) -> Tuple[Tensor, Tensor]:
        """Smallest and largest number of every row; NaN where a row holds one."""
        low, high = vector[self.index].aminmax(dim=1)
        return low, high

    def norms(self, vector: Tensor) -> Tensor:
        """The 2-norm of every row."""
        return torch.linalg.vector_norm(vector[self.index] * self.inside, dim=1)
