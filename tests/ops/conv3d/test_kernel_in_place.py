"""The one-node convolution with a computed kernel equals autograd's, and its memory is never read stale."""
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from tconv_mmaction.layers import Conv3T, MultiBranchConv3d
from tconv_mmaction.maths.temporal_basis import synthesis_matrix
from tconv_mmaction.ops import explain, use
from tconv_mmaction.ops.conv3d.basis_rule import BasisRule, over_pixels
from tconv_mmaction.ops.conv3d.kernel_in_place import kernel_in_place_conv3d
from tconv_mmaction.ops.conv3t.affine_slices import AffineRule
from tconv_mmaction.ops.conv3t.slice_rule import SliceRule, with_gain
from tconv_mmaction.ops.geometry import Geometry


def cases():
    def basis(length, eta, area, out, inp):
        matrix = synthesis_matrix(length, eta)
        weight = torch.randn(out, inp, matrix.shape[1], area, area, dtype=torch.float64)
        return BasisRule(over_pixels(matrix, area * area, out * inp), length), [weight]

    def slices(depth, area, out, inp):
        first = torch.randn(out, inp, area, area, dtype=torch.float64)
        return SliceRule(), [first, torch.randn(out, depth * area * area, area * area, dtype=torch.float64)]

    def affine(depth, area, out, inp, moved=True):
        scale, *moves = torch.randn(4, depth - 1, out, dtype=torch.float64) / 3 * moved
        return AffineRule(), [torch.randn(out, inp, 1, area, area, dtype=torch.float64), scale + 1, *moves]

    def gains(depth, area, out, inp):
        rule, parameters = affine(depth, area, out, inp)
        return with_gain(rule), [*parameters, torch.randn(depth, out, dtype=torch.float64)]

    return [basis(3, 2., 3, 6, 4), basis(5, 2., 1, 4, 4), basis(5, 4., 1, 3, 2), basis(3, float('inf'), 3, 6, 4),
            basis(1, 4., 3, 6, 4), basis(3, 2., 5, 2, 2), basis(5, float('inf'), 1, 4, 4),
            slices(3, 3, 6, 4), slices(2, 2, 6, 4),
            affine(3, 3, 6, 4), affine(2, 2, 6, 4), affine(5, 3, 4, 4), affine(3, 5, 4, 2), affine(4, 4, 2, 3),
            affine(3, 3, 6, 4, moved=False), affine(5, 2, 6, 4, moved=False),
            gains(3, 3, 6, 4), gains(2, 4, 4, 3)]


@pytest.mark.parametrize('case', range(18))
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
def test_equals_autograd(case, layout, monkeypatch):
    monkeypatch.setattr(BasisRule, 'PART', 5 * 27)  # several parts, the last one short
    torch.manual_seed(0)
    rule, parameters = cases()[case]
    groups = 2 if case == 0 else 1
    x = torch.randn(2, parameters[0].shape[1] * groups, 6, 8, 7, dtype=torch.float64).contiguous(memory_format=layout)
    geometry = Geometry((1, 2, 1), (2, 1, 0), (1, 1, 1), groups)
    results = []
    for built in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, *parameters)]
        if built:
            y = kernel_in_place_conv3d(leaves[0], rule, geometry, None, *leaves[1:])
        else:
            y = F.conv3d(leaves[0], rule.differentiable(*leaves[1:]), None, *geometry)
        y.backward(torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1)))
        results.append([y, *(leaf.grad for leaf in leaves)])
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_affine_rule_at_the_kinks_against_central_differences():
    """At the identity, and where samples lie on other pixels than their own: derivatives are the mean of both sides."""
    torch.manual_seed(0)
    weight = torch.randn(2, 3, 1, 3, 3, dtype=torch.float64)
    moves = torch.zeros(4, 2, 2, dtype=torch.float64)
    moves[0] = 1
    moves[2, 0, 1], moves[3, 1, 0] = 1., -1.  # by one pixel
    cotangent = torch.randn(2, 3, 3, 3, 3, dtype=torch.float64)

    def loss(values):
        out = torch.empty_like(cotangent)
        AffineRule().build(out, weight, *values)
        return (out * cotangent).sum()

    rule = AffineRule()
    rule.build(torch.empty_like(cotangent), weight, *moves)
    grads = torch.stack(rule.gradients(cotangent, weight, *moves)[1:])
    again = torch.stack(rule.gradients(cotangent, weight, *moves)[1:])  # backward twice, with retain_graph
    torch.testing.assert_close(again, grads, rtol=0, atol=0)
    step = 1e-6
    for index in range(moves.numel()):
        ahead, behind = moves.clone(), moves.clone()
        ahead.view(-1)[index] += step
        behind.view(-1)[index] -= step
        want = (loss(ahead) - loss(behind)) / (2 * step)
        assert abs(grads.view(-1)[index] - want) < 1e-5


