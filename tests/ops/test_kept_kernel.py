"""A kernel that is kept in eval mode is the current parameters', whatever was done to them and by whom."""
import copy
import gc
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from helpers.layer_cases import noise
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from torch import nn

from tconv_mmaction import ops
from tconv_mmaction.layers import Conv3T
from tconv_mmaction.maths.temporal_transform import affine_matrix, temporal_kernel
from tconv_mmaction.ops import kept_kernel
from tconv_mmaction.ops.kept_kernel import COPY_ELEMENTS, MOST_FORMS, Kept

FORMS = ['kept_kernel', 'packed_kernel', 'paired_clip', 'auto']


def kept_layer(channels=10, filters=12, **kwargs):
    """Below 2^16 numbers it is compared with a copy; with 128 channels and 64 filters, by sums."""
    layer = Conv3T(channels, filters, 3, padding=1, **kwargs).eval()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(noise(p.shape, i, p.dtype) * .3 + (1 if p.dim() == 2 and i == 1 else 0))
    return layer


def check(layer, x, changed=None):
    """The layer's output is that of its parameters as they are now, and not that of before."""
    kernel = temporal_kernel(layer.weight.squeeze(2), affine_matrix(
        *(getattr(layer, n) for n in ('scale', 'rotate', 'translate_x', 'translate_y'))), layer.gain)
    want = F.conv3d(x, kernel, layer.bias, 1, 1).detach()
    with torch.no_grad():
        got = layer(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
    if changed is not None:
        assert (want - changed).abs().max() > 1e-3 * changed.abs().max(), 'the edit changed nothing'
    return want


EDITS = {
    'add': lambda w: w.add_(.1), 'multiply': lambda w: w.mul_(1.5), 'zero a filter': lambda w: w[1].zero_(),
    'index': lambda w: w.__setitem__((0, 0), 3.), 'fill': lambda w: w.fill_(.2), 'negate': lambda w: w.neg_(),
    'copy': lambda w: w.copy_(noise(w.shape, 50, w.dtype)), 'clamp': lambda w: w.clamp_(-.1, .1),
    'one number': lambda w: w.view(-1)[7].add_(5), 'swap two numbers': lambda w: w.copy_(_swapped(w, 0, 2)),
    'swap far ones': lambda w: w.copy_(_swapped(w, 1, 9)), 'transpose': lambda w: w.copy_(w.clone().roll(1, -1)),
    'mirror': lambda w: w.copy_(w.flip(-1)), 'turn': lambda w: w.copy_(w.flip(0)),
    'swap inputs': lambda w: w.copy_(w.roll(2, 1) if w.dim() == 5 else w.roll(2, -1)),
}


def _swapped(w, i, j):
    flat = w.clone().flatten(1)
    flat[:, [i, j]] = flat[:, [j, i]]
    return flat.view_as(w)


@pytest.mark.parametrize('through_data', [False, True], ids=['in place', 'data'])
@pytest.mark.parametrize('edit', EDITS)
@pytest.mark.parametrize('channels, filters', [(10, 12), (128, 64)])
def test_every_edit_is_seen(channels, filters, edit, through_data):
    layer = kept_layer(channels, filters)
    assert (layer.weight.numel() > COPY_ELEMENTS) == (channels == 128)
    x = noise((1, channels, 3, 4, 4), dtype=torch.float32)
    before = check(layer, x)
    for parameter in (layer.weight, layer.translate_x):
        if parameter is not layer.weight and edit == 'swap inputs' and filters < 3:
            continue
        with torch.no_grad():
            EDITS[edit](parameter.data if through_data else parameter)
        before = check(layer, x, before)


@pytest.mark.parametrize('name', ['weight', 'scale', 'rotate', 'translate_x', 'translate_y', 'gain'])
@pytest.mark.parametrize('way', FORMS)
def test_every_parameter_counts(way, name):
    layer = kept_layer(16, 32, gain=True)
    x = noise((1, 16, 3, 4, 4), dtype=torch.float32)
    with ops.use(way):
        before = check(layer, x)
        getattr(layer, name).data.view(-1)[0].add_(.5)
        check(layer, x, before)


@pytest.mark.parametrize('way', FORMS)
def test_replaced_and_assigned_parameters(way):
    layer, other = kept_layer(16, 32), kept_layer(16, 32)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
    x = noise((1, 16, 3, 4, 4), dtype=torch.float32)
    with ops.use(way):
        before = check(layer, x)
        layer.weight = nn.Parameter(layer.weight.detach() * 2)
        before = check(layer, x, before)
        layer.load_state_dict(other.state_dict())
        before = check(layer, x, before)
        layer.load_state_dict({k: v * 2 for k, v in other.state_dict().items()}, assign=True)
        before = check(layer, x, before)
        layer.weight.data = layer.weight.data * 2
        before = check(layer, x, before)
        del layer.weight
        layer.register_parameter('weight', nn.Parameter(noise((32, 16, 1, 3, 3), 60, torch.float32)))
        before = check(layer, x, before)
        layer.weight, layer.scale = other.weight, other.scale
        check(layer, x, before)


def test_a_parameter_at_the_address_of_one_that_is_gone():
    """Python gives the id, and PyTorch the memory, of a parameter that is gone to the next one."""
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    before = check(layer, x)
    for factor in (2, 3, 4, 5):
        old = layer.weight.detach() * factor
        del layer.weight
        gc.collect()
        layer.weight = nn.Parameter(old)
        del old
        before = check(layer, x, before)


def test_identity_is_compared_where_numbers_are_not(monkeypatch):
    """On accelerators the numbers are not read: what is left is which parameter, its version and its memory."""
    seen, fingerprint = [], kept_kernel.fingerprint
    monkeypatch.setattr(kept_kernel, 'fingerprint', lambda p: seen.append(1) or fingerprint(p)._replace(content=None))
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    before = check(layer, x)
    with torch.no_grad():
        layer.weight.mul_(2)
    before = check(layer, x, before)
    for factor in (2, 3, 4):
        old = layer.weight.detach() * factor
        del layer.weight
        gc.collect()
        layer.weight = nn.Parameter(old)
        before = check(layer, x, before)
    layer.weight.data.mul_(2)  # not seen, as the docstring says, until a test loop calls eval()
    layer.eval()
    check(layer, x, before)
    assert seen


@pytest.mark.parametrize('offset', [0, 1, 2, 3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_parameters_that_are_parts_of_one_buffer(offset, dtype):
    layer = kept_layer(128, 64).to(dtype)
    flat = noise((layer.weight.numel() + offset, ), 3, dtype)
    layer.weight.data = flat[offset:].view(layer.weight.shape)
    x = noise((1, 128, 3, 3, 3), dtype=dtype)
    before = check(layer, x)
    flat.mul_(2)
    before = check(layer, x, before)
    layer.weight.data = flat[offset:].view(64, 3, 3, 128, 1).permute(0, 3, 4, 1, 2)  # not contiguous
    before = check(layer, x, before)
    flat[offset:] = flat[offset:].flip(0)
    check(layer, x, before)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype):
    layer = kept_layer(128, 64)
    x = noise((1, 128, 3, 3, 3), dtype=torch.float32)
    check(layer, x)
    layer.to(dtype)
    with torch.no_grad():
        for _ in range(2):
            got = layer(x.to(dtype))
            with ops.use('reference'):
                torch.testing.assert_close(got, layer(x.to(dtype)), rtol=.05, atol=.05 * float(got.abs().max()))
            layer.weight.data.copy_(layer.weight.data.flip(-1))
    layer.to(torch.float32)
    check(layer, x)


def test_nan_and_back():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    before = check(layer, x)
    layer.weight.data[0, 0, 0, 0, 0] = float('nan')
    with torch.no_grad():
        for _ in range(2):
            assert layer(x)[:, 0].isnan().any() and layer(x)[:, 1:].isfinite().all()
    layer.weight.data[0, 0, 0, 0, 0] = 1.5
    check(layer, x, before)


def test_negative_zero_and_equal_numbers_are_one_kernel():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    check(layer, x)
    kept = layer._kept
    layer.weight.data.copy_(layer.weight.data.clone())
    check(layer, x)
    assert layer._kept is kept


def test_the_kernel_is_built_once_for_each_form_and_few_are_kept(monkeypatch):
    layer = kept_layer(16, 32)
    built, build = [], layer.kernel
    monkeypatch.setattr(layer, 'kernel', lambda: built.append(1) or build())
    clips = [noise((1, 16, 3, n, 4), dtype=torch.float32) for n in range(3, 10)]
    with ops.use('kept_kernel'), torch.no_grad():
        for _ in range(3):
            for clip in clips:
                layer(clip)
    assert len(built) == 1
    with ops.use('packed_kernel'):
        for clip in clips:
            check(layer, clip)
            assert len(layer._kept.forms) <= MOST_FORMS
        monkeypatch.undo()
        for clip in reversed(clips):
            check(layer, clip)


def test_training_drops_it_and_gradients_do_not_use_it():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    check(layer, x)
    assert layer._kept.forms
    layer.train()
    assert layer._kept == Kept()
    layer.eval()
    with torch.no_grad():
        layer(x)
    y = layer(x)  # with gradients, in eval mode
    grads = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    assert all(g.abs().max() > 0 for g in grads)


def test_freezing_and_thawing():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    layer.requires_grad_(False)
    layer(x)
    assert layer._kept.forms and not layer(x).requires_grad
    layer.requires_grad_(True)
    y = layer(x)
    assert y.requires_grad
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(y.square().sum(), list(layer.parameters())))
    layer.requires_grad_(False)
    layer.bias.requires_grad_(True)
    for way in FORMS:
        with ops.use(way):
            grad, = torch.autograd.grad(layer(x).sum(), layer.bias)
            torch.testing.assert_close(grad, torch.full_like(grad, layer(x)[0, 0].numel()))


def test_copies_and_pickles_have_none_and_do_not_follow():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    before = check(layer, x)
    copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)
    assert all('_kept' not in vars(c) for c in copies)
    with torch.no_grad():
        copies[0].weight.mul_(2)
        copies[1].weight.mul_(3)
    for c in copies[:2]:
        check(c, x, before)
    check(layer, x)
    with torch.no_grad():
        layer.weight.mul_(4)  # the shallow copy has the same parameters
    for c in (layer, copies[2]):
        check(c, x, before)
    assert '_kept' not in layer.state_dict() and len(list(layer.buffers())) == 0


