"""TemporalParamsHook in real MMEngine runs of a few iterations."""
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_training import TinyData, TinyModel
from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tconv_mmaction.hooks import TemporalParamsHook
from tconv_mmaction.hooks.temporal_params_hook import clip_shape_of
from tconv_mmaction.interpret import load_parameters, parameter_statistics, temporal_parameters
from tconv_mmaction.interpret.parameter_statistics import MODEL_ROW
from tconv_mmaction.layers import Conv3T

SCALARS = {f'temporal/abs_{name}_{kind}' for name in ('scale_minus_1', 'rotate', 'translate_x', 'translate_y')
           for kind in ('mean', 'std')}


class Keep(Hook):
    """The statistics after every iteration, from outside the hook under test."""

    priority = 'LOW'

    def __init__(self):
        self.statistics, self.parameters = {}, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.statistics[runner.iter + 1] = parameter_statistics(runner.model).loc[MODEL_ROW]
        self.parameters[runner.iter + 1] = temporal_parameters(runner.model)


class Die(Exception):
    pass


class DieAt(Hook):
    priority = 'LOWEST'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise Die


def build(work_dir, hook, model=None, epochs=3, iters=None, log_interval=1, hooks=(), **kwargs):
    """A Runner with three iterations per epoch; the hook under test comes from the registry, as in a config."""
    train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs)
    if iters is not None:
        train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
    sampler = dict(type='DefaultSampler' if iters is None else 'InfiniteSampler', shuffle=False)
    torch.manual_seed(0)
    build.count += 1
    return Runner(
        model=model or TinyModel(), work_dir=str(work_dir), train_cfg=train_cfg, experiment_name=f'run{build.count}',
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=TinyData(6), collate_fn=dict(type='default_collate'),
                              sampler=sampler),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=log_interval)),
        custom_hooks=[dict(type='TemporalParamsHook', **hook), *hooks],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'),
                                                         dict(type='TensorboardVisBackend')]),
        log_processor=dict(by_epoch=iters is None), default_scope='mmaction', log_level='WARNING',
        randomness=dict(seed=0), **kwargs)  # yapf: disable


build.count = 0


def lines(work_dir):
    """All lines of vis_data/scalars.json of all runs in this folder."""
    return [json.loads(line) for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
            for line in path.read_text().splitlines()]


def expected_scalars(row):
    names = dict(scale_minus_1='scale', rotate='rotate', translate_x='translate_x', translate_y='translate_y')
    return {f'temporal/abs_{shown}_{kind}': row[f'abs_{name}_{kind}'] for shown, name in names.items()
            for kind in ('mean', 'std')}


