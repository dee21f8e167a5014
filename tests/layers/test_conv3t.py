"""The 3TConv layer: golden files, a naive float64 loop, derivatives at the identity, and everything around it."""
import copy
import math
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.conv3t_layers import GOLDEN, generic_layer, golden_layer
from helpers.paths import ROOT
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T, switch_to_deploy
from tconv_mmaction.maths.temporal_transform import affine_matrix, resampling_matrices, temporal_kernel


def naive_kernel(weight, scale, rotate, translate_x, translate_y):
    """Eq. 2 to 5 as nested loops over pixels, float64 numpy. weight (O, I, kH, kW) -> (O, I, kT, kH, kW)."""
    out_channels, in_channels, height, width = weight.shape
    steps = scale.shape[0]
    kernel = np.zeros((out_channels, in_channels, steps + 1, height, width))
    kernel[:, :, 0] = weight
    for o in range(out_channels):
        for b in range(steps):
            s, r, tx, ty = scale[b, o], rotate[b, o], translate_x[b, o], translate_y[b, o]
            for i in range(height):
                for j in range(width):
                    x = 2 * j / (width - 1) - 1 if width > 1 else 0.
                    y = 2 * i / (height - 1) - 1 if height > 1 else 0.
                    gx = s * math.cos(r) * (x + tx) - s * math.sin(r) * (y + ty)
                    gy = s * math.sin(r) * (x + tx) + s * math.cos(r) * (y + ty)
                    column, row = (gx + 1) * (width - 1) / 2, (gy + 1) * (height - 1) / 2
                    for k in range(height):
                        for m in range(width):
                            share = max(0., 1 - abs(row - k)) * max(0., 1 - abs(column - m))
                            kernel[o, :, b + 1, i, j] += kernel[o, :, b, k, m] * share
    return kernel


@pytest.mark.parametrize('name', sorted(GOLDEN))
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_golden(name, dtype, tolerance):
    data = GOLDEN[name]
    layer = golden_layer(data, dtype)
    x = torch.tensor(data['x'], dtype=dtype, requires_grad=True)
    kernel, y = layer.kernel(), layer(x)
    y.backward(torch.tensor(data['grad_y'], dtype=dtype))
    got = dict(kernel=kernel, y=y, grad_x=x.grad, grad_weight=layer.weight.grad.squeeze(2), grad_bias=layer.bias.grad,
               **{f'grad_{n}': getattr(layer, n).grad for n in TEMPORAL_PARAMETERS})
    for key, value in got.items():
        want = torch.tensor(data[key])
        error = (value.double() - want).abs().max() / want.abs().max().clamp(min=1)
        assert error < tolerance, f'{key}: {error}'


@pytest.mark.parametrize('kernel_size', [(3, 3, 3), (4, 2, 3), (2, 4, 4), (3, 1, 5), (3, 5, 1), (5, 3, 4), (1, 3, 3)])
def test_kernel_equals_naive_loop(kernel_size):
    layer = generic_layer(3, 4, kernel_size)
    arguments = [layer.weight.squeeze(2)] + [getattr(layer, n) for n in TEMPORAL_PARAMETERS]
    want = naive_kernel(*(a.detach().numpy() for a in arguments))
    np.testing.assert_allclose(layer.kernel().detach().numpy(), want, rtol=0, atol=1e-12)


def test_composed_and_sequential_evaluation_agree():
    theta = affine_matrix(1 + 0.2 * torch.randn(3, 5), *(0.2 * torch.randn(3, 3, 5))).double()
    weight = torch.randn(5, 40, 3, 3, dtype=torch.float64)  # 40 > 9: the composed path
    whole = temporal_kernel(weight, theta)
    parts = [temporal_kernel(part, theta) for part in weight.split(4, dim=1)]  # 4 < 9: the sequential path
    torch.testing.assert_close(whole, torch.cat(parts, dim=1), rtol=0, atol=1e-12)


