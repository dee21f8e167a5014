"""Two and four processes against one: losses, parameters, metrics and files; every backbone under DDP; a killed rank.

The ranks are forked from the tests and talk over gloo. Everything is float64, so that what is left between one process
with the whole batch and several with its parts is the order of the sums. BatchNorm sees its own process's part of a
batch only, and torch's SyncBatchNorm needs CUDA: nets that have one run with its statistics fixed (``norm_eval``).
"""
import os
import re
import runpy
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.compared_project import TOOL, command, result
from helpers.many_processes import run_ranks
from helpers.paths import ROOT
from mmaction.registry import DATASETS, HOOKS, MODELS
from mmaction.structures import ActionDataSample
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from tconv_mmaction.compat.checkpoints import UnsafeCheckpointError
from tconv_mmaction.layers import Conv3T

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='ranks are forked, which a CUDA process cannot be')
MANY = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(scope='module', autouse=True)
def scope():
    """Before the borrowed fixtures of test_compare_models, which build models."""
    init_default_scope('mmaction')


@DATASETS.register_module()
class SquareClips(Dataset):
    """``length`` clips of noise with a bright square that moves right (class 0) or down (class 1)."""

    metainfo = dict(classes=('right', 'down'))

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        clip = np.random.RandomState(index).randint(0, 60, (1, 1, 12, 12, 12), dtype='uint8')
        for t in range(12):
            rows, columns = (slice(4, 8), slice(min(t, 8), min(t, 8) + 4))[::1 if index % 2 == 0 else -1]
            clip[0, 0, t, rows, columns] = 255
        sample = ActionDataSample().set_gt_label(index % 2)
        sample.set_field(index, 'index')
        return dict(inputs=torch.from_numpy(clip), data_samples=sample)


@HOOKS.register_module()
class DiaryHook(Hook):
    """Losses of every iteration, metrics and predicted clips of every evaluation.

    ``fate``: (rank, iteration, signal that this rank sends itself there).
    """

    def __init__(self, fate=None):
        self.fate, self.losses, self.metrics, self.predicted = fate, [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))
        if self.fate and self.fate[:2] == (int(os.environ['RANK']), runner.iter + 1):
            os.kill(os.getpid(), self.fate[2])

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.predicted += [int(sample.index) for sample in outputs]

    def after_val_epoch(self, runner, metrics=None):
        self.metrics.append(metrics)


MODEL = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T', init='paper'), channels=(3, 4),
                  clip_shape=(12, 12, 12)),
    cls_head=dict(type='I3DHead', num_classes=2, in_channels=84, dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW'))


def launcher():
    return 'pytorch' if int(os.environ['WORLD_SIZE']) > 1 else 'none'


def settings(work_dir, batch_size, test_clips=11, epochs=3, **changes):
    """Arguments of a Runner without its model: 16 clips to train on and ``test_clips`` in batches of 2 to test."""
    def loader(size, length, shuffle):
        return dict(batch_size=size, num_workers=0, dataset=dict(type='SquareClips', length=length),
                    sampler=dict(type='DefaultSampler', shuffle=shuffle, seed=0))
    evaluator = [dict(type='AccMetric', metric_list=('top_k_accuracy', 'mean_class_accuracy'),
                      metric_options=dict(top_k_accuracy=dict(topk=(1, )))), dict(type='F1Metric', topk=(1, ))]
    cfg = dict(
        work_dir=str(work_dir), default_scope='mmaction', launcher=launcher(),
        train_dataloader=loader(batch_size, 16, True), val_dataloader=loader(2, test_clips, False),
        val_evaluator=evaluator, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1),
        val_cfg=dict(type='ValLoop'), optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.001)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(
            type='CheckpointHook', interval=1, save_best='acc/top1', rule='greater', max_keep_ckpts=2)),
        custom_hooks=[dict(type='DiaryHook'), dict(type='CheckInvalidLossHook', interval=1),
                      dict(type='TemporalParamsHook', interval=1, figures=False)],
        env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=60)), randomness=dict(seed=0),
        visualizer=dict(type='ActionVisualizer', vis_backends=[dict(type='LocalVisBackend')]))
    cfg.update(changes)
    return cfg


