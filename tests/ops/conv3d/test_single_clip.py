"""One small clip is convolved as a batch of two, with the numbers of one."""
import copy

import pytest
import torch
import torch.nn.functional as F

from tconv_mmaction.layers import Conv3T, MultiBranchConv3d, SeparableConv3d
from tconv_mmaction.ops.conv3d import single_clip

SHAPE = (1, 16, 4, 20, 20)  # 16 * 4 * 20 = 1280 of PyTorch's 20480


def test_which_clips_are_left_out():
    kernel = (16, 16, 3, 3, 3)
    x = torch.empty(SHAPE)
    assert single_clip.is_left_out(x, kernel, 1)
    assert not single_clip.is_left_out(x.expand(2, -1, -1, -1, -1), kernel, 1)
    assert not single_clip.is_left_out(x, (16, 8, 3, 3, 3), 2)
    assert not single_clip.is_left_out(x, (16, 16, 3, 5, 5), 1) and single_clip.is_left_out(x, (16, 16, 3, 3, 5), 1)
    assert not single_clip.is_left_out(torch.empty(1, 16, 64, 21, 20), kernel, 1)  # 21504
    assert not single_clip.is_left_out(x[..., :2, :2], kernel, 1)  # too little work
    for other in (x.double(), x[:0], x[0], x.to('meta')):
        assert not single_clip.is_left_out(other, kernel, 1)
    with torch.autocast('cpu'):
        assert not single_clip.is_left_out(x, kernel, 1)


def test_a_few_positions_are_not_worth_it(monkeypatch):
    pairs = []
    monkeypatch.setattr(single_clip, '_pair', lambda tensor: pairs.append(1) or torch.cat([tensor, tensor]))
    weight = torch.randn(64, 64, 3, 3, 3)
    for side, stride, wanted in ((8, 1, 1), (8, 2, 0), (12, (1, 2, 2), 1)):  # 64, 16 and 36 positions
        x = torch.randn(1, 64, 1, side, side)
        assert single_clip.is_left_out(x, weight.shape, 1)
        pairs.clear()
        single_clip.conv3d(x, weight, None, stride, 1, 1, 1)
        assert len(pairs) == wanted


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('stride, padding, dilation', [(1, 1, 1), ((1, 2, 2), (1, 0, 1), 1), (2, (2, 2, 1), (1, 2, 1))])
def test_numbers(bias, stride, padding, dilation):
    """In float32 against float64, forward and backward, by autograd and by the function that is written out."""
    torch.manual_seed(0)
    exact = [torch.randn(SHAPE, dtype=torch.float64), torch.randn(24, 16, 3, 3, 3, dtype=torch.float64) / 20,
             *([torch.randn(24, dtype=torch.float64)] if bias else [])]
    results = []
    for dtype, conv in ((torch.float64, F.conv3d), (torch.float32, single_clip.conv3d)):
        leaves = [t.to(dtype).requires_grad_() for t in exact]
        assert single_clip.is_left_out(leaves[0], leaves[1].shape, 1) == (dtype == torch.float32)
        y = conv(*leaves[:2], leaves[2] if bias else None, stride, padding, dilation, 1)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append([y, *torch.autograd.grad(y, leaves, grad)])
    for got, want in zip(results[1], results[0]):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    triples = [(v, ) * 3 if isinstance(v, int) else v for v in (stride, padding, dilation)]
    for wants in ((True, True), (True, False), (False, True)):
        grads = single_clip.conv3d_backward(grad, exact[0].float(), exact[1].float(), *triples, 1, *wants)
        for got, want, wanted in zip(grads, results[0][1:], wants):
            assert (got is None) == (not wanted)
            if wanted:
                assert got.shape == want.shape
                torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['Conv3T', 'MultiBranchConv3d', 'SeparableConv3d'])
def test_layers_on_one_clip_are_on_two(name):
    """Training, a frozen layer with a gradient of the clip, and eval: what the first of two equal clips gets."""
    torch.manual_seed(0)
    kinds = dict(Conv3T=Conv3T, MultiBranchConv3d=MultiBranchConv3d, SeparableConv3d=SeparableConv3d)
    options = {} if name == 'Conv3T' else dict(norm_cfg=None)
    layer = kinds[name](16, 16, 3, padding=1, **options)
    x = torch.randn(SHAPE)
    pair = torch.cat([x, x])
    for frozen, training in ((False, True), (True, True), (True, False)):
        net = copy.deepcopy(layer).train(training).requires_grad_(not frozen)
        clip = x.clone().requires_grad_()
        both = pair.clone().requires_grad_()
        ys = net(clip), net(both)
        torch.testing.assert_close(ys[0], ys[1][:1], rtol=1e-4, atol=1e-4)
        grads = [torch.autograd.grad(y.square().sum(), leaf)[0] for y, leaf in zip(ys, (clip, both))]
        torch.testing.assert_close(grads[0], grads[1][:1], rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(pair)[:1], rtol=1e-4, atol=1e-4)
