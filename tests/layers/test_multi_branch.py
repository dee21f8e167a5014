"""MultiBranchConv3d: naive float64 loops, the penalty, fusing, starting from trained nets, and everything around it."""
import copy
import math
import os
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from helpers.norms import randomise
from mmaction.models import ResNet3d
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tconv_mmaction.layers import (
    DeployedConv3d,
    MultiBranchConv3d,
    SeparableConv3d,
    accept_single_filters,
    switch_to_deploy,
)
from tconv_mmaction.layers.multi_branch_conv3d import TemporalBranch
from tconv_mmaction.maths.temporal_basis import (
    analysis_matrix,
    apply_in_time,
    cosine_basis,
    synthesis_matrix,
)
from tconv_mmaction.ops.conv3d.basis_rule import BasisRule, basis_for, multiply_in_time, over_pixels

INF = float('inf')
ETAS = (1, 2., 4, INF)


# -- the basis ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('length', [1, 3, 5, 7, 9])
def test_basis_is_orthonormal_starts_with_the_average_and_is_the_cosine_transform(length):
    basis = cosine_basis(length)
    torch.testing.assert_close(basis.T @ basis, torch.eye(length, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(basis[:, 0], torch.full((length,), length**-0.5, dtype=torch.float64))
    expected = scipy.fft.dct(np.eye(length), type=2, norm='ortho', axis=0).T
    np.testing.assert_allclose(basis.numpy(), expected, atol=1e-14)
    assert torch.equal(basis, cosine_basis(length))


def test_basis_of_three_frames_is_the_papers_average_and_differentials():
    average, first, second = cosine_basis(3).T
    for column, filter_ in ((average, [1, 1, 1]), (first, [1, 0, -1]), (second, [1, -2, 1])):
        expected = torch.tensor(filter_, dtype=torch.float64)
        torch.testing.assert_close(column, expected / expected.norm(), atol=1e-14, rtol=0)


@pytest.mark.parametrize('eta', ETAS)
@pytest.mark.parametrize('length', [1, 3, 5])
def test_analysis_inverts_synthesis(length, eta):
    synthesis, analysis = synthesis_matrix(length, eta), analysis_matrix(length, eta)
    identity = torch.eye(synthesis.shape[1], dtype=torch.float64)
    torch.testing.assert_close(analysis @ synthesis, identity, atol=1e-14, rtol=0)


@pytest.mark.parametrize('area', [(1, 1), (3, 3), (7, 7)])
@pytest.mark.parametrize('shape', [(5, 5), (5, 4), (1, 1)])
def test_apply_in_time_against_einsum(shape, area):
    matrix = torch.randn(shape, dtype=torch.float64)
    tensor = torch.randn(4, 3, shape[1], *area, dtype=torch.float64)
    expected = torch.einsum('st,oithw->oishw', matrix, tensor)
    torch.testing.assert_close(apply_in_time(matrix, tensor), expected)
    torch.testing.assert_close(multiply_in_time(over_pixels(matrix, area[0] * area[1], 12), tensor), expected)


# -- the layer against naive loops --------------------------------------------------------------------------------


def naive_branch_kernel(free, length, eta):
    """Eq. 6 entry by entry; ``free (O, I, coefficients, kH, kW)`` numpy."""
    kernel = np.zeros((*free.shape[:2], length, *free.shape[3:]))
    for frame in range(length):
        if length == 1:
            kernel[:, :, 0] = free[:, :, 0] / (1 if math.isinf(eta) else eta)
            continue
        rows = [] if math.isinf(eta) else [1 / math.sqrt(length) / eta]
        rows += [math.sqrt(2 / length) * math.cos(math.pi * (frame + 0.5) * k / length) for k in range(1, length)]
        for row, value in enumerate(rows):
            kernel[:, :, frame] += value * free[:, :, row]
    return kernel


def naive_forward(layer, x):
    """Eq. 2 in eval mode, output by output. Every branch is centred where the longest filter is centred."""
    (kt, kh, kw), (st, sh, sw), (dt, dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    pt, ph, pw = layer.padding
    x = np.pad(x, ((0, 0), (0, 0), (pt, pt), (ph, ph), (pw, pw)))
    size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], layer.kernel_size, layer.stride,
                                                                 layer.dilation)]
    out = np.zeros((x.shape[0], layer.out_channels, *size))
    per_group = layer.out_channels // layer.groups
    for i, length in enumerate(layer.branch_lengths):
        kernel = naive_branch_kernel(layer.branches[i].weight.detach().numpy(), length, layer.eta)
        norm = layer.norms[i]
        for o in range(layer.out_channels):
            first = o // per_group * kernel.shape[1]
            gain = float(norm.weight.detach()[o]) / math.sqrt(float(norm.running_var[o]) + norm.eps)
            for t, h, w in np.ndindex(*size):
                centre = t * st + dt * (kt // 2)
                total = np.zeros(x.shape[0])
                for a, b, c in np.ndindex(length, kh, kw):
                    frame = centre + dt * (a - length // 2)
                    total += x[:, first:first + kernel.shape[1], frame, h * sh + b * dh, w * sw + c * dw] @ kernel[
                        o, :, a, b, c]
                out[:, o, t, h, w] += gain * (total - float(norm.running_mean[o])) + float(norm.bias.detach()[o])
    return out


@pytest.mark.parametrize('arguments', [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1), stride=(2, 2, 1), eta=4),
    dict(kernel_size=(5, 1, 2), padding=0, groups=2, eta=INF),
    dict(kernel_size=(5, 2, 1), padding=(1, 0, 1), dilation=(1, 2, 1), branches=(5, 1), eta=1),
    dict(kernel_size=(3, 1, 1), padding=(1, 0, 0), dilation=(2, 1, 1), stride=(3, 1, 1)),
    dict(kernel_size=(3, 3, 3), padding=(1, 1, 1), branches=(3,), eta=INF),
    dict(kernel_size=(1, 3, 3), padding=(0, 1, 1), eta=INF),
    dict(kernel_size=(3, 1, 1), padding=(1, 0, 0), branches=(1,)),
], ids=str)
def test_forward_and_branch_kernels_equal_naive_loops(arguments):
    layer = randomise(MultiBranchConv3d(4, 6, **arguments)).double().eval()
    for i, length in enumerate(layer.branch_lengths):
        kernel = layer.branch_kernel(i)
        assert kernel.shape == (6, 4 // layer.groups, length, *layer.kernel_size[1:])
        np.testing.assert_allclose(kernel.detach().numpy(), naive_branch_kernel(
            layer.branches[i].weight.detach().numpy(), length, layer.eta), atol=1e-14)
    x = torch.randn(2, 4, 7, 5, 4, dtype=torch.float64)
    np.testing.assert_allclose(layer(x).detach().numpy(), naive_forward(layer, x.numpy()), atol=1e-12)


def test_infinite_eta_has_no_average_and_keeps_the_filter_of_one_frame():
    layer = MultiBranchConv3d(2, 3, (5, 3, 3), eta=INF).double()
    assert [branch.weight.shape[2] for branch in layer.branches] == [1, 2, 4]
    assert torch.equal(layer.branch_kernel(0), layer.branches[0].weight)
    for i in (1, 2):
        assert layer.branch_kernel(i).sum(2).abs().max() < 1e-14
    # Its norm undoes 1/eta, so the kept branch is what a large finite eta tends to.
    x = torch.randn(2, 2, 6, 5, 5, dtype=torch.float64)
    outputs = []
    for eta in (8., INF):
        single = MultiBranchConv3d(2, 3, (1, 3, 3), eta=eta, norm_cfg=dict(type='BN3d', eps=1e-12)).double()
        single.branches[0].weight.data.copy_(layer.branches[0].weight)
        outputs.append(single(x))
    torch.testing.assert_close(*outputs)


def test_plain_weight_decay_is_the_regulariser():
    """Eq. 5 and 7: the gradient of |W~|^2 is that of eta^2 |A|^2 + |B|^2 of the filter itself."""
    for eta in (1., 2., 4.):
        for length in (1, 3, 5):
            layer = MultiBranchConv3d(2, 3, (length, 3, 3), branches=(length,), eta=eta).double()
            free = layer.branches[0].weight
            plain, = torch.autograd.grad(free.square().sum(), free)
            kernel = layer.branch_kernel(0)
            average = kernel.mean(2) * length**0.5  # A: the coefficient of mu, a vector of length 1
            rest = kernel - kernel.mean(2, keepdim=True)  # U B, of the same norm as B
            explicit, = torch.autograd.grad(eta**2 * average.square().sum() + rest.square().sum(), free)
            torch.testing.assert_close(plain, explicit)
    # and so is a step of an optimizer with weight_decay
    layer = MultiBranchConv3d(2, 3, (3, 1, 1), branches=(3,), eta=2.).double()
    before = layer.branch_kernel(0).detach()
    layer.branches[0].weight.grad = torch.zeros_like(layer.branches[0].weight)
    torch.optim.SGD([layer.branches[0].weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(layer.branch_kernel(0).detach(), before * 0.95)


def test_a_gradient_step_on_the_average_is_eta_squared_times_smaller():
    gradients = []
    for eta in (1., 4.):
        layer = MultiBranchConv3d(1, 1, (3, 1, 1), branches=(3,), eta=eta).double()
        layer.branch_kernel(0).sum().backward()
        step = layer.branches[0].weight.grad
        gradients.append(apply_in_time(synthesis_matrix(3, eta), step).sum())
    assert abs(gradients[0] / gradients[1] - 16) < 1e-9


# -- fusing -------------------------------------------------------------------------------------------------------

FUSED = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1), stride=(1, 2, 2), eta=1),
    dict(kernel_size=(5, 3, 3), padding=(0, 1, 1), stride=(2, 1, 1), groups=2, eta=INF),
    dict(kernel_size=(5, 3, 3), padding=(1, 1, 1), dilation=(2, 1, 2), eta=4, bias=True),
    dict(kernel_size=(7, 2, 3), padding='same', dilation=(1, 1, 2), branches=(7, 3)),
    dict(kernel_size=(5, 3, 3), padding='valid'),
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1), padding_mode='replicate'),
    dict(kernel_size=(3, 1, 1), padding=(1, 0, 0), padding_mode='circular', branches=(3, 3)),
    dict(kernel_size=(1, 7, 7), padding=(0, 3, 3), stride=(1, 2, 2), eta=INF),
    dict(kernel_size=(3, 3, 3), padding=1, branches=(3,)),
    dict(kernel_size=(3, 3, 3), padding=1, norm_cfg=None),
    dict(kernel_size=(3, 3, 3), padding=1, norm_cfg=dict(type='SyncBN', eps=1e-3)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize('arguments', FUSED, ids=str)
def test_fused_equals_unfused(arguments):
    layer = randomise(MultiBranchConv3d(4, 6, **arguments)).double().eval()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, 12, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        conv = layer.switch_to_deploy()
        assert type(conv) is nn.Conv3d and conv.kernel_size == layer.kernel_size and not conv.training
        torch.testing.assert_close(conv(x), expected, atol=1e-10, rtol=1e-10)
        layer.float()
        conv = layer.switch_to_deploy()
        assert conv.weight.dtype == torch.float32
        torch.testing.assert_close(conv(x.float()), expected.float(), atol=1e-5, rtol=1e-5)


def test_fusing_in_train_mode_is_refused():
    layer = MultiBranchConv3d(2, 3, 3)
    with pytest.raises(RuntimeError, match=r'model.eval\(\)'):
        layer.switch_to_deploy()
    with pytest.raises(RuntimeError, match=r'model.eval\(\)'):
        switch_to_deploy(nn.Sequential(layer))
    layer.eval().norms[1].train()
    with pytest.raises(RuntimeError, match=r'model.eval\(\)'):
        layer.switch_to_deploy()
    layer.norms[1].eval()
    layer.switch_to_deploy()
    with pytest.raises(ValueError, match='track_running_stats'):
        MultiBranchConv3d(2, 3, 3, norm_cfg=dict(type='BN3d', track_running_stats=False)).eval().switch_to_deploy()


class Net(nn.Module):
    """Two mmcv blocks as in a ResNet3d, and an S3D block whose temporal part has the branches."""

    def __init__(self, multi=True, **options):
        super().__init__()
        cfg = dict(type='MultiBranchConv3d', **options) if multi else dict(type='Conv3d')
        norm = None if multi else dict(type='BN3d')
        self.conv1 = ConvModule(3, 8, (1, 3, 3), padding=(0, 1, 1), bias=False, conv_cfg=cfg, norm_cfg=norm)
        self.conv2 = ConvModule(8, 8, 3, stride=(1, 2, 2), padding=1, bias=False, conv_cfg=cfg, norm_cfg=norm)
        self.conv3 = ConvModule(8, 8, (5, 3, 3), padding=(2, 1, 1), bias=False,
                                conv_cfg=dict(type='SeparableConv3d', temporal_cfg=cfg), norm_cfg=norm)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.conv3(self.conv2(self.conv1(x))).mean((2, 3, 4)))