def diary(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, DiaryHook))


def writes_into(folder):
    """A list that gets every file of ``folder`` that this process opens for writing from now on, or renames to."""
    written = []

    def audit(event, arguments):
        if event == 'open' and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = arguments[0]
        elif event == 'os.rename':
            path = arguments[1]
        else:
            return
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(str(folder)):
            written.append(os.path.relpath(path, folder))

    sys.addaudithook(audit)
    return written


def train(work_dir, batch_size, test_clips):
    written = writes_into(work_dir)
    torch.manual_seed(0)
    init_default_scope('mmaction')
    runner = Runner(MODELS.build(MODEL).double(), **settings(work_dir, batch_size, test_clips))
    runner.train()
    network = getattr(runner.model, 'module', runner.model)
    notes = diary(runner)
    return dict(losses=notes.losses, metrics=notes.metrics, predicted=notes.predicted, written=written,
                dtype=str(next(network.parameters()).dtype), parameters=network.state_dict(),
                find_unused=getattr(runner.model, 'find_unused_parameters', None))


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp('alone')
    return run_ranks(train, 1, folder, str(folder / 'work'), 8, 11)[0]


@pytest.fixture(scope='module', params=MANY)
def many(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f'ranks{request.param}')
    return run_ranks(train, request.param, folder, str(folder / 'work'), 8 // request.param, 11)


def test_losses_and_parameters_are_those_of_one_process(alone, many):
    assert alone['dtype'] == 'torch.float64' and len(alone['losses']) == 6
    assert [rank['find_unused'] for rank in many] == [False] * len(many)
    mean = np.mean([rank['losses'] for rank in many], axis=0)  # a rank's loss is the mean over its part of the batch
    difference = np.abs(mean - alone['losses']).max()
    moved = max(float((rank['parameters'][name] - value).abs().max()) for rank in many
                for name, value in alone['parameters'].items())
    print(f'{len(many)} processes: losses differ by {difference:.2e}, parameters by {moved:.2e}')
    assert difference < 1e-10 and moved < 1e-9
    assert alone['losses'][-1] < alone['losses'][0] - 0.01
    assert np.ptp([rank['losses'][0] for rank in many]) > 1e-4  # each saw clips of its own


def test_metrics_count_the_uneven_rest_once(alone, many):
    """11 clips over several ranks: the sampler repeats some to deal them evenly, and the metrics count none twice."""
    assert alone['predicted'] == list(range(11)) * 3
    dealt = sum(len(rank['predicted']) for rank in many) // 3
    assert dealt == -(-11 // len(many)) * len(many) > 11  # so there are repeats to leave out
    assert set(many[0]['metrics'][0]) == set(alone['metrics'][0]) >= {'acc/top1', 'acc/mean1'}
    for rank in many:
        for ours, expected in zip(rank['metrics'], alone['metrics'], strict=True):
            for name, value in expected.items():
                assert ours[name] == pytest.approx(value, rel=0, abs=1e-12), name


def test_the_first_rank_alone_writes_and_each_file_once(alone, many):
    first, others = many[0]['written'], [path for rank in many[1:] for path in rank['written']]
    assert others == []

    def names(written):  # the run's time stamp and the random part of temporary names left out
        return sorted(path for path in written if path.startswith(('epoch_', 'best_', 'temporal_params/epoch_')))
    final = names(first)
    assert final == names(alone['written'])
    records = [path for path in final if path.startswith('temporal_params/')]
    assert sorted(records) == sorted(f'temporal_params/epoch_{epoch}{end}' for epoch in (1, 2, 3) for end in (
        '.csv', '.npz'))
    assert {f'epoch_{epoch}.pth' for epoch in (1, 2, 3)} < set(final)


def compare_here(folder, arguments):
    sys.path.insert(0, str(folder))
    os.environ['READ_NOTES'] = os.devnull
    return runpy.run_path(str(TOOL))['main']([*arguments, '--launcher', 'pytorch'])


@pytest.mark.slow
def test_the_analysis_of_four_processes_is_that_of_one(compared_once, compared, tmp_path):
    """samples.csv, summary.json and tables.md of compare_models.py to the byte; two processes: test_compare_models."""
    out = tmp_path / 'out'
    codes = run_ranks(compare_here, 4, tmp_path / 'ranks', compared, command(compared, out))
    assert codes[0] == 1 and result(out) == result(compared_once[0])  # 1: a clip cannot be read, with one process too
    rows = [len((out / f'rows/rank{rank}.jsonl').read_text().splitlines()) for rank in range(4)]
    assert sum(rows) == 20 and min(rows) > 0  # 10 clips of 2 models, each once


THREE = dict(type='I3DHead', num_classes=3, topk=1, dropout_ratio=0., average_clips='prob')


def resnet18(temporal_type, **kwargs):
    return dict(type='TemporalResNet3d', depth=18, base_channels=8, temporal_cfg=dict(type=temporal_type), **kwargs)


LARGE = 'googlenet-3t', 'r2plus1d18', 'i3d'  # 7 to 31 million parameters: half a minute of CPU
NETS = {  # (C, T, H, W) of a clip, backbone, head
    'lenet5-3t': ((1, 12, 12, 12), MODEL['backbone'], dict(THREE, in_channels=84)),
    'resnet18-3t': ((3, 4, 16, 16), resnet18('Conv3T'), dict(THREE, in_channels=64)),
    'resnet18-multi-branch': ((3, 4, 16, 16), resnet18('MultiBranchConv3d', temporal_kernels=(1, 1, 3, 3, 5)),
                              dict(THREE, in_channels=64)),
    's3d-resnet18': ((3, 4, 16, 16), resnet18('SeparableConv3d'), dict(THREE, in_channels=64)),
    'googlenet-3t': ((3, 13, 64, 64), dict(
        type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T'), out_layers=('inception4a', 'inception4d', 'inception5b')),
        dict(THREE, type='GoogLeNetHead', in_channels=1024, aux_dropout_ratio=0.)),
    'r2plus1d18': ((3, 4, 16, 16), dict(type='R2Plus1d18'), dict(THREE, in_channels=512)),
    'i3d': ((3, 16, 64, 64), dict(type='InceptionI3d'), dict(THREE, in_channels=1024)),
    'clstm': ((3, 4, 16, 16), dict(type='ConvLSTMNet', num_layers=2, hidden_channels=4, kernel_size=3, stride=1),
              dict(THREE, type='SequenceHead', in_channels=4, feature_size=(4, 4), clip_len=4)),
}


def build(name):
    """The net, the same in every process, in training mode but for the norms, whose statistics are drawn."""
    shape, backbone, head = NETS[name]
    torch.manual_seed(1)
    normalize = dict(type='ActionDataPreprocessor', mean=[0.] * shape[0], std=[1.] * shape[0], format_shape='NCTHW')
    model = MODELS.build(dict(type='Recognizer3D', backbone=backbone, cls_head=head, data_preprocessor=normalize))
    model.double().train()
    for module in model.modules():
        if isinstance(module, Conv3T):  # large enough for a step that moves every transform
            nn.init.normal_(module.weight, std=(module.weight[0].numel() * module.kernel_size[0]) ** -0.5)
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.eval()
    return model


def two_steps(model, name, part, parts):
    """Losses of two SGD steps on this part of four clips."""
    generator = torch.Generator().manual_seed(2)
    clips = torch.rand(4, 1, *NETS[name][0], dtype=torch.float64, generator=generator)
    batch = [dict(inputs=clips[i], data_samples=ActionDataSample().set_gt_label(i % 3)) for i in range(4)][part::parts]
    data = dict(inputs=[sample['inputs'] for sample in batch], data_samples=[item['data_samples'] for item in batch])
    # clipped, because norms that do not adapt let the first step throw a deep net far away
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), clip_grad=dict(max_norm=1.))
    return [float(model.train_step(dict(data), wrapper)['loss']) for _ in range(2)]


def step_nets(names):
    """Two steps of each of these nets under DDP and, in the first rank, of the bare net on the whole batch."""
    init_default_scope('mmaction')
    torch.distributed.init_process_group('gloo')
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = {}
    for name in names:
        parallel = MMDistributedDataParallel(build(name), broadcast_buffers=False, find_unused_parameters=False)
        losses = two_steps(parallel, name, rank, ranks)  # DDP refuses the second step if the first left one unused
        found[name] = dict(losses=losses)
        if rank == 0:
            bare = build(name)
            start = {key: value.clone() for key, value in bare.named_parameters()}
            found[name]['alone'] = two_steps(bare, name, 0, 1)
            found[name]['difference'] = max(float((value - parallel.module.get_parameter(key)).abs().max())
                                            for key, value in bare.named_parameters())
            found[name]['still'] = [key for key, value in bare.named_parameters() if torch.equal(value, start[key])]
    return found


@pytest.fixture(scope='module')
def small_nets(tmp_path_factory):
    return run_ranks(step_nets, 2, tmp_path_factory.mktemp('nets'), [name for name in NETS if name not in LARGE])


@pytest.fixture(scope='module')
def large_nets(tmp_path_factory):
    return run_ranks(step_nets, 2, tmp_path_factory.mktemp('nets'), LARGE, timeout=540)


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
                                  for name in NETS])
