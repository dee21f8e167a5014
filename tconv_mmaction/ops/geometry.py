"""How a convolution lies on its input: strides, padding, sizes, and which frames a slice of a kernel reads."""
import functools
from typing import List, NamedTuple, Sequence, Tuple

Triple = Tuple[int, int, int]


class Geometry(NamedTuple):
    """Of a 3D convolution whose padding is zeros, the same before and behind; each (t, h, w)."""
    stride: Triple
    padding: Triple
    dilation: Triple
    groups: int = 1


def out_sizes(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
              dilation: Sequence[int]) -> List[int]:
    """Sizes of the output along the axes of ``sizes``; below 1 where the kernel does not fit."""
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation)]


@functools.lru_cache(maxsize=4096)
def fits(sizes: Tuple[int, ...], kernel: Triple, dilation: Triple, padding: Triple) -> bool:
    """Whether a kernel fits into clips of ``sizes`` (T, H, W), none of them 0, with zeros around them."""
    return min(sizes) > 0 and min(out_sizes(sizes, kernel, (1, 1, 1), padding, dilation)) > 0


def time_windows(b: int, frames: int, out_frames: int, stride: int, padding: int,
                 dilation: int) -> Tuple[slice, slice]:
    """Output frames that slice ``b`` of a kernel reaches, and the input frames that it reads for them."""
    shift = b * dilation - padding
    first = max(0, -(shift // stride))  # ceil(-shift / stride): the first output whose frame exists
    last = min(out_frames - 1, (frames - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + shift, last * stride + shift + 1, stride)
