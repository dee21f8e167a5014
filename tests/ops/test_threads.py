"""Several threads that call the same layers at once, with gradients and without, on clips of two sizes."""
import threading

import pytest
import torch
from helpers.layer_cases import build, noise
from torch import nn

from tconv_mmaction import ops
from tconv_mmaction.backbones import TemporalResNet3d
from tconv_mmaction.layers import Conv3T, MultiBranchConv3d
from tconv_mmaction.ops import memory

THREADS = 4


class Features(nn.Module):
    """A backbone as a function to one tensor."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        y = self.backbone(x)
        return y if isinstance(y, torch.Tensor) else y[-1]


def network():
    torch.manual_seed(0)
    net = TemporalResNet3d(depth=18, base_channels=8, temporal_cfg=dict(type='Conv3T'), norm_eval=True)
    return Features(net)


def one_and_a_norm():
    torch.manual_seed(0)
    return nn.Sequential(MultiBranchConv3d(4, 4, 3, padding=1, norm_cfg=None), Conv3T(4, 12, 3, padding=1), nn.ReLU(),
                         Conv3T(12, 4, 3, padding=1, stride=(1, 2, 2)))


# name: module, two clips, calls of each thread
MODELS = {
    'Conv3T': (lambda: build('affine', torch.float32), (2, 10, 4, 5, 6), (1, 10, 3, 7, 4), 200),
    'Conv3T with gains': (lambda: build('free and gain', torch.float32), (2, 10, 3, 4, 5), (1, 10, 4, 3, 6), 200),
    'MultiBranchConv3d': (lambda: build('branches', torch.float32), (2, 4, 4, 5, 6), (1, 4, 5, 4, 7), 200),
    'ConvLSTM2d': (lambda: build('lstm', torch.float32), (2, 3, 4, 5, 6), (1, 3, 2, 6, 4), 200),
    'a chain': (one_and_a_norm, (1, 4, 4, 6, 6), (2, 4, 3, 5, 4), 200),
    'TemporalResNet3d': (network, (1, 3, 2, 16, 16), (2, 3, 2, 16, 24), 20),
    'TemporalResNet3d, 200 calls': (network, (1, 3, 2, 16, 16), (2, 3, 2, 16, 24), 200),
}


def found_by(model, x, learns):
    if not learns:
        with torch.no_grad():
            return [model(x)]
    x = x.clone().requires_grad_()
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize('train', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow) if '200' in name else name for name in MODELS])
def test_threads_find_what_the_reference_finds(name, train):
    make, *sizes, calls = MODELS[name]
    model = make().train(train)
    clips = [noise(size, 1, torch.float32) for size in sizes]
    with ops.use('reference'):
        wanted = {(i, learns): found_by(model, clip, learns) for i, clip in enumerate(clips)
                  for learns in (True, False)}
    faults, together = [], threading.Barrier(THREADS)

    def work(number):
        together.wait()
        for turn in range(calls):
            # all four threads have other clips and other passes at a time
            i, learns = (turn + number) % 2, (turn + number // 2) % 4 != 3
            try:
                got = found_by(model, clips[i], learns)
                for j, (g, w) in enumerate(zip(got, wanted[i, learns])):
                    error = float((g.detach() - w.detach()).abs().max() / w.detach().abs().max().clamp(min=1e-3))
                    assert error < 2e-3, (number, turn, i, learns, j, error)
            except Exception as error:
                faults.append(error)
                return

    with memory.poisoned():
        threads = [threading.Thread(target=work, args=(number, )) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults, faults


def test_threads_train_networks_of_their_own():
    """Threads share nothing but memory that is lent.

    The networks are built beforehand: PyTorch's generator of random numbers is one for all threads.
    """
    models = [build('affine', torch.float64) for _ in range(THREADS + 1)]

    def steps(model):
        x = noise((2, 10, 4, 5, 6), 1, torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), .01)
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    wanted, found = steps(models.pop()), {}
    threads = [threading.Thread(target=lambda n=n: found.__setitem__(n, steps(models[n]))) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == THREADS
    for got in found.values():
        for g, w in zip(got, wanted):
            torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('case', ['affine', 'gain', 'free', 'few channels', 'branches', 'lstm'])
def test_threads_go_back_through_one_graph(case):
    model, x = build(case, torch.float64), noise((2, build(case, torch.float64).layer.in_channels, 4, 5, 6))
    x.requires_grad_()
    y = model(x)
    inputs = [x, *model.parameters()]
    with ops.use('reference'):
        want = torch.autograd.grad(model(x).square().sum(), inputs)
    loss = y.square().sum()
    faults = []

    def work():
        try:
            for _ in range(10):
                for g, w in zip(torch.autograd.grad(loss, inputs, retain_graph=True), want):
                    torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-9 * float(w.abs().max()))
        except Exception as error:
            faults.append(error)

    with memory.poisoned():
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults, faults


def test_threads_use_different_implementations():
    model, x = build('affine', torch.float32), noise((2, 10, 4, 5, 6), 1, torch.float32)
    found = {}

    def work(name):
        with ops.use(name):
            for _ in range(20):
                found[name] = [n for n, reason in ops.explain(model.layer, x).items() if reason == 'chosen'], model(x)

    names = ['factored', 'slices_times_patches', 'moved_slices', 'reference']
    threads = [threading.Thread(target=work, args=(name, )) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert found[name][0] == [name]
        torch.testing.assert_close(found[name][1], found['reference'][1], rtol=1e-4, atol=1e-4)