def test_every_backbone_with_its_head_takes_the_steps_of_one_process(request, name):
    """find_unused_parameters=False passes: every parameter of the nets and of their heads gets a gradient."""
    nets = request.getfixturevalue('large_nets' if name in LARGE else 'small_nets')
    first, second = (rank[name] for rank in nets)
    mean = np.mean([first['losses'], second['losses']], axis=0)
    print(f"{name}: losses {np.abs(mean - first['alone']).max():.1e}, parameters {first['difference']:.1e} apart")
    np.testing.assert_allclose(mean, first['alone'], rtol=1e-10, atol=0)
    assert first['difference'] < 1e-10
    assert first['alone'][1] != first['alone'][0] and not first['still']


STRATEGIES = {
    'ddp': dict(type='DDPStrategy'),
    'fsdp-full': dict(type='FSDPStrategy', state_dict_cfg='full'),
    'fsdp-local': dict(type='FSDPStrategy', state_dict_cfg='local'),
    'single': dict(type='SingleDeviceStrategy'),
}


def train_flexibly(work_dir, strategy, batch_size):
    """Two epochs of FlexibleRunner, and the second again from the checkpoint after the first."""
    init_default_scope('mmaction')
    runs = []
    for extra in (dict(), dict(resume=True, load_from=f'{work_dir}/epoch_1.pth')):
        torch.manual_seed(0)
        runner = FlexibleRunner(MODELS.build(MODEL).double(), strategy=dict(strategy), **settings(
            work_dir, batch_size, epochs=2, custom_hooks=[dict(type='DiaryHook')], experiment_name=str(len(runs)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)), **extra))
        try:
            runner.train()
        except UnsafeCheckpointError as error:
            runs.append(str(error))
            continue
        refused = None
        try:
            HOOKS.build(dict(type='TemporalParamsHook', figures=False)).before_train(runner)
        except ValueError as error:
            refused = str(error)
        shards = {name.replace('_fsdp_wrapped_module.', ''): value.detach().clone()
                  for name, value in runner.model.named_parameters()}
        runs.append(dict(losses=diary(runner).losses, metrics=diary(runner).metrics, shards=shards,
                         refused=refused, wrapper=type(runner.model).__name__))
    return runs


