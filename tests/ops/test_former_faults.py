"""Wrong numbers and crashes that the layers' first fast paths had outside of a plain training loop, one test for each.

The right value is computed without the layers: PyTorch's convolution with the kernel of maths/.
"""
import copy
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from helpers.layer_cases import noise
from mmcv.cnn import ConvModule
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state
from torch.nn.utils import parametrize, prune

from tconv_mmaction import ops
from tconv_mmaction.layers import (
    Conv3T,
    ConvLSTM2d,
    MultiBranchConv3d,
    SeparableConv3d,
    share_transforms,
    switch_to_deploy,
)
from tconv_mmaction.maths.conv_lstm import Cell, steps
from tconv_mmaction.maths.temporal_basis import apply_in_time, synthesis_matrix
from tconv_mmaction.maths.temporal_transform import affine_matrix, temporal_kernel
from tconv_mmaction.ops.kept_kernel import Kept

FLOAT32 = dict(rtol=1e-4, atol=1e-4)
EXACT = dict(rtol=1e-9, atol=1e-9)


def moved(layer):
    """Away from the identity, so that a transform has smooth derivatives."""
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.add_(noise(p.shape, i, p.dtype), alpha=.2)
    return layer


def kernel_of(layer, **others):
    """The kernel of a Conv3T by the paper's equations; ``others`` stand in for parameters."""
    weight, *transform = (others.get(n, getattr(layer, n)) for n in (
        'weight', 'scale', 'rotate', 'translate_x', 'translate_y'))
    return temporal_kernel(weight.squeeze(2), affine_matrix(*transform))


def convolved(layer, x, **others):
    return F.conv3d(x, kernel_of(layer, **others), layer.bias, layer.stride, layer.padding)


def lstm(layer, x, state=None):
    outputs, state = steps(Cell(*layer.parameters(), layer.stride, layer.padding), x.permute(2, 0, 1, 3, 4), state, 99)
    return torch.stack(outputs).permute(1, 2, 0, 3, 4), state


def branches_of(layer, x):
    """MultiBranchConv3d without norms."""
    y, longest = 0, layer.kernel_size[0]
    for branch in layer.branches:
        matrix = synthesis_matrix(branch.length, branch.eta).to(branch.weight)
        pad = layer.padding[0] - (longest - branch.length) // 2
        y = y + F.conv3d(x, apply_in_time(matrix, branch.weight), None, layer.stride, (pad, *layer.padding[1:]))
    return y


def first_and_second(call, inputs):
    first = torch.autograd.grad(call().square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum((g * noise(g.shape, i, g.dtype)).sum() for i, g in enumerate(first)), inputs)
    return [*first, *second]


WAYS = ['auto', 'factored', 'moved_slices', 'slices_times_patches', 'kernel_in_place', 'made_kernel', 'reference']


@pytest.mark.parametrize('way', WAYS)
def test_a1_second_derivatives_of_a_layer_used_twice(way):
    layer = moved(Conv3T(10, 10, 3, padding=1).double())
    x = noise((1, 10, 3, 4, 4)).requires_grad_()
    inputs = [x, *layer.parameters()]
    with ops.use(way):
        got = first_and_second(lambda: layer(layer(x).sin()), inputs)
    want = first_and_second(lambda: convolved(layer, convolved(layer, x).sin()), inputs)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9 * float(w.abs().max()))


@pytest.mark.parametrize('way', ['auto', 'kernel_in_place', 'made_kernel', 'reference'])
def test_a1_second_derivatives_of_branches_used_twice(way):
    layer = moved(MultiBranchConv3d(4, 4, 3, padding=1, norm_cfg=None, eta=2.).double())
    x = noise((1, 4, 3, 4, 4)).requires_grad_()
    inputs = [x, *layer.parameters()]
    with ops.use(way):
        got = first_and_second(lambda: layer(layer(x).sin()), inputs)
    want = first_and_second(lambda: branches_of(layer, branches_of(layer, x).sin()), inputs)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9 * float(w.abs().max()))


