"""Batches: how many samples a process gets, and norms that a batch of one sample leaves without a spread."""
import pytest
import torch
from helpers.bad_setups import RESNET
from helpers.paths import ROOT
from mmaction.registry import DATA_SAMPLERS, MODELS
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from tconv_mmaction.setup_checks import SetupError, check_built_batches
from tconv_mmaction.setup_checks.batches import batches_of, norms_with_one_value, samples_of, shares


@pytest.mark.parametrize('samples, world_size', [(13, 1), (13, 2), (12, 5), (3, 4), (100, 3)])
@pytest.mark.parametrize('round_up', [True, False])
def test_shares_are_those_of_the_sampler(samples, world_size, round_up, monkeypatch):
    lengths = set()
    for rank in range(world_size):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, world_size))
        lengths.add(len(DATA_SAMPLERS.build(dict(type='DefaultSampler', dataset=range(samples), round_up=round_up))))
    assert lengths <= shares(samples, world_size, round_up)
    assert max(lengths) == max(shares(samples, world_size, round_up))


def test_samples_of_wrapped_data_sets():
    inner, counts = dict(type='VideoDataset'), {'d.dataset': 3, 'd.datasets.0': 3, 'd.datasets.1.dataset': 4, 'd': 5}
    assert samples_of(dict(type='RepeatDataset', times=5, dataset=inner), counts, 'd') == 15
    both = dict(type='ConcatDataset', datasets=[inner, dict(type='RepeatDataset', times=2, dataset=inner)])
    assert samples_of(both, counts, 'd') == 11
    assert samples_of(both, {'d.datasets.0': 3}, 'd') is None  # one of them is not known
    assert samples_of(dict(inner, indices=2), counts, 'd') == 2
    assert samples_of(dict(inner, indices=-9), counts, 'd') == 5
    assert samples_of(dict(inner, indices=[0, 1, 4]), counts, 'd') == 3
    assert batches_of(13, dict(batch_size=4), 1) == 4 and batches_of(13, dict(batch_size=4, drop_last=True), 1) == 3
    assert batches_of(13, dict(batch_size=4), 2) == 2 and batches_of(None, dict(batch_size=4), 1) is None


class Small(nn.Module):
    """One position is left of a clip; the head does nothing."""
    with_neck = False

    def __init__(self, norm):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv3d(3, 4, 1), nn.AdaptiveAvgPool3d(1), norm)
        self.cls_head = nn.Flatten()


@pytest.mark.parametrize('norm, clips, fails', [
    (nn.BatchNorm3d(4), 1, True), (nn.BatchNorm3d(4), 2, False), (nn.InstanceNorm3d(4), 2, True),
    (nn.GroupNorm(4, 4), 1, True), (nn.GroupNorm(2, 4), 1, False), (nn.BatchNorm3d(4).eval(), 1, True)],
    ids=lambda value: str(value)[:24])
def test_norms_that_have_one_value_are_those_that_pytorch_refuses(norm, clips, fails):
    real = Small(norm).train()
    if fails:
        with pytest.raises(ValueError, match='Expected more than 1'):
            real.backbone(torch.randn(clips, 3, 2, 4, 4))
    else:
        real.backbone(torch.randn(clips, 3, 2, 4, 4))
    model = Small(norm).to('meta').eval()
    found = norms_with_one_value(model, (clips, 3, 2, 4, 4))
    assert [name for name, _, _ in found] == ['backbone.2'] * fails
    assert not model.training  # as it was


def test_frozen_norms_have_no_need_of_a_spread():
    backbone = {key: value for key, value in RESNET.items() if key != '_delete_'}
    head = dict(type='I3DHead', num_classes=3, in_channels=16)
    strides = dict(conv1_stride_t=2, pool1_stride_t=2, temporal_strides=(1, 2, 2, 1))
    with torch.device('meta'):
        models = [MODELS.build(dict(type='Recognizer3D', backbone=dict(backbone, norm_eval=frozen, **strides),
                                    cls_head=head)) for frozen in (False, True)]
    assert norms_with_one_value(models[0], (1, 3, 12, 12, 12))
    assert not norms_with_one_value(models[1], (1, 3, 12, 12, 12))
    assert not norms_with_one_value(models[0], (2, 3, 12, 12, 12))  # two views of a sample


CONFIG = ROOT / 'configs/recognition/tconv3/resnet18-3t-w8_scratch_1xb20-30x1x1-10e_video-mnist.py'


@pytest.mark.parametrize('change, key', [
    ({'train_dataloader.batch_size': 3}, 'drop_last'), ({'train_dataloader.batch_size': 1}, 'batch_size'),
    ({'train_dataloader.batch_size': 3, 'train_dataloader.drop_last': True}, None),
    ({'train_dataloader.batch_size': 4}, None)])
def test_the_shipped_config_whose_last_stage_has_one_position(change, key, tmp_path):
    """Ten videos in batches of 3. The data set draws its videos, so only the one that is built tells how many."""
    config = Config.fromfile(CONFIG)
    config.merge_from_dict({'train_dataloader.dataset.videos_per_class': 1, 'train_dataloader.num_workers': 0,
                            'train_dataloader.persistent_workers': False, 'work_dir': str(tmp_path), **change})
    if key is None:
        return check_built_batches(config, 10)
    runner = Runner.from_cfg(config)
    words = '10 samples in batches of 3' if key == 'drop_last' else 'one sample'
    with pytest.raises(SetupError, match=words) as caught:
        runner.train()
    assert [problem.key for problem in caught.value.problems] == [f'train_dataloader.{key}'] and runner.iter == 0
    assert 'BatchNorm3d' in str(caught.value)