@pytest.mark.parametrize('name', ['ddp', 'fsdp-full', pytest.param('fsdp-local', marks=pytest.mark.slow),
                                  pytest.param('single', marks=pytest.mark.slow)])
def test_strategies_of_flexible_runner_train_and_resume(alone, tmp_path, name):
    ranks = 1 if name == 'single' else 2
    found = run_ranks(train_flexibly, ranks, tmp_path, str(tmp_path / 'work'), STRATEGIES[name], 8 // ranks)
    whole, resumed = ([rank[k] for rank in found] for k in (0, 1))
    assert whole[0]['wrapper'] == dict(ddp='MMDistributedDataParallel', single='Recognizer3D').get(
        name, 'MMFullyShardedDataParallel')
    # the first epoch of Runner in one process; in the second the schedule of the learning rate is another
    mean = np.mean([rank['losses'] for rank in whole], axis=0)
    np.testing.assert_allclose(mean[:2], alone['losses'][:2], rtol=1e-10, atol=0)
    sizes = [sum(value.numel() for value in rank['shards'].values()) for rank in whole]
    total = sum(value.numel() for value in alone['parameters'].values())
    if name.startswith('fsdp'):
        assert sum(sizes) == total and max(sizes) < total  # each rank holds a part
    else:
        assert sizes == [total] * ranks
    for first, second in zip(whole, resumed):
        assert first['refused'] is None or 'FSDP has split the parameters' in first['refused']
        assert (first['refused'] is not None) == name.startswith('fsdp')
        if name == 'fsdp-local':  # its files hold ShardedTensor objects, which weights_only does not read
            assert 'asks for torch.distributed._shard.sharded_tensor.api.ShardedTensor' in second
            continue
        assert len(first['losses']) == 4 and second['losses'] == first['losses'][2:]
        assert second['metrics'] == first['metrics'][1:]
        for key, value in first['shards'].items():
            assert torch.equal(value, second['shards'][key]), key


def meet_a_fate(work_dir, fate, timeout):
    torch.manual_seed(0)
    init_default_scope('mmaction')
    Runner(MODELS.build(MODEL).double(), **settings(
        work_dir, 4, custom_hooks=[dict(type='DiaryHook', fate=fate)],
        env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=timeout)))).train()


