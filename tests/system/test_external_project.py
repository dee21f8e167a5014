"""A project of somebody else's: its folder, its own classes and configs, ours and mmaction2's parts put together.

Each config is built by name alone, as a Runner would, and trained for a step: every parameter gets a finite gradient.
"""
import sys

import numpy as np
import pytest
import torch
from helpers.videos import write_film
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from tconv_mmaction.cli.mim_scripts import run_script
from tconv_mmaction.layers import Conv3T, MultiBranchConv3d, switch_to_deploy

PARTS = '''
from mmaction.models.heads import TSNHead
from mmaction.registry import MODELS


@MODELS.register_module()
class FrameTSNHead(TSNHead):
    """TSNHead over the frames of a clip's features: (N, C, T, H, W) is (N * T, C, H, W) with T segments."""

    def forward(self, x, **kwargs):
        frames = x.transpose(1, 2).flatten(0, 1)
        return super().forward(frames, num_segs=x.shape[2])
'''
COMMON = '''
custom_imports = dict(imports=['tconv_mmaction', 'their_parts'], allow_failed_imports=False)
default_scope = 'mmaction'
preprocessor = dict(type='ActionDataPreprocessor', mean=[120., 110., 100.], std=[60., 60., 60.], format_shape='NCTHW')
i3d_head = dict(type='I3DHead', num_classes=3, spatial_type='avg', dropout_ratio=0., average_clips='prob')
'''
CONFIGS = dict(
    slowonly_3t='''
model = dict(
    type='Recognizer3D', data_preprocessor={{_base_.preprocessor}},
    backbone=dict(type='ResNet3dSlowOnly', depth=50, base_channels=4, pretrained=None, conv1_kernel=(1, 7, 7),
                  inflate=(0, 0, 1, 1), inflate_style='3x3x3', conv_cfg=dict(type='Conv3T'), zero_init_residual=False),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=128, dropout_ratio=0., average_clips='prob'))
''',
    i3d_3t='''
model = dict(
    type='Recognizer3D', data_preprocessor={{_base_.preprocessor}},
    backbone=dict(type='ResNet3d', depth=50, base_channels=4, pretrained=None, pretrained2d=False,
                  conv1_kernel=(5, 7, 7), conv1_stride_t=2, pool1_stride_t=2, inflate_style='3x3x3',
                  conv_cfg=dict(type='Conv3T'), zero_init_residual=False,
                  inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=128, dropout_ratio=0., average_clips='prob'))
''',
    frame_tsn_head='''
model = dict(
    type='Recognizer3D', data_preprocessor={{_base_.preprocessor}},
    backbone=dict(type='TemporalResNet3d', depth=18, base_channels=4, temporal_kernels=(1, 1, 3, 3, 5),
                  temporal_cfg=dict(type='MultiBranchConv3d')),
    cls_head=dict(type='FrameTSNHead', num_classes=3, in_channels=32, dropout_ratio=0., average_clips='prob'))
''',
    tpn='''
model = dict(
    type='Recognizer3D', data_preprocessor={{_base_.preprocessor}},
    backbone=dict(type='TemporalResNet3d', depth=18, base_channels=4, temporal_kernels=(1, 3, 3, 3, 3),
                  temporal_cfg=dict(type='Conv3T'), out_indices=(2, 3)),
    neck=dict(
        type='TPN', in_channels=(16, 32), out_channels=32,
        spatial_modulation_cfg=dict(in_channels=(16, 32), out_channels=32),
        temporal_modulation_cfg=dict(downsample_scales=(4, 4)), upsample_cfg=dict(scale_factor=(1, 1, 1)),
        downsample_cfg=dict(downsample_scale=(1, 1, 1)),
        level_fusion_cfg=dict(in_channels=(32, 32), mid_channels=(32, 32), out_channels=2048,
                              downsample_scales=((1, 1, 1), (1, 1, 1))),
        aux_head_cfg=dict(out_channels=3, loss_weight=0.5)),
    cls_head=dict(type='TPNHead', num_classes=3, in_channels=2048, spatial_type='avg', dropout_ratio=0.,
                  consensus=dict(type='AvgConsensus', dim=1), average_clips='prob'))
''',
    tsm='''
model = dict(
    type='Recognizer2D',
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[120., 110., 100.], std=[60., 60., 60.]),
    backbone=dict(type='ResNetTSM', depth=18, num_segments=8, shift_div=8, norm_eval=False, pretrained=None,
                  pretrained2d=False),
    cls_head=dict(type='TSMHead', num_classes=3, num_segments=8, in_channels=512, is_shift=True, dropout_ratio=0.,
                  consensus=dict(type='AvgConsensus', dim=1), average_clips='prob'))
''',
)
# what the whole projects, run by a Runner, add: videos, ours or mmaction2's transforms, our hook
RUN = '''
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='RandomRateSampleFrames', clip_len=8, frame_intervals=(1, 3), test_interval=2),
    dict(type='DecordDecode'), dict(type='Resize', scale=(-1, 40)),
    dict(type='EgoMotionCrop', crop_size=32, sigma=2.0),
    dict(type='FormatShape', input_format='{format}'), dict(type='PackActionInputs')]
test_pipeline = [
    dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=8), dict(type='DecordDecode'),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='FormatShape', input_format='{format}'), dict(type='PackActionInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(
        type='VideoDataset', ann_file='{folder}/list.txt', data_prefix=dict(video='{folder}'), pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
        type='VideoDataset', ann_file='{folder}/list.txt', data_prefix=dict(video='{folder}'), pipeline=test_pipeline,
        test_mode=True))
test_evaluator = dict(type='AccMetric')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
custom_hooks = [{hooks}]
work_dir = '{folder}/work'
'''


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder with the parts, a config for every combination, and two videos."""
    folder = tmp_path_factory.mktemp('their_project')
    (folder / 'their_parts.py').write_text(PARTS)
    (folder / 'configs').mkdir()
    (folder / 'configs/common.py').write_text(COMMON)
    rng = np.random.default_rng(0)
    for name in 'ab':
        write_film(folder / f'{name}.avi', rng.integers(0, 256, (24, 48, 64, 3), dtype=np.uint8))
    (folder / 'list.txt').write_text('a.avi 0\nb.avi 2\n')
    hook = dict(tsm='', slowonly_3t="dict(type='TemporalParamsHook', interval=1, figures=False)")
    for name, text in CONFIGS.items():
        text = "_base_ = 'common.py'\n" + text
        if name in hook:
            text += RUN.format(folder=folder, hooks=hook[name], format='NCHW' if name == 'tsm' else 'NCTHW')
        (folder / f'configs/{name}.py').write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop('their_parts', None)


def config_of(project, name):
    config = Config.fromfile(project / f'configs/{name}.py')
    init_default_scope(config.default_scope)
    return config


def with_gradients(model):
    """Names of the parameters whose gradient is finite, and of those where it is not 0 everywhere."""
    finite = {name for name, p in model.named_parameters()
              if p.numel() == 0 or (p.grad is not None and torch.isfinite(p.grad).all())}
    return finite, {name for name in finite if model.get_parameter(name).grad is not None
                    and model.get_parameter(name).grad.abs().sum() > 0}


@pytest.mark.parametrize('name', CONFIGS)
def test_every_parameter_gets_a_gradient(project, name):
    torch.manual_seed(0)
    model = MODELS.build(config_of(project, name).model)
    model.init_weights()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Conv3T) and module.kernel_size[0] > 1:  # off the identity, as in training
                module.scale.normal_(1, .1)
                module.translate_x.normal_(0, .1)
    shape = (2, 8, 3, 32, 32) if name == 'tsm' else (2, 1, 3, 8, 32, 32)
    batch = dict(inputs=list(torch.randint(0, 256, shape, dtype=torch.uint8)),
                 data_samples=[ActionDataSample().set_gt_label(label) for label in (0, 2)])
    data = model.data_preprocessor(batch, training=True)
    losses = model.train()(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    finite, moved = with_gradients(model)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names - finite == set()
    # a ReLU may be off in a narrow net, but no kind of layer is left out
    assert {n.rsplit('.', 1)[-1] for n in names if model.get_parameter(n).numel()} == {
        n.rsplit('.', 1)[-1] for n in moved}
    assert len(moved) > .95 * sum(p.numel() > 0 for p in model.parameters())
    # and the step goes down the loss: the first-order change is -lr * |gradient|^2
    squares = sum(p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None)
    assert squares > 1e-8 and 0 < loss.item() < 20


def test_the_layers_are_where_the_configs_put_them(project):
    slowonly = MODELS.build(config_of(project, 'slowonly_3t').model)
    assert not any(type(m) is torch.nn.Conv3d for m in slowonly.backbone.modules())
    deep = [m for m in slowonly.backbone.modules() if isinstance(m, Conv3T) and m.kernel_size[0] == 3]
    # one 3x3x3 per bottleneck of the last two stages of ResNet-50, 6 + 3
    assert len(deep) == 9 and all(m.scale.shape == (2, m.out_channels) for m in deep)
    tsn = MODELS.build(config_of(project, 'frame_tsn_head').model)
    assert sum(isinstance(m, MultiBranchConv3d) for m in tsn.modules()) > 0


@pytest.mark.parametrize('name', ['slowonly_3t', 'i3d_3t', 'frame_tsn_head'])
@torch.no_grad()
def test_deployed_networks_give_the_same_scores(project, name):
    """switch_to_deploy on models that are not ours."""
    torch.manual_seed(0)
    model = MODELS.build(config_of(project, name).model).double()
    for module in model.modules():
        if isinstance(module, Conv3T) and module.kernel_size[0] > 1:
            module.rotate.normal_(0, .3)
        elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    clips = torch.randn(4, 1, 3, 8, 32, 32, dtype=torch.float64)
    model.train()(clips, mode='tensor')
    model.eval()
    model.cls_head.fc_cls.weight.normal_(0, 1.)
    scores = [net.cls_head(net.extract_feat(clips, test_mode=True)[0]) for net in (model, switch_to_deploy(model))]
    assert scores[0].std(0).min() > 1e-2
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-9, atol=1e-9)


def test_frames_through_tsn_head_by_hand(project):
    """The project's head: mean over space, then over frames, then the linear layer."""
    head = MODELS.build(config_of(project, 'frame_tsn_head').model.cls_head).eval()
    features = torch.randn(2, 32, 4, 3, 3)
    with torch.no_grad():
        want = features.mean((2, 3, 4)) @ head.fc_cls.weight.T + head.fc_cls.bias
        torch.testing.assert_close(head(features), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['slowonly_3t', 'tsm'])
