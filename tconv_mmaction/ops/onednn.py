"""Matrix products on CPU by oneDNN.

PyTorch takes float32 products to MKL, which uses half of an AMD processor's AVX-512 (220 GFLOP/s on two cores, where
oneDNN reaches 480) and a little less than oneDNN of its AVX2, too. The operator is that of torch.compile's CPU graphs;
where a PyTorch build has none, the products are PyTorch's.
"""
import functools

import torch
from torch import Tensor


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, 'none', [], '')


@functools.cache
def has_onednn_products() -> bool:
    """Whether this build has the operator, and it computes what is meant."""
    a, b = (torch.arange(size, dtype=torch.float32, device='cpu').view(shape).sin_()
            for size, shape in ((320, (8, 40)), (640, (40, 16))))
    try:
        return torch.backends.mkldnn.is_available() and torch.allclose(_by_onednn(a, b), a @ b, rtol=1e-4, atol=1e-4)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of ``(M, K)`` and ``(K, N)`` on CPU, without autograd. Fastest with contiguous rows in both."""
    if a.dtype == torch.float32 and a.numel() and b.numel() and torch.backends.mkldnn.enabled and has_onednn_products():
        return _by_onednn(a, b)
    return torch.mm(a, b)
