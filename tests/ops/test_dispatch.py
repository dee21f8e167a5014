"""Choosing an implementation: by measured rules, by name, by the environment; and saying why."""
import threading

import pytest
import torch
from helpers.layer_cases import CASES, build, clip
from torch.utils.checkpoint import checkpoint

from tconv_mmaction import ops
from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d, SeparableConv3d
from tconv_mmaction.ops import dispatch
from tconv_mmaction.ops.dispatch import Implementation, always, operator, requested, supports_all


def chosen(layer, x):
    return [name for name, reason in ops.explain(layer, x).items() if reason == 'chosen']


def test_use_is_nested_and_ends_with_errors():
    assert requested() == 'auto'
    with ops.use('reference'):
        with ops.use('factored'):
            assert requested() == 'factored'
            with ops.use('auto'):
                assert requested() == 'auto'
        assert requested() == 'reference'
    with pytest.raises(RuntimeError, match='mine'), ops.use('factored'):
        raise RuntimeError('mine')
    assert requested() == 'auto'


@pytest.mark.parametrize('name', ['fastest', '', 'Reference', 'kernel'])
def test_unknown_names_are_refused_with_the_known_ones(name, monkeypatch):
    with pytest.raises(ValueError, match='no implementation') as caught, ops.use(name):
        raise AssertionError
    assert str(caught.value).startswith('use:') and 'reference' in str(caught.value)
    if name:
        monkeypatch.setenv('TCONV_OPS', name)
        with pytest.raises(ValueError, match=f'TCONV_OPS: there is no implementation {name!r}') as caught:
            Conv3T(2, 2, 3)(torch.zeros(1, 2, 3, 3, 3))
        assert 'through_time' in str(caught.value) and 'minimal_filtering' in str(caught.value)


def test_the_environment_is_for_all_threads_and_use_goes_before_it(monkeypatch):
    layer, x = build('affine', torch.float32).layer, clip('affine', torch.float32)
    found = []
    monkeypatch.setenv('TCONV_OPS', 'factored')
    thread = threading.Thread(target=lambda: found.append(chosen(layer, x)))
    thread.start()
    thread.join()
    with ops.use('reference'):
        found.append(chosen(layer, x))
    monkeypatch.setenv('TCONV_OPS', '')
    with ops.use('factored'):
        thread = threading.Thread(target=lambda: found.append(chosen(layer, x)))
        thread.start()
        thread.join()
    assert found == [['factored'], ['reference'], ['kernel_in_place']]


@pytest.mark.parametrize('name', CASES)
def test_explain_names_every_implementation_once_and_chooses_one(name):
    layer, x = build(name, torch.float32).layer, clip(name, torch.float32)
    known = [i.name for i in dispatch.OPERATORS[CASES[name].operator]]
    for train in (True, False):
        for asked in ('auto', *known):
            with ops.use(asked):
                reasons = ops.explain(layer.train(train), x)
            groups = {}
            for label, reason in reasons.items():
                *branch, implementation = label.rsplit(': ', 1)
                groups.setdefault(tuple(branch), {})[implementation] = reason
            for group in groups.values():
                assert list(group) == known and list(group.values()).count('chosen') == 1
                assert all(reason for reason in group.values())
                assert asked == 'auto' or group[asked] != f'{asked} was asked for'
            if asked == 'reference':
                assert all(group['reference'] == 'chosen' for group in groups.values())


def test_explain_gives_reasons():
    layer, x = build('affine', torch.float32).layer, clip('affine', torch.float32)
    assert ops.explain(layer, x)['kept_kernel'] == 'kernels are kept in eval mode only'
    assert ops.explain(layer, x)['factored'] == 'not the fastest here'
    assert 'empty' in ops.explain(layer, x[:0])['kernel_in_place']
    assert 'torch.bfloat16' in ops.explain(layer.bfloat16(), x.bfloat16())['factored']
    layer = build('affine', torch.float32).layer
    with torch.autocast('cpu', torch.bfloat16):
        assert ops.explain(layer, x)['kernel_in_place'] == 'autocast is on'
    with ops.use('factored'):
        assert ops.explain(layer, x)['kernel_in_place'] == 'factored was asked for'
    assert 'meta' in ops.explain(layer.to('meta'), x.to('meta'))['factored']
    layer = build('affine', torch.float32).layer.eval().requires_grad_(False)
    assert 'no gradients' in ops.explain(layer, x)['kernel_in_place']
    assert ops.explain(layer, x.requires_grad_())['packed_kernel'] == 'gradients are wanted'
    with torch.no_grad():
        got = torch.func.vmap(lambda clip: ops.explain(layer, clip[None]) and clip)(x.detach())
    assert torch.equal(got, x.detach())


