"""Keep a computed kernel until the parameters it was computed from change."""
from typing import Any, Callable, List, Sequence

import torch
from torch import Tensor

COPY_ELEMENTS = 1 << 16  # up to here a copy of a parameter is compared, above it sums over its bits
COPY_ROWS = 16  # output channels of a large parameter that are compared number by number


class KernelCache:
    """A kernel, or a form of it, and what it was made from.

    On CPU the parameters' values are compared: small ones with a copy, large ones by one sum per output channel
    over their bits as 64-bit integers, and by a copy of some channels. That reads the parameter once and finds
    every change of a number, an edit through ``.data`` (MMEngine's EMAHook swaps weights so) included, and every
    rearrangement of the tensor; what it could miss is one inside a single channel that keeps the sum to the last
    bit. On accelerators a comparison would stop the stream, so there storage and version counter are compared,
    which ``.data`` edits leave alone; the layer therefore also drops the kernel whenever ``train()`` or ``eval()``
    is called, as every test loop does after such a swap.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._value, self._form = None, ''
        self._seen: List[tuple] = []

    def get(self, parameters: Sequence[Tensor], build: Callable[[], Any], form: str = 'kernel') -> Any:
        """What ``build`` makes of these parameters, made anew only if one of them or the ``form`` wanted changed."""
        now = [fingerprint(p) for p in parameters]
        if self._form != form or not all(map(_same, now, self._seen)):
            self._value, self._form, self._seen = build(), form, now
        return self._value


def fingerprint(parameter: Tensor) -> tuple:
    """What is compared of a parameter."""
    parameter = parameter.detach()
    kind = parameter.device, parameter.dtype, parameter.shape
    if parameter.device.type != 'cpu':
        return kind, (parameter.data_ptr(), parameter._version)
    if parameter.numel() <= COPY_ELEMENTS:
        return kind, parameter.clone()
    rows = parameter.flatten(1)
    if rows.shape[1] * rows.element_size() % 8 or not rows.is_contiguous():
        return kind, parameter.clone()
    return kind, rows.view(torch.int64).sum(1), rows[::-(-len(rows) // COPY_ROWS)].clone()


def _same(now: tuple, seen: tuple) -> bool:
    return len(now) == len(seen) and all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(now, seen))