def layers():
    torch.manual_seed(0)
    conv3t = Conv3T(4, 6, 3, padding=1)
    with torch.no_grad():
        conv3t.rotate.normal_()
        conv3t.translate_x.normal_()
    return [conv3t.double(), MultiBranchConv3d(4, 6, (3, 3, 3), padding=1, norm_cfg=None).double()]


def gradients(layer, x, retain=False):
    y = layer(x)
    grads = torch.autograd.grad(y.square().sum(), list(layer.parameters()), retain_graph=retain)
    return y, grads


@pytest.mark.parametrize('which', [0, 1])
def test_memory_through_unusual_orders(which):
    """Two forward passes before a backward pass, backward twice, a lost loss, changed weights in between."""
    layer = layers()[which]
    a, b = (torch.randn(1, 4, 4, 5, 5, dtype=torch.float64) for _ in range(2))
    want_a, want_b = (gradients(copy.deepcopy(layer), x)[1] for x in (a, b))
    parameters = list(layer.parameters())

    loss_a, loss_b = layer(a).square().sum(), layer(b).square().sum()  # one layer used twice
    for loss, want in ((loss_a, want_a), (loss_b, want_b)):
        for got, value in zip(torch.autograd.grad(loss, parameters, retain_graph=True), want):
            torch.testing.assert_close(got, value)
    layer(b).sum().backward()  # is lent what the first has given back
    for loss, want in ((loss_b, want_b), (loss_a, want_a)):  # the old graphs once more
        for got, value in zip(torch.autograd.grad(loss, parameters), want):
            torch.testing.assert_close(got, value)

    layer(a)  # its loss is never used
    for got, value in zip(gradients(layer, b)[1], want_b):
        torch.testing.assert_close(got, value)

    loss = layer(a).square().sum()
    with torch.no_grad():
        parameters[0].add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.parametrize('arguments', [dict(channels=4), dict(channels=4, transform='free'), dict(channels=12),
                                       dict(channels=12, groups=2, evaluation='factored'),
                                       dict(channels=64, stride=2), dict(channels=64, size=(4, 28, 28)),
                                       dict(channels=64, size=(4, 28, 28), transform='free')])
def test_gradients_outlive_the_next_layers(arguments):
    """What a backward pass returns is never memory that the next one works in."""
    channels, size = arguments.pop('channels'), arguments.pop('size', (3, 4, 4))
    arguments = dict(padding=1, **arguments)
    torch.manual_seed(0)
    layers = [Conv3T(channels, channels, 3, **arguments) for _ in range(2)]
    x = torch.randn(2, channels, *size, requires_grad=True)
    leaves = [[x, *layer.parameters()] for layer in layers]
    losses = [layer(x).square().sum() for layer in layers]
    got = torch.autograd.grad(losses[0], leaves[0], retain_graph=True)
    kept = [grad.clone() for grad in got]
    torch.autograd.grad(losses[1], leaves[1])
    for layer in layers:
        layer(x)
    for a, b in zip(got, kept):
        assert torch.equal(a, b)


@pytest.mark.parametrize('which', [0, 1])
def test_second_derivatives(which):
    layer = layers()[which]
    x = torch.randn(1, 4, 3, 4, 4, dtype=torch.float64)
    parameters = list(layer.parameters())

    def penalty(built):
        inputs = x.clone().requires_grad_()
        with use('kernel_in_place' if built else 'reference'):
            y = layer(inputs)
        grad, = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), parameters, allow_unused=True)

    for got, want in zip(penalty(True), penalty(False)):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize('which', [0, 1])
def test_frozen_parameters_copies_and_functional_calls(which):
    layer = layers()[which]
    x = torch.randn(1, 4, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    y, _ = gradients(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), y)
    values = {name: value.detach().clone() for name, value in layer.named_parameters()}
    jacobian = torch.func.grad(lambda v: torch.func.functional_call(layer, v, x.detach()).square().sum())(values)
    want = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    for got, value in zip(jacobian.values(), want):
        torch.testing.assert_close(got, value)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    grad, = torch.autograd.grad(layer(x).square().sum(), x)  # only the clip is wanted
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0


def test_where_it_may_run():
    layer, x = Conv3T(9, 4, 3), torch.randn(1, 9, 3, 4, 4)

    def reason(clip, layer=layer):
        with use('kernel_in_place'):
            return explain(layer, clip)['kernel_in_place']

    assert reason(x) == 'chosen' and reason(x[0]) == 'chosen'
    assert reason(x[:0]) == 'the batch is empty'
    assert reason(x.double()) == 'tensors are torch.float64 and torch.float32'
    assert reason(x.half(), Conv3T(9, 4, 3).half()) == 'tensors are torch.float16'
    assert reason(x.to('meta'), Conv3T(9, 4, 3).to('meta')) == 'tensors lie on meta, this is for the CPU'
    with torch.no_grad():
        assert reason(x) == 'no gradients of parameters are wanted'
    with torch.autocast('cpu'):
        assert reason(x) == 'autocast is on'
