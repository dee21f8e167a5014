"""Which frames a slice of a kernel reads, and for which frames of the output."""
from typing import Tuple


def time_windows(b: int, frames: int, out_frames: int, stride: int, padding: int,
                 dilation: int) -> Tuple[slice, slice]:
    """Output frames that slice ``b`` of a kernel reaches, and the input frames that it reads for them."""
    shift = b * dilation - padding
    first = max(0, -(shift // stride))  # ceil(-shift / stride): the first output whose frame exists
    last = min(out_frames - 1, (frames - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + shift, last * stride + shift + 1, stride)
