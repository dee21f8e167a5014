"""bfloat16 gradients of convolutions of short inputs, which oneDNN's own get wrong with AVX-512."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tconv_mmaction.compat.short_convolutions import ShortConvolutionsInFloat32, is_short
from tconv_mmaction.layers import Conv3T, MultiBranchConv3d, SeparableConv3d
from tconv_mmaction.optim.bf16_optim_wrapper import BF16OptimWrapper


def layers():
    return {
        'Conv3d': (nn.Conv3d(32, 64, 3, padding=1), (2, 7, 7)),
        'depth': (nn.Conv3d(32, 64, (5, 3, 3), padding=2), (3, 4, 4)),
        'height': (nn.Conv3d(32, 64, (1, 3, 3), (1, 2, 2), (0, 1, 1)), (8, 1, 1)),
        'Conv3T': (Conv3T(32, 64, 3, padding=1), (2, 5, 5)),
        'MultiBranchConv3d': (MultiBranchConv3d(32, 64, (5, 3, 3), padding=(2, 1, 1), norm_cfg=None), (4, 5, 5)),
        'SeparableConv3d': (SeparableConv3d(32, 64, 3, padding=1, norm_cfg=None, act_cfg=None), (2, 5, 5)),
        'Conv2d': (nn.Conv2d(32, 64, 5, padding=2), (1, 3))}


@pytest.mark.parametrize('name', layers())
def test_gradients_are_those_of_float32(name):
    torch.manual_seed(0)
    layer, size = layers()[name]
    x = torch.randn(2, 32, *size)
    wrapper = BF16OptimWrapper(torch.optim.SGD(layer.parameters(), lr=1.))
    grads = []
    for low in (True, False):
        layer.zero_grad()
        if low:
            with wrapper.optim_context(layer):
                y = layer(x)
            assert y.dtype in (torch.bfloat16, torch.float32)
        else:
            y = layer(x)
        y.float().square().sum().backward()
        grads.append({key: p.grad for key, p in layer.named_parameters()})
    for key, grad in grads[0].items():
        want = grads[1][key]
        assert (grad - want).abs().max() <= 0.05 * want.abs().max() + 1e-3, key


def test_only_short_inputs_leave_autocast(monkeypatch):
    monkeypatch.setattr('tconv_mmaction.compat.short_convolutions.has_avx512', lambda: True)
    seen = []

    class Look(ShortConvolutionsInFloat32):  # inside the other: sees what that one calls
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.conv3d:
                tensors = [*args, *(kwargs or {}).values()]
                seen.append((torch.is_autocast_enabled('cpu'), tensors[0].dtype))
            return func(*args, **(kwargs or {}))

    weight, bias = torch.randn(4, 2, 3, 3, 3), torch.randn(4)
    with Look(), ShortConvolutionsInFloat32():
        for frames in (2, 3):
            x = torch.randn(1, 2, frames, 5, 5)
            plain = F.conv3d(x, weight, bias, 1, (1, 0, 1), (1, 1, 1))
            with torch.autocast('cpu', dtype=torch.bfloat16):
                y = F.conv3d(x, weight, bias=bias, stride=1, padding=(1, 0, 1))
            assert y.dtype == torch.bfloat16 and y.shape == plain.shape
            torch.testing.assert_close(y.float(), plain, rtol=0.02, atol=0.1)
    assert seen == [(False, torch.float32), (False, torch.float32), (False, torch.float32), (True, torch.float32)]
    assert is_short(torch.empty(1, 2, 8, 1, 9), weight, 3) and not is_short(torch.empty(2, 3, 3, 3), weight, 3)


def test_compiles_with_it():
    torch._dynamo.reset()
    layer = nn.Conv3d(2, 4, 3, padding=1)
    compiled = torch.compile(layer, backend='eager')
    x = torch.randn(1, 2, 2, 5, 5)
    wrapper = BF16OptimWrapper(torch.optim.SGD(layer.parameters(), lr=1.))
    with wrapper.optim_context(layer):
        y, want = compiled(x), layer(x)
    torch.testing.assert_close(y, want)
    y.float().sum().backward()
