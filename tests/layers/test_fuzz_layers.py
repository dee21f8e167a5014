"""The layers on drawn shapes, strides, paddings, dilations, groups, dtypes and parameters (hypothesis).

What holds, and is checked on every example:

* Conv3T: every slice of the kernel is a sub-convex mix of the slice before it (bilinear weights are >= 0 and add up to
  at most 1), so |y| <= |bias| + n max|K_1| max|x| with n the kernel's elements per output, for all finite parameters.
* ConvLSTM2d: |h| <= 1 and |c_t| <= |c_0| + t for all finite parameters and inputs whose convolutions do not overflow.
* MultiBranchConv3d and SeparableConv3d: eval mode is one affine map, bounded by its kernel's absolute values.
* NaN in a parameter or in the input comes out as NaN exactly where the convolution meets it, on every path.
* The kernel path, the factored path and the deployed nn.Conv3d agree to the rounding of that bound.
"""
import math
from typing import NamedTuple, Tuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tconv_mmaction.layers import (
    TEMPORAL_PARAMETERS,
    Conv3T,
    ConvLSTM2d,
    MultiBranchConv3d,
    SeparableConv3d,
    switch_to_deploy,
)

EPS = {torch.float64: 2.**-52, torch.float32: 2.**-23, torch.bfloat16: 2.**-8, torch.float16: 2.**-10}
SEEDS = st.integers(0, 2**31 - 1)
NON_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


class Case(NamedTuple):
    """Arguments of a convolution, and an input that fits."""
    kwargs: dict
    shape: Tuple[int, ...]
    seed: int


@st.composite
def cases(draw, max_groups=3, odd_time=False, batch=(0, 2), reflect=True, min_time=1):
    times = [k for k in range(min_time, 6) if k % 2 or not odd_time]
    kernel = (draw(st.sampled_from(times)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(3))
    kind = draw(st.sampled_from(['number', 'number', 'same', 'valid']))
    stride = (1, 1, 1) if kind == 'same' else tuple(draw(st.integers(1, 3)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 4)) for _ in range(3)) if kind == 'number' else kind
    spans = [d * (k - 1) for d, k in zip(dilation, kernel)]
    pads = dict(same=[s / 2 for s in spans], valid=[0] * 3).get(kind, padding)
    # whether it fits is the business of a test of its own; reflect needs more pixels than padding
    modes = ['zeros', 'replicate', 'circular', 'reflect'] if reflect else ['zeros', 'replicate']
    mode = draw(st.sampled_from(['zeros', *modes]))
    least = [max(1, math.ceil(s + 1 - 2 * p), *([math.ceil(p) + 1] if mode in ('reflect', 'circular') else []))
             for s, p in zip(spans, pads)]
    size = [n + draw(st.integers(0, 4)) for n in least]
    groups = draw(st.integers(1, max_groups))
    kwargs = dict(in_channels=groups * draw(st.integers(1, 3)), out_channels=groups * draw(st.integers(1, 3)),
                  kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=mode)
    if max_groups > 1:
        kwargs['groups'] = groups
    return Case(kwargs, (draw(st.integers(*batch)), kwargs['in_channels'], *size), draw(SEEDS))


def wild(shape, generator, largest, dtype):
    """Numbers of both signs whose magnitudes are log-uniform between 1e-6 and ``largest``, with some zeros."""
    exponent = torch.rand(shape, generator=generator, dtype=torch.float64) * (math.log10(largest) + 6) - 6
    sign = torch.randint(-1, 2, shape, generator=generator)
    return (sign * 10**exponent).to(dtype)


def conv3t(case, dtype=torch.float64, spread=None, largest=1e6, **kwargs):
    """A Conv3T in eval mode with drawn parameters: mild ones, ``spread`` around the identity, or wild ones."""
    layer = Conv3T(**case.kwargs, **kwargs).to(dtype).eval()
    generator = torch.Generator().manual_seed(case.seed)
    with torch.no_grad():
        for name in TEMPORAL_PARAMETERS:
            value = getattr(layer, name)
            if spread is None:
                value.copy_(wild(value.shape, generator, largest, dtype))
            else:
                value.add_(spread * torch.randn(value.shape, generator=generator, dtype=torch.float64))
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return layer, generator


