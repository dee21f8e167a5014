"""Products by oneDNN equal PyTorch's, and PyTorch's are taken where oneDNN's are not to be had."""
import pytest
import torch

from tconv_mmaction.ops import onednn
from tconv_mmaction.ops.onednn import has_products, product


@pytest.fixture(autouse=True)
def fresh_answer():
    has_products.cache_clear()
    yield
    has_products.cache_clear()


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize('rows, inner, columns', [(1, 1, 1), (5, 300, 7), (64, 17, 130), (3, 0, 4), (0, 3, 4)])
def test_equals_float64(dtype, tolerance, rows, inner, columns):
    torch.manual_seed(0)
    a, b = torch.randn(rows, inner, dtype=torch.float64), torch.randn(inner, columns, dtype=torch.float64)
    for x in (a, a.t().contiguous().t()):
        for y in (b, b.t().contiguous().t(), torch.cat([b, b], 1)[:, :columns]):
            got = product(x.to(dtype), y.to(dtype))
            assert got.dtype == dtype and got.is_contiguous()
            torch.testing.assert_close(got.double(), a @ b, rtol=0, atol=tolerance * (1 + inner**.5) * 8)


def test_who_computes(monkeypatch):
    used = []
    by_onednn = onednn._by_onednn
    monkeypatch.setattr(onednn, '_by_onednn', lambda *a: used.append(1) or by_onednn(*a))
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    has = has_products()
    used.clear()
    product(a, b)
    assert bool(used) == has
    used.clear()
    product(a.double(), b.double())
    with torch.backends.mkldnn.flags(enabled=False):
        product(a, b)
    assert not used


@pytest.mark.parametrize('broken', [AttributeError, NotImplementedError, RuntimeError, 'wrong'])
def test_a_build_without_it(monkeypatch, broken):
    def fails(a, b):
        if broken == 'wrong':
            return a @ b + 1
        raise broken('no such operator')

    monkeypatch.setattr(onednn, '_by_onednn', fails)
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert not has_products()
    assert torch.equal(product(a, b), torch.mm(a, b))
