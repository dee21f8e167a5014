"""How a batch passes from a worker of a loader to the training process: in memory that the worker uses again.

PyTorch hands every tensor over in shared memory of its own: made for it, given by the system page by page, and fetched
through a socket. For a batch of small clips that takes longer than reading them, and most of it goes to the labels, a
tensor of one number each. A batch of type :class:`HandedOver` passes otherwise, to the same numbers:

* small tensors are part of the message (``SMALL`` bytes);
* a large one is copied into a buffer of shared memory, and by the training process into memory of its own. It then
  marks the buffer as free, and the worker uses it again.

Nothing outside this file sees a buffer, so nothing that a loader gave can change later. A worker has as many buffers
as it had batches on their way at once, ``BUFFERS`` at most; what finds none free, and tensors that are no plain ones
in the memory of the CPU, pass as PyTorch passes them. The files of the buffers have no name (PyTorch removes it when it
has made them), so that the system frees them with the processes, however those end. The training process keeps them
mapped until the loader has let go of its worker.
"""
import io
import os
import pickle
import threading
import weakref
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

SMALL = 1 << 14  # bytes: up to here a copy in the message costs less than a buffer
BUFFERS = 16  # of a worker: prefetch_factor is 2 by default
HEADER = 64  # bytes in front of the numbers: the first one is the state, the others keep the numbers aligned
FREE, TAKEN, FREE_UNKNOWN = 0, 1, 2  # unknown: the other process did not keep the buffer and needs it sent again
Attach = Optional[Tuple[Callable, tuple]]  # what makes the buffer's tensor in the other process; None: it has it


class HandedOver(dict):
    """The dict of a batch in a worker; the training process gets a plain dict of the same."""


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

    def take(self, size: int) -> Optional[Tuple[Place, np.ndarray, Attach]]:
        """A buffer for ``size`` bytes, which is marked as taken; None if all are."""
        with self.lock:
            free = [i for i, buffer in enumerate(self.buffers) if buffer.numpy()[0] != TAKEN]
            fitting = [i for i in free if self.buffers[i].numel() >= HEADER + size]
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


_pool: Optional[_Pool] = None
_kept: Dict[bytes, Dict[int, np.ndarray]] = {}  # in the training process: the buffers of its workers, by pool and slot


def _own_pool() -> _Pool:
    global _pool
    if _pool is None or _pool.pid != os.getpid():  # a fork has the buffers of its parent, who goes on to use them
        _pool = _Pool()
    return _pool


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
    taken = _own_pool().take(data.size)
    if taken is None:
        return reduce_tensor(tensor)
    place, buffer, attach = taken
    buffer[HEADER:HEADER + data.size] = data
    return _from_buffer, (place, attach, *how)


def _empty(dtype: torch.dtype, shape: Tuple[int, ...], order: Tuple[int, ...]) -> Tuple[Tensor, np.ndarray]:
    """A tensor whose memory is in the order that ``shape`` and ``order`` say, and that memory."""
    ordered = torch.empty(shape, dtype=dtype, device='cpu')
    return ordered.permute([order.index(axis) for axis in range(len(order))]), _bytes_of(ordered)


def _from_message(data: bytes, *how: Any) -> Tensor:
    tensor, memory = _empty(*how)
    memory[:] = np.frombuffer(data, np.uint8)
    return tensor


def _from_buffer(place: Place, attach: Attach, *how: Any) -> Tensor:
    if attach is None:
        buffer, known = _kept[place.pool][place.slot], True
    else:
        rebuild, args = attach
        buffer = rebuild(*args).numpy()
        known = _keep(place, buffer)
    order = threading.Lock()  # its release and acquire keep processors from marking the buffer before it is read
    with order:
        tensor, memory = _empty(*how)
        memory[:] = buffer[HEADER:HEADER + memory.size]
    with order:
        buffer[0] = FREE if known else FREE_UNKNOWN
    return tensor


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