def usable(case):
    """A 1x1 spatial kernel in several frames is refused by Conv3T, as it says."""
    return case.kwargs['kernel_size'][0] == 1 or case.kwargs['kernel_size'][1:] != (1, 1)


def elements(layer):
    """Multiply-adds per output."""
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def agree(got, want, bound, eps):
    assert got.shape == want.shape
    if got.numel():
        error = (got.double() - want.double()).abs().max().item()
        assert error <= 64 * eps * bound, (error, bound)


@given(cases(), st.booleans(), st.booleans())
def test_conv3t_paths_and_deployed_layer_agree(case, mild, trained):
    assume(usable(case))
    layer, generator = conv3t(case, spread=0.4 if mild else None)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    bound = elements(layer) * (layer.weight.abs().max() * x.abs().max()).item() + 1 if x.numel() else 1.
    outputs = []
    for evaluation in ('kernel', 'factored', 'auto'):
        layer.evaluation = evaluation
        outputs.append(layer.train(trained)(x).detach())
    with torch.no_grad():
        outputs.append(layer.eval()(x))
    outputs.append(switch_to_deploy(layer)(x).detach())
    assert type(switch_to_deploy(layer)) is torch.nn.Conv3d
    for y in outputs[1:]:
        agree(y, outputs[0], bound, EPS[torch.float64] * elements(layer))


@given(cases(batch=(1, 2), min_time=2))
def test_conv3t_gradients_of_both_paths_agree(case):
    assume(usable(case))
    layer, generator = conv3t(case, spread=0.4)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    found = []
    for evaluation in ('kernel', 'factored'):
        layer.evaluation = evaluation
        inputs = x.clone().requires_grad_()
        y = layer.train()(inputs)
        grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found.append(torch.autograd.grad(y, [inputs, *layer.parameters()], grad_y))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * max(1., one.abs().max().item()))


@given(cases(batch=(1, 2)), st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
       st.sampled_from(['kernel', 'factored']), st.booleans())
def test_conv3t_is_bounded_for_all_finite_parameters(case, dtype, evaluation, trained):
    """Parameters up to 1e6 (float16 ends at 65504), any input: finite in, finite out, below the bound."""
    assume(usable(case))
    layer, generator = conv3t(case, dtype, largest=6e4 if dtype is torch.float16 else 1e6, evaluation=evaluation)
    x = wild(case.shape, generator, 10 if dtype is torch.float16 else 1e6, dtype)
    y = layer.train(trained)(x)
    largest = elements(layer) * layer.weight.abs().max().double() * x.abs().max().double()
    limit = (largest + layer.bias.abs().max().double()) * (1 + 4 * EPS[dtype] * (1 + elements(layer)))
    assert torch.isfinite(layer.kernel()).all()
    assert layer.kernel().abs().max() <= layer.weight.abs().max() * (1 + 8 * EPS[dtype])
    assert torch.isfinite(y).all() and y.dtype is dtype
    assert y.abs().max().double() <= limit
    if trained:
        y.double().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in layer.parameters()  # kT = 1 has empty ones
                   if p.numel() and dtype in (torch.float32, torch.float64))


@given(cases(batch=(1, 2), min_time=2), st.sampled_from([*TEMPORAL_PARAMETERS, 'weight', 'bias']),
       st.sampled_from(['kernel', 'factored']), NON_FINITE, st.booleans())
def test_conv3t_shows_a_parameter_that_is_no_number(case, name, evaluation, value, deploy):
    """NaN in a filter's parameter is NaN in its channel, in all of it without padding; other channels are as before."""
    assume(usable(case))
    layer, generator = conv3t(case, spread=0.4, evaluation=evaluation)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64) + 5
    before = layer(x).detach()
    parameter = getattr(layer, name)
    out_channel = case.seed % layer.out_channels
    with torch.no_grad():
        index = (0, out_channel) if name in TEMPORAL_PARAMETERS else (out_channel, ) + (0, ) * (parameter.dim() - 1)
        parameter[index] = value
        y = (switch_to_deploy(layer) if deploy else layer)(x)
    others = [c for c in range(layer.out_channels) if c != out_channel]
    torch.testing.assert_close(y[:, others], before[:, others])
    if math.isnan(value):
        padded = layer.padding != 'valid' and any(map(any, layer._pads())) and layer.padding_mode == 'zeros'
        bad = torch.isnan(y[:, out_channel])
        assert bad.all() if not padded or name == 'bias' else True
        kernel = layer.kernel()
        assert torch.isnan(kernel[out_channel]).any() == (name != 'bias')
        assert torch.isfinite(kernel[others]).all()


