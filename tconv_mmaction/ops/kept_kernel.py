"""Keep a kernel that was computed in eval mode until the parameters it was computed from change."""
from typing import Any, Callable, Hashable, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from . import conditions

COPY_ELEMENTS = 1 << 16  # up to here a copy of a parameter is compared, above it sums
LEAST_COLUMNS, MOST_COLUMNS = 32, 512  # of the sums
PRIMES = (509, 251, 127, 61)
MOST_FORMS = 4  # of one kernel: rearranged for that many sizes of clips


class Kept(NamedTuple):
    """What a layer keeps: fingerprints of the parameters, and forms of the kernel by their keys, the newest last."""
    seen: tuple = ()
    forms: Tuple[Tuple[Hashable, Any], ...] = ()


def can_keep(parameters: Sequence[Tensor]) -> bool:
    """Whether these are parameters whose change would be seen.

    They are not if something has put computed tensors in their places (pruning, parametrisations, the replicas of
    ``nn.DataParallel``), or if they were made in inference mode, where nothing counts their changes.
    """
    return all(conditions.is_parameter(p) and p.is_leaf and not p.is_inference() for p in parameters)


def fingerprint(parameter: Tensor) -> tuple:
    """What is compared of a parameter: which it is, its version counter, and on CPU its values.

    An edit through ``.data`` (MMEngine's EMAHook swaps weights so) leaves the version counter alone. Small parameters
    are compared with a copy. Of large ones every filter's bits are taken as 64-bit integers and added up in columns,
    which reads them once: a sum changes with every change of one number, and where numbers change places, unless they
    move by a whole row of columns; as many columns are taken as a power of two divides a filter into (at most 512), or
    a prime number of them and a copy of the rest, so that a swap of two inputs or a mirrored filter moves numbers
    between columns. On accelerators a comparison would stop the stream; there layers also drop their kernel
    whenever ``train()`` or ``eval()`` is called, as every test loop does after such a swap.
    """
    # the parameter itself, not its id: that of one which is gone may be another's
    known = (parameter, parameter._version, parameter.data_ptr(), parameter.device, parameter.dtype, parameter.shape)
    if parameter.device.type != 'cpu':
        return known,
    values = parameter.detach()
    rows = values.flatten(1) if values.dim() > 1 else values[None]
    words = rows.shape[1] * rows.element_size() % 8 == 0 == rows.storage_offset() * rows.element_size() % 8
    if (values.numel() <= COPY_ELEMENTS or not words or not rows.is_contiguous()
            or not values.dtype.is_floating_point or values.element_size() < 4):
        return known, values.clone()
    bits = rows.view(torch.int64)
    columns = min(MOST_COLUMNS, bits.shape[1] & -bits.shape[1])  # the power of two
    if columns >= LEAST_COLUMNS:
        return known, bits.view(len(bits), -1, columns).sum(1)
    columns = next((prime for prime in PRIMES if 2 * prime <= bits.shape[1]), None)
    if columns is None:
        return known, values.clone()
    whole = bits.shape[1] // columns * columns
    return known, bits[:, :whole].unflatten(1, (-1, columns)).sum(1), bits[:, whole:].clone()


def _same(now: tuple, seen: tuple) -> bool:
    (parameter, *known), (other, *before) = now[0], seen[0]
    return (parameter is other and known == before and len(now) == len(seen)
            and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(now[1:], seen[1:])))


def kept_form(layer: nn.Module, parameters: Sequence[Tensor], key: Hashable, build: Callable[[], Any]) -> Any:
    """What ``build`` makes of the parameters, from ``layer._kept`` if they have not changed since.

    Args:
        layer: what holds the kept kernel. Its ``_kept`` is replaced in one step, so that another thread finds either
            the old one or the new.
        parameters: what the kernel is computed from; see :func:`can_keep`.
        key: which form of the kernel: everything beside the parameters that it depends on.
        build: makes it. A result of None (the form cannot be had) is kept as well.
    """
    with torch.inference_mode(False), torch.no_grad():
        now = tuple(fingerprint(p) for p in parameters)
        kept = layer._kept
        if len(now) != len(kept.seen) or not all(map(_same, now, kept.seen)):
            kept = Kept(now)
        for known, form in kept.forms:
            if known == key:
                return form
        form = build()
        layer._kept = Kept(kept.seen, (*kept.forms, (key, form))[-MOST_FORMS:])
        return form