def test_whole_models_fuse():
    model = randomise(Net()).double().eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        fused = switch_to_deploy(model)
        torch.testing.assert_close(fused(x), model(x), atol=1e-10, rtol=1e-10)
    assert not any(isinstance(module, MultiBranchConv3d) for module in fused.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plain = Net(multi=False)  # norms are gone: the fused net has the convolutions' weights, and biases instead
    fused_count = sum(p.numel() for p in fused.parameters())
    single_count = sum(p.numel() for p in plain.parameters())
    assert fused_count == single_count - 3 * 8  # three norms of 8 gains and 8 shifts became three biases of 8


def test_deployed_conv_is_built_from_a_config_and_takes_the_fused_weights():
    layer = randomise(MultiBranchConv3d(3, 4, 3, padding=1)).eval()
    cfg = dict(type='DeployedConv3d')
    conv = build_conv_layer(cfg, 3, 4, 3, padding=1, bias=False)
    assert isinstance(conv, DeployedConv3d) and conv.has_norm
    conv.load_state_dict(layer.switch_to_deploy().state_dict())
    x = torch.randn(1, 3, 4, 5, 5)
    torch.testing.assert_close(conv(x), layer(x), atol=1e-5, rtol=1e-5)


# -- starting from a trained net ----------------------------------------------------------------------------------

STARTS = [
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1)),
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1), eta=INF),
    dict(kernel_size=(3, 3, 3), padding=1, eta=1, branches=(3,)),
    dict(kernel_size=(3, 1, 1), padding=(1, 0, 0), eta=4, groups=2),
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1), eta=INF, branches=(3, 5, 1)),
    dict(kernel_size=(1, 3, 3), padding=(0, 1, 1), eta=INF),
    dict(kernel_size=(5, 3, 3), padding=(2, 1, 1), branches=(1, 5), bias=True, norm_cfg=dict(type='BN3d', eps=1e-3)),
]