@given(cases(batch=(1, 2)), st.sampled_from(['kernel', 'factored']), NON_FINITE)
def test_conv3t_shows_a_pixel_that_is_no_number(case, evaluation, value):
    """A NaN pixel comes out wherever the window of a plain convolution meets it, and nowhere else."""
    assume(usable(case))
    layer, generator = conv3t(case, spread=0.4, evaluation=evaluation)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    where = tuple(case.seed % n for n in case.shape)
    x[where] = 0
    clean = layer(x).detach()
    marked = torch.zeros_like(x)
    marked[where] = 1
    ones = torch.ones_like(layer.kernel())
    clips, geometry = layer.lay_out(marked)
    touched = F.conv3d(clips, ones, None, *geometry) > 0
    x[where] = value
    y = layer(x).detach()
    torch.testing.assert_close(y[~touched], clean[~touched])
    if math.isnan(value):
        assert torch.isnan(y[touched]).all()


def random_norms(layer, generator):
    for norm in (m for m in layer.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)):
        with torch.no_grad():
            for value in (norm.weight, norm.bias, norm.running_mean):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
            norm.running_var.copy_(0.1 + torch.rand(norm.running_var.shape, generator=generator, dtype=torch.float64))


@given(cases(odd_time=True), st.data())
def test_multi_branch_equals_its_deployed_layer(case, data):
    kT = case.kwargs['kernel_size'][0]
    lengths = data.draw(st.none() | st.lists(st.sampled_from(range(1, kT + 1, 2)), min_size=1, max_size=3))
    layer = MultiBranchConv3d(**case.kwargs, branches=lengths, bias=data.draw(st.booleans()),
                              eta=data.draw(st.sampled_from([1, 2.0, 1e6, 'inf'])),
                              norm_cfg=data.draw(st.sampled_from([None, dict(type='BN3d')]))).double().eval()
    generator = torch.Generator().manual_seed(case.seed)
    random_norms(layer, generator)
    with torch.no_grad():
        for branch in layer.branches:
            branch.weight.copy_(wild(branch.weight.shape, generator, 1e6, torch.float64))
        x = wild(case.shape, generator, 1e3, torch.float64)
        y, deployed = layer(x), switch_to_deploy(layer)
        again = deployed(x)
    assert type(deployed) is torch.nn.Conv3d and torch.isfinite(y).all()
    # the sum over branches may cancel in the fused kernel: the bound is that of the parts
    gains = [n.weight.abs().max() / (n.running_var.min() + n.eps).sqrt() for n in layer.norms] or [1.]
    parts = sum(float(g * layer.branch_kernel(i).abs().max().detach()) for i, g in enumerate(
        list(gains) * (1 if layer.norms else len(lengths or range(1, kT + 1, 2)))))
    agree(again, y, elements(layer) * parts * (x.abs().max().item() if x.numel() else 0) + 100,
          EPS[torch.float64] * elements(layer))


@given(cases(odd_time=True, batch=(1, 2)), st.booleans(), NON_FINITE | st.none())
def test_multi_branch_in_training_and_with_nan(case, with_norm, value):
    """Batch statistics of finite values are finite; one value per channel is a named error; NaN comes out."""
    layer = MultiBranchConv3d(**case.kwargs, norm_cfg=dict(type='BN3d') if with_norm else None).train()
    generator = torch.Generator().manual_seed(case.seed)
    x = wild(case.shape, generator, 1e6, torch.float32)
    if value is not None:
        with torch.no_grad():
            layer.branches[-1].weight.view(-1)[0] = value
    try:
        y = layer(x)
    except ValueError as error:
        assert 'more than 1 value per channel' in str(error) and with_norm and case.shape[0] == 1
        return
    if value is None:
        assert torch.isfinite(y).all()
        y.mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    else:
        channels = layer.out_channels
        assert torch.isfinite(y[:, 1:channels]).all()
        if with_norm and math.isnan(value) and (x[:, 0] != 0).all() and layer.padding == 'valid':
            assert torch.isnan(y[:, 0]).all()


