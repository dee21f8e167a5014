"""TemporalParamsWatchHook on hand-made parameters and in real runs, and what a loss scaler does with an overflow."""
import csv
import math
from pathlib import Path

import pytest
import torch
from helpers.many_processes import run_ranks
from helpers.paths import ROOT
from helpers.tiny_training import TinyData, TinyModel
from mmaction.registry import HOOKS
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from tconv_mmaction.hooks import TemporalParamsError, TemporalParamsWatchHook
from tconv_mmaction.hooks.temporal_params_watch_hook import COLUMNS
from tconv_mmaction.layers import Conv3T


class At(Hook):
    """Calls a function with the runner in iteration N, before or after the step."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, function, before=False):
        self.iteration, self.function, self.before = iteration, function, before

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.before and runner.iter + 1 == self.iteration:
            self.function(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.before and runner.iter + 1 == self.iteration:
            self.function(runner)


def build(work_dir, hook=(), model=None, epochs=2, lr=1e-6, hooks=(), optim_wrapper=None, **kwargs):
    """A Runner with four iterations per epoch, whose parameters stay where they are put (a tiny lr)."""
    build.count += 1
    torch.manual_seed(0)
    runner = Runner(
        model=model or TinyModel(Conv3T(1, 4, 3)), work_dir=str(work_dir), experiment_name=f'watch{build.count}',
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=TinyData(8), collate_fn=dict(type='default_collate'),
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        optim_wrapper=optim_wrapper or dict(optimizer=dict(type='SGD', lr=lr)),
        custom_hooks=[dict(type='TemporalParamsWatchHook', **{'interval': 1, **dict(hook)}), *hooks],
        default_scope='mmaction', log_level='WARNING', randomness=dict(seed=0), **kwargs)  # yapf: disable
    runner.told = []
    runner.logger.warning = lambda text, *args: runner.told.append(str(text))
    return runner


build.count = 0


def told(runner):
    return [text for text in runner.told if 'TemporalParamsWatchHook' in text]


def rows(work_dir):
    path = Path(work_dir) / 'temporal_params_watch.csv'
    if not path.is_file():
        return []
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def put(name, index, value):
    def function(runner):
        with torch.no_grad():
            getattr(runner.model.conv, name)[index] = value
    return function


def test_nothing_is_said_of_healthy_parameters(tmp_path):
    runner = build(tmp_path, lr=1e-3)
    runner.train()
    assert not told(runner) and not (tmp_path / 'temporal_params_watch.csv').exists()
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'TemporalParamsWatchHook')
    assert not hook._handles and not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize('name, value, kind, limits, shown', [
    ('scale', 5., 'range', ('0.1', '4.0'), 'is out of its range [0.1, 4]: 5 at filter 2, step 1; 1 such'),
    ('scale', -1., 'range', ('0.1', '4.0'), 'is out of its range [0.1, 4]: -1 at filter 2, step 1'),
    ('rotate', 3.2, 'range', (str(-math.pi), str(math.pi)), 'is out of its range [-3.14159, 3.14159]: 3.2 at'),
    ('translate_x', -2.5, 'range', ('-2.0', '2.0'), 'is out of its range [-2, 2]: -2.5 at filter 2, step 1'),
    ('translate_y', math.nan, 'not finite', ('', ''), 'is not finite: nan at filter 2, step 1; 1 such value(s)'),
    ('scale', math.inf, 'not finite', ('', ''), 'is not finite: inf at filter 2, step 1'),
])
def test_each_kind_is_said_once_with_its_place(tmp_path, name, value, kind, limits, shown):
    runner = build(tmp_path, dict(grad_norm=None), hooks=[At(3, put(name, (1, 2), value))])
    runner.train()
    messages = [text for text in told(runner) if f'{name} in' in text]
    assert len(messages) == 1 and f"iteration 3: {name} in layer 'conv' {shown}" in messages[0]
    row, = (row for row in rows(tmp_path) if row['parameter'] == name)
    assert tuple(row) == COLUMNS
    assert (row['iteration'], row['epoch'], row['layer'], row['kind']) == ('3', '0', 'conv', kind)
    assert (row['step'], row['filter'], row['count']) == ('1', '2', '1') and (row['low'], row['high']) == limits
    assert float(row['value']) == pytest.approx(value, rel=1e-6, nan_ok=True) and row['run'] == runner.timestamp


def test_the_furthest_value_and_both_kinds(tmp_path):
    def spoil(runner):
        with torch.no_grad():
            runner.model.conv.scale[0, :] = torch.tensor([1., 4.5, 9., -3.])

    runner = build(tmp_path, dict(grad_norm=None, interval=2), hooks=[
        At(1, spoil), At(6, put('scale', (1, 0), math.nan))])
    runner.train()
    found = [(row['iteration'], row['kind'], row['step'], row['filter'], row['count']) for row in rows(tmp_path)
             if row['parameter'] == 'scale']
    assert found == [('2', 'range', '0', '2', '3'), ('6', 'not finite', '1', '0', '1')]


def test_limits_can_be_set_and_left_out(tmp_path):
    runner = build(tmp_path, dict(scale=None, rotate=(-0.1, 0.1), translate=[-1, 1]), hooks=[
        At(1, put('scale', (0, 0), 50.)), At(1, put('rotate', (0, 0), 0.2)), At(1, put('translate_y', (0, 1), 1.5))])
    runner.train()
    assert {row['parameter'] for row in rows(tmp_path)} == {'rotate', 'translate_y'}


def test_between_checks_nothing_is_read(tmp_path, monkeypatch):
    """An interval of 3 over 8 iterations: the start, 3, 6 and the end; a value that comes and goes is not seen."""
    reads, values = [], TemporalParamsWatchHook._values
    monkeypatch.setattr(TemporalParamsWatchHook, '_values', lambda hook: reads.append(1) or values(hook))
    runner = build(tmp_path, dict(interval=3, grad_norm=None), hooks=[
        At(4, put('scale', (0, 0), 9.)), At(5, put('scale', (0, 0), 1.))])
    runner.train()
    assert len(reads) == 4 and not rows(tmp_path)


def test_a_spoiled_checkpoint_is_said_before_the_first_step(tmp_path):
    model = TinyModel(Conv3T(1, 4, 3))
    with torch.no_grad():
        model.conv.translate_x[0, 3] = 7
    torch.save(model.state_dict(), tmp_path / 'spoiled.pth')
    runner = build(tmp_path, load_from=str(tmp_path / 'spoiled.pth'))
    runner.train()
    assert rows(tmp_path)[0]['iteration'] == '0' and rows(tmp_path)[0]['filter'] == '3'
    with pytest.raises(TemporalParamsError, match='iteration 0: translate_x'):
        build(tmp_path / 'stop', dict(on_violation='stop'), load_from=str(tmp_path / 'spoiled.pth')).train()
    assert not list((tmp_path / 'stop').glob('*.pth'))


def gradients(work_dir, limit, **kwargs):
    """(rows, the gradients of the temporal parameters at every step, as the optimizer gets them)."""
    seen = []

    def watch(runner):
        conv = runner.model.conv
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *args: seen.append(
            {name: getattr(conv, name).grad.clone() for name in ('scale', 'rotate', 'translate_x', 'translate_y')}))

    runner = build(work_dir, dict(grad_norm=limit), hooks=[At(1, watch, before=True)], **kwargs)
    runner.train()
    return rows(work_dir), seen


def test_gradient_norm_is_the_one_of_the_step(tmp_path):
    found, seen = gradients(tmp_path, 1e-12)
    assert {row['parameter'] for row in found} == set(seen[0]) and {row['kind'] for row in found} == {'gradient'}
    for row in found:
        gradient = seen[0][row['parameter']]
        assert row['iteration'] == '1' and float(row['value']) == pytest.approx(float(gradient.norm()), rel=1e-5)
        assert int(row['filter']) == int(gradient.norm(dim=0).argmax()) and row['step'] == ''
    assert gradients(tmp_path / 'high', 1e6)[0] == []
    clipped, seen = gradients(tmp_path / 'clip', 1e-12, optim_wrapper=dict(
        optimizer=dict(type='SGD', lr=1e-6), clip_grad=dict(max_norm=1e-4)))
    assert all(float(row['value']) <= 1.001e-4 for row in clipped) and len(clipped) == 4


def test_gradients_of_accumulated_iterations(tmp_path):
    """Steps are in iterations 4 and 8; a check at 3 and 6 waits for them, a check at 4 has its own."""
    found, seen = gradients(tmp_path, 1e-12, optim_wrapper=dict(
        optimizer=dict(type='SGD', lr=1e-6), accumulative_counts=4))
    assert len(seen) == 2 and {row['iteration'] for row in found} == {'4'} and len(found) == 4
    for row in found:
        assert float(row['value']) == pytest.approx(float(seen[0][row['parameter']].norm()), rel=1e-5)
    runner = build(tmp_path / 'late', dict(grad_norm=1e-12, interval=3), optim_wrapper=dict(
        optimizer=dict(type='SGD', lr=1e-6), accumulative_counts=4))
    runner.train()
    assert {row['iteration'] for row in rows(tmp_path / 'late')} == {'4'}


def test_nan_gradient(tmp_path):
    def poison(runner):
        runner.model.conv.rotate.register_hook(lambda grad: torch.full_like(grad, math.nan))

    runner = build(tmp_path, dict(interval=2), hooks=[At(2, poison, before=True)])
    runner.train()
    found = {(row['parameter'], row['kind']): row for row in rows(tmp_path)}
    assert math.isnan(float(found['rotate', 'gradient']['value'])) and found['rotate', 'gradient']['iteration'] == '2'
    assert ('rotate', 'not finite') in found  # what the step made of it


def test_stop_saves_a_checkpoint_that_loads(tmp_path):
    """A learning rate of 1e6 blows the parameters up; the run ends with our error, and its state can be looked at."""
    runner = build(tmp_path, dict(on_violation='stop', grad_norm=None), lr=1e6)
    with pytest.raises(TemporalParamsError) as raised:
        runner.train()
    first = rows(tmp_path)[0]
    iteration = int(first['iteration'])
    path = tmp_path / f'temporal_params_stop_iter_{iteration}.pth'
    message = str(raised.value)
    assert message.startswith(f'iteration {iteration}: {first["parameter"]} in layer') and str(path) in message
    assert 'lower learning rate' in message and isinstance(raised.value, FloatingPointError)
    state = torch.load(path, weights_only=True)  # the compat layer reads MMEngine's own contents too
    assert state['meta']['iter'] == iteration and state['meta']['epoch'] == 0
    model = TinyModel(Conv3T(1, 4, 3))
    model.load_state_dict(state['state_dict'])
    value = getattr(model.conv, first['parameter']).detach()[int(first['step']), int(first['filter'])]
    assert float(value) == pytest.approx(float(first['value']), rel=1e-6)
    assert not (tmp_path / 'last_checkpoint').exists()  # --resume goes on from a regular one
    with pytest.raises(TemporalParamsError, match=f'iteration {iteration}: '):  # from it, the run stops at the start
        build(tmp_path / 'again', dict(on_violation='stop', grad_norm=None), load_from=str(path),
              resume=True).train()


def test_later_runs_append(tmp_path):
    for _ in range(2):
        build(tmp_path, dict(grad_norm=None), hooks=[At(2, put('scale', (0, 0), 9.))]).train()
    assert [(row['parameter'], row['iteration']) for row in rows(tmp_path)] == [('scale', '2')] * 2
    (tmp_path / 'temporal_params_watch.csv').write_text('something else\n')
    with pytest.raises(ValueError, match='is not a file that TemporalParamsWatchHook wrote'):
        build(tmp_path).train()


def test_free_transforms_are_read_as_similarities(tmp_path):
    def shear(runner):
        with torch.no_grad():  # A = 3 R(0), b = (3 * 1.5, 0): scale 3, translation 1.5; then a pure mirroring
            runner.model.conv.theta[0, 1] = torch.tensor([[3., 0., 4.5], [0., 3., 0.]])
            runner.model.conv.theta[1, 0] = torch.tensor([[1., 0., 1.], [0., -1., 0.]])

    runner = build(tmp_path, dict(scale=(0.5, 2.5), translate=(-1, 1)),
                   model=TinyModel(Conv3T(1, 4, 3, transform='free')), hooks=[At(2, shear)])
    runner.train()
    found = {row['parameter']: row for row in rows(tmp_path) if row['iteration'] == '2'}  # the next step moves them
    assert set(found) == {'scale', 'translate_x'}
    scale = found['scale']  # 3 and 0 are both 0.5 beyond [0.5, 2.5]
    assert (scale['step'], scale['filter'], float(scale['value']), scale['count']) == ('0', '1', 3., '2')
    assert float(found['translate_x']['value']) == pytest.approx(1.5)
    poisoned = build(tmp_path / 'nan', model=TinyModel(Conv3T(1, 4, 3, transform='free')),
                     hooks=[At(2, put('theta', (0, 1, 1, 2), math.nan))])
    poisoned.train()
    assert ('theta', 'not finite', '1') in {(r['parameter'], r['kind'], r['filter']) for r in rows(tmp_path / 'nan')}


@pytest.mark.parametrize('conv', [nn.Conv3d(1, 2, 3), Conv3T(1, 2, (1, 3, 3))], ids=['Conv3d', 'kT=1'])
def test_a_model_without_temporal_parameters_is_left_alone(tmp_path, conv):
    runner = build(tmp_path, model=TinyModel(conv))
    said = []
    runner.logger.info = lambda text, *args: said.append(str(text))
    runner.train()
    assert [text for text in said if 'WatchHook' in text] == [
        'TemporalParamsWatchHook: TinyModel has no Conv3T layer with kT > 1, so there is nothing to watch.']
    assert not rows(tmp_path)


def test_sharded_parameters_are_left_alone(tmp_path):
    class FullyShardedDataParallel(nn.Module):  # what FSDP leaves of a parameter outside of forward is not to be read
        def __init__(self):
            super().__init__()
            self.conv = Conv3T(1, 2, 3)

    runner = build(tmp_path)
    hook = HOOKS.build(dict(type='TemporalParamsWatchHook'))
    runner.model.inner = FullyShardedDataParallel()
    hook.before_train(runner)
    assert not hook._layers and 'sharded over the processes (FSDP)' in runner.told[-1]


@pytest.mark.parametrize('kwargs, message', [
    (dict(interval=0), 'interval must be a positive number of iterations, got 0'),
    (dict(interval=1.5), 'interval .* got 1.5'),
    (dict(scale=(2, 1)), r'scale must be \(smallest, largest\), or None .* got \(2, 1\)'),
    (dict(rotate=3.), 'rotate must be'),
    (dict(translate=('a', 'b')), 'translate must be'),
    (dict(translate=(math.nan, 1)), 'translate must be'),
    (dict(grad_norm=0), 'grad_norm must be a positive number or None, got 0'),
    (dict(grad_norm='big'), "grad_norm .* got 'big'"),
    (dict(on_violation='raise'), "on_violation must be 'log' or 'stop', got 'raise'"),
])
def test_wrong_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='TemporalParamsWatchHook', **kwargs))


def stopped_rank(work_dir):
    """One rank of a DDP run in which rank 1 alone has a spoiled value: what the run ends with."""
    def spoil(runner):
        if get_rank() == 1:
            with torch.no_grad():
                runner.model.module.conv.scale[1, 2] = 9.

    runner = build(work_dir, dict(on_violation='stop'), hooks=[At(1, spoil)], launcher='pytorch',
                   env_cfg=dict(dist_cfg=dict(backend='gloo')))
    try:
        runner.train()
    except TemporalParamsError as error:
        return str(error), len(told(runner))


def test_two_processes_stop_together(tmp_path):
    """DDP over gloo: both ranks raise in the same iteration, rank 0 alone writes."""
    (first, told_first), (second, told_second) = run_ranks(stopped_rank, 2, tmp_path / 'ranks', tmp_path / 'run')
    assert 'iteration 1: scale' in first and '9 on another rank' in first and told_first == 1
    assert 'iteration 1: scale' in second and '9 at filter 2, step 1' in second and told_second == 0
    row, = rows(tmp_path / 'run')
    assert (row['parameter'], row['value'], row['filter'], row['count']) == ('scale', '9.0', '', '0')
    state = torch.load(tmp_path / 'run/temporal_params_stop_iter_1.pth', weights_only=True)
    assert state['meta']['iter'] == 1 and set(state['state_dict']) >= {'conv.scale', 'conv.weight'}


# What a loss scaler does with an overflow. MMEngine's AmpOptimWrapper asks for an accelerator, so the tests on the CPU
# have one of their own around torch.amp.GradScaler('cpu'), which makes the same four calls.


@OPTIM_WRAPPERS.register_module()
class CpuScalerOptimWrapper(OptimWrapper):
    """Scale the loss, unscale before clipping, step unless a gradient overflowed, update the scale."""

    def __init__(self, init_scale=2.**10, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale, growth_interval=1000)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def overflow_once(runner):
    """An infinite gradient of the weight in one backward pass, while the loss itself stays finite."""
    handle = []

    def spoil(grad):
        handle[0].remove()
        return torch.full_like(grad, math.inf)

    handle.append(runner.model.conv.weight.register_hook(spoil))


class Record(Hook):
    """Weights, temporal parameters, scale and loss after every iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.weights, self.scales, self.losses = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.weights.append({k: v.clone() for k, v in runner.model.state_dict().items()})
        self.scales.append(runner.optim_wrapper.loss_scaler.get_scale())
        self.losses.append(float(outputs['loss'].detach()))


