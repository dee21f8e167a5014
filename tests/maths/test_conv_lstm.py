"""The steps of a convolutional LSTM against a naive loop."""
import numpy as np
import pytest
import torch
from helpers.layer_cases import noise
from maths import naive

from tconv_mmaction.maths.conv_lstm import Cell, lstm_update, steps


@pytest.mark.parametrize('kernel, stride', [((3, 3), (1, 1)), ((1, 3), (2, 1)), ((5, 1), (1, 2))])
@pytest.mark.parametrize('together', [1, 2, 9])
@pytest.mark.parametrize('with_state', [False, True])
def test_steps_equal_the_naive_loop(kernel, stride, together, with_state):
    padding = tuple(k // 2 for k in kernel)
    cell = Cell(noise((8, 3, *kernel), 1) * .4, noise((8, 2, *kernel), 2) * .4, noise((8, ), 3), stride, padding)
    x = noise((2, 3, 4, 5, 4), 4)
    size = [(n - 1) // s + 1 for n, s in zip((5, 4), stride)]
    state = (noise((2, 2, *size), 5), noise((2, 2, *size), 6)) if with_state else None
    outputs, (h, c) = steps(cell, x.permute(2, 0, 1, 3, 4), state, together)
    want, *last = naive.conv_lstm(x.numpy(), *(p.numpy() for p in cell[:3]), stride, padding,
                                  state and tuple(s.numpy() for s in state))
    np.testing.assert_allclose(torch.stack(outputs, 2), want, rtol=0, atol=1e-13)
    for got, wanted in zip((h, c), last):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13)


def test_one_step_by_hand():
    """Gates of 0 open half; c is halved, and half of tanh(0) = 0 comes in."""
    gates = torch.zeros(1, 4, 1, 1).double()
    h, c = lstm_update(gates, torch.full((1, 1, 1, 1), 2.).double())
    assert c.item() == 1. and h.item() == pytest.approx(.5 * np.tanh(1.))
    gates[0, 2] = 100.  # g
    h, c = lstm_update(gates, None)
    assert c.item() == .5 and h.item() == pytest.approx(.5 * np.tanh(.5))


def test_the_sum_over_steps_is_kept_in_float32():
    h, c = lstm_update(torch.zeros(1, 4, 1, 1, dtype=torch.bfloat16), None)
    assert h.dtype is torch.bfloat16 and c.dtype is torch.float32


def test_gradcheck_with_and_without_a_state():
    inputs = [noise(shape, i).mul_(.5).requires_grad_() for i, shape in enumerate(
        [(2, 1, 1, 3, 3), (4, 1, 3, 3), (4, 1, 3, 3), (4, ), (1, 1, 3, 3), (1, 1, 3, 3)])]

    def run(frames, weight_ih, weight_hh, bias, h, c):
        outputs, (h, c) = steps(Cell(weight_ih, weight_hh, bias, (1, 1), (1, 1)), frames, (h, c), 2)
        return torch.stack(outputs), h, c

    assert torch.autograd.gradcheck(run, inputs)


def test_a_clip_of_one_frame_has_gradients_of_all_weights():
    """DistributedDataParallel stops at a parameter without one."""
    parameters = [noise(shape, i).requires_grad_() for i, shape in enumerate([(8, 1, 3, 3), (8, 2, 3, 3), (8, )])]
    outputs, _ = steps(Cell(*parameters, (1, 1), (1, 1)), noise((1, 1, 1, 4, 4), 9), None, 1)
    grads = torch.autograd.grad(outputs[0].sum(), parameters)
    assert not grads[1].any() and grads[0].any() and grads[2].any()