@given(cases(max_groups=1, odd_time=True), st.sampled_from(['Conv3d', 'MultiBranchConv3d']),
       st.sampled_from([None, dict(type='BN3d')]), st.sampled_from([None, dict(type='ReLU')]), NON_FINITE | st.none())
def test_separable_equals_its_parts(case, temporal, norm, act, value):
    """Against the two convolutions written out, and deployed where there is something to deploy."""
    layer = SeparableConv3d(**case.kwargs, norm_cfg=norm, act_cfg=act, temporal_cfg=dict(type=temporal))
    layer = layer.double().eval()
    generator = torch.Generator().manual_seed(case.seed)
    random_norms(layer, generator)
    x = wild(case.shape, generator, 1e3, torch.float64)
    if value is not None and x.numel():
        x.view(-1)[case.seed % x.numel()] = value
    y = layer(x).detach()
    deployed = switch_to_deploy(layer)(x).detach()
    if value is None:
        assert torch.isfinite(y).all()
    # inf in one branch and -inf in another is NaN; the fused kernel adds the branches first and gives inf
    known = torch.isfinite(y)
    if value is not None and math.isinf(value):
        known &= torch.isfinite(deployed)
    assert torch.equal(known, torch.isfinite(deployed) & known)
    largest = y[known].abs().max().item() if known.any() else 0.
    torch.testing.assert_close(deployed[known], y[known], rtol=1e-8, atol=1e-8 * (1 + largest))
    if layer.temporal is None or temporal != 'Conv3d':
        return
    named = isinstance(layer.padding, str)
    (_, kH, kW), (sT, sH, sW), (dT, dH, dW) = layer.kernel_size, layer.stride, layer.dilation
    spatial = torch.nn.Conv3d(layer.in_channels, layer.out_channels, (1, kH, kW), (1, sH, sW),
                              layer.padding if named else (0, *layer.padding[1:]), (1, dH, dW), bias=norm is None,
                              padding_mode=layer.padding_mode).double()
    spatial.load_state_dict(layer.spatial.conv.state_dict())
    z = spatial(x)
    if norm is not None:
        bn = layer.spatial.norm
        z = F.batch_norm(z, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    z = z if act is None else z.relu()
    last = torch.nn.Conv3d(layer.out_channels, layer.out_channels, (layer.kernel_size[0], 1, 1), (sT, 1, 1),
                           layer.padding if named else (layer.padding[0], 0, 0), (dT, 1, 1),
                           padding_mode=layer.padding_mode).double()
    last.load_state_dict(layer.temporal.state_dict())
    torch.testing.assert_close(last(z).detach(), y, equal_nan=True)


@st.composite
def lstm_cases(draw):
    kernel = tuple(draw(st.sampled_from([1, 3, 5])) for _ in range(2))
    stride = draw(st.integers(1, 3))
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 8)),
             draw(st.integers(1, 8)))
    return dict(in_channels=shape[1], hidden_channels=draw(st.integers(1, 3)), kernel_size=kernel, stride=stride), \
        shape, draw(SEEDS)


