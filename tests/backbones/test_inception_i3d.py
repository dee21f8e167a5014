"""InceptionI3d against SAME padding as loops, and a second I3D in functional calls from the public file names."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tconv_mmaction.backbones import InceptionI3d, inception_i3d
from tconv_mmaction.backbones.inception_i3d import SameConv3d, SameMaxPool3d, same_padding
from tconv_mmaction.backbones.key_maps import recognizer_state_dict
from tconv_mmaction.utils.complexity import count_parameters

BLOCKS = {  # inputs; b0, b1a, b1b, b2a, b2b, b3b
    'Mixed_3b': (192, 64, 96, 128, 16, 32, 32), 'Mixed_3c': (256, 128, 128, 192, 32, 96, 64),
    'Mixed_4b': (480, 192, 96, 208, 16, 48, 64), 'Mixed_4c': (512, 160, 112, 224, 24, 64, 64),
    'Mixed_4d': (512, 128, 128, 256, 24, 64, 64), 'Mixed_4e': (512, 112, 144, 288, 32, 64, 64),
    'Mixed_4f': (528, 256, 160, 320, 32, 128, 128), 'Mixed_5b': (832, 256, 160, 320, 32, 128, 128),
    'Mixed_5c': (832, 384, 192, 384, 48, 128, 128),
}


def config(num_classes=6, **backbone):
    return dict(type='Recognizer3D', backbone=dict(type='InceptionI3d', **backbone),
                cls_head=dict(type='I3DHead', num_classes=num_classes, in_channels=1024, dropout_ratio=.5))


# -- SAME padding ------------------------------------------------------------------------------------------------------

def pad_same(x, kernel, stride, value):
    """Rule by rule: ceil(n / s) windows, the row that is left over at the end."""
    pads = []
    for n, k, s in zip(x.shape[-3:], kernel, stride):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        pads = [total // 2, total - total // 2] + pads
    return F.pad(x, pads, value=value)


def windows(x, kernel, stride):
    """Every window of ``x`` (C, T, H, W), as {(t, h, w): (C, kt, kh, kw)}."""
    out = {}
    for t in range((x.shape[1] - kernel[0]) // stride[0] + 1):
        for h in range((x.shape[2] - kernel[1]) // stride[1] + 1):
            for w in range((x.shape[3] - kernel[2]) // stride[2] + 1):
                a, b, c = (i * s for i, s in zip((t, h, w), stride))
                out[t, h, w] = x[:, a:a + kernel[0], b:b + kernel[1], c:c + kernel[2]]
    return out


# all of the net, and combinations it does not have
SHAPES = [((7, 7, 7), (2, 2, 2)), ((7, 7, 7), (1, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)),
          ((3, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (2, 2, 2)), ((2, 2, 2), (1, 2, 2)),
          ((1, 1, 1), (2, 2, 2)), ((4, 2, 5), (3, 1, 4)), ((2, 3, 3), (3, 5, 4))]


@pytest.mark.parametrize('size', [(1, 1, 1), (2, 3, 4), (5, 6, 7), (8, 9, 3)])
@pytest.mark.parametrize('kernel, stride', SHAPES)
def test_same_padding_against_loops(kernel, stride, size):
    conv = SameConv3d(2, 3, kernel, stride).double()
    pool = SameMaxPool3d(kernel, stride)
    x = torch.randn(1, 2, *size, dtype=torch.float64) - 3  # below zero: a zero of the padding must not win
    with torch.no_grad():
        got, pooled = conv(x)[0], pool(x)[0]
        expected = tuple(math.ceil(n / s) for n, s in zip(size, stride))
        assert got.shape[1:] == pooled.shape[1:] == expected
        zeros = windows(pad_same(x, kernel, stride, 0.)[0], kernel, stride)
        lowest = windows(pad_same(x, kernel, stride, -math.inf)[0], kernel, stride)
    for (t, h, w), patch in zeros.items():
        want = torch.stack([(patch * conv.weight[o]).sum() + conv.bias[o] for o in range(3)])
        torch.testing.assert_close(got[:, t, h, w], want, rtol=1e-10, atol=1e-10)
    for (t, h, w), patch in lowest.items():
        assert torch.equal(pooled[:, t, h, w], patch.amax((1, 2, 3)))
    assert len(zeros) >= math.prod(expected) and len(lowest) >= math.prod(expected)
    # after a ReLU the authors' padding with zeros gives the same
    x = x.relu()
    assert torch.equal(F.max_pool3d(pad_same(x, kernel, stride, 0.), kernel, stride)[
        (..., *(slice(n) for n in expected))], pool(x))


def test_the_extra_row_is_at_the_end():
    assert [same_padding(n, 7, 2) for n in (16, 15, 224)] == [(2, 3), (3, 3), (2, 3)]
    assert [same_padding(n, 3, 2) for n in (112, 7)] == [(0, 1), (1, 1)]
    assert [same_padding(n, 2, 2) for n in (4, 5)] == [(0, 0), (0, 1)]
    x = torch.arange(1., 5).view(1, 1, 1, 1, 4)
    conv = SameConv3d(1, 1, (1, 1, 3), (1, 1, 2), bias=False)
    nn.init.constant_(conv.weight, 1)
    assert conv(x).flatten().tolist() == [1 + 2 + 3, 3 + 4 + 0]
    assert SameMaxPool3d((1, 1, 3), (1, 1, 2))(-x).flatten().tolist() == [-1, -3]


# -- numbers of the papers ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('num_classes, count', [(174, 12_465_614), (6, 12_293_414)])
def test_counts(num_classes, count):
    with torch.device('meta'):
        model = MODELS.build(config(num_classes))
    assert count_parameters(model) == count
    assert count_parameters(model.backbone) == 12_287_264
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, .01)} and len(norms) == 57
    assert not any(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv3d))


@pytest.mark.parametrize('strides, frames', [((2, 2, 2), (8, 8, 4, 2)), ((1, 1, 2), (16, 16, 16, 8))])
def test_sizes(strides, frames):
    with torch.device('meta'):
        net = InceptionI3d(temporal_strides=strides,
                           out_layers=('Conv3d_1a_7x7', 'MaxPool3d_3a_3x3', 'Mixed_4f', 'Mixed_5c'))
        sizes = [tuple(y.shape[1:]) for y in net(torch.empty(1, 3, 16, 224, 224))]
        kth = InceptionI3d(temporal_strides=strides)(torch.empty(1, 3, 32, 120, 160))
    assert sizes == [(64, frames[0], 112, 112), (192, frames[1], 28, 28), (832, frames[2], 14, 14),
                     (1024, frames[3], 7, 7)]
    assert kth.shape == (1, 1024, 2 * frames[3], 4, 5)


def test_any_clip():
    net = InceptionI3d().eval()
    with torch.no_grad():
        for size in ((1, 1, 1), (3, 17, 50), (9, 33, 32)):
            y = net(torch.randn(1, 3, *size))
            assert y.shape[2:] == tuple(math.ceil(n / s) for n, s in zip(size, (8, 32, 32))) and y.isfinite().all()
    for shape in ((1, 2, 8, 9, 9), (3, 8, 9, 9), (1, 3, 0, 9, 9)):
        with pytest.raises(ValueError, match=r'takes clips \(N, 3, T, H, W\), the smallest with'):
            net(torch.rand(*shape))


# -- the public file ---------------------------------------------------------------------------------------------------

def public_i3d(num_classes=5):
    """A state dict with the names of the public PyTorch files; statistics vary."""
    state = {}

    def unit(name, inputs, outputs, k):
        state[f'{name}.conv3d.weight'] = torch.randn(outputs, inputs, k, k, k) * (2 / (inputs * k**3))**.5
        state[f'{name}.bn.weight'], state[f'{name}.bn.bias'] = .5 + torch.rand(outputs), torch.randn(outputs) * .3
        state[f'{name}.bn.running_mean'] = torch.randn(outputs) * .3
        state[f'{name}.bn.running_var'] = .5 + torch.rand(outputs)

    unit('Conv3d_1a_7x7', 3, 64, 7)
    unit('Conv3d_2b_1x1', 64, 64, 1)
    unit('Conv3d_2c_3x3', 64, 192, 3)
    for name, (n, a, b, c, d, e, f) in BLOCKS.items():
        for branch, shape in dict(b0=(n, a, 1), b1a=(n, b, 1), b1b=(b, c, 3), b2a=(n, d, 1), b2b=(d, e, 3),
                                  b3b=(n, f, 1)).items():
            unit(f'{name}.{branch}', *shape)
    state['logits.conv3d.weight'] = torch.randn(num_classes, 1024, 1, 1, 1) / 32
    state['logits.conv3d.bias'] = torch.randn(num_classes)
    return state


def reference(state, x, strides=(2, 2, 2)):
    """(N, 3, T, H, W) -> features, and the papers' scores: average over space, 1x1x1 convolution, mean over time."""

    def unit(x, name, stride=(1, 1, 1)):
        weight = state[f'{name}.conv3d.weight']
        x = F.conv3d(pad_same(x, weight.shape[2:], stride, 0.), weight, stride=stride)
        return F.relu(F.batch_norm(x, *(state[f'{name}.bn.{key}'] for key in (
            'running_mean', 'running_var', 'weight', 'bias')), eps=1e-3))

    def pool(x, kernel, stride):
        return F.max_pool3d(pad_same(x, kernel, stride, 0.), kernel, stride)

    x = pool(unit(x, 'Conv3d_1a_7x7', (strides[0], 2, 2)), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, 'Conv3d_2b_1x1'), 'Conv3d_2c_3x3'), (1, 3, 3), (1, 2, 2))
    for name in BLOCKS:
        if name == 'Mixed_4b':
            x = pool(x, (3, 3, 3), (strides[1], 2, 2))
        if name == 'Mixed_5b':
            x = pool(x, (2, 2, 2), (strides[2], 2, 2))
        x = torch.cat([unit(x, f'{name}.b0'), unit(unit(x, f'{name}.b1a'), f'{name}.b1b'),
                       unit(unit(x, f'{name}.b2a'), f'{name}.b2b'),
                       unit(pool(x, (3, 3, 3), (1, 1, 1)), f'{name}.b3b')], 1)
    scores = F.conv3d(x.mean((3, 4), keepdim=True), state['logits.conv3d.weight'], state['logits.conv3d.bias'])
    return x, scores.mean((2, 3, 4))


