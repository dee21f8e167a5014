"""The way a convolutional LSTM goes on a GPU, on CPU tensors, and its Triton kernels in Triton's interpreter.

Triton decides when it is imported whether it interprets: that is a process of its own, this file run as a script.
"""
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from tconv_mmaction.backbones import conv_lstm_net
from tconv_mmaction.maths.conv_lstm import Cell, steps
from tconv_mmaction.ops.conv_lstm import cell as one_step
from tconv_mmaction.ops.conv_lstm import whole_clip as module
from tconv_mmaction.ops.conv_lstm.whole_clip import whole_clip


def leaves(state, frames=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape, scale=1.):
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    clip = randn(frames, 2, 3, 7, 6)
    parameters = randn(16, 3, 3, 5, scale=.3), randn(16, 4, 3, 5, scale=.3), randn(16)
    return [clip, *parameters, *([randn(2, 4, 4, 6), randn(2, 4, 4, 6)] if state else [])]


def run(function, tensors, together, used='outputs h c'):
    """Outputs and gradients; ``used``: of which results the loss is."""
    clip, *parameters = tensors[:4]
    state = tuple(tensors[4:]) or None
    outputs, last = function(Cell(*parameters, (2, 1), (1, 2)), clip, state, together)
    outputs = outputs if isinstance(outputs, torch.Tensor) else torch.stack(outputs)
    results = dict(outputs=outputs, h=last[0], c=last[1])
    loss = sum((results[name] * torch.linspace(-1, 2, results[name].numel()).view_as(results[name])).sum()
               for name in used.split())
    wanted = [t for t in tensors if t.requires_grad]
    return [*results.values(), *torch.autograd.grad(loss, wanted, allow_unused=True)]


def exact(tensors):
    return [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


def check(tensors, together, used='outputs h c', tolerance=1e-5):
    for got, want in zip(run(whole_clip, tensors, together, used), run(steps, exact(tensors), together, used)):
        if want is None:
            assert got is None or not got.any()  # a gradient that is zero may be said to be none
        else:
            error = (got.double() - want).norm() / want.norm().clamp(min=1e-30)
            assert error < tolerance, error


@pytest.mark.parametrize('state', [True, False])
@pytest.mark.parametrize('together', [5, 2, 1])
def test_equals_the_equations(state, together):
    check(leaves(state), together)


@pytest.mark.parametrize('used', ['outputs', 'h', 'c'])
@pytest.mark.parametrize('frames', [1, 3])
def test_any_part_of_the_result(used, frames):
    check(leaves(True, frames), 2, used)
    check(leaves(False, frames), 2, used)


@pytest.mark.parametrize('frozen', range(6))
def test_frozen_parts_get_no_gradient(frozen):
    tensors = leaves(True)
    tensors[frozen].requires_grad_(False)
    check(tensors, 3)


def test_without_gradients_and_second_derivatives():
    tensors = leaves(True)
    with torch.no_grad():
        results = whole_clip(Cell(*tensors[1:4], (2, 1), (1, 2)), tensors[0], tuple(tensors[4:]), 2)
    torch.testing.assert_close(results[0], run(whole_clip, tensors, 5)[0].detach())

    def penalty(function):
        outputs, _ = function(Cell(*tensors[1:4], (2, 1), (1, 2)), tensors[0], tuple(tensors[4:]), 5)
        outputs = outputs if isinstance(outputs, torch.Tensor) else torch.stack(outputs)
        grads = torch.autograd.grad(outputs.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), tensors)

    for got, want in zip(penalty(whole_clip), penalty(steps)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_under_autocast_c_stays_in_float32():
    tensors = leaves(False)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        results = run(whole_clip, tensors, 5)
    assert [r.dtype for r in results] == [torch.bfloat16] * 2 + [torch.float32] * 5
    for got, want in zip(results, run(steps, exact(tensors), 5)):
        assert (got.double() - want).norm() < 0.03 * want.norm()


def test_step_statistics_of_all_steps_at_once():
    """Batch norm of every step by itself, and of all together."""
    norm = torch.nn.BatchNorm2d(4)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 2, 4, 5, 6, requires_grad=True)
    y, mean, var = conv_lstm_net.normalize_steps(norm, x)
    each = [conv_lstm_net.normalize_step(norm, step) for step in x]
    want = torch.stack([step for step, _, _ in each])
    torch.testing.assert_close(y.unflatten(1, (3, 4)).transpose(0, 1), want)
    torch.testing.assert_close(mean, torch.stack([m for _, m, _ in each]))
    torch.testing.assert_close(var, torch.stack([v for _, _, v in each]))
    weights = torch.randn_like(want)
    got = torch.autograd.grad((y.unflatten(1, (3, 4)).transpose(0, 1) * weights).sum(), [x, *norm.parameters()])
    for a, b in zip(got, torch.autograd.grad((want * weights).sum(), [x, *norm.parameters()])):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_is_for_a_gpu():
    tensors = leaves(False)
    assert 'for a GPU' in module.refusal(Cell(*tensors[1:4], 1, 1), tensors[0], None, 1)


@pytest.mark.skipif(importlib.util.find_spec('triton') is None,
                    reason='Triton is not installed (pip install triton): its kernels cannot be run')
def test_in_the_interpreter():
    subprocess.run([sys.executable, __file__], check=True, env={**os.environ, 'TRITON_INTERPRET': '1'})


@pytest.mark.gpu
@pytest.mark.parametrize('state', [True, False])
def test_on_cuda(state, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    tensors = [t.detach().cuda().requires_grad_() for t in leaves(state)]
    check(tensors, 5, tolerance=1e-4)


if __name__ == '__main__':  # every branch of both kernels, in a network that takes them
    one_step.takes_kernels = lambda gates: True
    check(leaves(True, 3), 2, tolerance=2e-6)
    check(leaves(False, 2), 2, 'outputs c', tolerance=2e-6)
    check(leaves(False, 1), 1, 'h', tolerance=2e-6)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        halves = run(whole_clip, leaves(True, 2), 2)
    one_step.takes_kernels = lambda gates: False
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for a, b in zip(halves, run(whole_clip, leaves(True, 2), 2)):
            assert (a.double() - b.double()).norm() < 0.02 * b.double().norm()
