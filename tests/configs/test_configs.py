"""Every config of the repository: it builds, trains one step, validates and tests one step, and its pipelines run."""
import json

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.reduced_config import find_pretrained, reduced
from helpers.videos import write_film
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.runner import Runner

from tconv_mmaction.layers import MultiBranchConv3d, switch_to_deploy

CONFIGS = sorted(p for p in (ROOT / 'configs/recognition').rglob('*.py') if '_base_' not in p.as_posix())


def assert_a_step_trains_everything(runner):
    """The one iteration of a reduced config gives every parameter a finite gradient, and the optimizer moves some."""
    before, finite = {}, set()

    def watch(name):
        return lambda grad: finite.add(name) if torch.isfinite(grad).all() else None

    for name, parameter in runner.model.named_parameters():  # the step clears .grad, so look when it is made
        before[name] = parameter.detach().clone()
        parameter.register_hook(watch(name))
    runner.train()
    assert runner.iter == 1
    frozen = [name for name, p in runner.model.named_parameters() if not p.requires_grad]
    assert not frozen
    in_optimizer = {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
    assert in_optimizer == {id(p) for p in runner.model.parameters()}
    assert finite == set(before), f'no finite gradient: {set(before) - finite}'
    assert any(not torch.equal(before[name], p) for name, p in runner.model.named_parameters())


FIGURES_ONCE = next(path for path in CONFIGS if '-3t_' in path.stem)  # drawing them takes longer than all the rest


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_one_step_of_training_and_testing(path, tmp_path):
    config = reduced(path, tmp_path)
    if config.model.backbone.type == 'TemporalResNet3d':  # narrow, which the next test is not
        width = config.model.backbone.get('base_channels', 64)
        config.model.backbone.base_channels = 8
        config.model.cls_head.in_channels = config.model.cls_head.in_channels * 8 // width
    for hook in config.custom_hooks:
        if hook.type == 'TemporalParamsHook' and path != FIGURES_ONCE:
            hook.figures = False
    if '_from-' in path.stem:  # starts from a checkpoint that another tool writes
        config.load_from = None
    runner = Runner.from_cfg(config)
    assert_a_step_trains_everything(runner)
    metrics = runner.test()
    assert all(np.isfinite(value) for value in metrics.values())
    outputs = runner.model.test_step(next(iter(runner.test_dataloader)))
    scores = torch.stack([sample.pred_score for sample in outputs])
    assert scores.shape == (2, config.model.cls_head.num_classes)
    torch.testing.assert_close(scores.sum(1).cpu(), torch.ones(2), rtol=1e-4, atol=1e-4)  # probabilities


WIDE = [path for path in CONFIGS if Config.fromfile(path).model.backbone.type == 'TemporalResNet3d']


@pytest.mark.parametrize('path', WIDE, ids=lambda p: p.stem)
def test_backbone_and_head_fit_at_full_width(path, tmp_path):
    """Shapes alone, without memory or arithmetic."""
    config = reduced(path, tmp_path)
    with torch.device('meta'):
        model = MODELS.build(config.model)
        scores = model.cls_head(model.backbone(torch.empty(2, *config.train_dataloader.dataset.shape)))
    assert scores.is_meta and scores.shape == (2, config.model.cls_head.num_classes)


@pytest.mark.parametrize('pattern, classes, count', [
    ('tconv3/resnet18-3t_*_jester-rgb.py', None, 11_222_619), ('tconv3/resnet18-3t_*_ucf101-rgb.py', None, 11_260_581),
    ('tconv3/resnet18-3d_*_jester-rgb.py', None, 33_217_755), ('tconv3/resnet18-3d_*_ucf101-rgb.py', None, 33_255_717),
    ('tconv3/googlenet-3t_*_jester-rgb.py', None, 7_419_121), ('tconv3/googlenet-3t_*_ucf101-rgb.py', None, 7_646_671),
    ('tconv3/googlenet-3d_*_jester-rgb.py', None, 14_078_833),
    ('tconv3/googlenet-3d_*_ucf101-rgb.py', None, 14_306_383),
    ('tconv3/r2plus1d18_*_jester-rgb.py', None, 31_313_976), ('tconv3/r2plus1d18_*_ucf101-rgb.py', None, 31_351_938),
    ('temporal_filters/i3d-r50_orig_*_kinetics400-rgb.py', 1000, 48_210_344),
    ('temporal_filters/i3d-r18_orig_*_sthv2-rgb.py', 1000, 33_679_272),
    ('temporal_filters/s3d-r50_orig_*_sthv2-rgb.py', 1000, 29_355_816)] + [
    (f'temporal_filters/i3d-r50_t{row}_*.py', 1000, count) for row, count in {
        '13333': 48_191_528, '11333': 47_970_344, '11133': 46_790_696, '11113': 39_712_808, '11111': 25_557_032,
        '31111': 25_575_848, '33111': 25_797_032, '33311': 26_976_680, '33331': 34_054_568, '11335': 62_126_120,
        '11355': 69_204_008, '11555': 70_383_656, '11135': 60_946_472, '11155': 68_024_360}.items()])
def test_parameter_counts_of_the_papers(pattern, classes, count):
    paths = list((ROOT / 'configs/recognition').glob(pattern))
    assert paths
    for path in paths:
        config = Config.fromfile(path)
        find_pretrained(config.model)
        if classes:
            config.model.cls_head.num_classes = classes
        with torch.device('meta'):
            model = MODELS.build(config.model)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count, path.stem


@pytest.mark.parametrize('pattern, count', [
    ('i3d-r18_ours_*', 49_880_616), ('i3d-r50_ours_*', 62_126_120), ('s3d-r50_ours_*', 30_872_616)])
def test_fused_parameter_counts(pattern, count):
    """A fused multi-branch net is the single-filter net 1-1-3-3-5, whose norms went into the convolutions' biases."""
    path = next((ROOT / 'configs/recognition/temporal_filters').glob(pattern))
    config = Config.fromfile(path)
    find_pretrained(config.model)
    config.model.cls_head.num_classes = 1000
    branched = MODELS.build(config.model).eval()
    norms = sum(len(m.norms) for m in branched.modules() if isinstance(m, MultiBranchConv3d))
    assert norms > 0
    fused = switch_to_deploy(branched)
    weights = sum(p.numel() for name, p in fused.named_parameters())
    biases = sum(m.bias.numel() for m in fused.modules() if isinstance(m, torch.nn.Conv3d) and m.bias is not None)
    # the single-filter net has gamma and beta where the fused one has a bias
    assert weights + biases == count


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 256, (40, 256, 340, 3), dtype=np.uint8)
    return write_film(tmp_path_factory.mktemp('video') / 'noise.avi', noise)