def test_files_of_epochs_and_the_end(tmp_path):
    keep = Keep()
    runner = build(tmp_path, dict(interval=2), epochs=3, hooks=[keep])
    runner.train()
    folder = tmp_path / 'temporal_params'
    assert sorted(os.listdir(folder)) == [f'epoch_{e}{suffix}' for e in (2, 3) for suffix in (
        '.csv', '.npz', '_distributions.png', '_trajectories.png')]
    for epoch in (2, 3):
        parameters, sizes = load_parameters(folder / f'epoch_{epoch}.npz')  # allow_pickle=False inside
        assert sizes == {'conv': (3, 3, 3)}
        for name, value in keep.parameters[3 * epoch]['conv'].items():
            torch.testing.assert_close(parameters['conv'][name], value, rtol=0, atol=0)
            assert value.abs().max() > 0
        table = pd.read_csv(folder / f'epoch_{epoch}.csv', index_col='layer')
        assert list(table.index) == ['conv', MODEL_ROW]
        assert list(table['epoch']) == [epoch] * 2 and list(table['iter']) == [3 * epoch] * 2
        row = keep.statistics[3 * epoch]
        for column in (c for c in row.index if c.startswith(('abs', 'signed'))):
            assert table.loc[MODEL_ROW, column] == pytest.approx(row[column], rel=1e-9), column
            assert 'mean' not in column or row[column] != 0
        for figure in ('distributions', 'trajectories'):
            assert (folder / f'epoch_{epoch}_{figure}.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('log_interval', [1, 2, 100])
def test_scalars_reach_json_and_tensorboard(tmp_path, log_interval):
    keep = Keep()
    build(tmp_path, dict(interval=1, figures=False), log_interval=log_interval, hooks=[keep]).train()
    found = lines(tmp_path)
    at = {}
    for line in found:
        if SCALARS & set(line):
            assert SCALARS <= set(line)
            at.setdefault(line['step'], []).append(line)
    assert {3, 6, 9} <= set(at)  # also where LoggerHook's interval has no line, and the last iteration
    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data'))))
    events.Reload()
    assert SCALARS <= set(events.Tags()['scalars'])
    for step in (3, 6, 9):
        for name, value in expected_scalars(keep.statistics[step]).items():
            for line in at[step]:
                assert line[name] == pytest.approx(value, rel=1e-9), (step, name)
            points = [event.value for event in events.Scalars(name) if event.step == step]
            assert points and points == pytest.approx([value] * len(points), rel=1e-6)
    assert all(not any(name.startswith('temporal/') for name in line) for line in found if 'lr' in line)


def test_message_hub_and_text_log(tmp_path):
    runner = build(tmp_path, dict(interval=1, figures=False), epochs=2)
    runner.logger.setLevel('INFO')
    records = []
    runner.logger.info = records.append
    runner.train()
    row = parameter_statistics(runner.model).loc[MODEL_ROW]
    for name, value in expected_scalars(row).items():
        assert runner.message_hub.get_scalar(name).current() == pytest.approx(value)
    said = [text for text in records if 'Temporal parameters of epoch' in text]
    assert len(said) == 2  # one line per epoch
    assert f"|scale - 1| {row['abs_scale_mean']:.4f} ({row['abs_scale_std']:.4f})" in said[-1]
    assert f"|translate_y, half kernels| {row['abs_translate_y_mean']:.4f}" in said[-1] and 'epoch 2' in said[-1]


def test_iterations(tmp_path):
    keep = Keep()
    build(tmp_path, dict(interval=4, by_epoch=False, figures=False), iters=10, hooks=[keep]).train()
    folder = tmp_path / 'temporal_params'
    assert sorted(os.listdir(folder)) == sorted(f'iter_{i}.{e}' for i in (4, 8, 10) for e in ('csv', 'npz'))
    for i in (4, 8, 10):
        torch.testing.assert_close(load_parameters(folder / f'iter_{i}.npz')[0]['conv']['rotate'],
                                   keep.parameters[i]['conv']['rotate'], rtol=0, atol=0)
        table = pd.read_csv(folder / f'iter_{i}.csv')
        assert 'epoch' not in table and list(table['iter']) == [i] * 2
    assert {line['step'] for line in lines(tmp_path) if SCALARS & set(line) and 'lr' not in line} == {4, 8, 10}


@pytest.mark.parametrize('interval, iterations', [(1, (3, 6, 8)), (2, (6, 8)), (5, (8, ))])
def test_epochs_of_a_loop_of_iterations_are_passes_over_the_data(interval, iterations, tmp_path):
    """Six samples in batches of two: a pass is 3 iterations; 8 iterations in all, and the end is always recorded."""
    runner, said = build(tmp_path, dict(interval=interval, figures=False), iters=8), []
    runner.logger.info = said.append
    runner.train()
    assert sorted(os.listdir(tmp_path / 'temporal_params')) == sorted(
        f'iter_{i}.{kind}' for i in iterations for kind in ('csv', 'npz'))
    assert any(f'interval={interval} is taken as passes over the data, so a record is made every {3 * interval} iter'
               in line for line in said)


def test_resume_neither_duplicates_nor_loses(tmp_path):
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    hook = dict(interval=1, figures=False)
    build(whole, hook, epochs=4).train()
    with pytest.raises(Die):
        build(broken, hook, epochs=4, hooks=[DieAt(6)]).train()  # epoch 2 is recorded, its checkpoint is not written
    assert (broken / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    build(broken, hook, epochs=4, resume=True).train()
    names = sorted(os.listdir(whole / 'temporal_params'))
    assert names == sorted(f'epoch_{e}.{kind}' for e in range(1, 5) for kind in ('csv', 'npz'))
    assert sorted(os.listdir(broken / 'temporal_params')) == names
    for name in names:
        if name.endswith('.csv'):
            assert (broken / 'temporal_params' / name).read_text() == (whole / 'temporal_params' / name).read_text()
        else:
            expected, found = load_parameters(whole / 'temporal_params' / name), load_parameters(
                broken / 'temporal_params' / name)
            torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    # once more at the end: nothing new
    build(broken, hook, epochs=4, resume=True).train()
    assert sorted(os.listdir(broken / 'temporal_params')) == names


def test_out_dir_and_given_filters(tmp_path):
    hook = dict(interval=5, out_dir=str(tmp_path / 'elsewhere'), filters=[['conv', 1]])
    build(tmp_path / 'work', hook, epochs=1).train()
    assert len(os.listdir(tmp_path / 'elsewhere')) == 4
    assert not (tmp_path / 'work/temporal_params').exists()


@pytest.mark.parametrize('conv', [nn.Conv3d(1, 2, 3), Conv3T(1, 2, (1, 3, 3))], ids=['Conv3d', 'kT=1'])
def test_warns_once_and_does_nothing_without_3t_layers(tmp_path, conv):
    runner = build(tmp_path, dict(interval=1), model=TinyModel(conv))
    warnings = []
    runner.logger.warning = lambda text, *args: warnings.append(text)
    runner.train()
    assert [text for text in warnings if 'TemporalParamsHook' in str(text)] == [
        'TemporalParamsHook: TinyModel has no Conv3T layer with kT > 1, so there are no temporal parameters to record; '
        'the hook does nothing.']
    assert not (tmp_path / 'temporal_params').exists()
    assert not any(SCALARS & set(line) for line in lines(tmp_path))


class Poison(Hook):
    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 2:  # the last of an epoch; one more step would make all of them NaN
            runner.model.conv.translate_x.data[1, 0] = float('nan')


def test_nan_stops_the_run_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"translate_x of layer 'conv' holds 1 value.*\(1, 0\)"):
        build(tmp_path, dict(interval=1), hooks=[Poison()]).train()
    assert not (tmp_path / 'temporal_params').exists()


def test_wrong_settings(tmp_path):
    for interval in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f'interval must be a positive .* got {interval}'):
            TemporalParamsHook(interval=interval)
    with pytest.raises(ValueError, match='filters must be a positive number .* got 0'):
        TemporalParamsHook(filters=0)
    with pytest.raises(ValueError, match=r"filters names the layer 'conv9'; the Conv3T layers .* \['conv'\]"):
        build(tmp_path, dict(filters=[('conv9', 0)])).train()
    with pytest.raises(IndexError, match='channel 7 of a layer with 2'):
        build(tmp_path, dict(filters=[('conv', 7)])).train()
    assert HOOKS.get('TemporalParamsHook') is TemporalParamsHook


