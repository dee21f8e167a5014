"""R2Plus1d18 against a second one in functional calls, built from torchvision's public names."""
import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.scripts import load_script
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from tconv_mmaction.backbones import R2Plus1d18
from tconv_mmaction.backbones.key_maps import recognizer_state_dict
from tconv_mmaction.utils.complexity import count_parameters

# in, mid, out of every block
BLOCKS = {'layer1.0': (64, 144, 64), 'layer1.1': (64, 144, 64), 'layer2.0': (64, 230, 128), 'layer2.1': (128, 288, 128),
          'layer3.0': (128, 460, 256), 'layer3.1': (256, 576, 256), 'layer4.0': (256, 921, 512),
          'layer4.1': (512, 1152, 512)}


def config(num_classes=27, **backbone):
    return dict(type='Recognizer3D', backbone=dict(type='R2Plus1d18', **backbone),
                cls_head=dict(type='I3DHead', num_classes=num_classes,
                              in_channels=8 * backbone.get('base_channels', 64), dropout_ratio=0.,
                              average_clips='score'))


def public_r2plus1d(num_classes=5):
    """A state dict with torchvision's names; statistics vary."""
    state = {}

    def conv(name, norm, inputs, outputs, *kernel):
        state[f'{name}.weight'] = torch.randn(outputs, inputs, *kernel) * (
            1 / (inputs * kernel[0] * kernel[1] * kernel[2]))**.5
        state[f'{norm}.weight'], state[f'{norm}.bias'] = .5 + torch.rand(outputs), torch.randn(outputs) * .3
        state[f'{norm}.running_mean'] = torch.randn(outputs) * .3
        state[f'{norm}.running_var'] = .5 + torch.rand(outputs)
        state[f'{norm}.num_batches_tracked'] = torch.tensor(9)

    conv('stem.0', 'stem.1', 3, 45, 1, 7, 7)
    conv('stem.3', 'stem.4', 45, 64, 3, 1, 1)
    for name, (inputs, mid, outputs) in BLOCKS.items():
        for i, n in ((1, inputs), (2, outputs)):
            conv(f'{name}.conv{i}.0.0', f'{name}.conv{i}.0.1', n, mid, 1, 3, 3)
            conv(f'{name}.conv{i}.0.3', f'{name}.conv{i}.1', mid, outputs, 3, 1, 1)
        if inputs != outputs:
            conv(f'{name}.downsample.0', f'{name}.downsample.1', inputs, outputs, 1, 1, 1)
    state['fc.weight'], state['fc.bias'] = torch.randn(num_classes, 512) / 20, torch.randn(num_classes)
    return state