@given(lstm_cases(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.integers(1, 6),
       st.integers(1, 7))
def test_conv_lstm_is_bounded_and_streams(case, dtype, cut, segment):
    kwargs, shape, seed = case
    layer = ConvLSTM2d(**kwargs).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(wild(parameter.shape, generator, 1e6, dtype))
        x = wild(shape, generator, 1e6, dtype)
        whole, (h, c) = layer(x)
        assert torch.isfinite(whole).all() and (whole.abs() <= 1).all()
        assert (c.abs() <= shape[2] * (1 + 1e-5)).all()
        assert torch.equal(h, whole[:, :, -1])
        if cut < shape[2]:
            first, state = layer(x[:, :, :cut])
            second, last = layer(x[:, :, cut:], state)
            # a saturated gate flips with the last bit of a sum of 1e12, so equality is asked of mild parameters only
            assert torch.isfinite(second).all() and (last[1].abs() <= shape[2] * (1 + 1e-5)).all()
    mild = ConvLSTM2d(**kwargs).double()
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    whole, state = mild(x)
    if cut < shape[2]:
        first, middle = mild(x[:, :, :cut])
        second, last = mild(x[:, :, cut:], middle)
        torch.testing.assert_close(torch.cat([first, second], 2), whole)
        torch.testing.assert_close(last, state)
    mild.checkpoint_steps = segment
    torch.testing.assert_close(mild.train()(x)[0], whole)


@given(lstm_cases(), NON_FINITE, st.sampled_from(['x', 'weight_ih', 'weight_hh', 'bias', 'h', 'c']))
def test_conv_lstm_with_nan_and_inf(case, value, where):
    """NaN reaches the output of the first step that meets it; an infinite gate saturates or is NaN, never above 1."""
    kwargs, shape, seed = case
    assume(shape[0] > 0)
    layer = ConvLSTM2d(**kwargs).double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    state = tuple(torch.zeros(layer.state_shape(x), dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        target = dict(x=x, h=state[0], c=state[1]).get(where)
        (getattr(layer, where) if target is None else target).view(-1)[0] = value
        y, (h, c) = layer(x, state)
    assert not (y.abs() > 1).any()
    reached = kwargs['stride'] == 1 or where != 'x' or kwargs['kernel_size'] != (1, 1)
    if math.isnan(value) and reached:
        assert torch.isnan(y).any()


ANYTHING = (st.integers(-3, 5) | st.floats() | st.none() | st.text(max_size=3) | st.booleans() | st.sampled_from(
    ['same', 'valid', 'zeros', 'reflect', 'inf', (3, 3), (3, 3, 3), (1, 0, 2), [2, 2, 2], (3, 3, '3'), {}, b'ab']))


@given(st.sampled_from([Conv3T, MultiBranchConv3d, SeparableConv3d, ConvLSTM2d]), st.data())
@example(Conv3T, dict(groups=0))
@example(MultiBranchConv3d, dict(groups=None))
def test_wrong_arguments_are_named(cls, data):
    """A layer, or a ValueError or TypeError that names the class; nothing else."""
    if isinstance(data, dict):
        changes = data
    else:
        names = [name for name in cls.__init__.__annotations__ if name not in ('return', 'norm_cfg', 'act_cfg')]
        names = sorted({*names, 'kernel_size', 'stride'} & set(cls.__init__.__code__.co_varnames))
        changes = data.draw(st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=3))
    arguments = {**dict(zip(('in_channels', 'hidden_channels' if cls is ConvLSTM2d else 'out_channels'), (4, 4))),
                 'kernel_size': 3, **changes}
    try:
        layer = cls(**arguments)
    except (ValueError, TypeError) as error:
        assert str(error)
    else:
        assert isinstance(repr(layer), str)


PADDED = Case(dict(in_channels=1, out_channels=1, kernel_size=(1, 1, 1), padding=(1, 1, 1)), (1, 1, 1, 1, 1), 0)


@given(cases(), st.lists(st.integers(0, 6), min_size=1, max_size=6), st.sampled_from([Conv3T, MultiBranchConv3d]))
@example(PADDED, [1, 0, 0, 0, 0], MultiBranchConv3d)  # padding around no frames: a RuntimeError of F.conv3d
@example(PADDED, [0, 0, 0, 0], Conv3T)
@example(PADDED._replace(kwargs=dict(PADDED.kwargs, padding_mode='replicate')), [0, 0, 0, 0], Conv3T)
def test_wrong_inputs_are_named(case, shape, cls):
    """Any rank and size: a result of the size that nn.Conv3d gives, or a ValueError."""
    assume(usable(case) and (cls is Conv3T or case.kwargs['kernel_size'][0] % 2))
    layer = cls(**case.kwargs).eval()
    x = torch.zeros([case.kwargs['in_channels'] if i == len(shape) - 4 else n for i, n in enumerate(shape)])
    try:
        y = layer(x)
    except ValueError as error:
        assert cls.__name__ in str(error)
    else:
        assert y.shape == torch.nn.Conv3d(**case.kwargs)(x).shape


@pytest.mark.parametrize('cls', [Conv3T, MultiBranchConv3d, SeparableConv3d])
def test_padding_that_no_mode_can_make_is_named(cls):
    layer = cls(2, 2, 3, padding=4, padding_mode='reflect').eval()
    with pytest.raises(ValueError, match=r'reflect.*needs more than 4'):
        layer(torch.zeros(1, 2, 4, 9, 9))
    layer = cls(2, 2, 3, padding=4, padding_mode='circular').eval()
    with pytest.raises(ValueError, match=r'circular.*at least 4'):
        layer(torch.zeros(1, 2, 9, 3, 9))