def test_two_processes_write_once(tmp_path):
    """DDP over gloo: rank 0 writes, the parameters are the synchronised ones, and names have no 'module.'."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    script = textwrap.dedent('''
        import os, sys
        import torch
        sys.path.insert(0, sys.argv[2])
        from hooks.test_temporal_params_hook import build
        import tconv_mmaction.hooks.temporal_params_hook as module
        written = []
        save = module.save_parameters
        module.save_parameters = lambda path, *given: (written.append(path.name), save(path, *given))
        runner = build(sys.argv[1], dict(interval=1, figures=False), epochs=2, launcher='pytorch',
                       env_cfg=dict(dist_cfg=dict(backend='gloo')))
        runner.train()
        print(f'rank {os.environ["RANK"]} {type(runner.model).__name__} wrote {written}', flush=True)
    ''')
    processes = []
    for rank in range(2):
        environment = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
                           MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES='')
        processes.append(subprocess.Popen([sys.executable, '-c', script, str(tmp_path), str(ROOT / 'tests')],
                                          env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results[0][1] + results[1][1]
    assert "rank 0 MMDistributedDataParallel wrote ['epoch_1.npz', 'epoch_2.npz']" in results[0][0]
    assert 'rank 1 MMDistributedDataParallel wrote []' in results[1][0]
    with np.load(tmp_path / 'temporal_params/epoch_2.npz', allow_pickle=False) as file:
        assert np.isfinite(file['conv.scale']).all() and np.abs(file['conv.scale'] - 1).max() > 0


def test_sharded_parameters_are_refused_before_the_training(tmp_path):
    class FullyShardedDataParallel(nn.Module):  # its parameters are a part of each, flat
        def __init__(self):
            super().__init__()
            self.conv = Conv3T(1, 2, 3)

    model = TinyModel()
    model.inner = FullyShardedDataParallel()
    with pytest.raises(ValueError, match='TemporalParamsHook: FSDP has split the parameters .*temporal_params.py'):
        build(tmp_path, dict(interval=1), model=model).train()
    assert not (tmp_path / 'temporal_params').exists()


class ShortAtTheEnd(TinyModel):
    """A second 3T layer that sees one step: its last transforms get no gradient."""

    def __init__(self):
        super().__init__(Conv3T(1, 2, 3, padding=1))
        self.last = Conv3T(2, 2, 3, padding=1)

    def init_weights(self):
        super().init_weights()
        with torch.no_grad():
            self.last.scale[1] = 5.  # a start that would be half of every mean

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.last(self.conv(inputs).mean(2, keepdim=True)).mean((2, 3, 4)))
        return dict(loss=nn.functional.cross_entropy(logits, labels)) if mode == 'loss' else logits


def test_steps_without_a_gradient_are_counted_and_in_no_number(tmp_path):
    model = ShortAtTheEnd()
    runner = build(tmp_path, dict(figures=True), model=model, epochs=1)
    said = []
    runner.logger.info = lambda text, *args, **kwargs: said.append(text)
    runner.train()
    assert (model.last.scale[1] == 5).all() and (model.last.scale[0] != 1).all()
    table = pd.read_csv(tmp_path / 'temporal_params/epoch_1.csv', index_col='layer')
    assert table['left_out'].tolist() == [0, 2, 2] and table['values'].tolist() == [4, 2, 6]
    kept = torch.cat([model.conv.scale.flatten(), model.last.scale[0]]).detach().double() - 1
    assert table.loc[MODEL_ROW, 'abs_scale_mean'] == pytest.approx(float(kept.abs().mean()), rel=1e-6)
    written = {key: line[key] for line in lines(tmp_path) for key in line if key == 'temporal/abs_scale_minus_1_mean'}
    assert list(written.values()) == pytest.approx([float(kept.abs().mean())], rel=1e-6)
    text, = [text for text in said if text.startswith('Temporal parameters of epoch 1')]
    assert text.endswith('; without 2 of 8 steps x filters, whose slices see no frame of clips of 4 frames')
    parameters, _ = load_parameters(tmp_path / 'temporal_params/epoch_1.npz')
    assert parameters['last']['used'].tolist() == [True, False] and parameters['conv']['used'].all()


def test_the_clip_of_a_batch():
    clip = torch.zeros(2, 3, 8, 5, 6)  # views, C, T, H, W
    assert clip_shape_of(dict(inputs=[clip, clip])) == clip_shape_of(dict(inputs=clip[None])) == (3, 8, 5, 6)
    assert clip_shape_of(dict(inputs=[clip[0]])) is clip_shape_of([clip]) is clip_shape_of(dict()) is None
