"""Every implementation of every operator in every context: the reference's numbers, outputs and all gradients.

The reference runs in float64. An implementation does too where it can; minimal filtering and packed kernels are for
float32, and held to a bound there. Limits below which an implementation is not worth it are taken away, so that small
layers reach all of them; what is lent of memory is filled with NaN before.
"""
import functools

import numpy as np
import pytest
import torch
from helpers.layer_cases import CASES, build, clip, noise
from maths import naive
from ops.contexts import CONTEXTS, ROUNDED

from tconv_mmaction import ops
from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d, conv_lstm2d
from tconv_mmaction.ops import memory
from tconv_mmaction.ops.conv3d import minimal_filtering, single_clip
from tconv_mmaction.ops.dispatch import OPERATORS

PAIRS = [(operator, implementation.name) for operator, implementations in OPERATORS.items()
         for implementation in implementations]
# |difference| over the largest |entry| of the reference, or 1
BOUND = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUNDED_BOUND = .1  # bfloat16 has 8 bits, sums of some hundred products; gradients at kinks of hats in bfloat16


@pytest.fixture(autouse=True)
def small_layers_reach_everything(monkeypatch):
    monkeypatch.setattr(minimal_filtering, 'LEAST_SAVED', -1e9)
    monkeypatch.setattr(minimal_filtering, 'LEAST_WORK', 0)
    monkeypatch.setattr(minimal_filtering, 'MOST_PRODUCTS', 9)
    monkeypatch.setattr(single_clip, 'LEAST_WORK', 0)
    monkeypatch.setattr(single_clip, 'LEAST_OUTPUTS', 0)
    monkeypatch.setattr(conv_lstm2d, 'CHUNK_BYTES', 1 << 11)  # of some two steps
    with memory.poisoned():
        yield


@functools.cache
def dtype_of(case: str, name: str):
    """In which type an implementation takes a case, in training or in eval mode; None if it does not."""
    for dtype in (torch.float64, torch.float32):
        layer, x = build(case, dtype).layer, clip(case, dtype)
        with ops.use(name):
            chosen = [implementation.rsplit(': ', 1)[-1] for implementation, reason in [
                *ops.explain(layer.train(), x).items(), *_explained_without_gradients(layer, x).items()]
                if reason == 'chosen']
        if name in chosen:
            return dtype
    return None


def _explained_without_gradients(layer, x):
    with torch.no_grad():
        return ops.explain(layer.eval(), x)


@functools.cache
def wanted(case: str, context: str):
    """What the reference finds, in float64 but for bfloat16's contexts."""
    dtype = torch.float32 if context in ROUNDED else torch.float64
    with ops.use('reference'):
        found = CONTEXTS[context](build(case, dtype), clip(case, dtype))
    return None if found is None else [t.detach() for t in found]


def difference(got, want):
    assert got.shape == want.shape
    if not want.numel():
        return 0.
    return float((got.detach().double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1))


def skip_where_it_is_for_another_device(name, cases):
    reasons = [reason for case in cases for label, reason in ops.explain(
        build(case, torch.float32).layer, clip(case, torch.float32)).items() if label.rsplit(': ', 1)[-1] == name]
    if all('lie on cpu' in reason for reason in reasons):
        pytest.skip(f'{name} is not for the CPU: {reasons[0]}')


@pytest.mark.parametrize('operator, name', PAIRS)
def test_an_implementation_takes_some_layer(operator, name):
    cases = [case for case in CASES if CASES[case].operator == operator]
    skip_where_it_is_for_another_device(name, cases)
    assert any(dtype_of(case, name) for case in cases)


def of_3t(layer, values, x):
    theta = values.get('theta')
    if theta is None:
        names = 'scale', 'rotate', 'translate_x', 'translate_y'
        theta = [[naive.affine(*(values[n][b, o] for n in names)) for o in range(layer.out_channels)]
                 for b in range(layer.kernel_size[0] - 1)]
    kernel = naive.kernel_3t(values['weight'][:, :, 0], theta, values.get('gain'))
    return naive.conv3d(x, kernel, values.get('bias'), layer.stride, layer.padding, layer.dilation, layer.groups)


def of_branches(layer, values, x):
    y = 0
    for i, length in enumerate(layer.branch_lengths):
        kernel = naive.branch_filter(values[f'branches.{i}.weight'], length, layer.eta)
        beside = (layer.kernel_size[0] - length) // 2
        kernel = np.pad(kernel, [(0, 0), (0, 0), (beside, beside), (0, 0), (0, 0)])
        y = y + naive.conv3d(x, kernel, None, layer.stride, layer.padding)
    return y


def of_lstm(layer, values, x):
    return naive.conv_lstm(x, values['weight_ih'], values['weight_hh'], values['bias'], layer.stride, layer.padding)[0]


