"""Keep a computed kernel until the parameters it was computed from change."""
from typing import Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor


class KernelCache:
    """One kernel and what it was made from.

    On CPU the parameters are compared with a copy, value by value: that finds every change, an edit through ``.data``
    (MMEngine's EMAHook swaps weights so) included, and costs a read of the parameters. On accelerators a comparison
    would stop the stream, so there storage and version counter are compared, which ``.data`` edits leave alone; the
    layer therefore also drops the kernel whenever ``train()`` or ``eval()`` is called, as every test loop does after
    such a swap.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._kernel: Optional[Tensor] = None
        self._seen: List[Tuple] = []

    def get(self, parameters: Sequence[Tensor], build: Callable[[], Tensor]) -> Tensor:
        """The kernel for these parameters, built anew only if one of them changed."""
        if self._kernel is None or not self._unchanged(parameters):
            self._kernel = build().detach()
            self._seen = [p.detach().clone() if p.device.type == 'cpu' else (p.data_ptr(), p._version, p.dtype)
                          for p in parameters]
        return self._kernel

    def _unchanged(self, parameters: Sequence[Tensor]) -> bool:
        for parameter, seen in zip(parameters, self._seen):
            if torch.is_tensor(seen):
                same = (parameter.device == seen.device and parameter.dtype == seen.dtype
                        and torch.equal(parameter, seen))
            else:
                same = (parameter.data_ptr(), parameter._version, parameter.dtype) == seen
            if not same:
                return False
        return True