def test_known_motions():
    """One bright pixel: s, r and t move it where the docstring says."""
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, 1, 2] = 1  # right of the centre
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    left = temporal_kernel(weight, affine_matrix(one, zero, one, zero))[0, 0, 1]  # t_x = 1: one pixel to the left
    assert left[1, 1] == 1 and left.sum() == 1
    turned = temporal_kernel(weight, affine_matrix(one, one * math.pi / 2, zero, zero))[0, 0, 1]
    torch.testing.assert_close(turned[0, 1], torch.tensor(1.).double())  # counter-clockwise: from right to top
    half = temporal_kernel(weight, affine_matrix(2 * one, zero, zero, zero))[0, 0, 1]
    assert half.sum() == 0  # s = 2 reads at the double distance: only the centre is left, and it is dark


def test_identity_resampling_is_exact():
    for size in [(3, 3), (7, 7), (5, 4), (6, 6), (2, 3), (1, 7)]:
        matrix = resampling_matrices(torch.eye(2, 3).expand(2, 3, 2, 3), size)
        assert torch.equal(matrix, torch.eye(size[0] * size[1]).expand_as(matrix))


@pytest.mark.parametrize('kernel_size', [(3, 3, 3), (2, 7, 7), (3, 4, 5), (3, 1, 3)])
def test_identity_gradient_is_the_mean_of_both_sides(kernel_size):
    """Central finite differences straddle the kink; the error is O(step) since the second derivatives differ."""
    layer = Conv3T(2, 3, kernel_size).double()
    x = torch.randn(2, 2, 4, 8, 9, dtype=torch.float64)
    grad_y = torch.randn_like(layer(x))
    layer(x).backward(grad_y)
    step = 1e-6
    assert all((getattr(layer, name) == identity).all() for name, identity in zip(TEMPORAL_PARAMETERS, (1, 0, 0, 0)))
    for name in TEMPORAL_PARAMETERS:
        parameter = getattr(layer, name)
        for index in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                shifted = copy.deepcopy(layer)
                with torch.no_grad():
                    getattr(shifted, name).view(-1)[index] += sign * step
                    values.append((shifted(x) * grad_y).sum())
            central = (values[0] - values[1]) / (2 * step)
            got = parameter.grad.view(-1)[index]
            assert abs(got - central) < 1e-3 + 1e-5 * abs(central), (name, index, got, central)


def test_fresh_layer_gives_every_parameter_a_gradient():
    for dtype in (torch.float32, torch.float64):
        layer = Conv3T(3, 8, 3, padding=1).to(dtype)
        layer(torch.randn(2, 3, 5, 9, 9, dtype=dtype)).square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert (parameter.grad != 0).all(), name


def test_identity_gradient_in_float32_equals_float64():
    """Rounding must not pick a side: 7x7 coordinates are not exact when computed through [-1, 1]."""
    layer = Conv3T(2, 4, (3, 7, 7))
    x = torch.randn(1, 2, 3, 9, 9)
    double = copy.deepcopy(layer).double()
    layer(x).sum().backward()
    double(x.double()).sum().backward()
    for name in TEMPORAL_PARAMETERS:
        got, want = getattr(layer, name).grad.double(), getattr(double, name).grad
        assert (got - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize('in_channels', [2, 5])  # 2 < 4 moves the slices, 5 multiplies matrices
def test_first_and_second_derivatives_of_the_kernel(in_channels):
    """The written-out derivatives on CPU, of everything and of one parameter alone."""
    torch.manual_seed(3)
    weight = torch.randn(2, in_channels, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = [torch.randn(2, 2, dtype=torch.float64).mul_(0.2).requires_grad_() for _ in range(4)]

    def kernel(weight, scale, *others):
        return temporal_kernel(weight, affine_matrix(1 + scale, *others))

    assert torch.autograd.gradcheck(kernel, (weight, *parameters))
    assert torch.autograd.gradgradcheck(kernel, (weight, *parameters), fast_mode=True)
    for i in range(4):
        alone = [p if i == j else p.detach() for j, p in enumerate(parameters)]
        assert torch.autograd.gradgradcheck(lambda p, i=i, alone=alone: kernel(
            weight.detach(), *alone[:i], p, *alone[i + 1:]), parameters[i], fast_mode=True)


def test_gradcheck():
    layer = generic_layer(2, 2, (3, 3, 2), stride=(1, 2, 1), padding=(1, 0, 1), groups=2)
    x = torch.randn(1, 2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), x)

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize('arguments', [
    dict(stride=2), dict(stride=(1, 2, 3), padding=(1, 0, 2)), dict(dilation=(1, 2, 2)), dict(dilation=2, padding=2),
    dict(groups=2), dict(padding='same'), dict(padding='same', dilation=(2, 1, 1)), dict(padding='valid'),
    dict(bias=False), dict(padding=1, padding_mode='reflect'), dict(padding=(1, 2, 0), padding_mode='replicate'),
    dict(padding=1, padding_mode='circular'), dict(padding='same', padding_mode='replicate', dilation=(1, 2, 1))])
@pytest.mark.parametrize('kernel_size', [3, (2, 3, 4)])
def test_equals_conv3d_with_the_same_kernel(arguments, kernel_size):
    layer = generic_layer(4, 6, kernel_size, **arguments)
    conv = nn.Conv3d(4, 6, kernel_size, **arguments).double()
    with torch.no_grad():
        conv.weight.copy_(layer.kernel())
        if conv.bias is not None:
            conv.bias.copy_(layer.bias)
    x = torch.randn(2, 4, 7, 9, 11, dtype=torch.float64)
    want = conv(x)
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), want[0], rtol=0, atol=1e-12)
    sliced = torch.randn(2, 7, 9, 11, 8, dtype=torch.float64).movedim(-1, 1)[:, ::2]  # not contiguous
    torch.testing.assert_close(layer(sliced), conv(sliced), rtol=0, atol=1e-12)
    empty = layer(x[:0])
    assert empty.shape == (0, *want.shape[1:])
    empty.sum().backward()


