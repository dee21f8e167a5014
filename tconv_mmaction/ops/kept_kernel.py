"""Keep a kernel that was computed in eval mode until the parameters it was computed from change."""
from typing import Any, Callable, Hashable, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

COPY_ELEMENTS = 1 << 16  # up to here a parameter is compared with a copy, above it by sums
COLUMNS, LEAST_COLUMNS, MOST_COLUMNS = 16, 32, 512  # of the sums
PRIMES = (509, 251, 127, 61)
MOST_FORMS = 4  # of one kernel: rearranged for that many sizes of clips


class Kept(NamedTuple):
    """What a layer keeps: fingerprints of the parameters, and forms of the kernel by their keys, the newest last."""
    seen: Tuple['Fingerprint', ...] = ()
    forms: Tuple[Tuple[Hashable, Any], ...] = ()


def can_keep(parameters: Sequence[Tensor]) -> bool:
    """Whether these are parameters whose change would be seen.

    They are not if something has put computed tensors in their places (pruning, parametrisations, the replicas of
    ``nn.DataParallel``), or if they were made in inference mode, where nothing counts their changes.
    """
    for p in parameters:  # a generator would take twice as long, and every call in eval mode asks
        if type(p) is not nn.Parameter or not p.is_leaf or p.is_inference():
            return False
    return True


class Content(NamedTuple):
    """What is compared of the values of a parameter: sums over its bits, and some or all of the numbers."""
    sums: Tuple[Tensor, ...]
    numbers: Tuple[Tensor, ...]


class Fingerprint(NamedTuple):
    """What is remembered of a parameter.

    An edit through ``.data`` (MMEngine's EMAHook swaps weights so) leaves the version counter alone, so on the CPU the
    values are compared as well: those of a small parameter with a copy, those of a large one by sums (:func:`_sums`).
    On accelerators a comparison would stop the stream; there layers also drop their kernel whenever ``train()`` or
    ``eval()`` is called, as every test loop does after such a swap.
    """
    parameter: Tensor  # itself, not its id: that of one which is gone may be another's
    known: tuple
    content: Optional[Content]  # on the CPU


def _known(parameter: Tensor) -> tuple:
    return (parameter._version, parameter.data_ptr(), parameter.device, parameter.dtype, parameter.shape,
            parameter.stride())


def _bits(values: Tensor) -> Optional[Tensor]:
    """The bits of contiguous ``values (O, ...)`` as integers ``(O, words)``; None where that takes a copy."""
    if values.dim() < 2 or not values.is_contiguous() or not values.is_floating_point():
        return None
    rows, size = values.view(len(values), -1), values.element_size()
    if size == 8:  # in halves: an even number of changed signs would leave a sum of whole ones alone
        return rows.view(torch.int32)
    fits = rows.shape[1] * size % 8 == 0 == rows.storage_offset() * size % 8
    return rows.view(torch.int64) if fits else None


def _sums(bits: Tensor, pixels: int) -> Optional[Content]:
    """Sums over the bits of every filter, in columns and in runs of neighbours.

    A sum changes with every change of one number, and where numbers change places, unless each goes to a place that
    the same sum is over. Where the words of a filter are blocks of ``pixels`` rows of 16 columns, which is fastest,
    there is a sum for every column of four blocks and one for every block as a whole: the numbers in one column of one
    block are of different pixels, so that no two inputs change places unseen. Elsewhere as many columns are taken as a
    power of two divides a filter into (at most 512), or a prime number of them and a copy of the rest.
    """
    filters, words = bits.shape
    block = COLUMNS * pixels
    if pixels > 1 and pixels % 2 and words % block == 0:
        if words % (4 * block):
            return Content((bits.view(filters, -1, pixels, COLUMNS).sum(2, dtype=torch.int64), ), ())
        # writing a sum takes as long as reading some numbers, so columns are long; the runs are read from the cache
        return Content((bits.view(filters, -1, 4 * pixels, COLUMNS).sum(2, dtype=torch.int64),
                        bits.view(filters, -1, block).sum(2, dtype=torch.int64)), ())
    columns = min(MOST_COLUMNS, words & -words)  # the power of two
    if columns >= LEAST_COLUMNS:
        return Content((bits.view(filters, -1, columns).sum(1, dtype=torch.int64), ), ())
    columns = next((prime for prime in PRIMES if 2 * prime <= words), None)
    if columns is None:
        return None
    whole = words // columns * columns
    return Content((bits[:, :whole].unflatten(1, (-1, columns)).sum(1, dtype=torch.int64), ), (bits[:, whole:], ))


def _content(parameter: Tensor) -> Content:
    values = parameter.detach()
    found: Optional[Content] = None
    if values.numel() > COPY_ELEMENTS and values.dim() > 1:
        pixels = values[0, 0].numel()
        if values.dim() == 5 and not values.is_contiguous():  # channels last: for every input, and for every pixel
            bits = _bits(values.permute(0, 2, 3, 4, 1))
            if bits is not None and bits.shape[1] % pixels == 0:
                bits = bits.view(len(bits), pixels, -1)
                found = Content((bits.sum(1, dtype=torch.int64), bits.sum(2, dtype=torch.int64)), ())
        else:
            bits = _bits(values)
            found = None if bits is None else _sums(bits, pixels)
    return Content((), (values, )) if found is None else found


def fingerprint(parameter: Tensor) -> Fingerprint:
    content = None
    if parameter.device.type == 'cpu':
        content = _content(parameter)
        content = content._replace(numbers=tuple(n.clone() for n in content.numbers))
    return Fingerprint(parameter, _known(parameter), content)


def _equal(now: Content, seen: Content) -> bool:
    return all(map(torch.equal, now.sums, seen.sums)) and all(map(torch.equal, now.numbers, seen.numbers))


def is_unchanged(parameter: Tensor, seen: Fingerprint) -> bool:
    """Whether this is the parameter of which ``seen`` was taken, with the same values."""
    if parameter is not seen.parameter:
        return False
    content = seen.content
    if content is not None and not content.sums:  # all numbers are compared: what else is known of them says no more
        numbers = content.numbers[0]
        return parameter.is_cpu and parameter.dtype is numbers.dtype and torch.equal(parameter, numbers)
    return _known(parameter) == seen.known and (content is None or _equal(_content(parameter), content))


def kept_form(layer: nn.Module, parameters: Sequence[Tensor], key: Hashable, build: Callable[[], Any]) -> Any:
    """What ``build`` makes of the parameters, from ``layer._kept`` if they have not changed since.

    Args:
        layer: what holds the kept kernel. Its ``_kept`` is replaced in one step, so that another thread finds either
            the old one or the new.
        parameters: what the kernel is computed from; see :func:`can_keep`.
        key: which form of the kernel: everything beside the parameters that it depends on.
        build: makes it. A result of None (the form cannot be had) is kept as well.
    """
    kept = layer._kept
    known = len(parameters) == len(kept.seen) and all(map(is_unchanged, parameters, kept.seen))
    if known:
        for other, form in kept.forms:
            if other == key:
                return form
    with torch.inference_mode(False), torch.no_grad():
        if not known:
            kept = Kept(tuple(map(fingerprint, parameters)))
        form = build()
        layer._kept = Kept(kept.seen, (*kept.forms, (key, form))[-MOST_FORMS:])
        return form