@pytest.mark.parametrize('way', ['auto', 'through_time', 'reference'])
@pytest.mark.parametrize('checkpoint_steps', [None, 1, 2])
def test_a1_second_derivatives_of_a_stream_and_of_segments(way, checkpoint_steps):
    layer = moved(ConvLSTM2d(2, 2, 3, checkpoint_steps=checkpoint_steps).double())
    x = noise((1, 2, 5, 4, 4)).requires_grad_()
    inputs = [x, *layer.parameters()]

    def streamed():
        first, state = layer(x[:, :, :3])
        return torch.cat([first, layer(x[:, :, 3:], state)[0]], 2)

    with ops.use(way):
        got = first_and_second(streamed, inputs)
    for g, w in zip(got, first_and_second(lambda: lstm(layer, x)[0], inputs)):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9 * float(w.abs().max()))


def test_a1_shared_transforms_of_layers_that_depend_on_each_other():
    net = nn.Sequential(*(moved(Conv3T(10, 10, 3, padding=1)) for _ in range(2))).double()
    x = noise((1, 10, 3, 4, 4)).requires_grad_()
    inputs = [x, *net.parameters()]

    def shared():
        with share_transforms(net):
            return net(net(x).sin())

    got = first_and_second(shared, inputs)
    want = first_and_second(
        lambda: convolved(net[1], convolved(net[0], convolved(net[1], convolved(net[0], x)).sin())), inputs)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9 * float(w.abs().max()))


def test_a2_threads_that_call_one_layer_with_gradients():
    layer = moved(Conv3T(12, 12, 3, padding=1)).eval()
    clips = [noise((2, 12, 3, n, n), n, torch.float32) for n in (5, 7)]
    wanted = []
    for clip in clips:
        x = clip.clone().requires_grad_()
        y = convolved(layer, x)
        wanted.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    faults = []

    def work(number):
        try:
            for turn in range(50):
                clip, want = clips[(turn + number) % 2], wanted[(turn + number) % 2]
                x = clip.clone().requires_grad_()
                y = layer(x)
                for g, w in zip([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])], want):
                    torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-4 * float(w.abs().max()))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number, )) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def evaluated(layer, x):
    with torch.no_grad():
        return layer(x)


def test_a3_a_pruning_mask_that_changes_in_eval_mode():
    layer = moved(Conv3T(10, 10, 3, padding=1)).eval()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    prune.identity(layer, 'weight')
    torch.testing.assert_close(evaluated(layer, x), convolved(layer, x).detach(), **FLOAT32)
    layer.weight_mask[:5] = 0
    torch.testing.assert_close(evaluated(layer, x), convolved(
        layer, x, weight=layer.weight_orig * layer.weight_mask).detach(), **FLOAT32)
    assert not evaluated(layer, x)[:, 0].sub(layer.bias[0]).any()


def test_a3_a_parametrisation_whose_buffer_changes_in_eval_mode():

    class Times(nn.Module):

        def __init__(self):
            super().__init__()
            self.register_buffer('factor', torch.tensor(1.))

        def forward(self, weight):
            return weight * self.factor

    layer, times = moved(Conv3T(10, 10, 3, padding=1)).eval(), Times()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    before = evaluated(layer, x) - layer.bias.detach()[:, None, None, None]
    parametrize.register_parametrization(layer, 'weight', times)
    evaluated(layer, x)
    times.factor.mul_(3)
    torch.testing.assert_close(evaluated(layer, x) - layer.bias.detach()[:, None, None, None], 3 * before, **FLOAT32)


def test_a3_replicas_of_data_parallel_follow_the_weights():
    layer = moved(Conv3T(10, 10, 3, padding=1)).eval()
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    evaluated(layer, x)
    for factor in (1, 2):
        replica = layer._replicate_for_data_parallel()
        replica._parameters = {'gain': None}
        for name, p in layer.named_parameters():
            setattr(replica, name, p.detach() * factor if name == 'weight' else p.detach() * 1)
        got = evaluated(replica, x) - layer.bias.detach()[:, None, None, None]
        want = F.conv3d(x, factor * kernel_of(layer).detach(), None, 1, 1)
        torch.testing.assert_close(got, want, **FLOAT32)


@pytest.mark.parametrize('channels', [10, 128])  # below and above what is compared with a copy
@pytest.mark.parametrize('edit', [lambda w: w.flip(-1), lambda w: w.flip(-2), lambda w: w.roll(1, 1),
                                  lambda w: w[:, torch.tensor([1, 0, *range(2, w.shape[1])])],
                                  lambda w: w.flip(0)], ids=['mirror', 'upside down', 'roll', 'swap', 'filters'])