def trained(arguments, frames, bias=False):
    """A layer, and a trained convolution of that many frames with its norm."""
    layer = MultiBranchConv3d(4, 6, **arguments)
    size = (frames, *layer.kernel_size[1:])
    conv = nn.Conv3d(4, 6, size, padding=tuple(n // 2 for n in size), groups=layer.groups, bias=bias)
    return layer, conv, randomise(nn.BatchNorm3d(6))


@pytest.mark.parametrize('divide', [True, False])
@pytest.mark.parametrize('arguments', STARTS, ids=str)
def test_inflation_from_2d(arguments, divide):
    layer, conv, bn = trained(arguments, arguments['kernel_size'][0], bias=True)
    weight2d = 0.2 * torch.randn(6, 4 // layer.groups, *layer.kernel_size[1:])
    frames = layer.kernel_size[0]
    conv.weight.data.copy_(weight2d[:, :, None].expand_as(conv.weight) / (frames if divide else 1))
    layer.inflate_from_2d(weight2d, bn, divide=divide, bias=conv.bias)
    x = torch.randn(2, 4, 7, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), bn.eval()(conv(x)), atol=1e-5, rtol=1e-5)
        if (not math.isinf(layer.eta) or frames == 1) and layer.norms[0].eps == bn.eps:  # the norm sees what it saw
            torch.testing.assert_close(layer.train()(x), bn.train()(conv(x)), atol=1e-4, rtol=1e-4)
            for norm in layer.norms:
                assert norm.num_batches_tracked == bn.num_batches_tracked
        if divide:  # a still clip gives the image's response, but for the border
            still = x[:, :, :1].expand(-1, -1, 7, -1, -1)
            layer, conv, bn = trained(arguments, arguments['kernel_size'][0], bias=True)
            layer.inflate_from_2d(weight2d, bn, bias=conv.bias)
            image = F.conv2d(x[:, :, 0], weight2d, conv.bias, padding=conv.padding[1:], groups=layer.groups)
            torch.testing.assert_close(layer.eval()(still)[:, :, 3], bn.eval()(image[:, :, None])[:, :, 0], atol=1e-5,
                                       rtol=1e-5)


@pytest.mark.parametrize('arguments', STARTS, ids=str)
def test_start_from_a_trained_3d_convolution(arguments):
    for frames in range(1, arguments['kernel_size'][0] + 1, 2):
        layer, conv, bn = trained(arguments, frames)
        layer.inflate_from_3d(conv.weight, bn)
        x = torch.randn(2, 4, 7, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(layer.eval()(x), bn.eval()(conv(x)), atol=1e-5, rtol=1e-5)
            if (not math.isinf(layer.eta) or frames == 1) and layer.norms[0].eps == bn.eps:
                torch.testing.assert_close(layer.train()(x), bn.train()(conv(x)), atol=1e-4, rtol=1e-4)


def test_every_branch_learns_after_inflation():
    layer, conv, bn = trained(dict(kernel_size=(5, 3, 3), padding=(2, 1, 1)), 3)
    layer.inflate_from_3d(conv.weight, bn)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    start = [branch.weight.detach().clone() for branch in layer.branches]
    for _ in range(2):  # the first step moves the gains of the branches that start at 0, the second their filters
        optimizer.zero_grad()
        layer(torch.randn(2, 4, 7, 6, 6)).square().mean().backward()
        optimizer.step()
    assert all((norm.weight != 0).all() for norm in layer.norms)
    assert all((branch.weight != before).any() for branch, before in zip(layer.branches, start))


def test_infinite_eta_without_a_one_frame_branch_cannot_start_from_a_trained_net():
    layer = MultiBranchConv3d(2, 3, 3, branches=(3,), eta=INF, padding=1)
    with pytest.raises(ValueError, match='adds up to zero over time'):
        layer.inflate_from_2d(torch.randn(3, 2, 3, 3))
    weight = torch.randn(3, 2, 3, 3, 3)
    weight -= weight.mean(2, keepdim=True)  # a filter that adds up to zero is one it can hold
    layer.inflate_from_3d(weight)
    torch.testing.assert_close(layer.branch_kernel(0), weight, atol=1e-6, rtol=1e-5)


def test_inflation_without_norms():
    layer = MultiBranchConv3d(2, 3, 3, norm_cfg=None, bias=True, padding=1)
    assert not layer.has_norm
    conv = nn.Conv3d(2, 3, 3, padding=1)
    layer.inflate_from_3d(conv.weight, bias=conv.bias)
    x = torch.randn(1, 2, 5, 5, 5)
    torch.testing.assert_close(layer(x), conv(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match='norm_cfg=None'):
        layer.inflate_from_3d(conv.weight, nn.BatchNorm3d(3))


def test_inflation_mistakes():
    layer = MultiBranchConv3d(2, 3, 3)
    with pytest.raises(ValueError, match=r'\(3, 2, 5, 5\)'):
        layer.inflate_from_2d(torch.randn(3, 2, 5, 5))
    for frames in (2, 5):
        with pytest.raises(ValueError, match='odd number of frames below 3'):
            layer.inflate_from_3d(torch.randn(3, 2, frames, 3, 3))
    with pytest.raises(ValueError, match='running_var'):
        layer.inflate_from_2d(torch.randn(3, 2, 3, 3), dict(weight=torch.ones(3), bias=torch.ones(3),
                                                            running_mean=torch.ones(3)))
    with pytest.raises(ValueError, match='3 channels'):
        layer.inflate_from_2d(torch.randn(3, 2, 3, 3), nn.BatchNorm3d(4))
    with pytest.warns(UserWarning, match='never take part'):
        MultiBranchConv3d(2, 3, 3, norm_cfg=dict(type='BN3d', requires_grad=False)).inflate_from_2d(
            torch.randn(3, 2, 3, 3))


@pytest.mark.parametrize('eta', [2., INF])
@pytest.mark.parametrize('load', ['torch', 'mmengine'])
def test_checkpoint_of_single_filters(load, eta):
    """A checkpoint of the plain net has conv.weight and bn.* where this one has branches."""
    plain = randomise(Net(multi=False)).eval()
    model = Net(eta=eta)
    state = plain.state_dict()
    with pytest.raises(ValueError, match='accept_single_filters'):
        model.load_state_dict(state, strict=False)
    accept_single_filters(model)
    before = OrderedDict(state)
    if load == 'torch':
        model.load_state_dict(state)
    else:
        load_state_dict(model, state, strict=True)
    assert list(state) == list(before)
    x = torch.randn(2, 3, 8, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), plain(x), atol=1e-5, rtol=1e-5)
    recognizer = nn.Sequential(OrderedDict(backbone=accept_single_filters(Net(eta=eta))))
    recognizer.load_state_dict({f'backbone.{key}': value for key, value in state.items()})
    with torch.no_grad():
        torch.testing.assert_close(recognizer.eval()(x), plain(x), atol=1e-5, rtol=1e-5)
    again = accept_single_filters(Net(eta=eta))
    again.load_state_dict(model.state_dict())  # its own checkpoints load as before
    torch.testing.assert_close(again.eval()(x), model(x))


def test_checkpoint_of_mmaction2s_resnet3d_and_of_2d_nets():
    """Names as in ResNet3d (conv1.conv, conv1.bn) and torchvision (conv1, bn1; layer1.0.conv2, layer1.0.bn2)."""
    backbone = randomise(ResNet3d(18, pretrained=None, conv1_kernel=(3, 7, 7), base_channels=4))
    backbone.eval()
    stem = nn.Module()
    stem.conv1 = nn.Module()
    stem.conv1.conv = MultiBranchConv3d(3, 4, (5, 7, 7), (1, 2, 2), (2, 3, 3))
    accept_single_filters(stem)
    state = {key: value for key, value in backbone.state_dict().items() if key.startswith('conv1.')}
    stem.load_state_dict(state)
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        expected = backbone.conv1.norm(backbone.conv1.conv(x))
        torch.testing.assert_close(stem.eval().conv1.conv(x), expected, atol=1e-5, rtol=1e-5)

    class Block(nn.Module):

        def __init__(self):
            super().__init__()
            self.conv2 = MultiBranchConv3d(3, 4, 3, padding=1)

    conv2d, bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), randomise(nn.BatchNorm2d(4))
    block = accept_single_filters(Block())
    block.load_state_dict({'conv2.weight': conv2d.weight, **{f'bn2.{k}': v for k, v in bn.state_dict().items()}})
    still = torch.randn(1, 3, 1, 6, 6).expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(block.conv2.eval()(still)[:, :, 2], bn.eval()(conv2d(still[:, :, 0])), atol=1e-5,
                                   rtol=1e-5)


def test_loading_mistakes():
    layer = MultiBranchConv3d(2, 3, 3)
    fused = copy.deepcopy(layer).eval().switch_to_deploy()
    with pytest.raises(ValueError, match='DeployedConv3d'):
        layer.load_state_dict(fused.state_dict())
    with pytest.raises(ValueError, match='eta=2'):
        layer.load_state_dict(MultiBranchConv3d(2, 3, 3, eta=INF).state_dict(), strict=False)


# -- in training --------------------------------------------------------------------------------------------------


def test_each_kernel_is_built_once_per_step(monkeypatch):
    calls = []
    forward, build = TemporalBranch.forward, BasisRule.build
    monkeypatch.setattr(TemporalBranch, 'forward', lambda self: calls.append(self) or forward(self))
    monkeypatch.setattr(BasisRule, 'build', lambda self, *args: calls.append(self) or build(self, *args))
    model = Net()
    model(torch.randn(2, 3, 6, 8, 8)).sum().backward()
    branches = [module for module in model.modules() if isinstance(module, TemporalBranch)]
    assert len(calls) == len(branches) == 1 + 2 + 3
    assert all(branch.weight.grad.abs().sum() > 0 for branch in branches)


def test_tsm_constructor_refuses_instead_of_skipping():
    model = Net()
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1))
    from mmaction.engine.optimizers import TSMOptimWrapperConstructor
    with pytest.raises(ValueError, match='New atomic module type.*TemporalBranch'):
        TSMOptimWrapperConstructor(wrapper, dict(fc_lr5=True))(model)
    optimizer = DefaultOptimWrapperConstructor(wrapper, dict(norm_decay_mult=0.))(model).optimizer
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert len(decay) == len(list(model.parameters()))
    for module in model.modules():
        if isinstance(module, TemporalBranch):
            assert decay[id(module.weight)] == 0.1
        elif isinstance(module, _BatchNorm):
            assert decay[id(module.weight)] == decay[id(module.bias)] == 0.