def pipelines():
    """Each pipeline of the configs once: {its text: (config, which dataloader)}."""
    found = {}
    for path in CONFIGS:
        config = Config.fromfile(path)
        for name in ('train', 'val', 'test'):
            dataset = config[f'{name}_dataloader'].dataset
            if dataset.type == 'VideoDataset':
                found.setdefault(json.dumps(dataset.pipeline, sort_keys=True), (path, name))
    return list(found.values())


@pytest.mark.parametrize('path, name', pipelines(), ids=lambda value: getattr(value, 'stem', value))
def test_pipelines_run_on_a_video(path, name, video):
    config = Config.fromfile(path)
    pipeline = config[f'{name}_dataloader'].dataset.pipeline
    packed = Compose(pipeline)(dict(filename=str(video), label=1, start_index=0, modality='RGB'))
    samples = [step for step in pipeline if 'clip_len' in step]
    assert packed['inputs'].dtype == torch.uint8 and packed['inputs'].shape[2] == samples[0].clip_len
    assert packed['data_samples'].gt_label.item() == 1


def test_configs_are_self_contained():
    for path in (ROOT / 'configs').rglob('*.py'):
        assert 'mmaction::' not in path.read_text(), path
    for path in CONFIGS:
        config = Config.fromfile(path)
        assert config.default_scope == 'mmaction'
        assert config.custom_imports.imports == ['tconv_mmaction']
        assert config.auto_scale_lr.base_batch_size > 0
        assert 'CheckInvalidLossHook' in [hook.type for hook in config.custom_hooks]
        assert config.default_hooks.unreadable_clips.type == 'UnreadableClipsHook'
        assert config.env_cfg.dist_cfg == dict(backend='nccl', timeout=1800)


def test_the_papers_recipes_say_their_start():
    paths = [path for path in CONFIGS if '-3t_' in path.stem and path.stem.endswith(('jester-rgb', 'ucf101-rgb'))]
    assert len(paths) > 8
    for path in paths:
        backbone = Config.fromfile(path).model.backbone
        assert backbone.temporal_cfg.init == 'paper' and not backbone.temporal_cfg.get('motion_std'), path


def kinds():
    """One config of each kind: backbone and type of its temporal convolutions."""
    found = {}
    for path in CONFIGS:
        backbone = Config.fromfile(path).model.backbone
        found.setdefault((backbone.type, json.dumps(backbone.get('temporal_cfg'))), path)
    return list(found.values())


@pytest.mark.gpu
@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('path', kinds(), ids=lambda p: p.stem)
def test_one_step_on_gpu(path, amp, tmp_path):
    config = reduced(path, tmp_path)
    if amp:
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    runner = Runner.from_cfg(config)
    runner.train()
    assert all(torch.isfinite(p).all() and p.is_cuda for p in runner.model.parameters())
    metrics = runner.test()
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.gpu
@pytest.mark.parametrize('path', kinds(), ids=lambda p: p.stem)
def test_cpu_and_gpu_give_the_same_scores(path, tmp_path):
    config = reduced(path, tmp_path)
    model = MODELS.build(config.model).double().eval()
    shape = config.train_dataloader.dataset.shape
    clips = torch.randn(2, 1, *shape, dtype=torch.float64)
    with torch.no_grad():
        on_cpu, on_gpu = model(clips, mode='tensor'), model.cuda()(clips.cuda(), mode='tensor')
    if isinstance(on_cpu, (tuple, list)):  # GoogLeNet's auxiliary features come with the last
        on_cpu, on_gpu = on_cpu[-1], on_gpu[-1]
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-7, atol=1e-7)
