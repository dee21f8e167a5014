"""Every implementation of every operator in every context: the reference's numbers, outputs and all gradients.

The reference runs in float64. An implementation does too where it can; minimal filtering and packed kernels are for
float32, and held to a bound there. Limits below which an implementation is not worth it are taken away, so that small
layers reach all of them; what is lent of memory is filled with NaN before.
"""
import functools

import pytest
import torch
from helpers.layer_cases import CASES, build, clip
from ops.contexts import CONTEXTS, ROUNDED

from tconv_mmaction import ops
from tconv_mmaction.layers import conv_lstm2d
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


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('operator, name', PAIRS, ids=[f'{o.split()[0]}-{n}' for o, n in PAIRS])
def test_context(operator, name, context):
    cases = [case for case in CASES if CASES[case].operator == operator and dtype_of(case, name)]
    if not cases:
        pytest.skip(f'{name} takes none of the layers here; the test above says why')
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
