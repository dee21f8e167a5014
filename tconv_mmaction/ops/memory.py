"""All memory that is kept between calls. Nothing of it lies on a module.

Fresh memory on the CPU costs more than what is done in it: the system hands it out page by page. So what a call needs
for intermediate results is kept and lent again. There are three kinds:

* :func:`borrow`: for what is used up before the next piece of the same name is asked for. It is the thread's.
* :class:`Loan`: for what lives from a forward pass to its backward pass. It belongs to one call, and comes back when
  that call is done with it or is forgotten.
* :func:`constant`: small tensors that depend on sizes only.

:func:`release_memory` gives all of it back.
"""
import contextlib
import math
import os
import threading
import weakref
from collections import deque
from typing import Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .conditions import eager

KEPT_ELEMENTS = 1 << 23  # of one borrowed tensor that is held between calls; 32 MB in float32
KEPT_LOANS = 1 << 29  # bytes of loans that have come back and are held for the next
KEPT_CONSTANTS = 512
_poison = False


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Within it, memory is filled with NaN before it is lent. For tests: nothing may depend on what was in it."""
    global _poison
    before, _poison = _poison, True
    try:
        yield
    finally:
        _poison = before


def _empty(count: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # an inference tensor could not be used outside of inference mode
        return torch.empty(count, dtype=dtype, device='cpu')


class _Held(dict):
    """A thread's borrowed tensors; a class of its own because a plain dict cannot be referred to weakly."""

    __hash__ = object.__hash__


class _Thread(threading.local):

    def __init__(self) -> None:
        self.held: Dict[Tuple[str, torch.dtype], Tensor] = _Held()
        with _lock:
            _EVERY_THREAD.add(self.held)


_lock = threading.Lock()  # for changes of the two below, which other threads may be going through
_EVERY_THREAD: 'weakref.WeakSet' = weakref.WeakSet()
_constants: Dict[tuple, object] = {}
_thread = _Thread()


def borrow(name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor on the CPU, for the calling thread. One of the same name must not be in use."""
    count = math.prod(shape)
    held = _thread.held
    tensor = held.get((name, dtype))
    if tensor is None or tensor.numel() < count:
        tensor = _empty(count, dtype)
        if count <= KEPT_ELEMENTS:
            held[name, dtype] = tensor
    if _poison:
        tensor.fill_(math.nan)
    return tensor[:count].view(shape)


class _Returned:
    """Loans that have come back, the oldest first.

    They come back through a queue that needs no lock: that may happen within a garbage collection, and so at any point
    of this class's own code.
    """

    def __init__(self) -> None:
        self.queue: Deque[Tensor] = deque()
        self.free: Dict[Tuple[int, torch.dtype], List[Tensor]] = {}
        self.lock, self.bytes = threading.Lock(), 0

    def take(self, count: int, dtype: torch.dtype) -> Optional[Tensor]:
        with self.lock:
            self._sort()
            found = self.free.get((count, dtype))
            if not found:
                return None
            tensor = found.pop()
            if not found:
                del self.free[count, dtype]
            self.bytes -= tensor.nbytes
            return tensor

    def _sort(self) -> None:
        while True:
            try:
                tensor = self.queue.popleft()
            except IndexError:
                break
            kind = tensor.numel(), tensor.dtype
            found = self.free.pop(kind, [])  # kinds that came back last are at the end
            found.append(tensor)
            self.free[kind] = found
            self.bytes += tensor.nbytes
        while self.bytes > KEPT_LOANS:
            kind = next(iter(self.free))
            self.bytes -= self.free[kind].pop().nbytes
            if not self.free[kind]:
                del self.free[kind]

    def clear(self) -> None:
        with self.lock:
            self.queue.clear()
            self.free.clear()
            self.bytes = 0


_returned = _Returned()


def _new_locks() -> None:
    """A lock that another thread held while this process was forked would stay locked."""
    global _lock
    _lock, _returned.lock = threading.Lock(), threading.Lock()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_new_locks)


class Loan:
    """An uninitialised tensor on the CPU that belongs to one call, from its forward to its backward pass.

    >>> loan = Loan((2, 3), torch.float32)
    >>> kernel = loan.take()      # the first backward pass
    >>> loan.take() is None       # another one through the same graph has to make it again
    True
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.shape = tuple(shape)
        flat = _returned.take(math.prod(shape), dtype)
        self.flat: Optional[Tensor] = _empty(math.prod(shape), dtype) if flat is None else flat
        if _poison:
            self.flat.fill_(math.nan)

    @property
    def tensor(self) -> Tensor:
        return self.flat.view(self.shape)

    def take(self) -> Optional['Loan']:
        """The loan itself for one more use, after which it goes back; None if it was taken before."""
        taken = Loan.__new__(Loan)
        taken.shape = self.shape
        # one step, so that of two threads only one gets it
        taken.flat = self.__dict__.pop('flat', None)
        return None if taken.flat is None else taken

    def __del__(self) -> None:
        flat = self.__dict__.get('flat')
        if flat is not None:
            _returned.queue.append(flat)


def constant(key: tuple, build: Callable[[], object]) -> object:
    """What ``build`` makes, made once for every ``key``: a tensor or a tuple of tensors that nobody changes.

    Under tracing and with fake tensors it is made anew, and not kept.
    """
    if not eager():
        return build()
    found = _constants.get(key)
    if found is None:
        with torch.inference_mode(False), torch.no_grad():
            found = build()
        with _lock:
            while len(_constants) >= KEPT_CONSTANTS:
                del _constants[next(iter(_constants))]
            _constants[key] = found
    return found


def held_bytes() -> int:
    """What :func:`release_memory` would give back now, without the constants."""
    with _lock:
        borrowed = sum(tensor.nbytes for held in list(_EVERY_THREAD) for tensor in list(held.values()))
    with _returned.lock:
        return borrowed + _returned.bytes + sum(tensor.nbytes for tensor in list(_returned.queue))


def release_memory() -> None:
    """Give back all memory that the operators keep between calls, of every thread.

    What a call is using stays until that call is done. Kernels that layers keep in eval mode go with
    ``model.train()``.
    """
    with _lock:
        for held in list(_EVERY_THREAD):
            held.clear()
        _constants.clear()
    _returned.clear()