def test_temporal_depth_one_is_a_2d_convolution():
    layer = Conv3T(3, 5, (1, 3, 3), padding=(0, 1, 1)).double()
    assert layer.scale.shape == (0, 5)
    x = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    want = torch.stack([F.conv2d(frame, layer.weight.squeeze(2), layer.bias, padding=1) for frame in x.unbind(2)], 2)
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-12)


def test_parameter_count():
    layer = Conv3T(64, 128, (3, 3, 3), groups=2)
    assert sum(p.numel() for p in layer.parameters()) == 128 * 32 * 9 + 4 * 2 * 128 + 128


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_makes_the_kernel_in_float32(dtype):
    layer = generic_layer(3, 4, 3).float()
    x = torch.randn(1, 3, 4, 6, 6)
    exact, kernel = layer(x), layer.kernel()
    with torch.autocast('cpu', dtype=dtype):
        assert layer.kernel().dtype == torch.float32
        assert torch.equal(layer.kernel(), kernel)
        y = layer(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert (y.float() - exact).abs().max() < 0.03 * exact.abs().max()


def test_meta_device():
    """Shapes and operation counts without memory."""
    with torch.device('meta'):
        assert Conv3T(3, 4, 3, padding=1)(torch.empty(2, 3, 4, 6, 6)).shape == (2, 4, 4, 6, 6)


def test_half_precision_layer():
    layer = generic_layer(3, 4, 3).float()
    half = copy.deepcopy(layer).to(torch.bfloat16)
    want = copy.deepcopy(half).float().kernel()  # the rounded parameters, kernel in float32
    assert torch.equal(half.kernel(), want.to(torch.bfloat16))


def test_compile_and_export():
    layer = generic_layer(2, 4, 3, padding=1).float()
    x = torch.randn(1, 2, 3, 5, 5)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), rtol=1e-5, atol=1e-5)
    options = dict(fullgraph=True, backend='inductor' if shutil.which('g++') else 'aot_eager')
    compiled = torch.compile(layer, **options)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)
    fresh = Conv3T(2, 4, 3, padding=1)
    reference = copy.deepcopy(fresh)
    torch.compile(fresh, **options)(x).square().sum().backward()
    reference(x).square().sum().backward()
    for (name, got), want in zip(fresh.named_parameters(), reference.parameters()):  # also at the kinks
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-2 * want.grad.abs().max().item(), msg=name)


