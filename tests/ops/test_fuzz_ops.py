"""Random layers, inputs and patterns of calls, by whatever implementation, against the reference in float64.

The limits below which an implementation is not worth it are drawn too, and memory is filled with NaN before it is lent.
"""
import contextlib
import copy
from typing import List, NamedTuple, Tuple

import pytest
import torch
from helpers.layer_cases import OneTensor, noise
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from tconv_mmaction import ops
from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d, conv_lstm2d, share_transforms
from tconv_mmaction.ops import dispatch, memory, onednn
from tconv_mmaction.ops.conv3d import matrix_backward, minimal_filtering, single_clip
from tconv_mmaction.ops.conv3t import factored
from tconv_mmaction.ops.conv3t import implementations as conv3t
from tconv_mmaction.ops.conv3t import slices_times_patches as patches

# 300 in the suite, 3,000 a night: of the one test that draws from all there is
EXAMPLES = 300 if settings.default.max_examples < 100 else 3000
CALLS = ['train', 'eval', 'frozen', 'no grad', 'inference', 'twice', 'second', 'checkpoint', 'step', 'edit', 'swap',
         'batched', 'vmap', 'replace', 'copy', 'dtype']


class Case(NamedTuple):
    cls: type
    kwargs: dict
    shape: Tuple[int, ...]
    limits: dict
    names: List[str]
    calls: List[str]
    layout: str
    seed: int


def sizes(draw, kernel, stride, padding, dilation):
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation)]
    return [n + draw(st.integers(0, 4)) for n in least]


def triple(draw, least, most):
    return tuple(draw(st.integers(least, most)) for _ in range(3))


@st.composite
def cases(draw):
    cls = draw(st.sampled_from([Conv3T, Conv3T, MultiBranchConv3d, ConvLSTM2d]))
    batch, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 1, 2]))
    if cls is ConvLSTM2d:
        kernel, channels = (draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([1, 3]))), draw(st.integers(1, 4))
        kwargs = dict(in_channels=channels, hidden_channels=draw(st.integers(1, 4)), kernel_size=kernel,
                      stride=draw(st.integers(1, 2)), forget_bias=1., checkpoint_steps=draw(st.sampled_from([None, 2])))
        shape = batch, channels, draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    else:
        square = draw(st.booleans())
        side = draw(st.integers(1, 4))
        times = (1, 3, 5) if cls is MultiBranchConv3d else (1, 2, 3, 3, 4)
        kernel = (draw(st.sampled_from(times)), side, side if square else draw(st.integers(1, 4)))
        if cls is Conv3T and kernel[1:] == (1, 1):
            kernel = kernel[0], 1, 2
        stride, dilation = triple(draw, 1, 3), draw(st.sampled_from([(1, 1, 1), (1, 1, 1), (2, 1, 2), (1, 2, 1)]))
        if draw(st.booleans()):
            stride = draw(st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2)]))
        padding = triple(draw, 0, 3)
        channels = groups * draw(st.sampled_from([1, 3, 10, 18]))
        kwargs = dict(in_channels=channels, out_channels=groups * draw(st.integers(1, 6)), kernel_size=kernel,
                      stride=stride, padding=padding, dilation=dilation, groups=groups, bias=draw(st.booleans()),
                      padding_mode=draw(st.sampled_from(['zeros', 'zeros', 'zeros', 'replicate'])))
        if cls is Conv3T:
            kwargs.update(transform=draw(st.sampled_from(['affine', 'affine', 'free'])), gain=draw(st.booleans()),
                          evaluation=draw(st.sampled_from(['auto', 'auto', 'kernel', 'factored'])))
        else:
            kwargs.update(norm_cfg=draw(st.sampled_from([None, None, dict(type='BN3d')])),
                          eta=draw(st.sampled_from([1, 2., 'inf'])))
            if kernel[0] > 1 and draw(st.booleans()):
                kwargs['branches'] = (kernel[0], )
        shape = (batch, channels, *sizes(draw, kernel, stride, padding, dilation))
    limits = {name: draw(st.booleans()) for name in ('filter', 'pair', 'patches', 'matrix', 'few', 'packed')}
    limits.update(parts=draw(st.sampled_from([1, 100, 1 << 22])), keep=draw(st.sampled_from([0, 1 << 24])))
    known = ['auto', *sorted({i.name for found in dispatch.OPERATORS.values() for i in found})]
    return Case(cls, kwargs, shape, limits, [draw(st.sampled_from(['auto', *known])) for _ in range(4)],
                [draw(st.sampled_from(CALLS)) for _ in range(4)],
                draw(st.sampled_from(['contiguous', 'contiguous', 'channels last', 'turned', 'expanded', 'sliced'])),
                draw(st.integers(0, 2**31 - 1)))


