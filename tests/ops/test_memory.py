"""Memory that is kept between calls: whose it is, how much of it, and that it is given back."""
import gc
import math
import multiprocessing
import threading

import pytest
import torch
from helpers.layer_cases import build, clip
from torch._subclasses import FakeTensorMode

from tconv_mmaction import ops
from tconv_mmaction.ops import memory
from tconv_mmaction.ops.memory import Loan, borrow, constant


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    ops.release_memory()
    yield
    ops.release_memory()


def in_a_thread(function):
    found = []

    def work():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def test_borrowed_memory_is_the_same_again_and_grows():
    first = borrow('a', torch.float32, (2, 3))
    assert borrow('a', torch.float32, (3, 2)).data_ptr() == first.data_ptr()
    assert borrow('a', torch.float32, (1, )).data_ptr() == first.data_ptr()
    larger = borrow('a', torch.float32, (40, 50))
    assert larger.shape == (40, 50) and larger.is_contiguous()
    assert borrow('a', torch.float32, (2, 3)).data_ptr() == larger.data_ptr()
    assert borrow('b', torch.float32, (2, 3)).data_ptr() != larger.data_ptr()
    assert borrow('a', torch.float64, (2, 3)).dtype is torch.float64
    assert borrow('c', torch.float32, (0, 3)).shape == (0, 3)


def test_borrowed_memory_is_the_threads_own():
    mine = borrow('a', torch.float32, (8, )).fill_(1)
    theirs = in_a_thread(lambda: borrow('a', torch.float32, (8, )).fill_(2))
    assert mine.data_ptr() != theirs.data_ptr() and (mine == 1).all()


def test_what_is_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(memory, 'KEPT_ELEMENTS', 100)
    borrow('a', torch.float32, (101, ))
    assert not memory._thread.held
    borrow('a', torch.float32, (100, ))
    assert [t.numel() for t in memory._thread.held.values()] == [100]
    borrow('a', torch.float32, (101, ))  # and what is kept stays for those that are smaller
    assert [t.numel() for t in memory._thread.held.values()] == [100]


def test_a_loan_belongs_to_one_call_and_comes_back():
    first, second = Loan((2, 3), torch.float32), Loan((2, 3), torch.float32)
    pointers = {first.tensor.data_ptr(), second.tensor.data_ptr()}
    assert len(pointers) == 2 and first.tensor.shape == (2, 3)
    taken = first.take()
    assert taken.tensor.data_ptr() in pointers and first.take() is None
    del first  # what was taken from it goes on
    assert Loan((2, 3), torch.float32).tensor.data_ptr() not in pointers
    del taken, second
    again = [Loan((3, 2), torch.float32) for _ in range(2)]
    assert {loan.tensor.data_ptr() for loan in again} == pointers
    assert Loan((3, 2), torch.float64).tensor.data_ptr() not in pointers


def test_of_many_threads_one_takes_a_loan():
    for _ in range(20):
        loan = Loan((2, ), torch.float32)
        found = []
        threads = [threading.Thread(target=lambda: found.append(loan.take())) for _ in range(4)]  # noqa: B023 joined
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken is not None for taken in found) == 1


def test_returned_loans_are_bounded_and_the_oldest_kind_goes_first(monkeypatch):
    monkeypatch.setattr(memory, 'KEPT_LOANS', 4 * 100)
    loans = [Loan((count, ), torch.float32) for count in (60, 30, 20)]
    while loans:
        loans.pop(0)
    Loan((1, ), torch.float64)  # sorts what came back
    kept = memory._returned
    assert {numel for numel, _ in kept.free} == {30, 20} and kept.bytes == 4 * 50
    Loan((500, ), torch.float32)
    Loan((1, ), torch.float64)
    assert kept.bytes <= 4 * 100 and (500, torch.float32) not in kept.free


def test_the_bytes_that_are_kept_are_counted():
    generator = torch.Generator().manual_seed(0)
    held = []
    for _ in range(300):
        if held and torch.rand((), generator=generator) < .5:
            held.pop(int(torch.randint(len(held), (), generator=generator)))
        else:
            held.append(Loan((int(torch.randint(1, 9, (), generator=generator)), ), torch.float32))
        kept = memory._returned
        assert kept.bytes == sum(t.nbytes for found in kept.free.values() for t in found)
        assert all(kept.free.values())


def test_constants_are_made_once_and_bounded(monkeypatch):
    made = []

    def build():
        made.append(1)
        return torch.ones(2)

    assert constant(('k', 1), build) is constant(('k', 1), build) and len(made) == 1
    with torch.inference_mode():
        value = constant(('k', 2), lambda: torch.ones(2))
    assert not value.is_inference() and not value.requires_grad
    monkeypatch.setattr(memory, 'KEPT_CONSTANTS', 3)
    for i in range(9):
        constant(('n', i), build)
    assert len(memory._constants) == 3 and ('n', 8) in memory._constants