@pytest.mark.parametrize('transform', ['affine', 'free'])
def test_copy_state_dict_and_deploy(transform):
    layer = Conv3T(4, 6, (3, 3, 3), stride=(1, 2, 2), padding=1, groups=2, transform=transform)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    x = torch.randn(2, 4, 5, 8, 8)
    want = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), want)
    other = Conv3T(4, 6, (3, 3, 3), stride=(1, 2, 2), padding=1, groups=2, transform=transform)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), want)
    conv = layer.switch_to_deploy()
    assert type(conv) is nn.Conv3d and torch.equal(conv.weight, layer.kernel())
    torch.testing.assert_close(conv(x), want, rtol=1e-5, atol=1e-5)


def test_free_transform():
    layer = Conv3T(2, 3, 3, transform='free').double()
    assert torch.equal(layer.theta, torch.eye(2, 3).double().expand(2, 3, 2, 3))
    assert not hasattr(layer, 'scale')
    affine = generic_layer(2, 3, 3)
    with torch.no_grad():
        layer.theta.copy_(affine.matrices())
        layer.weight.copy_(affine.weight)
    torch.testing.assert_close(layer.kernel(), affine.kernel(), rtol=0, atol=1e-14)


def test_switch_to_deploy_of_a_model():
    shared = Conv3T(4, 4, 3, padding=1)
    model = nn.Sequential(Conv3T(3, 4, 3), nn.BatchNorm3d(4), nn.ModuleDict(dict(a=shared)), shared).eval()
    deployed = switch_to_deploy(model)
    assert not any(isinstance(m, Conv3T) for m in deployed.modules())
    assert deployed[3] is deployed[2]['a']  # a shared layer stays shared
    assert isinstance(model[0], Conv3T)  # the model itself is as it was
    assert isinstance(switch_to_deploy(Conv3T(3, 4, 3)), nn.Conv3d)


def test_2d_weights_load():
    weight = torch.randn(5, 3, 7, 7)
    layer = Conv3T(3, 5, (3, 7, 7), bias=False)
    for given in (weight, weight.unsqueeze(2)):
        state = {'weight': given}
        layer.reset_parameters()
        assert layer.load_state_dict(state, strict=False).missing_keys == list(TEMPORAL_PARAMETERS)
        assert torch.equal(layer.weight.squeeze(2), weight) and state['weight'].shape == given.shape
    # at the identity the kernel is the 2D weight, repeated and unscaled
    assert torch.equal(layer.kernel(), weight.unsqueeze(2).expand(-1, -1, 3, -1, -1))


@pytest.mark.parametrize('key, shape, message', [
    ('weight', (5, 3, 3, 3), r'weight: the checkpoint has \(5, 3, 3, 3\), .* needs \(5, 3, 1, 7, 7\)'),
    ('weight', (5, 3, 3, 7, 7), r'\(5, 3, 3, 7, 7\).*\(5, 3, 1, 7, 7\).*trained 3D kernel'),
    ('scale', (4, 5), r'scale: the checkpoint has \(4, 5\), .* needs \(2, 5\)')])
def test_wrong_shapes_raise_even_when_not_strict(key, shape, message):
    layer = nn.Sequential(Conv3T(3, 5, (3, 7, 7)))
    with pytest.raises(ValueError, match=message):
        layer.load_state_dict({f'0.{key}': torch.zeros(shape)}, strict=False)