@contextlib.contextmanager
def machine(limits):
    """A processor, and limits, on which other implementations are worth it than here."""
    with pytest.MonkeyPatch.context() as patch:
        if limits['filter']:
            for name, value in dict(LEAST_SAVED=-1e9, LEAST_WORK=0, MOST_PRODUCTS=9).items():
                patch.setattr(minimal_filtering, name, value)
        if limits['pair']:
            patch.setattr(single_clip, 'LEAST_WORK', 0)
            patch.setattr(single_clip, 'LEAST_OUTPUTS', 0)
        if limits['patches']:
            patch.setattr(patches, 'PER_POSITION', 0)
            patch.setattr(patches, 'PER_POSITION_WITHOUT_AVX512', 0)
        if limits['matrix']:
            patch.setattr(matrix_backward, 'profitable', lambda x, grad, kernel, groups: groups == 1)
            patch.setattr(minimal_filtering, 'has_avx512', lambda: False)
        if limits['few']:
            patch.setattr(conv3t, 'few_channels', lambda weight: True)
        if limits['packed']:
            patch.setattr(onednn, 'prefers_packed', lambda *call: True)
        for module, name in ((minimal_filtering, 'PART'), (matrix_backward, 'PART'), (factored, 'CHUNK_ELEMENTS')):
            patch.setattr(module, name, limits['parts'])
        patch.setattr(factored, 'KEEP_ELEMENTS', limits['keep'])
        patch.setattr(conv_lstm2d, 'CHUNK_BYTES', 1 << (10 if limits['parts'] == 100 else 23))
        with memory.poisoned():
            yield