def test_explain_of_other_things_says_what_it_takes():
    with pytest.raises(TypeError, match='SeparableConv3d is computed in one way only'):
        ops.explain(SeparableConv3d(2, 2, 3), torch.zeros(1, 2, 3, 3, 3))
    with pytest.raises(TypeError, match='Conv3T, MultiBranchConv3d, ConvLSTM2d'):
        ops.explain(torch.nn.Conv3d(2, 2, 3), torch.zeros(1, 2, 3, 3, 3))
    for layer in (Conv3T(2, 2, 3), MultiBranchConv3d(2, 2, 3), ConvLSTM2d(2, 2, 3)):
        with pytest.raises(ValueError, match=type(layer).__name__):
            ops.explain(layer, torch.zeros(1, 3, 3, 3, 3))


def test_explain_changes_nothing():
    layer, x = build('affine', torch.float32).layer.eval(), clip('affine', torch.float32)
    with torch.no_grad():
        kept = layer._kept
        ops.explain(layer, x)
    assert layer._kept is kept and all(p.grad is None for p in layer.parameters())


def test_an_operator_ends_with_its_reference():
    before = dict(dispatch.OPERATORS)
    fast = Implementation('fast', supports_all, always, max)
    for implementations in ((), (fast, ), (Implementation('reference', supports_all, always, max), fast)):
        with pytest.raises(ValueError, match="last implementation of Some must be named 'reference'"):
            operator('Some', *implementations)
    assert dispatch.OPERATORS == before


def test_dispatch_takes_the_first_that_supports_the_call_and_pays(monkeypatch):
    monkeypatch.setattr(dispatch, 'OPERATORS', dict(dispatch.OPERATORS))

    def implementation(name, refusal, profitable):
        return Implementation(name, lambda size: refusal if size > 3 else None, lambda size: profitable,
                              lambda size: name)

    some = operator('Some', implementation('small', 'too large', True), implementation('slow', None, False),
                    implementation('large', None, True), Implementation('reference', supports_all, always, str))

    def taken(size, **kwargs):
        return dispatch.dispatch(some, size, **kwargs).name

    assert taken(1) == 'small' and taken(9) == 'large'
    assert taken(1, prefer=('slow', 'large')) == 'slow'
    assert taken(1, prefer=('none of these', )) == 'reference'
    assert dispatch.explain_call(some, 9) == dict(small='too large', slow='not the fastest here', large='chosen',
                                                  reference='large comes before it')
    with ops.use('small'):
        assert taken(1, prefer=('slow', )) == 'small' and taken(9, prefer=('slow', )) == 'reference'
        assert dispatch.explain_call(some, 9)['reference'] == 'chosen'
    with ops.use('slow'):
        assert taken(9) == 'slow'
    with ops.use('reference'):
        assert taken(1) == 'reference'


def test_a_part_that_is_checkpointed_within_use():
    """ConvLSTM2d's own segments keep what was asked for; a checkpoint around a layer runs under what holds then."""
    model, x = build('lstm with checkpoints', torch.float64), clip('lstm with checkpoints', torch.float64)
    with ops.use('reference'):
        y = model(x)
    y.sum().backward()
    with ops.use('through_time'):
        loss = model(x).sum()
    with ops.use('reference'):
        loss.backward()
    model, x = build('affine', torch.float64), clip('affine', torch.float64)
    with ops.use('reference'):
        y = checkpoint(model, x, use_reentrant=False)
        y.sum().backward()
        y = checkpoint(model, x, use_reentrant=False)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):  # an error, not another number
        y.sum().backward()