@pytest.mark.parametrize('what, timeout, message', [
    (signal.SIGKILL, 600, r'Connection (closed|reset) by peer'),  # noticed at once, whatever the timeout
    (signal.SIGSTOP, 5, 'Timed out waiting'),
], ids=['killed', 'frozen'])
def test_a_lost_rank_ends_the_others_with_an_error(tmp_path, what, timeout, message):
    """At iteration 3 rank 1 is killed, or freezes: rank 0 waits for it no longer than dist_cfg's timeout."""
    codes, logs, _ = run_ranks(meet_a_fate, 2, tmp_path, str(tmp_path / 'work'), (1, 3, what), timeout, timeout=120,
                               check=False, wait_for=[0])
    assert codes == [1, -signal.SIGKILL]
    assert re.search(message, logs[0].splitlines()[-1]) and 'Epoch(train) [2][2/2]' not in logs[0]
    assert torch.load(tmp_path / 'work/epoch_1.pth')['meta']['iter'] == 2  # what was saved before is whole


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    """tools/reliability/interrupts.py, once at each kind of moment."""
    main = runpy.run_path(str(ROOT / 'tools/reliability/interrupts.py'))['main']
    assert main([str(tmp_path / 'out'), '--trials', '8', '--wait', '600']) == 0
    table = pd.read_csv(tmp_path / 'out/trials.csv')
    assert len(table) == 8 and set(table.moment) == {
        'import', 'any time', 'training', 'checkpoint', 'evaluation', 'record', 'two processes'}
    assert (table.leftover == 0).all() and table.unreadable.isna().all() and (table.exit_code != 0).all()