def test_runner(project, name):
    """Our transforms in a TSM config, our hook on their SlowOnly: one epoch of one step, and a test."""
    config = config_of(project, name)
    config.work_dir = f'{config.work_dir}_{name}'
    runner = Runner.from_cfg(config)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 1
    changed = [n for n, p in runner.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(changed) > .9 * len([n for n, p in before.items() if p.numel()])
    metrics = runner.test()
    assert metrics['acc/top1'] in (0., .5, 1.)
    batch = next(iter(runner.test_dataloader))
    assert [tuple(clip.shape) for clip in batch['inputs']] == [
        (8, 3, 32, 32) if name == 'tsm' else (1, 3, 8, 32, 32)] * 2
    scores = torch.stack([s.pred_score for s in runner.model.test_step(batch)])
    torch.testing.assert_close(scores.sum(1), torch.ones(2), rtol=1e-5, atol=1e-5)
    if name == 'slowonly_3t':
        written = list((project / 'work_slowonly_3t').rglob('temporal_params/*'))
        assert written, 'the hook wrote nothing'


def test_feature_extraction_script_of_mmaction2(project, monkeypatch):
    """mmaction2's clip_feature_extraction.py on TemporalResNet3d: the features of its own backbone, averaged."""
    text = ("_base_ = 'common.py'\n" + CONFIGS['frame_tsn_head']
            + RUN.format(folder=project, hooks='', format='NCTHW'))
    (project / 'configs/features.py').write_text(text)
    config = config_of(project, 'features')
    torch.manual_seed(1)
    model = MODELS.build(config.model).eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), project / 'features.pth')
    out = project / 'features'
    out.mkdir()
    monkeypatch.chdir(project)
    run_script('misc/clip_feature_extraction.py', [
        str(project / 'configs/features.py'), str(project / 'features.pth'), str(out),
        '--video-list', str(project / 'list.txt'), '--video-root', str(project)])
    init_default_scope('mmaction')
    loader = Runner.build_dataloader(config.test_dataloader)
    batch = model.data_preprocessor(next(iter(loader)), training=False)
    with torch.no_grad():
        want = model.extract_feat(batch['inputs'], test_mode=True)[0].mean((2, 3, 4))
    for name, features in zip(('a.avi', 'b.avi'), want):
        got = torch.as_tensor(np.asarray(load(str(out / f'{name}.pkl'))))
        torch.testing.assert_close(got.flatten().float(), features, rtol=1e-4, atol=1e-5)
    assert (want[0] - want[1]).abs().max() > 1e-3
