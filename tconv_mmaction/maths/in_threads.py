"""Parts of a computation side by side, each on one thread.

PyTorch splits every operator over its threads. Of many small matrices that costs more in waiting than it brings: a fit
of 3D kernels takes longer on two threads than on one. Independent parts on threads of their own do not wait for each
other.
"""
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, Tuple, TypeVar

import torch

Result = TypeVar('Result')


def threads_for(device: torch.device) -> int:
    """How many parts :func:`in_threads` should have at a time: PyTorch's threads on the CPU, else 1."""
    return torch.get_num_threads() if device.type == 'cpu' and not torch.is_inference_mode_enabled() else 1


def in_threads(work: Callable[..., Result], parts: Iterable[Tuple], threads: int) -> Iterator[Result]:
    """``work(*part)`` of every part, in order, ``threads`` at a time; for 1 thread as they are asked for.

    Within ``work`` operators run on one thread; gradients are on or off as they are for the caller. The caller's number
    of threads is what it was.

    >>> list(in_threads(lambda a, b: (a + b, torch.get_num_threads()), [(1, 2), (3, 4)], 2))
    [(3, 1), (7, 1)]
    """
    if threads < 2:
        yield from (work(*part) for part in parts)
        return
    number, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def alone(part: Tuple) -> Result:
        with torch.set_grad_enabled(gradients):
            return work(*part)

    try:
        # of OpenMP's threads every one has its own number; that of threads made later is set back below
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1, )) as pool:
            yield from pool.map(alone, parts)
    finally:
        torch.set_num_threads(number)
