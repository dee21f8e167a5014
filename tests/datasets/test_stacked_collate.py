"""Batches that a worker hands over in buffers it uses again: the same as without workers, and nothing stays behind."""
import gc
import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from mmaction.structures import ActionDataSample
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, Dataset

from tconv_mmaction.datasets import hand_over, stacked_collate
from tconv_mmaction.datasets.hand_over import BUFFERS, FREE, HEADER, SMALL, TAKEN, HandedOver

TYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.float16, torch.int64)


class Clips(Dataset):
    """Frames whose numbers are those of the index; with ``changing``, every batch of two has another shape and type."""

    def __init__(self, count, changing=False):
        self.count, self.changing = count, changing

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        kind = i // 2 if self.changing else 0
        side = 40 + 7 * (kind * 5 % 11)
        frames = torch.arange(8 * side * side * 3).reshape(8, side, side, 3).mul(i + 1) % 251
        clip = frames.to(TYPES[kind % len(TYPES)]).permute(3, 0, 1, 2)[None]
        sample = ActionDataSample(metainfo=dict(name=f'video {i}')).set_gt_label(i)
        sample.set_field(torch.linspace(0, i, 5, dtype=torch.float64), 'gt_score')
        if kind % 3 == 1:
            clip = clip.contiguous()
        return dict(inputs=clip, data_samples=sample)


