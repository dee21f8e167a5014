"""The two ways to evaluate Conv3T agree, and a kept kernel is never a stale one."""
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.conv3t_layers import GOLDEN, generic_layer, golden_layer
from torch import nn

from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T
from tconv_mmaction.ops import explain, kept_kernel, onednn, use
from tconv_mmaction.ops.conv3d import minimal_filtering, single_clip
from tconv_mmaction.ops.conv3t import factored, implementations
from tconv_mmaction.ops.geometry import Geometry


def run(layer, evaluation, x, grad):
    layer = copy.deepcopy(layer)
    layer.evaluation = evaluation
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(grad if grad is not None else torch.ones_like(y))
    return [y, x.grad] + [p.grad for p in layer.parameters()]


@pytest.mark.parametrize('name', sorted(GOLDEN))
def test_factored_equals_golden(name):
    data = GOLDEN[name]
    layer = golden_layer(data, torch.float64)
    layer.evaluation = 'factored'
    x = torch.tensor(data['x'], requires_grad=True)
    y = layer(x)
    y.backward(torch.tensor(data['grad_y']))
    got = dict(y=y, grad_x=x.grad, grad_weight=layer.weight.grad.squeeze(2), grad_bias=layer.bias.grad,
               **{f'grad_{n}': getattr(layer, n).grad for n in TEMPORAL_PARAMETERS})
    for key, value in got.items():
        torch.testing.assert_close(value, torch.tensor(data[key]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('arguments', [
    dict(), dict(padding=1), dict(padding=(3, 1, 0)), dict(stride=(2, 1, 1), padding=1),
    dict(stride=(3, 2, 2), padding=(2, 1, 1)), dict(dilation=(2, 1, 2), padding=2, groups=2),
    dict(dilation=2, stride=2, padding=1), dict(padding='same'), dict(padding=1, padding_mode='reflect'),
    dict(bias=False), dict(padding=(7, 3, 4))])
@pytest.mark.parametrize('kernel_size', [3, (2, 3, 4), (4, 2, 2), (3, 1, 3)])
def test_factored_equals_kernel(arguments, kernel_size):
    layer = generic_layer(4, 6, kernel_size, **arguments)
    x = torch.randn(3, 4, 7, 9, 8, dtype=torch.float64)
    grad = torch.randn_like(layer(x))
    for got, want in zip(run(layer, 'factored', x, grad), run(layer, 'kernel', x, grad)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    layer.evaluation = 'factored'
    torch.testing.assert_close(layer(x[0]), layer(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize('keep', [1, 1 << 24])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('which', ['clip', 'parameters', 'weight', 'rotate', 'clip rotate'])
def test_factored_with_some_gradients_only(groups, which, keep, monkeypatch):
    monkeypatch.setattr(factored, 'KEEP_ELEMENTS', keep)
    layer = generic_layer(4, 6, 3, padding=1, groups=groups).requires_grad_(which == 'parameters')
    for name in set(which.split()) - {'clip', 'parameters'}:
        getattr(layer, name).requires_grad_()
    found = []
    for evaluation in ('factored', 'kernel'):
        x = torch.randn(2, 4, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x.requires_grad_('clip' in which)
        layer.evaluation = evaluation
        leaves = [leaf for leaf in (x, *layer.parameters()) if leaf.requires_grad]
        assert leaves
        found.append(torch.autograd.grad(layer(x).square().sum(), leaves))
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('chunk, keep', [(1, 1), (1, 1 << 24), (1 << 12, 1), (1 << 24, 1 << 24)])
def test_chunks_do_not_change_the_result(chunk, keep, monkeypatch):
    """Clip by clip or all at once, U kept or recomputed."""
    monkeypatch.setattr(factored, 'CHUNK_ELEMENTS', chunk)
    monkeypatch.setattr(factored, 'KEEP_ELEMENTS', keep)
    layer = generic_layer(3, 4, 3, padding=1)
    x = torch.randn(5, 3, 4, 6, 7, dtype=torch.float64)
    for got, want in zip(run(layer, 'factored', x, None), run(layer, 'kernel', x, None)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_factored_in_float32_and_under_autocast():
    layer = generic_layer(16, 8, 3, padding=1).float()
    x = torch.randn(2, 16, 4, 6, 6)
    exact = copy.deepcopy(layer).double()(x.double())
    layer.evaluation = 'factored'
    torch.testing.assert_close(layer(x).double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = layer(x)  # by PyTorch's convolution, which autocast knows
        assert explain(layer, x)['factored'] == 'autocast is on'
    assert y.dtype == torch.bfloat16
    assert (y.double() - exact).abs().max() < 0.02 * exact.abs().max()


def test_factored_gradcheck_and_second_derivatives():
    layer = generic_layer(2, 2, (3, 2, 3), stride=(1, 2, 1), padding=1, evaluation='factored')
    x = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters())
    assert torch.autograd.gradcheck(
        lambda x, *values: torch.func.functional_call(layer, dict(zip(names, values)), x), (x, *values))
    found = []
    for name in ('factored', 'reference'):
        with use(name):
            y = layer(x)
        grad, = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, *layer.parameters()], allow_unused=True))
    for got, want in zip(*found):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


class FakeCpu:
    """The shape of a large input, said to be on the CPU."""

    def __init__(self, x):
        self.shape, self.dim, self.numel, self.dtype = x.shape, x.dim, x.numel, x.dtype
        self.device = torch.device('cpu')


def prefers(layer, x):
    geometry = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
    return implementations._prefers_factored(layer, x, geometry)


def test_auto_follows_its_documented_rule(monkeypatch):
    x = torch.randn(1, 512, 8, 4, 4)  # 128 positions
    layer = Conv3T(512, 4, 3, padding=1)
    assert prefers(layer, x) and prefers(layer, x[:, :, :1]) and prefers(layer.eval(), x)
    with torch.no_grad():
        assert prefers(layer, x) and not prefers(layer, x[:, :, :7])
    small = Conv3T(256, 4, 3)
    assert prefers(small, x[:, :256])
    assert prefers(Conv3T(129, 4, 3), x[:, :129]) and not prefers(Conv3T(128, 4, 3), x[:, :128])
    limit = (1 << 23) // (64 * 9)  # positions of one clip at 64 output channels, however many clips there are
    wide, clips = Conv3T(200, 64, 3), torch.empty(3, 200, 1, 1, limit + 1, device='meta')
    assert not prefers(wide, FakeCpu(clips)) and prefers(wide, FakeCpu(clips[..., 1:]))
    square = Conv3T(256, 256, 3, padding=1)  # where products are saved along time, 30 * 256^2 elements are the limit
    few, many = torch.empty(2, 256, 4, 14, 14, device='meta'), torch.empty(2, 256, 8, 14, 14, device='meta')
    assert prefers(square, FakeCpu(few)) and not prefers(square, FakeCpu(many))
    with monkeypatch.context() as patch:
        patch.setattr(minimal_filtering, 'choose', lambda *args: None)
        assert prefers(square, FakeCpu(many))
    with torch.no_grad():
        assert not prefers(small.eval(), x[:, :256])
    for other in (Conv3T(512, 4, 3, stride=2), Conv3T(512, 4, 7, padding=3), Conv3T(512, 8, 3, groups=8)):
        assert not prefers(other, x)
    assert explain(Conv3T(512, 4, (1, 3, 3)), x)['factored'] == 'one slice is a plain convolution'
    layer.train()
    assert explain(layer, x)['factored'] == 'chosen'
    with torch.autocast('cpu'):
        assert explain(layer, x)['factored'] == 'autocast is on'
    with pytest.raises(ValueError, match="evaluation must be 'auto', 'kernel' or 'factored', got 'fast'"):
        Conv3T(4, 4, 3, evaluation='fast')


def changed_in_place(layer):
    with torch.no_grad():
        layer.rotate += 0.1
    return layer


def changed_through_data(layer):
    layer.weight.data[0, 0, 0, 0, 0] += 1  # no version counter sees this
    return layer


def loaded(layer):
    layer.load_state_dict(generic_layer(3, 4, 3).state_dict())
    return layer


def stepped(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(1, 3, 4, 5, 5, dtype=layer.weight.dtype)).sum().backward()
    optimizer.step()
    return layer


def replaced(layer):
    layer.scale = nn.Parameter(layer.scale.detach() * 1.5)
    return layer


@pytest.mark.parametrize('change', [changed_in_place, changed_through_data, loaded, stepped, replaced,
                                    lambda layer: layer.to(torch.float32), copy.deepcopy,
                                    lambda layer: pickle.loads(pickle.dumps(layer))])
def test_the_kept_kernel_follows_every_change(change):
    layer = generic_layer(3, 4, 3).eval()
    x = torch.randn(1, 3, 4, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        layer(x)  # fills the cache
    layer = change(layer)
    with torch.no_grad():
        x = x.to(layer.weight.dtype)
        assert torch.equal(layer(x), F.conv3d(x, layer.kernel(), layer.bias))


def test_the_kernel_is_built_once_in_eval_mode(monkeypatch):
    layer = generic_layer(3, 4, 3).eval()
    x = torch.randn(1, 3, 4, 5, 5, dtype=torch.float64)
    built, build = [], layer.kernel
    monkeypatch.setattr(layer, 'kernel', lambda: built.append(1) or build())
    with torch.no_grad():
        layer(x)
        layer(x)
    assert len(built) == 1
    layer.eval()(x).sum().backward()  # gradients wanted: a kept kernel has none to give
    assert len(built) == 1 and all(p.grad is not None for p in layer.parameters())
    with torch.no_grad():
        layer.eval()(x)
    assert len(built) == 2  # eval() drops it: an edit that nothing counts may have come before
    assert set(layer.state_dict()) == {'weight', 'bias', *TEMPORAL_PARAMETERS}


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
def test_the_fingerprint_of_a_large_parameter_sees_every_kind_of_edit(dtype):
    torch.manual_seed(0)
    weight = torch.randn(64, 256, 1, 3, 3).to(dtype)
    assert weight.numel() > kept_kernel.COPY_ELEMENTS

    def same(other):  # in its values; which tensor it is and its version are compared as well
        return kept_kernel.is_unchanged(weight, kept_kernel.fingerprint(weight)._replace(
            content=kept_kernel.fingerprint(other).content))

    assert same(weight.clone())
    last = weight.to(memory_format=torch.channels_last_3d)
    seen = kept_kernel.fingerprint(last)
    assert kept_kernel.is_unchanged(last, seen)
    last[5, [3, 4]] = last[5, [4, 3]]
    now = kept_kernel.fingerprint(last).content
    assert not kept_kernel._equal(now, seen.content)
    ulp = weight.clone()
    ulp.view(-1)[12345] = torch.nextafter(ulp.view(-1)[12345], torch.tensor(9., dtype=dtype))
    swapped = weight.clone()  # two inputs of one filter change places: the sum over its bits stays
    swapped[5, [3, 4]] = weight[5, [4, 3]]
    sign = weight.clone()
    sign.view(-1)[7].neg_()
    mirrored = weight.clone()  # one filter
    mirrored[9] = weight[9].flip(-1)
    filters = weight.clone()  # two filters change places
    filters[[3, 60]] = weight[[60, 3]]
    for other in (ulp, sign, swapped, mirrored, filters, weight.flip(0), weight.flip(1), weight.flip(-1), -weight,
                  weight.roll(1, 1), weight.transpose(-1, -2).contiguous()):
        assert not same(other)


@pytest.mark.parametrize('arguments', [dict(padding=1), dict(padding=(0, 1, 1), stride=2), dict(padding=1, bias=False),
                                       dict(padding=2, dilation=2), dict(padding=1, groups=2)])
def test_a_packed_kernel_computes_the_same(arguments, monkeypatch):
    """Also for clips of another size than the one it was packed for, after a change, and beside gradients."""
    layer = generic_layer(32, 64, 3, **arguments).float().eval()
    exact = copy.deepcopy(layer).double()
    calls = []
    packed_conv3d = onednn.packed_conv3d
    onednn.has_packed()
    monkeypatch.setattr(onednn, 'packed_conv3d', lambda *a: calls.append(1) or packed_conv3d(*a))
    clips = [torch.randn(2, 32, 3, 4, 4), torch.randn(1, 32, 5, 3, 6), torch.randn(3, 32, 3, 4, 4)]

    def check():
        for x in clips:
            with torch.no_grad():
                want = exact(x.double())
                y = layer(x)
            assert y.is_contiguous()
            torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=2e-6 * want.abs().max().item())

    check()
    assert len(calls) == 2 * len(clips)  # one of each pair to see whether it works for that size
    check()
    assert len(calls) == 3 * len(clips)
    x = clips[0].clone().requires_grad_()
    layer.requires_grad_(False)(x).sum().backward()
    assert len(calls) == 3 * len(clips) and x.grad.abs().sum() > 0
    with torch.no_grad():
        for changed in (layer, exact):
            changed.rotate.add_(0.25)
    check()
    monkeypatch.setattr(onednn, 'packed_if_right', lambda *a: None)  # a build that computes something else
    layer.eval()
    check()


def test_when_a_kernel_is_packed():
    x = torch.randn(2, 64, 2, 4, 4)
    one, two = Geometry((1, 1, 1), (1, 1, 1), (1, 1, 1)), Geometry((1, 2, 2), (1, 1, 1), (1, 1, 1))
    even = (64, 64, 1, 2, 1)  # weighs what goes in and out
    assert onednn.prefers_packed(x.shape, (64, 64, 3, 3, 3), one.stride)
    assert not onednn.prefers_packed(x.shape, even, one.stride)
    assert onednn.prefers_packed(x.shape, even, two.stride)
    layer = Conv3T(64, 64, 3, padding=1).eval()

    def reason(x):
        return explain(layer, x)['packed_kernel']

    with torch.no_grad():
        assert reason(x) == 'chosen'
        clip = torch.randn(1, 64, 8, 20, 20)  # a single clip that PyTorch keeps from oneDNN
        assert single_clip.is_left_out(clip, (64, 64, 3, 3, 3), 1) and reason(clip) == 'chosen'
        assert reason(torch.cat([clip, clip])) == 'not the fastest here'
        assert reason(x[:0]) == 'the input is empty'
        with torch.autocast('cpu'):
            assert reason(x) == 'autocast is on'
        layer.train()
        assert reason(x) == 'kernels are kept in eval mode only'
    assert reason(x) == 'kernels are kept in eval mode only'
    layer.eval()
    assert reason(x) == 'gradients of parameters are wanted'
    assert 'gradients are wanted' == explain(layer.requires_grad_(False), x.requires_grad_())['packed_kernel']
