"""How a batch passes from a worker of a loader to the training process: in memory that the worker uses again.

PyTorch hands every tensor over in shared memory of its own: made for it, given by the system page by page, and fetched
through a socket. For a batch of small clips that takes longer than reading them, and most of it goes to the labels, a
tensor of one number each. A batch of type :class:`HandedOver` passes otherwise, to the same numbers:

* small tensors are part of the message (``SMALL`` bytes);
* a large one lies in a buffer of shared memory, where :func:`empty` has let the worker write it, or is copied into one.
  The training process gets a tensor in that buffer. When the last view of it is gone the buffer is marked as free, and
  the worker uses it again: a batch is written once and copied nowhere, and a batch that is kept keeps its buffer.

A process that is forked while a batch is alive sees the same memory, and nobody knows how long; such a buffer is not
used again but given up when the batch is gone. A worker has as many buffers as batches are alive or on their way at
once, ``BUFFERS`` at most; what finds none free, and tensors that are no plain ones in the memory of the CPU, pass as
PyTorch passes them. The files of the buffers have no name (PyTorch removes it when it has made them), so that the
system frees them with the processes, however those end. The training process keeps them mapped until the loader has
let go of its worker.
"""
import io
import math
import os
import pickle
import threading
import weakref
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

SMALL = 1 << 14  # bytes: up to here a copy in the message costs less than a buffer
BUFFERS = 16  # of a worker: prefetch_factor is 2 by default
HEADER = 64  # bytes in front of the numbers: the first one is the state, the others keep the numbers aligned
FREE, TAKEN, FREE_UNKNOWN, GIVEN_UP = 0, 1, 2, 3  # unknown: the other process did not keep it and needs it sent again
Attach = Optional[Tuple[Callable, tuple]]  # what makes the buffer's tensor in the other process; None: it has it


class HandedOver(dict):
    """The dict of a batch in a worker; the training process gets a plain dict of the same."""


_forks = 0  # of this process so far


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_count_fork)


class Place(NamedTuple):
    """A buffer of a worker."""
    pid: int
    pool: bytes  # by chance, since pids come again
    slot: int


def memory_order(tensor: Tensor) -> List[int]:
    """The axes from the one with the longest way in memory to the one with the shortest."""
    return sorted(range(tensor.dim()), key=lambda axis: -tensor.stride(axis))


class _Pool:
    """The buffers that this process writes to."""

    def __init__(self) -> None:
        self.pid, self.name = os.getpid(), os.urandom(8)
        self.buffers: List[Tensor] = []
        self.lock = threading.Lock()
        self.written: Dict[int, Tuple[Place, Attach]] = {}  # buffers that hold a tensor already, by its address

    def take(self, size: int) -> Optional[Tuple[Place, np.ndarray, Attach]]:
        """A buffer for ``size`` bytes, which is marked as taken; None if all are."""
        with self.lock:
            free = [i for i, buffer in enumerate(self.buffers) if buffer.numpy()[0] != TAKEN]
            fitting = [i for i in free if self.buffers[i].numel() >= HEADER + size
                       and self.buffers[i].numpy()[0] != GIVEN_UP]
            if not free and len(self.buffers) == BUFFERS:
                return None
            if fitting:
                slot = fitting[0]
                known = self.buffers[slot].numpy()[0] == FREE
            else:
                made = torch.empty(HEADER + size, dtype=torch.uint8, device='cpu').share_memory_()
                slot, known = free[0] if free else len(self.buffers), False
                self.buffers[slot:slot + 1] = [made]  # in the place of a smaller one, or one more
            buffer = self.buffers[slot]
            buffer.numpy()[0] = TAKEN
        return Place(self.pid, self.name, slot), buffer.numpy(), None if known else reduce_tensor(buffer)

    def empty(self, size: int) -> Optional[np.ndarray]:
        """``size`` bytes in a buffer, free again when they are gone unsent; None if all buffers are taken."""
        taken = self.take(size)
        if taken is None:
            return None
        place, buffer, attach = taken
        data = buffer[HEADER:HEADER + size]
        address, entry = data.ctypes.data, (place, attach)
        self.written[address] = entry
        # without the lock, since it runs wherever the last reference goes
        weakref.finalize(data, self._drop, address, entry, buffer).atexit = False
        return data

    def _drop(self, address: int, entry: Tuple[Place, Attach], buffer: np.ndarray) -> None:
        if self.written.get(address) is entry:  # not sent, and not a later tensor at the same place
            del self.written[address]
            buffer[0] = FREE if entry[1] is None else FREE_UNKNOWN