def scaled_run(work_dir, wrapper, **kwargs):
    record = Record()
    runner = build(work_dir, dict(on_violation='stop'), optim_wrapper=wrapper, hooks=[
        At(3, overflow_once, before=True), dict(type='CheckInvalidLossHook', interval=1), record], **kwargs)
    runner.train()
    assert runner.iter == 8 and all(map(math.isfinite, record.losses)) and not told(runner) and not rows(work_dir)
    return record


@pytest.mark.parametrize('clip', [None, dict(max_norm=10.)], ids=['plain', 'clip'])
def test_an_overflow_is_skipped_and_the_training_goes_on(tmp_path, clip):
    """The step of iteration 3 is left out, the scale halves, and neither hook takes it for a divergence."""
    wrapper = dict(type='CpuScalerOptimWrapper', optimizer=dict(type='Adam', lr=1e-3), clip_grad=clip)
    record = scaled_run(tmp_path, wrapper)
    assert record.scales == [1024.] * 2 + [512.] * 6
    same = [all(torch.equal(one[k], two[k]) for k in one) for one, two in zip(record.weights, record.weights[1:])]
    assert same == [False, True, False, False, False, False, False]
    assert all(torch.isfinite(value).all() for value in record.weights[-1].values())


def test_watched_gradients_are_unscaled(tmp_path):
    """With a scale of 1024 the norms are those of a run without one."""
    wrapper = dict(type='CpuScalerOptimWrapper', optimizer=dict(type='SGD', lr=1e-6))
    scaled, _ = gradients(tmp_path / 'scaled', 1e-12, optim_wrapper=wrapper)
    plain, _ = gradients(tmp_path / 'plain', 1e-12)
    assert len(scaled) == len(plain) == 4
    for one, other in zip(scaled, plain):
        assert one['parameter'] == other['parameter']
        assert float(one['value']) == pytest.approx(float(other['value']), rel=1e-4)