def test_fake_tensors_are_never_kept():
    with FakeTensorMode():
        constant(('fake', ), lambda: torch.ones(2))
    assert ('fake', ) not in memory._constants
    assert type(constant(('fake', ), lambda: torch.ones(2))) is torch.Tensor


def test_many_threads_make_constants_while_others_drop_them(monkeypatch):
    monkeypatch.setattr(memory, 'KEPT_CONSTANTS', 4)
    faults = []

    def work(number):
        try:
            for i in range(500):
                value = constant((i * number % 11, ), lambda i=i: i * number % 11)
                assert value == i * number % 11
                if i % 50 == 0:
                    ops.release_memory()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number, )) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def test_threads_begin_while_memory_is_released():
    faults, stop = [], threading.Event()

    def release():
        try:
            while not stop.is_set():
                ops.release_memory()
        except BaseException as error:
            faults.append(error)

    releasing = threading.Thread(target=release)
    releasing.start()
    for _ in range(50):
        in_a_thread(lambda: borrow('a', torch.float32, (3, )))
    stop.set()
    releasing.join()
    assert not faults, faults


def kept_bytes():
    memory._returned.take(-1, torch.float32)  # sorts what came back
    return memory._returned.bytes + sum(t.nbytes for held in list(memory._EVERY_THREAD) for t in held.values())


@pytest.mark.parametrize('case', ['affine', 'groups', 'branches', 'lstm'])
@pytest.mark.parametrize('way', ['auto', 'factored', 'slices_times_patches'])
def test_release_memory_gives_back_what_layers_keep_from_any_thread(case, way):
    model, x = build(case, torch.float32), clip(case, torch.float32)

    def step():
        with ops.use(way):
            model(x).sum().backward()

    finish, done = threading.Event(), threading.Event()

    def work():
        step()
        done.set()
        finish.wait()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    step()
    gc.collect()
    before = kept_bytes()
    if case == 'affine':
        assert before > 0
    in_a_thread(ops.release_memory)
    assert kept_bytes() == 0 and not memory._constants
    finish.set()
    thread.join()


def test_release_within_a_pass_changes_no_number():
    model, x = build('affine', torch.float64), clip('affine', torch.float64)
    want = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    y = model(x)
    ops.release_memory()
    with memory.poisoned():
        got = torch.autograd.grad(y.square().sum(), list(model.parameters()))
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w)


def test_a_graph_that_is_dropped_returns_its_loan():
    model, x = build('affine', torch.float32), clip('affine', torch.float32)
    with ops.use('kernel_in_place'):
        y = model(x)
        del y
        gc.collect()
        first = kept_bytes()
        for _ in range(5):
            y = model(x)
            del y
            gc.collect()
        assert kept_bytes() == first > 0


def test_poisoned_memory_is_nan_and_only_within():
    with memory.poisoned():
        assert borrow('a', torch.float32, (5, )).isnan().all() and Loan((5, ), torch.float64).tensor.isnan().all()
        with memory.poisoned():
            pass
        borrow('a', torch.float32, (5, )).fill_(1)
        assert borrow('a', torch.float32, (5, )).isnan().all()
    with pytest.raises(ZeroDivisionError), memory.poisoned():
        raise ZeroDivisionError
    borrow('a', torch.float32, (5, )).fill_(1)
    assert (borrow('a', torch.float32, (5, )) == 1).all()


def test_memory_lent_in_inference_mode_serves_outside_of_it():
    with torch.inference_mode():
        inside = borrow('a', torch.float32, (4, ))
        loan = Loan((4, ), torch.float32)
    borrow('a', torch.float32, (4, )).fill_(math.pi)
    assert (inside == math.pi).all() and not inside.is_inference() and not loan.tensor.is_inference()


def _child(queue):
    loan = Loan((6, ), torch.float32)
    model, x = build('affine', torch.float32), clip('affine', torch.float32)
    y = model(x)  # no backward pass: after one in the parent, PyTorch refuses any in a forked process
    queue.put((loan.tensor.numel(), float(y.detach().abs().sum())))


@pytest.mark.skipif(not hasattr(memory.os, 'register_at_fork'), reason='this system has no fork')
def test_a_forked_process_goes_on_though_a_thread_held_the_lock():
    """A data loader's worker is forked while another thread of the parent is taking a loan."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, whatever this package does
    model, x = build('affine', torch.float32), clip('affine', torch.float32)
    model(x).sum().backward()
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    with memory._returned.lock:
        process = context.Process(target=_child, args=(queue, ))
        process.start()
    try:
        count, total = queue.get(timeout=60)
    finally:
        process.join(5)
        process.kill()
        torch.set_num_threads(before)
    assert count == 6 and total == pytest.approx(float(model(x).detach().abs().sum()), rel=1e-4)