LOOPS = {
    'Conv3T': [(lambda: Conv3T(10, 3, 3, padding=1, gain=True), of_3t, (1, 10, 3, 3, 4)),
               (lambda: Conv3T(6, 4, (2, 3, 2), transform='free', stride=(1, 2, 1), groups=2), of_3t, (2, 6, 3, 4, 3)),
               (lambda: Conv3T(2, 3, (3, 3, 3), padding=(2, 0, 1), dilation=(1, 1, 2)), of_3t, (1, 2, 2, 4, 6))],
    'Conv3d with a computed kernel': [
        (lambda: MultiBranchConv3d(3, 2, (5, 2, 3), padding=(2, 0, 1), norm_cfg=None, eta=3.), of_branches,
         (1, 3, 4, 3, 4)),
        (lambda: MultiBranchConv3d(2, 3, (3, 1, 1), padding=(1, 0, 0), norm_cfg=None, eta='inf'), of_branches,
         (2, 2, 4, 2, 3))],
    'ConvLSTM2d': [(lambda: ConvLSTM2d(2, 3, 3), of_lstm, (2, 2, 4, 3, 4)),
                   (lambda: ConvLSTM2d(1, 2, (1, 3), stride=2), of_lstm, (1, 1, 3, 5, 4))],
}


@functools.cache
def by_loops(operator, number):
    """Parameters and clip, the output, and the derivative of sum(y * noise) along one direction of all of them."""
    make, loop, shape = LOOPS[operator][number]
    layer = make().double()
    values = {name: p.detach() + .2 * noise(p.shape, i) for i, (name, p) in enumerate(layer.named_parameters())}
    x, along = noise(shape, 99), {name: noise(v.shape, 50 + i) for i, (name, v) in enumerate(values.items())}
    of_x = noise(shape, 98)

    def run(step):
        return loop(layer, {n: (v + step * along[n]).numpy() for n, v in values.items()}, (x + step * of_x).numpy())

    y, size = run(0), 1e-5
    weights = noise(y.shape, 97)
    slope = ((run(size) - run(-size)) * weights.numpy()).sum() / (2 * size)
    return values, x, torch.from_numpy(y), weights, along, of_x, float(slope)


@pytest.mark.parametrize('operator, name', PAIRS, ids=[f'{o.split()[0]}-{n}' for o, n in PAIRS])
def test_loops_over_single_numbers_find_the_same(operator, name):
    for number, (make, _, _) in enumerate(LOOPS[operator]):
        values, x, want, weights, along, of_x, slope = by_loops(operator, number)
        for dtype, bound in ((torch.float64, 1e-7), (torch.float32, 1e-3)):
            layer = make().to(dtype)
            layer.load_state_dict(values)
            for train in (True, False):
                inner = x.to(dtype).requires_grad_()
                with ops.use(name):
                    y = layer.train(train)(inner)
                    with torch.no_grad():
                        again = layer(inner.detach())
                y, again = (t if isinstance(t, torch.Tensor) else t[0] for t in (y, again))
                assert difference(y, want) < bound and difference(again, want) < bound
                found = torch.autograd.grad((y * weights).sum(), [inner, *layer.parameters()])
                directions = [of_x, *(along[n] for n, _ in layer.named_parameters())]
                got = sum(float((g.double() * d).sum()) for g, d in zip(found, directions))
                assert got == pytest.approx(slope, rel=bound, abs=bound * float(weights.abs().sum()))


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('operator, name', PAIRS, ids=[f'{o.split()[0]}-{n}' for o, n in PAIRS])
def test_context(operator, name, context):
    """With two of the layers, other ones in every context and for every implementation."""
    cases = cases_of(operator, name)
    turn = list(CONTEXTS).index(context) + PAIRS.index((operator, name))
    check_context(name, context, {cases[turn % len(cases)], cases[(turn + len(cases) // 2) % len(cases)]})


@pytest.mark.slow
@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('operator, name', PAIRS, ids=[f'{o.split()[0]}-{n}' for o, n in PAIRS])
def test_context_with_every_layer(operator, name, context):
    check_context(name, context, cases_of(operator, name))


def cases_of(operator, name):
    cases = [case for case in CASES if CASES[case].operator == operator and dtype_of(case, name)]
    if not cases:
        pytest.skip(f'{name} takes none of the layers here; test_an_implementation_takes_some_layer says why')
    return cases


def check_context(name, context, cases):
    run = CONTEXTS[context]
    for case in cases:
        dtype = torch.float32 if context in ROUNDED else dtype_of(case, name)
        want = wanted(case, context)
        with ops.use(name):
            got = run(build(case, dtype), clip(case, dtype))
        assert (got is None) == (want is None)
        if want is None:
            continue
        assert len(got) == len(want)
        bound = ROUNDED_BOUND if context in ROUNDED else BOUND[dtype]
        errors = [difference(g, w) for g, w in zip(got, want)]
        assert max(errors) <= bound, (case, dtype, [(i, e) for i, e in enumerate(errors) if not e <= bound])