class Sizes(Dataset):
    """Clips of one shape and of two in turn: batches of the second kind stay lists."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return dict(inputs=torch.full((1, 3, 8, 32, 32 + 8 * (i % 4 == 3)), i, dtype=torch.uint8), more=[None, 'text'])


def loader(data, workers, **more):
    return DataLoader(data, batch_size=2, num_workers=workers, collate_fn=stacked_collate, **more)


def assert_same(given, expected):
    given, expected = list(given), list(expected)
    assert len(given) == len(expected) > 0
    for ours, theirs in zip(given, expected):
        assert type(ours) is dict and list(ours) == list(theirs)
        for a, b in zip(ours['inputs'], theirs['inputs']):
            assert type(a) is torch.Tensor and a.dtype == b.dtype and torch.equal(a, b)
            assert a.squeeze().stride() == b.squeeze().stride()
        for a, b in zip(ours.get('data_samples', ()), theirs.get('data_samples', ())):
            assert a.name == b.name and torch.equal(a.gt_label, b.gt_label) and torch.equal(a.gt_score, b.gt_score)
            assert a.gt_score.dtype == torch.float64
        assert ours.get('more') == theirs.get('more')


def shared_files():
    return sorted(os.listdir('/dev/shm')) if Path('/dev/shm').is_dir() else []


def ours(names):  # other programs on the machine have files there too
    return [name for name in names if name.startswith(f'torch_{os.getpid()}_')]


@pytest.mark.parametrize('changing', [False, True])
def test_kept_batches_are_those_of_no_workers(changing):
    data = Clips(60, changing)
    expected = list(loader(data, 0))
    gc.collect()
    before = len(hand_over._kept)
    given = loader(data, 2, prefetch_factor=3, persistent_workers=True)
    first, second = list(given), list(given)  # 2 x 15 batches of each worker, all kept: more than there are buffers
    pools = list(hand_over._kept.values())[before:]
    assert len(pools) == 2 and all(len(pool) == BUFFERS for pool in pools)
    assert all(buffer[0] == TAKEN for pool in pools for buffer in pool.values())
    for batches in (first, second):
        assert_same(batches, expected)
    parts = [batch['inputs'][1, 0, 0] for batch in first]  # views of them are enough to keep their numbers
    del first, second, batches, given
    gc.collect()
    assert len(hand_over._kept) == before
    assert all(torch.equal(part, batch['inputs'][1, 0, 0]) for part, batch in zip(parts, expected))
    del parts
    gc.collect()
    assert all(buffer[0] != TAKEN for pool in pools for buffer in pool.values())


@pytest.mark.parametrize('changing', [False, True])
def test_few_buffers_are_used_again(changing):
    expected = list(loader(Clips(60, changing), 0))
    before = len(hand_over._kept)
    given = loader(Clips(60, changing), 1, persistent_workers=True)
    for _ in range(2):
        count = 0
        for batch, other in zip(given, expected):
            count += 1
            assert_same([batch], [other])
            buffers = list(hand_over._kept.values())[before].values()
            where = batch['inputs'].untyped_storage().data_ptr() - HEADER
            assert where in [buffer.ctypes.data for buffer in buffers]  # not a copy
            batch['inputs'].zero_()  # a user may write to what it got
        assert count == 30 and len(buffers) <= 5


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
def test_a_buffer_that_a_fork_sees_is_not_used_again():
    given = iter(loader(Clips(40), 1))
    batch, expected = next(given), next(iter(loader(Clips(40), 0)))
    forked, done = multiprocessing.get_context('fork').Pipe()

    def look_later(batch):
        forked.recv()  # the other process has let go of the batch and read all others
        forked.send(bool((batch['inputs'].numpy() == expected['inputs'].numpy()).all()))  # no threads of PyTorch here

    process = multiprocessing.get_context('fork').Process(target=look_later, args=(batch, ), daemon=True)
    process.start()
    del batch
    for _ in given:
        pass
    done.send('look')
    assert done.poll(60) and done.recv() is True
    process.join(60)


def test_what_is_not_sent_is_free_again(monkeypatch):
    pool = hand_over._Pool()
    monkeypatch.setattr(hand_over, '_pool', pool)
    ones = hand_over.empty((2, SMALL), torch.uint8).fill_(1)
    assert [buffer[0] for buffer in pool.buffers] == [TAKEN] and len(pool.written) == 1
    del ones
    assert [buffer[0] for buffer in pool.buffers] == [hand_over.FREE_UNKNOWN] and not pool.written
    sent = hand_over.empty((2, SMALL), torch.uint8).fill_(2)
    rebuild, args = hand_over._reduce_tensor(sent)
    there = rebuild(*args)
    assert there.data_ptr() == sent.data_ptr() and not pool.written
    del there  # the reader is done before the writer has forgotten it
    later = hand_over.empty((2, SMALL), torch.uint8).fill_(3)
    assert later.data_ptr() == sent.data_ptr() and len(pool.buffers) == 1
    del sent
    assert pool.buffers[0][0] == TAKEN and len(pool.written) == 1  # of the later one
    assert hand_over.empty((SMALL, ), torch.uint8).shape == (SMALL, ) and len(pool.buffers) == 1  # small: no buffer
    assert later.eq(3).all()


def test_several_loaders_at_once_and_batches_that_are_left():
    one, two = loader(Clips(16), 2, persistent_workers=True), loader(Clips(20, True), 1)
    expected_one, expected_two = list(loader(Clips(16), 0)), list(loader(Clips(20, True), 0))
    for _ in range(2):
        next(iter(one))  # an epoch that ends early: some batches are never taken
        pairs = list(zip(one, two))
        assert_same([a for a, _ in pairs], expected_one)
        assert_same([b for _, b in pairs], expected_two[:8])
    assert_same(loader(Sizes(), 1), loader(Sizes(), 0))  # lists of clips


@pytest.mark.slow  # a spawned worker imports everything again
def test_another_way_to_start_a_worker():
    context = 'spawn' if multiprocessing.get_start_method() == 'fork' else 'fork'
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f'this system has no {context}')
    with torch.inference_mode():
        given = loader(Clips(12), 1, multiprocessing_context=context, persistent_workers=True)
        first = list(given)
    assert_same(first + list(given), 2 * list(loader(Clips(12), 0)))


def test_the_thread_that_pins():
    """Where there is a GPU that thread opens the messages; here any thread does."""
    from concurrent.futures import ThreadPoolExecutor
    given = iter(loader(Clips(16), 1))
    with ThreadPoolExecutor(1) as thread:
        assert_same([thread.submit(next, given).result() for _ in range(8)], loader(Clips(16), 0))


@pytest.mark.skipif(sys.platform != 'linux', reason='counts files in /dev/shm')
def test_a_worker_that_dies_leaves_nothing():
    """In a process of its own: PyTorch's signal handler raises wherever the process is when the worker has died."""
    process = multiprocessing.get_context('fork').Process(target=one_worker_dies)
    process.start()
    process.join(120)
    assert process.exitcode == 0