@pytest.mark.parametrize('strides', [(2, 2, 2), (1, 1, 2), (1, 1, 1)])
def test_the_public_file_loads_and_gives_the_same(strides, tmp_path):
    state = public_i3d()
    torch.save(state, tmp_path / 'rgb_imagenet.pt')
    clips = torch.randn(2, 3, 11, 50, 65)
    want, scores = reference(state, clips, strides)
    net = InceptionI3d(temporal_strides=strides, pretrained=str(tmp_path / 'rgb_imagenet.pt'))
    net.init_weights()
    with torch.no_grad():
        got = net.eval()(clips)
    assert want.abs().max() > .1
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)

    torch.save(recognizer_state_dict(state), tmp_path / 'recognizer.pth')
    model = MODELS.build(config(5, temporal_strides=strides))
    load_checkpoint(model, str(tmp_path / 'recognizer.pth'), strict=True)
    samples = [ActionDataSample().set_gt_label(1) for _ in range(2)]
    model.cls_head.average_clips = 'score'
    with torch.no_grad():
        predictions = model.eval()(clips[:, None], samples, mode='predict')
    torch.testing.assert_close(torch.stack([p.pred_score for p in predictions]), scores, rtol=1e-4, atol=1e-4)


def test_files_that_do_not_fit(tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save({'conv1.weight': torch.rand(4, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match='Not one convolution of the 2D weights has a counterpart'):
        InceptionI3d(pretrained=path).init_weights()
    torch.save({'stem.0.weight': torch.rand(4, 3, 1, 7, 7)}, path)
    with pytest.raises(ValueError, match='Not one name in .* is in the model'):
        InceptionI3d(pretrained=path).init_weights()
    torch.save(public_i3d(), path)
    with pytest.raises(ValueError, match=r'Conv3d_1a_7x7.conv3d.weight: the checkpoint has \(64, 3, 7, 7, 7\), '
                                         r'InceptionI3d needs \(64, 2, 7, 7, 7\)'):
        InceptionI3d(in_channels=2, pretrained=path).init_weights()
    with pytest.raises(ValueError, match="Neither layer4.1.conv2.0.3.weight .* has .'conv1.weight'"):
        recognizer_state_dict({'conv1.weight': torch.rand(1)})
    with pytest.raises(ValueError, match='temporal_strides must be three numbers, each 1 or 2'):
        InceptionI3d(temporal_strides=(1, 3, 2))
    with pytest.raises(ValueError, match='temporal_strides must be three numbers'):
        InceptionI3d(temporal_strides=(1, 2))


def test_onnx(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    net = InceptionI3d().eval()
    net.load_state_dict({name: value for name, value in public_i3d().items() if name[0] != 'l'}, strict=False)
    clips = torch.randn(1, 3, 7, 50, 47)
    torch.onnx.export(net, (clips, ), str(tmp_path / 'net.onnx'), dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(str(tmp_path / 'net.onnx'), providers=['CPUExecutionProvider'])
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: clips.numpy()})[0])
    with torch.no_grad():
        want = net(clips)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


# -- training ----------------------------------------------------------------------------------------------------------

def test_a_training_step_gives_every_parameter_a_gradient():
    model = MODELS.build(config())
    model.init_weights()
    samples = [ActionDataSample().set_gt_label(label) for label in (1, 5)]
    losses = model.train()(torch.randn(2, 1, 3, 8, 40, 40), samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_initialisation():
    net = InceptionI3d()
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 20000:  # He, by the outputs
            std = (2 / (module.out_channels * math.prod(module.kernel_size)))**.5
            assert abs(module.weight.std() / std - 1) < .05
        if isinstance(module, _BatchNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_frozen_stages_norm_eval_and_checkpointing():
    narrow = {name: (4, (4, 4), (4, 4), 4) for name in BLOCKS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_i3d, 'MIXED', narrow)
        x = torch.randn(2, 3, 6, 40, 40)
        net = InceptionI3d(frozen_stages=1).train()
        before = copy.deepcopy(net.state_dict())
        net(x).square().mean().backward()
        frozen = ('Conv3d', 'Mixed_3')
        for name, p in net.named_parameters():
            assert (p.grad is None) == name.startswith(frozen), name
        for name, value in net.state_dict().items():
            if 'running' in name:
                assert torch.equal(value, before[name]) == name.startswith(frozen), name

        net = InceptionI3d(norm_eval=True).train()
        before = copy.deepcopy(net.state_dict())
        trained = net(x)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        torch.testing.assert_close(net.eval()(x), trained)

        plain, saving = InceptionI3d(out_layers=('Mixed_3c', 'Mixed_5c')), InceptionI3d(
            out_layers=('Mixed_3c', 'Mixed_5c'), with_cp=True)
        saving.load_state_dict(plain.state_dict())
        for n in (plain, saving):
            sum(y.square().mean() for y in n.train()(x)).backward()
        for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
            torch.testing.assert_close(q.grad, p.grad, msg=name)
        for (name, a), b in zip(plain.named_buffers(), saving.buffers()):
            torch.testing.assert_close(b, a, msg=name)
