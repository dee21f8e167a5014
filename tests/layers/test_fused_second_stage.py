"""The Triton kernels of the factored 3TConv against its plain PyTorch path; on CPU in Triton's interpreter."""
import os
import subprocess
import sys

import pytest
import torch

from tconv_mmaction.layers import Conv3T, factored_conv3t, fused_second_stage

CASES = [dict(padding=1), dict(padding=(3, 0, 2)), dict(stride=(2, 1, 1), padding=1), dict(stride=(3, 2, 2), padding=1),
         dict(dilation=(2, 1, 2), padding=2, groups=2), dict(dilation=2, stride=2, padding=1)]


def compare(arguments, kernel_size, device, dtype, tolerance, size=(5, 6, 7)):
    torch.manual_seed(0)
    layer = Conv3T(4, 4, kernel_size, evaluation='factored', bias=False, **arguments).to(device, dtype)
    with torch.no_grad():
        for name in ('rotate', 'translate_x', 'translate_y'):
            getattr(layer, name).normal_(std=0.5)
    x = torch.randn(2, 4, *size, device=device, dtype=dtype)
    results = []
    for fused in (True, False):
        patch = pytest.MonkeyPatch()
        patch.setattr(fused_second_stage, 'available', lambda u, pixels, fused=fused: fused)
        patch.setattr(factored_conv3t, 'CHUNK_ELEMENTS', 1)  # clip by clip
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(leaf)
        y.square().sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
        patch.undo()
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize('arguments', CASES)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_on_cuda(arguments, dtype, tolerance):
    pytest.importorskip('triton')
    compare(arguments, 3, 'cuda', dtype, tolerance)


@pytest.mark.slow
def test_in_the_interpreter():
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    pytest.importorskip('triton', reason='Triton is not installed: its kernels cannot be interpreted')
    subprocess.run([sys.executable, __file__], check=True, env={**os.environ, 'TRITON_INTERPRET': '1'})


def test_who_takes_the_kernels():
    u = torch.zeros(1)
    assert not fused_second_stage.available(u, 9) and not fused_second_stage.available(u.to('meta'), 9)


if __name__ == '__main__':
    for case in CASES:  # the interpreter takes 20 seconds for each
        compare(case, (3, 2, 2), 'cpu', torch.float64, 1e-10, size=(5, 5, 5) if case.get('dilation') else (3, 3, 3))
    print('equal')
