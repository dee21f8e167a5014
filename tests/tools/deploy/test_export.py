"""Every kind of recognizer, deployed, through torch.export and ONNX: the network's own scores, for any batch."""

import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config, ConfigDict
from torch.nn.modules.batchnorm import _BatchNorm

from tconv_mmaction.layers import ConvLSTM2d, switch_to_deploy

export_onnx = load_script('tools/deploy/export_onnx.py')
HEAD = dict(type='I3DHead', num_classes=5, spatial_type='avg', dropout_ratio=0., average_clips='prob')
SMALL_RESNET = dict(type='TemporalResNet3d', depth=18, base_channels=4, num_stages=2, temporal_kernels=(3, 3, 5),
                    out_indices=(1, ), spatial_strides=(1, 2), temporal_strides=(1, 2), dilations=(1, 1))


def resnet(kind):
    return dict(backbone=dict(SMALL_RESNET, temporal_cfg=dict(type=kind)), cls_head=dict(HEAD, in_channels=8)), (
        3, 6, 18, 16)


def of(backbone, channels, shape):
    return dict(backbone=backbone, cls_head=dict(HEAD, in_channels=channels)), shape


# kind: (backbone and head, (C, T, H, W))
KINDS = {
    'LeNet5 3T': of(dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(3, 4), clip_shape=(12, 14, 12)), 84,
                    (1, 12, 14, 12)),
    'ResNet 3T': resnet('Conv3T'),
    'ResNet multi-branch': resnet('MultiBranchConv3d'),
    'S3D': resnet('SeparableConv3d'),
    'C-LSTM': (dict(backbone=dict(type='ConvLSTMNet', num_layers=2, hidden_channels=4, kernel_size=3, stride=2),
                    cls_head=dict(type='SequenceHead', num_classes=5, in_channels=4, feature_size=(1, 1), clip_len=4)),
               (3, 4, 24, 24)),
    'GoogLeNet 3T': (dict(backbone=dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')),
                          cls_head=dict(type='GoogLeNetHead', num_classes=5, average_clips='prob')), (3, 13, 64, 72)),
    'I3D': of(dict(type='InceptionI3d'), 1024, (3, 9, 40, 44)),
    'R(2+1)D': of(dict(type='R2Plus1d18'), 512, (3, 5, 24, 20)),
}
QUICK = ('ResNet 3T', 'C-LSTM')  # the others with -m slow


@torch.no_grad()
def recognizer(kind):
    """Of random weights, with norms whose statistics are those of a few clips, so that clips differ in their scores."""
    parts, shape = KINDS[kind]
    preprocessor = dict(type='ActionDataPreprocessor', mean=[120., 110., 100.][:shape[0]],
                        std=[50., 60., 70.][:shape[0]], format_shape='NCTHW')
    model = MODELS.build(ConfigDict(type='Recognizer3D', data_preprocessor=preprocessor, **parts))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.  # running statistics are those of the one batch
            module.weight.uniform_(.5, 1.5)
            module.bias.normal_(0, .3)
        for name in ('scale', 'rotate', 'translate_x', 'translate_y'):  # of Conv3T
            if isinstance(getattr(module, name, None), torch.nn.Parameter):
                getattr(module, name).add_(torch.randn_like(getattr(module, name)), alpha=.2)
        if isinstance(module, ConvLSTM2d):
            module.weight_ih.mul_(3)
    clips = model.data_preprocessor(dict(inputs=list(clips_of(shape, 6)[:, None]), data_samples=None))['inputs']
    model.train()(clips, mode='tensor')
    model.eval()
    fc = model.cls_head.fc_cls
    fc.weight.normal_()
    fc.bias.zero_()
    logits = model.cls_head(model.extract_feat(clips, test_mode=True)[0])
    scale = 1 / logits.std(0).mean()  # clips differ in their scores, and none is certain
    fc.weight.mul_(scale)
    fc.bias.copy_(-logits.mean(0) * scale)
    return model, shape


def clips_of(shape, count):
    """Random clips (N, C, T, H, W), uint8, some darker than others."""
    light = torch.linspace(.3, 1, count).view(-1, 1, 1, 1, 1)
    return (torch.randint(0, 256, (count, *shape)) * light).to(torch.uint8)


@torch.no_grad()
def scores_of(model, clips):
    samples = model.test_step(dict(inputs=list(clips[:, None]), data_samples=[ActionDataSample() for _ in clips]))
    return torch.stack([sample.pred_score for sample in samples])


@pytest.mark.parametrize('kind', [
    kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def test_exported_networks_give_the_scores_for_any_batch(kind):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    model, shape = recognizer(kind)
    fused = switch_to_deploy(model)
    assert not any(hasattr(module, 'switch_to_deploy') for module in fused.modules())
    files = {'onnx': export_onnx.onnx_scores(export_onnx.export(fused, shape, 17)),
             'torch.export': export_onnx.program_scores(export_onnx.export_program(fused, shape))}
    for batch in (1, 2, 5):  # exported with 2
        clips = clips_of(shape, batch)
        want = scores_of(model, clips)
        assert want.shape == (batch, 5) and want.std(1).min() > .01
        assert batch == 1 or want.std(0).max() > 1e-3
        for name, run in files.items():
            with torch.no_grad():
                got = run(clips.float())
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f'{name}: {text}')


def test_tool_writes_a_program_that_needs_pytorch_only(tmp_path, capsys):
    """By the tool, for the config of a published network."""
    path = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
    torch.manual_seed(3)
    model = MODELS.build(Config.fromfile(path).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'net.pth')
    arguments = [str(path), str(tmp_path / 'net.pth')]
    export_onnx.main([*arguments, str(tmp_path / 'net.pt2'), '--shape', '30', '28', '28'])
    assert "2 layers fused; 'clips' (N, 1, 30, 28, 28) -> 'scores' (N, 10); torch.export.load differs" in \
        capsys.readouterr().out
    clips = torch.randint(0, 256, (3, 1, 30, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        got = torch.export.load(tmp_path / 'net.pt2').module()(clips.float())
    torch.testing.assert_close(got, scores_of(model.eval(), clips), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r'torch\.export\.load differs .* more than --tolerance -1\.0e\+00'):
        export_onnx.main([*arguments, str(tmp_path / 'other.pt2'), '--shape', '30', '28', '28', '--tolerance',
                          '-1'])
    assert not (tmp_path / 'other.pt2').exists()
    with pytest.raises(SystemExit):
        export_onnx.main([*arguments, str(tmp_path / 'net.pth2')])
    assert 'must end in .onnx or .pt2' in capsys.readouterr().err