def read_until_it_dies(known):
    batches = iter(loader(Clips(64), 1))
    next(batches)
    worker = batches._workers[0].pid
    assert len(hand_over._kept) == known + 1
    while batches._data_queue.qsize() < 2:  # it waits then; one killed while it writes can leave PyTorch waiting
        time.sleep(0.01)
    try:
        os.kill(worker, signal.SIGKILL)
        list(batches)
    except (RuntimeError, OSError, EOFError):  # the last two: it was killed while memory was fetched from it
        return worker
    raise AssertionError('Nobody noticed that the worker is gone.')


def one_worker_dies():
    sys.unraisablehook = lambda _: None  # pytest's keeps what PyTorch's handler raises while a loader is let go of
    gc.collect()
    before, known = ours(shared_files()), len(hand_over._kept)
    worker = read_until_it_dies(known)
    with suppress(RuntimeError):  # of PyTorch's signal handler, which may come as late as here
        gc.collect()
    multiprocessing.active_children()  # joins those that have ended
    gc.collect()
    assert ours(shared_files()) == before and not [n for n in shared_files() if n.startswith(f'torch_{worker}_')]
    assert len(hand_over._kept) == known


def test_no_worker_no_buffer():
    batch = stacked_collate([Clips(2)[0], Clips(2)[1]])
    assert type(batch) is dict and type(batch['inputs']) is torch.Tensor


def test_what_passes_as_before():
    large = torch.zeros(SMALL + 1, dtype=torch.uint8)
    for tensor in (large[::2], large.float().requires_grad_(), torch.zeros(0), large.expand(2, -1),
                   torch.zeros(3, device='meta'), torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.cfloat).conj()):
        try:
            ordinary = reduce_tensor(tensor)[0]
        except Exception as error:  # what cannot be handed over at all says so as before
            with pytest.raises(type(error)):
                hand_over._reduce_tensor(tensor)
        else:
            assert hand_over._reduce_tensor(tensor)[0] is ordinary


def test_a_pool_has_an_end_and_larger_buffers_replace_free_ones(monkeypatch):
    pool = hand_over._Pool()
    taken = [pool.take(100) for _ in range(BUFFERS)]
    assert pool.take(100) is None and {place.slot for place, _, _ in taken} == set(range(BUFFERS))
    assert all(buffer[0] == TAKEN and attach is not None for _, buffer, attach in taken)
    taken[3][1][0] = FREE
    place, buffer, attach = pool.take(90)
    assert place.slot == 3 and attach is None and buffer.size == HEADER + 100  # the other process has it already
    taken[5][1][0] = hand_over.FREE_UNKNOWN
    assert pool.take(100)[2] is not None  # it did not keep it
    taken[7][1][0] = FREE
    taken[9][1][0] = hand_over.GIVEN_UP  # never used again, but replaced
    place, buffer, attach = pool.take(101)
    assert place.slot == 7 and attach is not None and buffer.size == HEADER + 101 and len(pool.buffers) == BUFFERS
    place, buffer, attach = pool.take(90)
    assert place.slot == 9 and attach is not None and buffer is not taken[9][1] and buffer[0] == TAKEN
    monkeypatch.setattr(hand_over, '_pool', pool)
    tensor = torch.zeros(SMALL + 1)
    assert hand_over._reduce_tensor(tensor)[0] is reduce_tensor(tensor)[0]  # all taken: as PyTorch does it
    pool.pid = -1
    assert hand_over._own_pool() is not pool  # after a fork


def test_one_message_by_hand():
    """Through pickle in one process: numbers, strides, and a buffer that is written again changes nothing."""
    import pickle
    from multiprocessing.reduction import ForkingPickler
    for dtype in TYPES:
        for shape in ((), (3, 5), (2, 3, 4096)):
            tensor = torch.arange(max(1, torch.Size(shape).numel())).reshape(shape).to(dtype)
            tensor = tensor.transpose(0, -1) if shape else tensor
            messages = [bytes(ForkingPickler.dumps(HandedOver(one=value))) for value in (tensor, tensor.logical_not())]
            first, other = (pickle.loads(message)['one'] for message in messages)
            assert first.dtype == dtype and torch.equal(first, tensor) and torch.equal(other, tensor.logical_not())
            if tensor.numel() > 1:
                assert first.stride() == tensor.stride()