def reference(state, x):
    """(N, 3, T, H, W) -> features, scores."""

    def conv(x, name, norm, stride=(1, 1, 1), relu=True):
        weight = state[f'{name}.weight']
        x = F.conv3d(x, weight, stride=stride, padding=tuple(k // 2 for k in weight.shape[2:]))
        x = F.batch_norm(x, *(state[f'{norm}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')))
        return F.relu(x) if relu else x

    x = conv(conv(x, 'stem.0', 'stem.1', (1, 2, 2)), 'stem.3', 'stem.4')
    for name, (inputs, _, outputs) in BLOCKS.items():
        s = 1 if inputs == outputs else 2
        y = conv(x, f'{name}.conv1.0.0', f'{name}.conv1.0.1', (1, s, s))
        y = conv(y, f'{name}.conv1.0.3', f'{name}.conv1.1', (s, 1, 1))
        y = conv(y, f'{name}.conv2.0.0', f'{name}.conv2.0.1')
        y = conv(y, f'{name}.conv2.0.3', f'{name}.conv2.1', relu=False)
        if s == 2:
            x = conv(x, f'{name}.downsample.0', f'{name}.downsample.1', (2, 2, 2), relu=False)
        x = F.relu(x + y)
    return x, F.linear(x.mean((2, 3, 4)), state['fc.weight'], state['fc.bias'])


@pytest.mark.parametrize('num_classes, base_channels, count', [
    (27, 64, 31_313_976), (101, 64, 31_351_938), (5, 8, 492_243)])
def test_counts(num_classes, base_channels, count):
    with torch.device('meta'):
        model = MODELS.build(config(num_classes, base_channels=base_channels))
    assert count_parameters(model) == count
    if base_channels == 64:
        assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[1] == 3] == [
            mid for _, mid, _ in BLOCKS.values() for _ in range(2)]


def test_another_width():
    net = R2Plus1d18(base_channels=6).eval()
    assert net.stem[0].weight.shape == (4, 3, 1, 7, 7) and net.stem[3].weight.shape == (6, 4, 3, 1, 1)  # round(4.2)
    # the paper's M = floor(27 C O / (9 C + 3 O)) by hand: 972 / 72, 1944 / 90, 3888 / 144, 7776 / 180, 15552 / 288, ...
    mids = dict(layer1=(13, 13), layer2=(21, 27), layer3=(43, 54), layer4=(86, 108))
    for i, (name, pair) in enumerate(mids.items()):
        for block, mid in zip(getattr(net, name), pair):
            assert [conv[0][0].out_channels for conv in (block.conv1, block.conv2)] == [mid, mid]
            assert block.conv2[0][3].out_channels == 6 * 2**i
    assert net(torch.rand(1, 3, 4, 16, 16)).shape == (1, 48, 1, 1, 1)
    for wrong in (0, -8, 6.5, True):
        with pytest.raises(ValueError, match='base_channels must be a whole number of at least 1'):
            R2Plus1d18(base_channels=wrong)


def test_sizes():
    with torch.device('meta'):
        net = R2Plus1d18(out_layers=('stem', 'layer1', 'layer2', 'layer3', 'layer4'))
        sizes = [tuple(y.shape[1:]) for y in net(torch.empty(1, 3, 30, 150, 224))]
    assert sizes == [(64, 30, 75, 112), (64, 30, 75, 112), (128, 15, 38, 56), (256, 8, 19, 28), (512, 4, 10, 14)]


def test_the_public_file_loads_and_gives_the_same(tmp_path, capsys):
    state = public_r2plus1d()
    torch.save(state, tmp_path / 'r2plus1d_18.pth')
    clips = torch.randn(2, 3, 9, 40, 37)
    want, scores = reference(state, clips)
    net = R2Plus1d18(pretrained=str(tmp_path / 'r2plus1d_18.pth'))
    net.init_weights()
    with torch.no_grad():
        got = net.eval()(clips)
    assert want.abs().max() > .1
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert set(net.state_dict()) == {name for name in state if not name.startswith('fc.')}

    tool = load_script('tools/convert/public_3d.py')
    tool.main([str(tmp_path / name) for name in ('r2plus1d_18.pth', 'recognizer.pth')])
    assert f'{len(state)} tensors, 2 of them of the classifier' in capsys.readouterr().out
    model = MODELS.build(config(5))
    load_checkpoint(model, str(tmp_path / 'recognizer.pth'), strict=True)
    with torch.no_grad():
        predictions = model.eval()(clips[:, None], [ActionDataSample() for _ in range(2)], mode='predict')
    torch.testing.assert_close(torch.stack([p.pred_score for p in predictions]), scores, rtol=1e-4, atol=1e-4)
    assert set(recognizer_state_dict(state)) == set(model.state_dict())


def test_files_that_do_not_fit(tmp_path):
    path = str(tmp_path / 'weights.pth')
    state = public_r2plus1d()
    state['layer2.0.conv1.0.0.weight'] = torch.rand(288, 64, 1, 3, 3)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r'layer2.0.conv1.0.0.weight: the checkpoint has \(288, 64, 1, 3, 3\), '
                                         r'R2Plus1d18 needs \(230, 64, 1, 3, 3\)'):
        R2Plus1d18(pretrained=path).init_weights()
    torch.save({'conv1.weight': torch.rand(4, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match='Not one convolution of the 2D weights has a counterpart'):
        R2Plus1d18(pretrained=path).init_weights()
    torch.save({'conv.weight': torch.rand(4, 3, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match='Neither layer4.1.conv2.0.3.weight'):
        load_script('tools/convert/public_3d.py').main([path, str(tmp_path / 'out.pth')])
    assert not (tmp_path / 'out.pth').exists()


def test_a_training_step_gives_every_parameter_a_gradient():
    model = MODELS.build(config())
    model.init_weights()
    samples = [ActionDataSample().set_gt_label(label) for label in (1, 5)]
    model.parse_losses(model.train()(torch.randn(2, 1, 3, 8, 32, 32), samples, mode='loss'))[0].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_any_clip_and_mistakes():
    net = R2Plus1d18().eval()
    with torch.no_grad():
        for size, after in (((1, 1, 1), (1, 1, 1)), ((5, 33, 18), (1, 3, 2))):
            y = net(torch.randn(1, 3, *size))
            assert y.shape == (1, 512, *after) and y.isfinite().all()
    with pytest.raises(ValueError, match=r'R2Plus1d18 takes clips \(N, 3, T, H, W\)'):
        net(torch.rand(1, 4, 8, 9, 9))
    with pytest.raises(ValueError, match=r"out_layers must be one or more of \('stem', 'layer1'"):
        R2Plus1d18(out_layers=('layer5', ))
    with pytest.raises(ValueError, match=r'frozen_stages must be from -1 \(none\) to 4'):
        R2Plus1d18(frozen_stages=5)


def test_frozen_stages_norm_eval_and_checkpointing():
    x = torch.randn(2, 3, 4, 24, 24)
    net = R2Plus1d18(frozen_stages=3).train()
    before = copy.deepcopy(net.state_dict())
    net(x).square().mean().backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == (not name.startswith('layer4')), name
    for name, value in net.state_dict().items():
        if 'running' in name:
            assert torch.equal(value, before[name]) == (not name.startswith('layer4')), name

    net = R2Plus1d18(norm_eval=True).train()
    before = copy.deepcopy(net.state_dict())
    net(x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    plain, saving = R2Plus1d18().double().train(), R2Plus1d18(with_cp=True).double().train()
    saving.load_state_dict(plain.state_dict())
    for n in (plain, saving):
        n(x.double()).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(q.grad, p.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers()):
        torch.testing.assert_close(b, a, msg=name)