def test_a4_edits_that_keep_the_sum_of_a_filter(edit, channels):
    layer = moved(Conv3T(channels, 64, 3, padding=1)).eval()
    x = noise((1, channels, 3, 3, 3), dtype=torch.float32)
    before = evaluated(layer, x)
    layer.weight.data.copy_(edit(layer.weight.data.clone()))
    want = convolved(layer, x).detach()
    assert (want - before).abs().max() > .1 * before.abs().max()
    torch.testing.assert_close(evaluated(layer, x), want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize('channels', [1, 2, 16])
def test_a5_a_packed_kernel_for_clips_of_several_sizes(channels):
    layer = moved(Conv3T(channels, 32, 3, padding=1)).eval()
    with ops.use('packed_kernel'):
        for size in ((1, 4, 4, 4), (1, 3, 9, 5), (2, 8, 6, 6), (1, 4, 4, 4), (1, 2, 33, 3)):
            x = noise((size[0], channels, *size[1:]), dtype=torch.float32)
            want = convolved(layer, x).detach()
            torch.testing.assert_close(evaluated(layer, x), want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_a5_a_packed_kernel_and_another_stride():
    layer = moved(Conv3T(16, 32, 3, padding=1)).eval()
    x = noise((1, 16, 4, 6, 6), dtype=torch.float32)
    with ops.use('packed_kernel'):
        for stride in ((1, 1, 1), (1, 2, 2), (2, 1, 1)):
            layer.stride = stride
            torch.testing.assert_close(evaluated(layer, x), convolved(layer, x).detach(), rtol=1e-4, atol=1e-3)


def test_a6_jvp_and_jacfwd_over_parameters_in_eval_mode():
    layer = moved(Conv3T(10, 2, 3).double()).eval()
    x = noise((1, 10, 3, 4, 4))
    evaluated(layer, x)  # a kernel is kept
    for name in ('weight', 'scale', 'translate_x'):
        value = getattr(layer, name).detach()
        tangent = noise(value.shape, 7)
        got = torch.func.jvp(lambda v: functional_call(layer, {name: v}, (x, )), (value, ), (tangent, ))[1]  # noqa: B023
        want = torch.autograd.functional.jvp(lambda v: convolved(layer, x, **{name: v}), value, tangent)[1]  # noqa: B023
        assert got.abs().max() > 0
        torch.testing.assert_close(got, want, **EXACT)
    rotate = layer.rotate.detach()
    got = torch.func.jacfwd(lambda v: functional_call(layer, {'rotate': v}, (x, )))(rotate)
    want = torch.autograd.functional.jacobian(lambda v: convolved(layer, x, rotate=v), rotate)
    torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize('way', ['auto', 'packed_kernel', 'paired_clip', 'kept_kernel'])
def test_a6_dual_numbers_through_kept_kernels(way):
    layer = moved(Conv3T(16, 32, 3, padding=1)).eval().requires_grad_(False)
    x, tangent = (noise((1, 16, 4, 6, 6), seed, torch.float32) for seed in (1, 2))
    with ops.use(way):
        evaluated(layer, x)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent))).tangent
    torch.testing.assert_close(found, F.conv3d(tangent, kernel_of(layer), None, 1, 1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('change', ['in place', 'data', 'replaced'])
def test_a7_a_hook_that_changes_a_transform_of_a_network_that_shares_them(change):
    net = nn.Sequential(*(moved(Conv3T(10, 10, 3, padding=1)) for _ in range(2))).double()
    x = noise((1, 10, 3, 4, 4)).requires_grad_()

    def hook(module, args):
        if change == 'replaced':
            module.rotate = nn.Parameter(module.rotate.detach() + 1)
        elif change == 'data':
            module.rotate.data.add_(1)
        else:
            with torch.no_grad():
                module.rotate.add_(1)

    net[1].register_forward_pre_hook(hook)
    with share_transforms(net):
        y = net(x)
    inputs = [x, *net.parameters()]
    got = [y, *torch.autograd.grad(y.square().sum(), inputs)]
    want = convolved(net[1], convolved(net[0], x))
    for g, w in zip(got, [want, *torch.autograd.grad(want.square().sum(), inputs)]):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9 * float(w.detach().abs().max()))


@pytest.mark.parametrize('way', ['auto', 'packed_kernel', 'paired_clip', 'kept_kernel'])
def test_b1_saliency_after_a_call_in_inference_mode(way):
    layer = moved(Conv3T(16, 32, 3, padding=1)).eval().requires_grad_(False)
    x = noise((1, 16, 4, 6, 6), dtype=torch.float32)
    with ops.use(way):
        with torch.inference_mode():
            layer(x)
        clip = x.clone().requires_grad_()
        got, = torch.autograd.grad(layer(clip).square().sum(), clip)
    want, = torch.autograd.grad(convolved(layer, clip).square().sum(), clip)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_b1_parameters_made_in_inference_mode_may_change():
    with torch.inference_mode():
        layer = moved(Conv3T(10, 10, 3, padding=1)).eval()
        x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
        before = layer(x)
        layer.weight.mul_(2)
        bias = layer.bias[:, None, None, None]
        torch.testing.assert_close(layer(x) - bias, 2 * (before - bias), **FLOAT32)


def test_b2_gradients_per_clip_with_many_channels():
    layer = moved(Conv3T(130, 4, 3, padding=1))  # more than 128: the factored path's channels
    x = noise((2, 130, 3, 3, 3), dtype=torch.float32)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, clip):
        return functional_call(layer, parameters, (clip[None], )).square().sum()

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, clip in enumerate(x):
        want = torch.autograd.grad(convolved(layer, clip[None]).square().sum(), list(layer.parameters()))
        for name, w in zip(parameters, want):
            torch.testing.assert_close(got[name][i], w, rtol=1e-3, atol=1e-4 * float(w.abs().max()))


