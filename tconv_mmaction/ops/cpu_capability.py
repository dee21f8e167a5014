"""What the processor is good at, for rules that choose between ways of computing the same on CPU."""
import functools

import torch


@functools.cache
def has_avx512() -> bool:
    """Whether PyTorch uses AVX-512. oneDNN's convolutions then take half of the time, while much of what is set against
    them (transforms bound by memory, MKL's products on processors that are not Intel's) does not get faster."""
    return torch.backends.cpu.get_cpu_capability().startswith('AVX512')