def test_gradcheck():
    layer = randomise(MultiBranchConv3d(2, 2, (3, 2, 1), padding=(1, 0, 0))).double()
    x = torch.randn(2, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    for branch in layer.branches:
        free = branch.weight.detach().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda w, b=branch: torch.func.functional_call(b, dict(weight=w), ()), (free,))


def test_sync_batch_norm_conversion_and_back():
    model = randomise(Net()).eval()
    x = torch.randn(2, 3, 8, 12, 12)
    with torch.no_grad():
        expected = model(x)
        synced = convert_sync_batchnorm(copy.deepcopy(model)).eval()
        assert sum(isinstance(module, nn.SyncBatchNorm) for module in synced.modules()) == 1 + 2 + 1 + 3
        torch.testing.assert_close(synced(x), expected)
        torch.testing.assert_close(switch_to_deploy(synced)(x), expected, atol=1e-5, rtol=1e-5)
        reverted = revert_sync_batchnorm(synced).eval()
        torch.testing.assert_close(switch_to_deploy(reverted)(x), expected, atol=1e-5, rtol=1e-5)


def test_norm_eval_keeps_the_statistics():
    model = randomise(Net()).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 12, 12)
    training = model(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(switch_to_deploy(model.eval())(x), training, atol=1e-5, rtol=1e-5)


def test_autocast_computes_the_kernel_in_float32():
    layer = MultiBranchConv3d(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 6, 8, 8)
    expected = layer(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert layer.branch_kernel(1).dtype == torch.float32
        assert torch.equal(layer.branch_kernel(1), layer.branches[1]())
        out = layer(x)
    assert (out.float() - expected).abs().max() < 0.1
    out.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_dtype_moves_keep_the_basis_exact():
    layer = MultiBranchConv3d(2, 3, (5, 1, 1)).half().double()
    torch.testing.assert_close(basis_for(5, 2., layer.branches[2].weight), synthesis_matrix(5, 2.), atol=0, rtol=0)
    assert MultiBranchConv3d(2, 3, 3).half().branch_kernel(1).dtype == torch.float16
    assert not any('basis' in key for key in layer.state_dict())


DDP = """
import os, sys
import torch, torch.distributed as dist, torch.multiprocessing as mp
from tconv_mmaction.layers import MultiBranchConv3d

def work(rank, folder):
    dist.init_process_group('gloo', init_method='file://' + os.path.join(folder, 'store'), rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = MultiBranchConv3d(2, 3, 3, padding=1).double()
    model = torch.nn.parallel.DistributedDataParallel(layer, find_unused_parameters=False)
    torch.manual_seed(rank)
    for _ in range(2):  # the second step fails if the first left a parameter without a gradient
        model(torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)).square().mean().backward()
    torch.save([parameter.grad for parameter in layer.parameters()], os.path.join(folder, f'{rank}.pt'))
    dist.barrier()
    os._exit(0)  # gloo and DistributedDataParallel may hang while they are taken down, which is not tested here

if __name__ == '__main__':
    mp.start_processes(work, (sys.argv[1],), 2, start_method='fork')  # the package is imported once
"""


def test_ddp_has_no_unused_parameters(tmp_path):
    run = subprocess.run([sys.executable, '-c', DDP, str(tmp_path)], capture_output=True, text=True, timeout=300,
                         env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert run.returncode == 0, run.stderr
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert len(first) == 2 * 3 and all(grad.abs().sum() > 0 for grad in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_resume_continues_to_the_digit():
    torch.manual_seed(0)
    clips = [torch.randn(2, 3, 6, 8, 8) for _ in range(4)]

    def steps(model, optimizer, clips):
        for clip in clips:
            optimizer.zero_grad()
            model(clip).square().mean().backward()
            optimizer.step()

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps(model, optimizer, clips[:2])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    steps(model, optimizer, clips[2:])
    resumed = Net()
    resumed.load_state_dict(saved[0])
    other = torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    other.load_state_dict(saved[1])
    steps(resumed, other, clips[2:])
    for (name, value), again in zip(model.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(value, again), name


@pytest.mark.parametrize('arguments, match', [
    (dict(kernel_size=2), 'must be odd'),
    (dict(kernel_size=(4, 3, 3)), 'must be odd'),
    (dict(kernel_size=3, branches=(1, 5)), 'from 1 to the temporal kernel size 3'),
    (dict(kernel_size=5, branches=(1, 2, 5)), 'odd temporal lengths'),
    (dict(kernel_size=3, branches=()), 'odd temporal lengths'),
    (dict(kernel_size=3, branches=(0, 3)), 'odd temporal lengths'),
    (dict(kernel_size=3, eta=0.5), 'eta must be a number >= 1'),
    (dict(kernel_size=3, eta=float('nan')), 'eta must be a number >= 1'),
    (dict(kernel_size=3, eta='2'), 'eta must be a number >= 1'),
    (dict(kernel_size=3, norm_cfg=dict(type='GN', num_groups=1)), 'can be fused'),
    (dict(kernel_size=3, norm_cfg=dict(type='BN2d')), 'can be fused'),
    (dict(kernel_size=3, groups=4), 'divisible by groups'),
    (dict(kernel_size=3, padding_mode='mirror'), 'padding_mode'),
], ids=str)
def test_mistakes(arguments, match):
    with pytest.raises(ValueError, match=match):
        MultiBranchConv3d(3, 6, **arguments)


def test_wrong_input_and_empty_batch():
    layer = MultiBranchConv3d(3, 6, (5, 3, 3)).eval()
    for shape, match in (((1, 2, 6, 5, 5), 'in_channels=3'), ((1, 3, 4, 5, 5), 'at least 5 needed'),
                         ((3, 6, 5, 5), r'need \(N, C, T, H, W\)')):
        with pytest.raises(ValueError, match=match):
            layer(torch.randn(shape))
    assert layer(torch.randn(0, 3, 6, 5, 5)).shape == (0, 6, 2, 3, 3)
    x = torch.randn(2, 6, 5, 5, 3).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


def test_repr_and_parameter_count():
    layer = MultiBranchConv3d(3, 6, (5, 3, 3), eta=INF)
    assert 'branches=(1, 3, 5), eta=inf' in repr(layer)
    assert sum(p.numel() for p in MultiBranchConv3d(3, 6, (5, 3, 3)).parameters()) == 6 * 3 * 9 * (1 + 3 + 5) + 3 * 12
    assert sum(p.numel() for p in layer.parameters()) == 6 * 3 * 9 * (1 + 2 + 4) + 3 * 12
    assert MultiBranchConv3d(3, 6, 3, eta='inf').eta == INF
    assert isinstance(build_conv_layer(dict(type='MultiBranchConv3d', eta=4), 3, 6, 3, bias=False), MultiBranchConv3d)
    assert isinstance(SeparableConv3d(3, 6, 3, temporal_cfg=dict(type='MultiBranchConv3d')).temporal, MultiBranchConv3d)