def layer_of(case, dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        layer = case.cls(**case.kwargs).double()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.add_(noise(p.shape, case.seed % 1000 + i), alpha=.2)
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(noise(module.running_mean.shape, 77))
                module.running_var.copy_(1 + noise(module.running_var.shape, 78).abs())
    return OneTensor(layer).to(dtype)


def clips_of(case, dtype):
    x = noise(case.shape, case.seed % 997, dtype)
    if case.layout == 'channels last':
        x = x.contiguous(memory_format=torch.channels_last_3d)
    elif case.layout == 'turned':
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif case.layout == 'expanded':
        x = x[:1].expand_as(x)
    elif case.layout == 'sliced':
        x = torch.cat([x, x], 2)[:, :, ::2][:, :, :x.shape[2]]
    return x


def loss_of(y):
    return (y * noise(y.shape, 5, y.dtype)).sum()


def derivatives(outputs, inputs, *args, **kwargs):
    """``torch.autograd.grad`` with zeros for what is not used: of one frame there are no transforms."""
    found = torch.autograd.grad(outputs, inputs, *args, allow_unused=True, **kwargs)
    batch = args[0].shape[:1] if kwargs.get('is_grads_batched') else ()
    return [t.new_zeros(*batch, *t.shape) if g is None else g for t, g in zip(inputs, found)]


def second_derivatives(y, inputs):
    first = derivatives(loss_of(y), inputs, create_graph=True)
    product = sum((g * noise(g.shape, i, g.dtype)).sum() for i, g in enumerate(first))
    return [*first, *derivatives(product, inputs)]


def gradients(model, x, call=None):
    x = x.detach().requires_grad_()
    y = (call or model)(x)
    return [y, *derivatives(loss_of(y), [x, *(p for p in model.parameters() if p.requires_grad)])]


def change(model, how):
    for i, p in enumerate(model.parameters()):
        if how == 'step':
            with torch.no_grad():
                p.add_(noise(p.shape, 40 + i, p.dtype), alpha=.05)
        elif how == 'edit':
            p.data.mul_(.9)
        elif how == 'swap' and p.dim() > 1:
            p.data.copy_(p.data.flip(-1))


def do(model, x, what):
    """One call after another pattern; the model may be another one afterwards."""
    small = sum(p.numel() for p in model.parameters()) < 3000
    if what in ('train', 'eval'):
        return model, gradients(model.train(what == 'train'), x)
    if what == 'frozen':
        model.eval().requires_grad_(False)
        found = gradients(model, x)
        model.requires_grad_(True)
        return model, found
    if what in ('no grad', 'inference'):
        with torch.no_grad() if what == 'no grad' else torch.inference_mode():
            found = [model.eval()(x).clone(), model(x[:1]).clone(), model(x).clone()]
        return model, found
    if what == 'twice':
        inner = x.detach().requires_grad_()
        y = model.eval()(inner)
        inputs = [inner, *model.parameters()]
        return model, [g for _ in range(2) for g in derivatives(loss_of(y), inputs, retain_graph=True)]
    if what == 'second':
        x = x.detach().requires_grad_()
        inputs = [x, *model.parameters()]
        scale = sum(p.square().mean() for p in model.parameters())
        return model, second_derivatives(model.eval()(x * scale), inputs)
    if what == 'checkpoint':
        return model, gradients(model.eval(), x, lambda x: checkpoint(model, x, use_reentrant=False))
    if what == 'batched':
        x = x.detach().requires_grad_()
        y = model.eval()(x)
        return model, derivatives(y, [x, *model.parameters()], noise((2, *y.shape), 6, y.dtype), is_grads_batched=True)
    if what == 'vmap':
        return model, [torch.func.vmap(lambda clip: model.eval()(clip[None])[0])(x)] if small else []
    if what == 'replace':
        for module in list(model.modules()):
            for name, p in list(module._parameters.items()):
                if p is not None:
                    setattr(module, name, nn.Parameter(p.detach() * .95))
        return model, []
    if what == 'copy':
        return copy.deepcopy(model), []
    if what == 'dtype':
        dtype = x.dtype
        model.bfloat16()  # rounds to the same numbers wherever it came from
        return model.to(dtype), []
    change(model, what)
    return model, []


def outcome(case, dtype, names, after=None):
    model, x, found = layer_of(case, dtype), clips_of(case, dtype), []
    for name, what in zip(names, [*case.calls]):
        with ops.use(name):
            if what == 'dtype' and any(w in ('step', 'edit', 'replace') for w in case.calls):
                continue  # numbers between two of bfloat16 would round differently from float32 and from float64
            model, tensors = do(model, x, what)
            found += [t.detach() for t in tensors]
    with torch.no_grad(), ops.use(names[0]):
        return [*found, model.eval()(x)]


def differences(got, want, bound):
    """(number of the tensor, relative error) of those that are not as wanted."""
    assert len(got) == len(want)
    found = []
    for i, (g, w) in enumerate(zip(got, want)):
        assert g.shape == w.shape
        if w.numel():
            g, w = g.double(), w.double()
            same = torch.equal(g.isnan(), w.isnan())  # of one output there is no variance, say
            g, w = g.nan_to_num(0), w.nan_to_num(0)
            error = float((g - w).abs().max() / w.abs().max().clamp(min=1))
            if not same or error > bound:
                found.append((i, error))
    return found


@settings(max_examples=EXAMPLES)
@given(cases())
def test_any_layer_in_any_pattern_is_the_reference(case):
    want = outcome(case, torch.float64, ['reference'] * 4)
    for dtype, bound in ((torch.float64, 1e-8), (torch.float32, 2e-3)):
        with machine(case.limits):
            got = outcome(case, dtype, case.names)
        faults = differences(got, want, bound)
        if faults:  # docs/reliability/numerics.md: kernels of even depth with a stride and much padding
            assume(not differences(outcome(case, dtype, ['reference'] * 4), want, bound))
        assert not faults, (dtype, faults)


@given(cases().filter(lambda case: case.cls is Conv3T), st.integers(2, 3), st.booleans())
def test_networks_that_share_transforms(case, count, checkpointed):
    """Layers of one kind in a row on the same clip, whose transforms are made at once or by each."""
    found = []
    for dtype, shares in ((torch.float64, False), (torch.float64, True)):
        layers = nn.ModuleList(layer_of(case._replace(seed=case.seed + i), dtype) for i in range(count))
        x = clips_of(case, dtype)

        def call(x, layers=layers):
            parts = [checkpoint(layer, x, use_reentrant=False) if checkpointed and i == 1 else layer(x)
                     for i, layer in enumerate(layers)]
            return sum(parts).sin()

        def shared(x, layers=layers, call=call):
            with share_transforms(layers):
                return call(x)

        with machine(case.limits) if shares else ops.use('reference'):
            inner = x.detach().requires_grad_()
            inputs = [inner, *layers.parameters()]
            y = (shared if shares else call)(inner)
            found.append([y, *second_derivatives(y, inputs)])
    for want, got in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9 * max(1., float(want.detach().abs().max()))
                                   if want.numel() else 0)