@pytest.mark.parametrize('arguments, message', [
    (dict(in_channels=0), 'in_channels must be a positive integer, got 0'),
    (dict(out_channels=-3), 'out_channels must be a positive integer'),
    (dict(groups=2), r'in_channels=3 must be divisible by groups=2'),
    (dict(in_channels=4, groups=4), r'out_channels=6 must be divisible by groups=4'),
    (dict(kernel_size=0), 'kernel_size must be a positive integer'),
    (dict(kernel_size=(3, 3)), r'three of them \(t, h, w\), got \(3, 3\)'),
    (dict(kernel_size=(3, 1, 1)), "single pixel per slice.*inflate_style='3x3x3'"),
    (dict(stride=0), 'stride must be'),
    (dict(dilation=(1, 0, 1)), 'dilation must be'),
    (dict(padding=-1), 'padding must be a non-negative integer'),
    (dict(padding='full'), "'valid', 'same' or integers, got 'full'"),
    (dict(padding='same', stride=2), "padding='same' needs stride 1"),
    (dict(padding_mode='mirror'), "padding_mode must be one of .* got 'mirror'"),
    (dict(transform='projective'), "transform must be 'affine' or 'free', got 'projective'")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conv3T(**{**dict(in_channels=3, out_channels=6, kernel_size=3), **arguments})


def test_bad_input():
    layer = Conv3T(3, 6, (5, 3, 3), padding=(1, 0, 0))
    with pytest.raises(ValueError, match=r'2 frames .T. is too short for a kernel of 5 .*at least 3 needed.*clip_len'):
        layer(torch.randn(1, 3, 2, 8, 8))
    with pytest.raises(ValueError, match=r'2 rows \(H\) is too short'):
        layer(torch.randn(1, 3, 8, 2, 8))
    with pytest.raises(ValueError, match='in_channels=3, got an input of 4 channels'):
        layer(torch.randn(1, 4, 8, 8, 8))
    with pytest.raises(ValueError, match=r'expects \(N, C, T, H, W\)'):
        layer(torch.randn(3, 8, 8))


@pytest.mark.parametrize('scope', ['mmaction', None])
def test_builds_from_configs_with_and_without_a_scope(scope, monkeypatch):
    if scope is None:
        monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    layer = build_conv_layer(dict(type='Conv3T', transform='free'), 3, 4, kernel_size=3)
    assert isinstance(layer, Conv3T) and layer.transform == 'free'
    module = ConvModule(3, 4, 3, padding=1, conv_cfg=dict(type='Conv3T'), norm_cfg=dict(type='BN3d'))
    assert isinstance(module.conv, Conv3T) and module.conv.bias is None
    torch.manual_seed(0)
    module.init_weights()  # ConvModule must leave it as it starts: uniform within 1 / 9
    assert 0.1 < module.conv.weight.abs().max() <= 1 / 9 and (module.conv.scale == 1).all()


def test_optimizer_constructors():
    from mmaction.registry import OPTIM_WRAPPER_CONSTRUCTORS
    from mmengine.optim import build_optim_wrapper
    model = nn.Sequential(nn.Conv3d(1, 3, 1), Conv3T(3, 4, 3), nn.BatchNorm3d(4), nn.Linear(4, 2))
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1., weight_decay=0.5),
        paramwise_cfg=Config.fromfile(ROOT / 'configs/_base_/transforms_x10.py').transforms_x10))
    groups = {id(g['params'][0]): g for g in wrapper.optimizer.param_groups}
    assert len(groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        temporal = name.split('.')[-1] in TEMPORAL_PARAMETERS
        group = groups[id(parameter)]
        assert (group['lr'], group['weight_decay']) == ((10., 0.) if temporal else (1., 0.5)), name
    # mmaction2's TSM constructor takes weight and bias of what it knows: it must refuse, not drop parameters
    tsm = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(
        type='TSMOptimWrapperConstructor', optim_wrapper_cfg=dict(optimizer=dict(type='SGD', lr=1., weight_decay=0.)),
        paramwise_cfg=dict(fc_lr5=False)))
    with pytest.raises(ValueError, match='Conv3T'):
        tsm(model)


def test_repr():
    assert repr(Conv3T(3, 8, 3, padding=1, bias=False)) == (
        'Conv3T(3, 8, kernel_size=(3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1), bias=False)')


@pytest.mark.gpu
@pytest.mark.parametrize('shape', [(3, 8, (3, 7, 7)), (64, 32, (3, 3, 3))])
def test_cpu_and_gpu_agree(shape):
    layer = generic_layer(*shape, padding=1)
    x = torch.randn(2, shape[0], 4, 9, 9, dtype=torch.float64)
    on_gpu = copy.deepcopy(layer).cuda()
    y, y_gpu = layer(x), on_gpu(x.cuda())
    y.square().sum().backward()
    y_gpu.square().sum().backward()
    torch.testing.assert_close(y_gpu.cpu(), y, rtol=1e-9, atol=1e-9)
    for a, b in zip(layer.parameters(), on_gpu.parameters()):
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=1e-8, atol=1e-8)
    with torch.autocast('cuda', dtype=torch.bfloat16):
        assert on_gpu.float()(x.float().cuda()).dtype == torch.bfloat16
