"""Whether there is Triton, in which the GPU kernels are written."""
import importlib.util
from functools import cache


@cache
def triton_is_there() -> bool:
    """Whether Triton can be imported (``pip install triton``; PyTorch for CUDA on Linux brings it)."""
    return importlib.util.find_spec('triton') is not None