_pool: Optional[_Pool] = None
_kept: Dict[bytes, Dict[int, np.ndarray]] = {}  # in the training process: the buffers of its workers, by pool and slot


def _own_pool() -> _Pool:
    global _pool
    if _pool is None or _pool.pid != os.getpid():  # a fork has the buffers of its parent, who goes on to use them
        _pool = _Pool()
    return _pool


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised contiguous tensor that a :class:`HandedOver` batch of this worker passes without a copy.

    It lies in a buffer if one is free; else, and where it is small, it is an ordinary one, which passes as well.
    """
    size = math.prod(shape) * dtype.itemsize
    data = _own_pool().empty(size) if size > SMALL else None
    return torch.empty(shape, dtype=dtype, device='cpu') if data is None else _tensor_in(data, dtype, shape)


def _tensor_in(data: np.ndarray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(data).view(dtype).view(tuple(shape))  # whose storage holds on to `data`


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _reduce_tensor(tensor: Tensor) -> Tuple[Callable, tuple]:
    """As pickle wants it: a function, and the arguments with which it gives the tensor in the other process."""
    if tensor.layout != torch.strided or tensor.device.type != 'cpu' or tensor.requires_grad or tensor.is_quantized \
            or tensor.is_conj() or tensor.is_neg() or tensor.numel() == 0:
        return reduce_tensor(tensor)
    order = memory_order(tensor)
    ordered = tensor.permute(order)
    if not ordered.is_contiguous():
        return reduce_tensor(tensor)
    data = _bytes_of(ordered)
    how = (tensor.dtype, tuple(ordered.shape), tuple(order))
    if data.size <= SMALL:
        return _from_message, (data.tobytes(), *how)
    written = _own_pool().written.pop(data.ctypes.data, None)
    if written is not None:
        return _from_buffer, (*written, data.size, *how)
    taken = _own_pool().take(data.size)
    if taken is None:
        return reduce_tensor(tensor)
    place, buffer, attach = taken
    buffer[HEADER:HEADER + data.size] = data
    return _from_buffer, (place, attach, data.size, *how)


def _in_order(data: np.ndarray, dtype: torch.dtype, shape: Tuple[int, ...], order: Tuple[int, ...]) -> Tensor:
    """The tensor whose memory is ``data``, in the order that ``shape`` and ``order`` say."""
    return _tensor_in(data, dtype, shape).permute([order.index(axis) for axis in range(len(order))])


def _from_message(data: bytes, *how: Any) -> Tensor:
    return _in_order(np.frombuffer(bytearray(data), np.uint8), *how)


def _from_buffer(place: Place, attach: Attach, size: int, *how: Any) -> Tensor:
    if attach is None:
        buffer, known = _kept[place.pool][place.slot], True
    else:
        rebuild, args = attach
        buffer = rebuild(*args).numpy()
        known = _keep(place, buffer)
    data = buffer[HEADER:HEADER + size]
    weakref.finalize(data, _release, buffer, FREE if known else FREE_UNKNOWN, os.getpid(), _forks).atexit = False
    return _in_order(data, *how)


def _release(buffer: np.ndarray, state: int, pid: int, forks: int) -> None:
    """Mark a buffer whose tensor is gone."""
    if os.getpid() != pid:  # in a fork, which has nothing to give back
        return
    with threading.Lock():  # keeps processors from marking the buffer before it is read to the end
        buffer[0] = state if forks == _forks else GIVEN_UP


def _keep(place: Place, buffer: np.ndarray) -> bool:
    """Keep a buffer for as long as the loader has its worker; whether that was possible."""
    if place.pool not in _kept:
        worker = next((child for child in active_children() if child.pid == place.pid), None)
        if worker is None:
            return False
        _kept[place.pool] = {}
        weakref.finalize(worker, _kept.pop, place.pool, None)
    _kept[place.pool][place.slot] = buffer
    return True


def _reduce_batch(batch: HandedOver) -> Tuple[Callable, tuple]:
    message = io.BytesIO()
    pickler = ForkingPickler(message, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {**pickler.dispatch_table, Tensor: _reduce_tensor}
    pickler.dump(dict(batch))
    return pickle.loads, (message.getvalue(), )


ForkingPickler.register(HandedOver, _reduce_batch)