def test_mmengines_averaged_weights_are_swapped_in_and_out():
    """EMAHook swaps the numbers of two models through ``.data``, between test iterations of one eval()."""
    model = nn.Sequential(kept_layer(16, 32)).eval()
    average = ExponentialMovingAverage(model, momentum=.5).eval()
    with torch.no_grad():
        for p in average.module.parameters():
            p.mul_(1.5)
    hook = EMAHook()
    hook.src_model, hook.ema_model = model, average
    x = noise((1, 16, 3, 4, 4), dtype=torch.float32)
    for way in FORMS:
        with ops.use(way):
            before, other = check(model[0], x), check(average.module[0], x)
            hook._swap_ema_parameters()
            torch.testing.assert_close(check(model[0], x, before), other)
            check(average.module[0], x, other)
            hook._swap_ema_parameters()
            torch.testing.assert_close(check(model[0], x, other), before)


def test_an_edit_in_another_thread_is_seen():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    before = check(layer, x)
    thread = threading.Thread(target=lambda: layer.weight.data.mul_(2))
    thread.start()
    thread.join()
    check(layer, x, before)


def test_moving_a_module_replaces_its_tensors():
    """``torch.__future__.set_swap_module_params_on_conversion`` swaps tensors, which weak references would forbid."""
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    check(layer, x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.double()
        check(layer, x.double())
        layer.float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    check(layer, x)


def test_an_optimizer_that_works_in_eval_mode():
    layer = kept_layer()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    for optimizer in (torch.optim.SGD(layer.parameters(), .01, foreach=True), torch.optim.Adam(layer.parameters(), .01),
                      torch.optim.AdamW(layer.parameters(), .01, fused=True)):
        before = check(layer, x)
        layer(x).square().sum().backward()
        optimizer.step()
        check(layer, x, before)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize('channels, filters, size', [
    (128, 80, 3), (96, 96, 3), (160, 64, 3), (130, 70, 3), (64, 48, 5)])
def test_any_swap_of_two_inputs_is_seen(channels, filters, size, dtype, layout):
    """Through ``.data``, in one filter: its bits stay the same numbers, at other places."""
    weight = torch.randn(filters, channels, 1, size, size, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(weight.to(dtype, memory_format=layout))
    assert weight.numel() > kept_kernel.COPY_ELEMENTS
    before = kept_kernel.fingerprint(weight)

    def differs():
        assert weight._version == before.known[0]
        return not kept_kernel.is_unchanged(weight, before)

    for first, second in [(0, distance) for distance in range(1, channels)] + [(3, channels - 1)]:
        values = weight.detach().clone()
        weight.data[5, [first, second]] = values[5, [second, first]]
        assert differs(), (first, second)
        weight.data.copy_(values)
    weight.data[7] = weight.data[7].flip(-1)
    assert differs()


def test_swaps_in_a_large_weight_are_seen():
    weight = torch.nn.Parameter(torch.randn(480, 256, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    before, values = kept_kernel.fingerprint(weight), weight.detach().clone()
    for which in (slice(None), 5):
        for first, second in [(0, distance) for distance in range(1, 256)] + [(7, 39), (3, 99), (127, 255)]:
            weight.data[which, [first, second]] = values[which, [second, first]]
            assert not kept_kernel.is_unchanged(weight, before), (which, first, second)
            weight.data.copy_(values)
            assert kept_kernel.is_unchanged(weight, before)
