"""The Triton kernels of a 3T kernel against the plain maths in float64: in Triton's interpreter, and compiled ahead.

Triton decides when it is imported whether it interprets: both are processes of their own, this file run as a script.
"""
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tconv_mmaction.ops.conv3t import kernel_triton
from tconv_mmaction.ops.conv3t.kernel_triton import conv3t_kernel, reference

needs_triton = pytest.mark.skipif(importlib.util.find_spec('triton') is None,
                                  reason='Triton is not installed (pip install triton): its kernels cannot be run')
# filters, channels, kernel (t, h, w), what else
CASES = [(3, 5, (3, 3, 3), dict()), (2, 70, (3, 3, 3), dict(gain=True, channels_last=True)),
         (3, 4, (3, 3, 3), dict(moved=False)), (2, 3, (2, 3, 3), dict(free=True, moved=False)),
         (2, 20, (4, 3, 2), dict(free=True, gain=True, channels_last=True)), (2, 3, (2, 1, 4), dict(gain=True)),
         (2, 40, (2, 5, 5), dict()), (1, 33, (3, 5, 5), dict(gain=True, channels_last=True)),
         (2, 3, (3, 7, 7), dict(channels_last=True))]


def parameters(filters, channels, size, free=False, gain=False, moved=True, dtype=torch.float32, device='cpu'):
    """First slice, transform and gain, leaves; not ``moved``: as a layer starts, every sample on a kink."""
    torch.manual_seed(0)
    depth, height, width = size
    steps, spread = depth - 1, 0.4 * moved
    first = torch.randn(filters, channels, height, width)
    if free:
        transform = [torch.eye(2, 3) + spread * torch.randn(steps, filters, 2, 3)]
    else:
        transform = [float(not i) + spread * torch.randn(steps, filters) for i in range(4)]
    gains = torch.randn(depth, filters) if gain else None
    return [None if t is None else t.to(device, dtype).requires_grad_() for t in (first, gains, *transform)]


def results(leaves, kernel, grad):
    leaves = [t for t in leaves if t is not None]
    return [kernel.detach(), *torch.autograd.grad(kernel, leaves, grad)]


def compare(filters, channels, size, channels_last=False, dtype=torch.float32, device='cpu', own=torch.float32,
            **settings):
    """``dtype`` is the kernel's, ``own`` the parameters'."""
    first, gain, *transform = parameters(filters, channels, size, dtype=own, device=device, **settings)
    kernel = conv3t_kernel(first, transform, gain, dtype, channels_last)
    order = torch.channels_last_3d if channels_last else torch.contiguous_format
    assert kernel.dtype == dtype and kernel.is_contiguous(memory_format=order)
    grad = torch.randn(kernel.shape, device=device).to(dtype).contiguous(memory_format=order)
    got = results([first, gain, *transform], kernel, grad)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in (first, gain, *transform)]
    want = results(exact, reference(exact[0], exact[2:], exact[1], torch.float64), grad.double())
    for value, wanted, kind in zip(got, want, [dtype] + [own] * 6):
        error = (value.double() - wanted).norm() / wanted.norm()
        assert error < {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}[kind], (error, kind, settings)


def test_reference_is_resampling():
    """The maths that all is compared with, against PyTorch's own bilinear sampling, slice after slice."""
    first, gain, *transform = (t.detach().double() for t in parameters(3, 4, (3, 5, 4), gain=True))
    kernel = reference(first, transform, gain, torch.float64)
    scale, rotate, x, y = transform
    slice_ = first
    for b in range(3):
        torch.testing.assert_close(kernel[:, :, b], slice_ * gain[b, :, None, None, None], rtol=1e-12, atol=1e-12)
        if b < 2:
            cos, sin = scale[b] * rotate[b].cos(), scale[b] * rotate[b].sin()
            rows = [torch.stack([cos, -sin, cos * x[b] - sin * y[b]], -1),
                    torch.stack([sin, cos, sin * x[b] + cos * y[b]], -1)]
            grid = F.affine_grid(torch.stack(rows, 1), slice_.shape, align_corners=True)
            slice_ = F.grid_sample(slice_, grid, align_corners=True)


@needs_triton
@pytest.mark.parametrize('part', ['kernels', 'autograd'])
def test_in_the_interpreter(part):
    subprocess.run([sys.executable, __file__, part], check=True, env={**os.environ, 'TRITON_INTERPRET': '1'})