@pytest.mark.parametrize('channels', [10, 130])
@pytest.mark.parametrize('train', [False, True])
def test_b2_an_ensemble_by_vmap_and_the_layer_after_it(channels, train):
    layers = [moved(Conv3T(channels, 10, 3, padding=1)).train(train) for _ in range(2)]
    with torch.no_grad():
        layers[1].weight.mul_(2)
    x = noise((1, channels, 3, 4, 4), dtype=torch.float32)
    for layer in layers:
        evaluated(layer, x)
    parameters, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to('meta')
    for module in (base, layers[0]):
        got = torch.func.vmap(lambda p, b: functional_call(module, (p, b), (x, )))(parameters, buffers)  # noqa: B023
        for g, layer in zip(got, layers):
            want = convolved(layer, x)
            torch.testing.assert_close(g, want, rtol=1e-4, atol=1e-4 * float(want.detach().abs().max()))
    for layer in layers:
        want = convolved(layer, x).detach()
        torch.testing.assert_close(evaluated(layer, x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize('build', [lambda: Conv3T(10, 10, 3, padding=1), lambda: MultiBranchConv3d(4, 4, 3, padding=1),
                                   lambda: ConvLSTM2d(3, 3, 3), lambda: SeparableConv3d(4, 4, 3, padding=1)])
def test_b3_fake_tensors_leave_nothing_behind(build):
    layer = build()
    ops.release_memory()
    x = noise((2, layer.in_channels, 3, 4, 4), dtype=torch.float32)
    with ops.use('reference'):
        want = copy.deepcopy(layer)(x)
    with FakeTensorMode():
        fake = build()
        for train in (True, False):
            y = fake.train(train)(torch.empty(2, layer.in_channels, 3, 4, 4))
            y = y if isinstance(y, torch.Tensor) else y[0]
            y.sum().backward()
        assert y.shape == (want if isinstance(want, torch.Tensor) else want[0]).shape
    other = copy.deepcopy(layer).eval()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        other(mode.from_tensor(x))
    got = copy.deepcopy(layer)(x)
    torch.testing.assert_close(got, want, **FLOAT32)
    y = got if isinstance(got, torch.Tensor) else got[0]
    y.sum().backward()


def test_b4_branches_of_another_type_and_from_meta():
    layer = moved(MultiBranchConv3d(4, 4, 3, padding=1, norm_cfg=None))
    x = noise((1, 4, 3, 4, 4))
    layer(x.float())
    state = {key: value.double() for key, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    torch.testing.assert_close(layer(x), branches_of(layer, x), **EXACT)
    made = MultiBranchConv3d(4, 4, 3, padding=1, norm_cfg=None).to('meta')
    assert made(x.float().to('meta')).is_meta
    made.load_state_dict(state, assign=True)
    torch.testing.assert_close(made(x), branches_of(layer, x), **EXACT)
    with torch.device('meta'):
        made = MultiBranchConv3d(4, 4, 3, padding=1)
    assert made(x.float().to('meta')).is_meta
    made.to_empty(device='cpu').reset_parameters()
    assert made(x.float()).isfinite().all()


def test_b5_factored_under_compile_and_on_meta():
    layer = moved(Conv3T(10, 10, 3, padding=1, evaluation='factored'))
    x = noise((1, 10, 3, 4, 4), dtype=torch.float32)
    torch._dynamo.reset()
    got = torch.compile(layer, backend='eager', fullgraph=True)(x)
    torch.testing.assert_close(got, convolved(layer, x), rtol=1e-4, atol=1e-3)
    on_meta = copy.deepcopy(layer).to('meta')
    y = on_meta(x.to('meta'))
    assert y.is_meta and y.shape == got.shape
    y.sum().backward()


def test_b6_the_reference_for_everyone(monkeypatch):
    """One public switch, which no fast path goes around: it gives PyTorch's own convolution to the last bit."""
    layer = moved(Conv3T(10, 10, 3, padding=1))
    x = noise((2, 10, 4, 6, 6), dtype=torch.float32)
    want = convolved(layer, x)
    with ops.use('reference'):
        for train in (True, False):
            assert torch.equal(layer.train(train)(x), want)
            assert torch.equal(evaluated(layer, x), want)
        assert layer._kept == Kept()
        found = []
        thread = threading.Thread(target=lambda: found.append(layer(x)))  # use() is the calling thread's
        thread.start()
        thread.join()
    monkeypatch.setenv('TCONV_OPS', 'reference')  # that of all threads is the environment's
    thread = threading.Thread(target=lambda: found.append(layer(x)))
    thread.start()
    thread.join()
    torch.testing.assert_close(found[0], want, rtol=1e-4, atol=1e-3)
    assert torch.equal(found[1], want)
    monkeypatch.setenv('TCONV_OPS', 'reference')
    assert torch.equal(evaluated(layer, x), want)


def test_b6_evaluation_by_the_kernel_is_no_other_path():
    layer = moved(Conv3T(10, 10, 3, padding=1, evaluation='kernel'))
    x = noise((2, 10, 4, 6, 6), dtype=torch.float32)
    assert ops.explain(layer, x)['reference'] == 'chosen'
    assert torch.equal(layer(x), convolved(layer, x))
    with torch.no_grad():
        assert ops.explain(layer.eval(), x)['kept_kernel'] == 'chosen'
        torch.testing.assert_close(layer(x), convolved(layer, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('build', [lambda: Conv3T(4, 4, 3), lambda: MultiBranchConv3d(4, 4, 3),
                                   lambda: MultiBranchConv3d(4, 4, 3, norm_cfg=None, bias=True)])
def test_b7_frozen_layers_stay_frozen_and_hooks_stay(build):
    network = nn.Sequential(build(), nn.ReLU()).eval()
    seen = []
    network[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    network[0].register_forward_pre_hook(lambda module, args: (args[0] * 2, ))
    x = noise((1, 4, 4, 5, 5), dtype=torch.float32)
    learning = switch_to_deploy(network)
    assert all(p.requires_grad for p in learning.parameters())
    network[0].requires_grad_(False)
    fused = switch_to_deploy(network)
    assert type(fused[0]) is nn.Conv3d and not any(p.requires_grad for p in fused.parameters())
    torch.testing.assert_close(fused(x), network(x), **FLOAT32)
    assert seen == [(1, 4, 2, 3, 3)] * 2
    network[0].register_full_backward_hook(lambda module, of_inputs, of_outputs: None)
    with pytest.warns(UserWarning, match='backward hooks .* do not go along'):
        switch_to_deploy(network)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('value', [math.inf, -math.inf])
@pytest.mark.parametrize('name', ['translate_x', 'translate_y', 'scale'])
def test_b7_what_is_infinitely_far_away_is_zero(name, value, way):
    layer = moved(Conv3T(10, 10, 3, padding=1).double())
    with torch.no_grad():
        getattr(layer, name)[0, 1] = value
    x = noise((1, 10, 3, 4, 4)).requires_grad_()
    inputs = [x, *layer.parameters()]
    with ops.use(way):
        y = layer(x)
        got = [y, *torch.autograd.grad(y.square().sum(), inputs)]
    alone = layer.weight[1].detach()
    want_kernel = kernel_of(layer)
    assert not want_kernel[1, :, 1:].any() and torch.equal(want_kernel[1, :, :1], alone)
    want = F.conv3d(x, want_kernel, layer.bias, 1, 1)
    for g, w in zip(got, [want, *torch.autograd.grad(want.square().sum(), inputs)]):
        assert torch.isfinite(g).all()
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9 * float(w.detach().abs().max()))


@pytest.mark.parametrize('size', [3, 2])
def test_b7_a_single_slice_that_sees_padding_only(size):
    """Stride and padding by which some slices of the kernel meet no frame."""
    layer = moved(Conv3T(10, 4, (5, 3, 3), stride=(size, 1, 1), padding=(2, 1, 1)))
    x = noise((1, 10, 1, 4, 4), dtype=torch.float32).requires_grad_()
    inputs = [x, *layer.parameters()]
    want = convolved(layer, x)
    for way in WAYS:
        with ops.use(way):
            y = layer(x)
        got = [y, *torch.autograd.grad(y.square().sum(), inputs)]
        for g, w in zip(got, [want, *torch.autograd.grad(want.square().sum(), inputs, retain_graph=True)]):
            torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5 * float(w.detach().abs().max()) + 1e-5)


@pytest.mark.parametrize('build', [lambda: MultiBranchConv3d(4, 4, 3), lambda: SeparableConv3d(4, 4, 3)])
def test_b8_layers_without_one_weight_say_so(build):
    layer = build()
    name = type(layer).__name__
    for apply in (nn.utils.spectral_norm, nn.utils.weight_norm, lambda m: prune.random_unstructured(m, 'weight', .5),
                  lambda m: m.weight, lambda m: m._conv_forward):
        with pytest.raises((KeyError, AttributeError, ValueError), match='computed from several parameters') as caught:
            apply(layer)
        assert name in str(caught.value) and 'switch_to_deploy' in str(caught.value)
    assert not hasattr(layer, 'weight')
    assert layer(noise((2, 4, 4, 5, 5), dtype=torch.float32)).isfinite().all()  # and the attempt has left no trace


def test_b8_efficient_conv_bn_eval_of_a_conv3t():
    module = ConvModule(4, 4, 3, padding=1, conv_cfg=dict(type='Conv3T'), norm_cfg=dict(type='BN3d'),
                        act_cfg=None).eval()
    moved(module.conv)
    with torch.no_grad():
        module.bn.running_mean.copy_(noise((4, ), 1))
        module.bn.running_var.copy_(1 + noise((4, ), 2).abs())
    x = noise((2, 4, 3, 5, 5), dtype=torch.float32).requires_grad_()
    want = module(x)
    wanted = torch.autograd.grad(want.square().sum(), [x, *module.parameters()])
    module.turn_on_efficient_conv_bn_eval()
    got = module(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
    for g, w in zip(torch.autograd.grad(got.square().sum(), [x, *module.parameters()]), wanted):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-4 * float(w.abs().max()))


@pytest.mark.parametrize('kind', ['MultiBranchConv3d', 'SeparableConv3d'])
def test_b8_efficient_conv_bn_eval_of_the_others(kind):
    """It asks a convolution for its one weight; these say that they have none."""
    extra = dict(norm_cfg=None) if kind == 'MultiBranchConv3d' else {}
    module = ConvModule(4, 4, 3, padding=1, conv_cfg=dict(type=kind, **extra), norm_cfg=dict(type='BN3d'),
                        act_cfg=None).eval()
    module.turn_on_efficient_conv_bn_eval()
    with pytest.raises(AttributeError, match=f'{kind} .*computed from several parameters'):
        module(noise((2, 4, 3, 5, 5), dtype=torch.float32))


def test_b8_norms_and_masks_of_a_branch_are_used():
    """What the refusal recommends: the free tensors inside. They are put in place by hooks, at each call."""
    x = noise((2, 4, 4, 5, 5), dtype=torch.float32)
    for apply in (nn.utils.weight_norm, nn.utils.spectral_norm, lambda m: prune.random_unstructured(m, 'weight', .5)):
        layer = moved(MultiBranchConv3d(4, 4, 3, padding=1, norm_cfg=None))
        apply(layer.branches[1])
        optimizer = torch.optim.SGD(layer.parameters(), .1)
        for _ in range(3):
            y = layer(x)
            torch.testing.assert_close(y, branches_of(layer, x), **FLOAT32)
            optimizer.zero_grad()
            y.square().mean().backward()
            optimizer.step()
        layer.eval()
        with torch.no_grad():
            layer.branches[1].weight_orig.zero_() if hasattr(layer.branches[1], 'weight_mask') else None
            torch.testing.assert_close(layer(x), branches_of(layer, x), **FLOAT32)
