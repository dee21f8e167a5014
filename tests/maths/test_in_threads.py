"""Parts on threads of their own: order, numbers of threads, gradients, errors; a fit is the same on them."""
import pytest
import torch

from tconv_mmaction.maths.in_threads import in_threads, threads_for
from tconv_mmaction.maths.nearest_3t_kernel import nearest_3t_kernel


@pytest.fixture
def two_threads():
    number = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize('threads', [1, 3])
def test_results_come_in_order_with_the_callers_grad_mode(two_threads, threads):
    parts = [(number, ) for number in range(7)]
    with torch.no_grad():
        found = list(in_threads(lambda a: (a * a, torch.is_grad_enabled(), torch.get_num_threads()), parts, threads))
    assert found == [(a * a, False, 1 if threads > 1 else 2) for a in range(7)]
    assert [grad for grad, in in_threads(lambda a: (torch.is_grad_enabled(), ), parts, threads)] == [True] * 7
    assert torch.get_num_threads() == 2


def test_an_error_in_a_part_is_the_callers(two_threads):
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda a: 1 / a, [(1, ), (0, ), (1, )], 2))
    assert torch.get_num_threads() == 2


def test_in_inference_mode_all_is_one_part(two_threads):
    assert threads_for(torch.device('cpu')) == 2 and threads_for(torch.device('cuda')) == 1
    with torch.inference_mode():
        assert threads_for(torch.device('cpu')) == 1
        nearest_3t_kernel(torch.randn(3, 2, 3, 3, 3), starts=1, iterations=3)


def test_a_fit_is_the_same_on_two_threads(two_threads):
    weight = torch.randn(5, 4, 3, 3, 3, dtype=torch.float64)
    done = []
    pair = nearest_3t_kernel(weight, gain=True, starts=1, iterations=8, progress=lambda *args: done.append(args))
    torch.set_num_threads(1)
    single = nearest_3t_kernel(weight, gain=True, starts=1, iterations=8)
    assert done == [(3, 5), (5, 5)]
    torch.testing.assert_close(pair.explained, single.explained)
    torch.testing.assert_close(pair.parameters, single.parameters, rtol=1e-5, atol=1e-6)