def test_an_infinite_loss_still_stops(tmp_path):
    """The scaler would skip such steps for ever; CheckInvalidLossHook ends the run."""
    def break_model(runner):
        with torch.no_grad():
            runner.model.fc.bias.fill_(math.inf)

    runner = build(tmp_path, optim_wrapper=dict(type='CpuScalerOptimWrapper', optimizer=dict(type='SGD', lr=1e-6)),
                   hooks=[At(2, break_model), dict(type='CheckInvalidLossHook', interval=1)])
    with pytest.raises(FloatingPointError, match='iteration 3: .*nan'):
        runner.train()


@pytest.mark.gpu
@pytest.mark.parametrize('fused', [False, True])
def test_amp_on_a_gpu_skips_an_overflow(tmp_path, fused):
    """MMEngine's own AmpOptimWrapper in float16; a fused optimizer is told of the overflow inside its step."""
    wrapper = dict(type='AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=1024., growth_interval=1000),
                   optimizer=dict(type='Adam', lr=1e-3, fused=fused))
    record = scaled_run(tmp_path, wrapper)
    assert record.scales == [1024.] * 2 + [512.] * 6
    assert all(torch.equal(record.weights[1][k], record.weights[2][k]) for k in record.weights[1])
    assert not all(torch.equal(record.weights[2][k], record.weights[3][k]) for k in record.weights[1])