@needs_triton
def test_compiled_for_hopper_without_spills():
    """For an H100 or H200, without one: 3x3 and 5x5 kernels keep everything in registers."""
    subprocess.run([sys.executable, __file__, 'compile'], check=True,
                   env={k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'})


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('filters, channels, size, settings', CASES)
def test_on_cuda(filters, channels, size, settings, dtype):
    pytest.importorskip('triton')
    compare(filters, channels, size, dtype=dtype, device='cuda', **settings)


def test_who_can_take_the_kernels(monkeypatch):
    first, _, *transform = parameters(2, 3, (3, 3, 3))
    assert 'on cpu' in kernel_triton.unsupported(first, transform, torch.float32)
    # fake tensors say that they are on a GPU that is not there
    from torch._subclasses import FakeTensorMode
    with FakeTensorMode():
        def ask(size=3, depth=3, dtype=torch.float32, kernel=torch.float32):
            first = torch.empty(2, 3, size, size, device='cuda', dtype=dtype)
            return kernel_triton.unsupported(first, [torch.empty(depth - 1, 2, device='cuda', dtype=dtype)] * 4, kernel)

        monkeypatch.setattr(kernel_triton, 'triton_is_there', lambda: False)
        assert 'pip install triton' in ask()
        monkeypatch.setattr(kernel_triton, 'triton_is_there', lambda: True)
        assert ask() is None and ask(size=8) is None and ask(kernel=torch.float16) is None
        assert 'more than 64 pixels' in ask(size=9) and 'float64' in ask(dtype=torch.float64)
        assert 'one slice' in ask(depth=1)


def interpret_kernels():
    for filters, channels, size, settings in CASES:
        compare(filters, channels, size, **settings)
    for dtype in (torch.float16, torch.bfloat16):
        compare(2, 20, (3, 3, 3), dtype=dtype, channels_last=True, gain=True)
        compare(2, 5, (2, 3, 3), dtype=dtype, own=dtype)
    # angles beyond one turn
    first, _, *transform = parameters(2, 3, (3, 3, 3))
    with torch.no_grad():
        transform[1] += torch.tensor([[20., -7.], [100., 3.1]])
    exact = [t.detach().double() for t in (first, *transform)]
    got = conv3t_kernel(first, transform).detach().double()
    torch.testing.assert_close(got, reference(exact[0], exact[1:], None, torch.float64), rtol=0, atol=2e-5)


def interpret_autograd():
    first, gain, *transform = leaves = parameters(2, 3, (3, 3, 3), gain=True)

    def penalty(make):
        kernel = make(first, transform, gain)
        grads = torch.autograd.grad(kernel.sin().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)

    for got, want in zip(penalty(conv3t_kernel), penalty(lambda f, t, g: reference(f, t, g, torch.float32))):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())
    # frozen parts, and a gradient in an order of its own
    for frozen in range(6):
        given = [t.detach().requires_grad_(i != frozen) for i, t in enumerate(leaves)]
        kernel = conv3t_kernel(given[0], given[2:], given[1])
        want = reference(given[0], given[2:], given[1], torch.float32)
        grad = torch.randn(3, 3, 3, 3, 2).permute(4, 3, 2, 1, 0)
        trained = [t for t in given if t.requires_grad]
        for a, b in zip(torch.autograd.grad(kernel, trained, grad), torch.autograd.grad(want, trained, grad)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # equal inputs, equal gradients, bit for bit, from several blocks of channels
    first, _, *transform = parameters(2, 150, (2, 3, 3))
    grads = [torch.autograd.grad(conv3t_kernel(first, transform).square().sum(), [first, *transform])
             for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def compile_for_hopper():
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tconv_mmaction.ops.conv3t import kernel_triton_jit

    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    pointers = dict.fromkeys('first theta rotate move_x move_y gain grad_first sums'.split(), '*fp32')
    for size, dtype, last, gain in ((3, 'bf16', True, False), (3, 'fp32', False, True), (5, 'bf16', True, True)):
        rows, columns = kernel_triton._tile(size * size, 512)
        constants = dict(KH=size, KW=size, PP=rows, BI=columns, FREE=False, GAIN=gain,
                         **{'of_channel' if last else 'of_pixel': 1})
        for kernel in (kernel_triton_jit.build, kernel_triton_jit.build_backward):
            names = kernel.arg_names
            types = {**pointers, 'out': f'*{dtype}', 'grad': f'*{dtype}', **dict.fromkeys(constants, 'constexpr')}
            signature = {name: types.get(name, 'i32') for name in names}
            aligned = {(i,): [['tt.divisibility', 16]] for i, name in enumerate(names)
                       if signature[name].startswith('*') or name in ('channels', 'filters')}
            source = ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()}, aligned)
            compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32),
                                      options=dict(num_warps=kernel_triton.WARPS))
            with tempfile.TemporaryDirectory() as folder:
                cubin = Path(folder) / 'kernel.cubin'
                cubin.write_bytes(compiled.asm['cubin'])
                usage = subprocess.run([tools / 'cuobjdump', '--dump-resource-usage', cubin], capture_output=True,
                                       text=True, check=True).stdout
            registers, stack = (int(re.search(rf'{key}:(\d+)', usage)[1]) for key in ('REG', 'STACK'))
            print(f'{kernel.__name__} {size}x{size} {dtype}: {registers} registers, {stack} bytes spilled')
            assert stack == 0, usage


if __name__ == '__main__':
    dict(kernels=interpret_kernels, autograd=interpret_autograd, compile=compile_for_hopper)[sys.argv[1]]()
