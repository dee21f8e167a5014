"""Memory for intermediate results on the CPU.

Fresh memory costs more than what is done in it: the system hands it out page by page.
"""
import math
import threading
from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor

KEPT = 1 << 23  # elements of one tensor that is held between calls


class Scratch(threading.local):
    """Memory for what lives within one call, lent again to the next.

    All layers of a thread share it; a tensor of more than ``KEPT`` elements is not held.
    """

    def __init__(self) -> None:
        self.held: Dict[Tuple[str, torch.dtype], Tensor] = {}

    def borrow(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor on the CPU. One of the same name must not be in use."""
        count = math.prod(shape)
        tensor = self.held.get((name, dtype))
        if tensor is None or tensor.numel() < count:
            with torch.inference_mode(False):
                tensor = torch.empty(count, dtype=dtype, device='cpu')
            if count <= KEPT:
                self.held[name, dtype] = tensor
        return tensor[:count].view(shape)


scratch = Scratch()