@pytest.mark.gpu
def test_a_real_float16_overflow_on_a_gpu(tmp_path):
    """A loss scale of 2^40 overflows float16 by itself: steps are skipped until it fits, and then the model learns."""
    record = Record()
    runner = build(tmp_path, dict(on_violation='stop'), epochs=12, hooks=[
        dict(type='CheckInvalidLossHook', interval=1), record], optim_wrapper=dict(
            type='AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=2.**40),
            optimizer=dict(type='Adam', lr=1e-3)))
    runner.train()
    assert record.scales[0] == 2.**39 and record.scales[-1] < 2.**39 and not rows(tmp_path)
    assert not torch.equal(record.weights[-1]['fc.weight'], record.weights[0]['fc.weight'])


@pytest.mark.parametrize('tree', ['clstm', 'lenet5', 'tconv3', 'temporal_filters'])
def test_every_tree_of_configs_has_both_hooks(tree):
    """One config of each; test_configs looks for CheckInvalidLossHook in all of them."""
    config = Config.fromfile(next(path for path in sorted((ROOT / 'configs/recognition' / tree).glob('*.py'))
                                  if not path.name.startswith('_')))
    assert 'CheckInvalidLossHook' in [hook.type for hook in config.custom_hooks]
    assert config.default_hooks.temporal_params_watch == dict(type='TemporalParamsWatchHook', interval=50)
