"""ExactResumeHook: draws that are a function of seed and progress, and resumes that nobody can tell."""
import itertools
import pickle
import random
import time

import numpy as np
import pytest
import torch
from mmaction.registry import DATASETS, MODELS
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from tconv_mmaction.hooks import ExactResumeHook
from tconv_mmaction.interpret import (
    effective_receptive_field,
    find_temporal_mask,
    maximize_activation,
    temporal_parameters,
)
from tconv_mmaction.interpret.pictures.temporal_figures import filter_trajectory
from tconv_mmaction.transforms.worker_rng import WorkerRNG
from tconv_mmaction.utils.sample_seeds import SampleIndex, SeededSampler, seed_generators, seed_samples

# ---- draws ----


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_are_a_function_of_the_key():
    keys = list(itertools.product([0, 7, 2**31 - 1], [0, 1], range(20)))
    seen = []
    for key in keys:
        seed_generators(*key)
        seen.append(draws())
    np.random.rand(), random.random(), torch.rand(3)
    for key, expected in zip(keys, seen):
        seed_generators(*key)
        assert draws() == expected
    for column in zip(*seen):  # no two keys, no two generators share a draw
        assert len(set(column)) == len(keys)
    assert len({value for row in seen for value in row}) == 3 * len(keys)
    assert abs(np.mean([row[1] for row in seen]) - .5) < .1  # neighbouring keys are not alike


class Draws(torch.utils.data.Dataset):
    """A sample is what its transforms draw: Python, NumPy, PyTorch, and ours."""

    def __init__(self):
        self.ours, self.other = WorkerRNG('one'), WorkerRNG('two')

    def __len__(self):
        return 7

    def __getitem__(self, index):
        assert type(index) is int
        return dict(index=index, draw=[*draws(), self.ours.get().rand(), self.other.get().rand()])


class ManyDraws(Draws):
    def __getitems__(self, indices):
        return [Draws.__getitem__(self, index) for index in indices]


def collect(dataset, workers, persistent, key=(5,), seeded=True):
    """{(epoch, index): draws} of three epochs."""
    torch.manual_seed(workers)  # the run before this moment must not matter
    loader = Runner.build_dataloader(dict(
        dataset=dataset, batch_size=3, num_workers=workers, persistent_workers=persistent,
        sampler=dict(type='DefaultSampler', shuffle=True)), seed=11)
    sampler, found = seed_samples(loader, key) if seeded else None, {}
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        if seeded:
            sampler.epoch = epoch
        for batch in loader:
            found.update({(epoch, i): tuple(draw) for i, draw in zip(batch['index'], zip(*batch['draw']))}
                         if isinstance(batch['draw'][0], (tuple, torch.Tensor)) else
                         {(epoch, i): tuple(draw) for i, draw in zip(batch['index'], batch['draw'])})
    return found


@pytest.mark.parametrize('kind', [Draws, ManyDraws])
def test_transforms_draw_the_same_with_0_1_and_4_workers_and_anew_in_each_epoch(kind):
    expected = collect(kind(), 0, False)
    assert len(expected) == 21
    for place in range(5):
        assert len({draw[place] for draw in expected.values()}) == 21  # every epoch, every sample its own
    for workers, persistent in [(1, True), (4, False), (4, True)]:
        assert collect(kind(), workers, persistent) == expected
    assert not {draw[0] for draw in collect(kind(), 0, False, key=(6,)).values()} & {d[0] for d in expected.values()}


def test_without_the_hook_workers_repeat_themselves():
    """What the hook is for: mmengine's workers of two epochs draw the same from NumPy's generator."""
    found = collect(Draws(), 1, False, seeded=False)
    assert len({draw[1] for draw in found.values()}) == 7
    assert len({draw[3] for draw in found.values()}) == 21  # our transforms never did


def test_a_sample_that_comes_twice_in_an_epoch_is_drawn_twice():
    sampler = SeededSampler([2, 0, 2, 2], epoch=4)
    assert [(int(i), i.draw) for i in sampler] == [(2, (4, 0)), (0, (4, 0)), (2, (4, 1)), (2, (4, 2))]
    endless = SeededSampler([2, 0])
    assert [i.draw for _ in range(2) for i in endless] == [(0, 0), (0, 0), (1, 0), (1, 0)]
    loader = DataLoader(Draws(), batch_size=4, sampler=RandomSampler(range(7), replacement=True, num_samples=60),
                        collate_fn=list)
    seed_samples(loader, (0,), epoch=0)
    found = [tuple(sample['draw']) for batch in loader for sample in batch]
    assert len(set(found)) == 60


def test_pickled_to_a_spawned_worker():
    loader = DataLoader(Draws(), batch_size=2, collate_fn=list)
    sampler = seed_samples(loader, (0,), epoch=3)
    index = pickle.loads(pickle.dumps(next(iter(sampler))))
    assert type(index) is SampleIndex and (index, index.draw) == (0, (3, 0))
    dataset = pickle.loads(pickle.dumps(loader.dataset))
    assert dataset.__getitems__([index]) == loader.dataset.__getitems__([index])
    assert pickle.loads(pickle.dumps(sampler)).data_source is not None  # what SequentialSampler has


def test_what_cannot_be_seeded_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(ValueError, match='Stream with .* has none'):
        seed_samples(DataLoader(Stream(), batch_size=2), (0,))
    with pytest.raises(ValueError, match='Draws with NoneType has none'):
        seed_samples(DataLoader(Draws(), batch_size=None), (0,))

    class Counting(BatchSampler):
        def __iter__(self):
            return ([int(i) + 0 for i in batch] for batch in super().__iter__())

    loader = DataLoader(Draws(), batch_sampler=Counting(RandomSampler(range(7)), 2, False), collate_fn=list)
    seed_samples(loader, (0,), epoch=0)
    with pytest.raises(TypeError, match='lost the epoch'):
        next(iter(loader))
    with pytest.raises(ValueError, match="on_inexact must be 'warn' or 'error', got 'no'"):
        ExactResumeHook(on_inexact='no')


# ---- whole trainings ----

@pytest.fixture(autouse=True, scope='module')
def no_environment():
    """A runner asks compilers and git for their versions and typesets its config: most of the time of a short one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr('mmengine.runner.runner.get_git_hash', str)
        patch.setattr('mmengine.config.Config.pretty_text', '')
        yield


@DATASETS.register_module()
class NoisyPoints(BaseDataset):
    """Points with noise that a transform draws."""

    def __init__(self, **kwargs):
        super().__init__(serialize_data=False, **kwargs)  # which collects the garbage of the whole process

    def load_data_list(self):
        return [dict(x=float(i % 5)) for i in range(12)]

    def __getitem__(self, index):
        x = self.get_data_info(index)['x']
        return dict(x=torch.tensor([x, random.gauss(0, 1)]) + float(np.random.rand()))


@MODELS.register_module()
class Dropped(BaseModel):
    """Two layers with dropout and BatchNorm."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(.5),
                                       torch.nn.Linear(8, 1))

    def forward(self, x, mode='loss'):
        out = self.net(torch.stack(x))
        return dict(loss=(out - 1).square().mean()) if mode == 'loss' else out


class Score(Evaluator):
    """Minus the mean output, which depends on the weights, rounded, so that it does not always fall."""

    def __init__(self):
        super().__init__([])

    def process(self, data_samples, data_batch=None):
        self.value = float(data_samples.mean())

    def evaluate(self, size):
        return {'score': round(-self.value, 1)}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it, nothing is written after it."""


class KillAt(Hook):
    def __init__(self, where, when, priority='LOWEST'):
        self.where, self.when, self.priority = where, when, priority

    def _meet(self, where, now):
        if (where, now) == (self.where, self.when):
            raise Killed

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._meet('iter', runner.iter + 1)

    def after_train_epoch(self, runner):
        self._meet('epoch saved', runner.epoch + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._meet('validation', runner.epoch or runner.iter)

    def after_val_epoch(self, runner, metrics=None):
        self._meet('validated', runner.epoch)


def make_runner(work_dir, kill=(), resume=False, seed=0, workers=0, hook=True, on_inexact='error', **changes):
    cfg = dict(
        model=dict(type='Dropped'), work_dir=str(work_dir), resume=resume, log_level='ERROR', default_scope='mmaction',
        experiment_name=f'{time.monotonic_ns()}', randomness=dict(seed=seed),
        train_dataloader=dict(batch_size=3, num_workers=workers, dataset=dict(type='NoisyPoints'),
                              sampler=dict(type='DefaultSampler', shuffle=True)),
        val_dataloader=dict(batch_size=12, num_workers=0, dataset=dict(type='NoisyPoints', test_mode=True),
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=Score(), val_cfg=dict(), train_cfg=dict(by_epoch=True, max_epochs=6),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=.02)),
        param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='score', rule='less', patience=1, factor=.5)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=100),
            checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='less', max_keep_ckpts=2)),
        custom_hooks=[dict(type='EarlyStoppingHook', monitor='score', rule='less', patience=2, min_delta=.05),
                      dict(type='EMAHook')])
    cfg.update(changes)
    if hook:
        cfg['custom_hooks'] = [*cfg['custom_hooks'], dict(type='ExactResumeHook', on_inexact=on_inexact)]
    run = Runner(**cfg)
    if kill:
        run.register_hook(KillAt(*kill), priority=kill[2] if len(kill) > 2 else 'LOWEST')
    return run


def train(*args, **kwargs):
    run = make_runner(*args, **kwargs)
    try:
        run.train()
    except Killed:
        return None
    return run


def result(run, work_dir):
    """All that must not differ."""
    hook, = [hook for hook in run.hooks if isinstance(hook, CheckpointHook)]
    file = torch.load(hook.last_ckpt, weights_only=True)
    hub = file.pop('message_hub')
    file.pop('meta')
    history = {key: [part.tolist() for part in value.data] for key, value in hub['log_scalars'].items()
               if not key.endswith('time')}
    info = {key: hub['runtime_info'][key] for key in ('best_score', 'keep_ckpt_ids', 'epoch', 'iter')
            if key in hub['runtime_info']}
    weights = {key: value.clone() for key, value in run.model.state_dict().items()}
    names = sorted(path.name for path in work_dir.iterdir() if path.suffix == '.pth')
    return dict(file, history=history, info=info, weights=weights, names=names)


def flat(value, name=''):
    if isinstance(value, dict):
        for key in value:
            yield from flat(value[key], f'{name}.{key}')
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from flat(item, f'{name}[{i}]')
    elif isinstance(value, torch.Tensor):
        yield name, value.dtype, tuple(value.shape), value.numpy().tobytes()
    else:
        yield name, value


def different(one, other):
    one, other = dict(enumerate(flat(one))), dict(enumerate(flat(other)))
    return [(one.get(i), other.get(i)) for i in range(max(len(one), len(other))) if one.get(i) != other.get(i)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    run = train(folder)
    found = result(run, folder)
    assert run.train_loop.stop_training and 3 <= run.epoch < 6  # early stopping had its say
    assert run.optim_wrapper.param_groups[0]['lr'] < .02  # and so had the plateau
    return found


# The moments: in an epoch, with the checkpoint written and its validation not begun, in it, with the best checkpoint
# written and the checkpoint written again, but EarlyStoppingHook not reached.
MOMENTS = [('iter', 7), ('epoch saved', 2), ('validation', 1), ('validated', 1, 'VERY_LOW'),
           ('validated', 2, 'VERY_LOW')]


@pytest.mark.parametrize('kill', MOMENTS, ids=lambda kill: ' '.join(map(str, kill)))
def test_killed_and_resumed_equals_the_whole_training(kill, whole, tmp_path):
    assert train(tmp_path, kill=kill) is None
    run = train(tmp_path, resume=True, workers=2 if kill == ('iter', 7) else 0)
    assert different(result(run, tmp_path), whole) == []


def test_killed_in_every_life(whole, tmp_path):
    lives = 0
    for moment in [('iter', 3), ('validation', 1), ('iter', 9), ('validation', 3)]:
        lives += train(tmp_path, kill=moment, resume=True) is None
    assert lives == 4
    assert different(result(train(tmp_path, resume=True), tmp_path), whole) == []


def test_same_seed_same_weights_other_seed_other_weights(whole, tmp_path):
    assert different(result(train(tmp_path / 'a', workers=1), tmp_path / 'a'), whole) == []
    other = result(train(tmp_path / 'b', seed=1), tmp_path / 'b')
    assert [pair for pair in different(other['state_dict'], whole['state_dict'])]


def test_without_the_hook_a_resume_is_not_exact(tmp_path):
    for name, kill in [('a', ()), ('b', ('validation', 1))]:
        train(tmp_path / name, kill=kill, hook=False)
    run = train(tmp_path / 'b', hook=False, resume=True)
    first = torch.load(tmp_path / 'a/epoch_2.pth') if (tmp_path / 'a/epoch_2.pth').exists() else None
    names = [sorted(path.name for path in (tmp_path / name).glob('*.pth')) for name in 'ab']
    second = torch.load(tmp_path / 'b' / f'epoch_{run.epoch}.pth')['state_dict']
    assert names[0] != names[1] or different(first['state_dict'], second)


def test_the_seed_that_a_run_drew_itself(tmp_path):
    for name, kill in [('a', ()), ('b', ('iter', 6))]:
        (tmp_path / name).mkdir()
        np.random.seed(3)  # what the first life draws its seed from
        train(tmp_path / name, kill=kill, seed=None)
    np.random.seed(4)
    run = train(tmp_path / 'b', seed=None, resume=True)
    found = result(run, tmp_path / 'b')
    first = torch.load(sorted((tmp_path / 'a').glob('epoch_*.pth'))[-1])
    assert different(found['state_dict'], first['state_dict']) == []


@pytest.mark.parametrize('sampler, workers, kill', [
    ('InfiniteSampler', 0, ('iter', 5)), ('InfiniteSampler', 2, ('validation', 6)), ('DefaultSampler', 0, ('iter', 7))])
def test_loops_of_iterations_resume_in_the_middle(sampler, workers, kill, tmp_path, monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # mmengine waits 2 s between passes

    def changes(workers):
        return dict(
            train_cfg=dict(by_epoch=False, max_iters=9, val_interval=3),
            train_dataloader=dict(batch_size=3, num_workers=workers, dataset=dict(type='NoisyPoints'),
                                  persistent_workers=workers > 0, sampler=dict(type=sampler, shuffle=True)),
            default_hooks=dict(logger=dict(type='LoggerHook'), checkpoint=dict(
                type='CheckpointHook', interval=2, by_epoch=False, save_best='score', rule='less')),
            log_processor=dict(by_epoch=False))

    expected = result(train(tmp_path / 'a', **changes(0)), tmp_path / 'a')
    assert train(tmp_path / 'b', kill=kill, **changes(0)) is None
    run = train(tmp_path / 'b', resume=True, **changes(workers))
    assert different(result(run, tmp_path / 'b'), expected) == []


def progress_in_best(folder):
    """{best checkpoint: (epoch, iteration) of its message hub}."""
    hubs = {path.name: torch.load(path, weights_only=True)['message_hub']['runtime_info']
            for path in folder.glob('best_*.pth')}
    return {name: (info['epoch'], info['iter']) for name, info in hubs.items()}


@pytest.mark.parametrize('kill', [('epoch saved', 1), ('validation', 1), ('validated', 1, 'HIGHEST')],
                         ids=lambda kill: kill[0])
def test_the_best_checkpoint_of_a_validation_made_up_for_says_when_it_was(kill, tmp_path):
    """By hand: in the validation after epoch 1 of 4 iterations the hub is at epoch 0, iteration 3, counted from 0."""
    once = dict(train_cfg=dict(by_epoch=True, max_epochs=1))
    assert train(tmp_path, kill=kill, **once) is None and progress_in_best(tmp_path) == {}
    train(tmp_path, resume=True, **once)
    assert progress_in_best(tmp_path) == {'best_score_epoch_1.pth': (0, 3)}


def test_the_best_checkpoint_of_a_loop_of_iterations_says_when_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    changes = dict(
        train_cfg=dict(by_epoch=False, max_iters=3, val_interval=3),
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', interval=3, by_epoch=False, save_best='score', rule='less')),
        log_processor=dict(by_epoch=False))
    assert train(tmp_path, kill=('validation', 3), **changes) is None and progress_in_best(tmp_path) == {}
    train(tmp_path, resume=True, **changes)
    assert progress_in_best(tmp_path) == {'best_score_iter_3.pth': (0, 2)}


# ---- what is not exact is said ----

def in_the_middle(folder, **changes):
    """A checkpoint 2 of 4 iterations into an epoch."""
    changes['default_hooks'] = dict(logger=dict(type='LoggerHook'), checkpoint=dict(
        type='CheckpointHook', interval=2, by_epoch=False))
    train(folder, kill=('iter', 6), **changes)
    return dict(changes, resume=True)


def test_a_checkpoint_in_the_middle_of_an_epoch_is_refused_or_warned_of(tmp_path):
    changes = in_the_middle(tmp_path)
    with pytest.raises(ValueError, match='iteration 6, 2 of 4 iterations into epoch 2, .* starts that epoch over'):
        train(tmp_path, **changes)
    run = make_runner(tmp_path, on_inexact='warn', **changes)
    said = []
    run.logger.warning = said.append
    run.train()
    assert len(said) == 1 and 'will not be bit for bit' in said[0] and 'iteration 6' in said[0]


def test_other_batches_other_data_and_accumulated_gradients_are_said(tmp_path):
    train(tmp_path, kill=('iter', 5))
    loader = dict(batch_size=4, num_workers=0, dataset=dict(type='NoisyPoints', indices=8),
                  sampler=dict(type='DefaultSampler', shuffle=True))
    with pytest.raises(ValueError, match='batch_size was 3 and is 4; samples was 12 and is 8'):
        train(tmp_path, resume=True, train_dataloader=loader)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=.02), accumulative_counts=3)
    with pytest.raises(ValueError, match='the gradients of 1 of 3 accumulated iterations'):
        train(tmp_path, resume=True, optim_wrapper=wrapper)


def test_a_checkpoint_from_before_the_hook_is_said_and_its_weights_are_no_resume(tmp_path):
    train(tmp_path / 'a', kill=('iter', 5), hook=False)
    with pytest.raises(ValueError, match='written without ExactResumeHook'):
        train(tmp_path / 'a', resume=True)
    run = make_runner(tmp_path / 'b', load_from=str(tmp_path / 'a/epoch_1.pth'),
                      train_cfg=dict(by_epoch=True, max_epochs=1))
    run.train()  # load_from starts a new training, of which nothing is inexact
    assert run.iter == 4


def test_the_checkpoint_has_plain_numbers_only(whole):
    part = whole['exact_resume']
    assert [list(map(type, state)) for state in part['early_stopping']] == [[int, float]]
    assert {name: type(value) for name, value in part.items() if name not in ('early_stopping', 'metrics')} == {
        name: int for name in ('version', 'world_size', 'batch_size', 'samples', 'sampler_seed')}


# ---- analyses ----

def test_masks_and_figures_are_the_same_twice():
    torch.manual_seed(3)
    backbone = MODELS.build(dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(2, 3),
                                 clip_shape=(12, 12, 12), in_channels=1)).eval()
    head = torch.nn.Linear(84, 3)
    for layer in (backbone.conv1, backbone.conv2):
        for name in ('scale', 'rotate', 'translate_x'):
            torch.nn.init.normal_(getattr(layer, name), 1. if name == 'scale' else 0., .1)
    clip = torch.rand(2, 1, 12, 12, 12)

    def scores(x):
        return head(backbone(x).flatten(1)).softmax(1)

    def everything():
        mask = find_temporal_mask(scores, clip, torch.tensor([0, 1]), iterations=20)
        parameters = temporal_parameters(backbone)
        return dict(
            mask=[value for value in mask if isinstance(value, torch.Tensor)],
            maximal=maximize_activation(backbone, backbone.conv2, [0, 1], shape=(1, 12, 12, 12), steps=5)[0],
            field=effective_receptive_field(torch.nn.Sequential(backbone.conv1), (1, 12, 12, 12), repeats=2),
            trajectory=[np.asarray(value).tolist() for value in
                        filter_trajectory(parameters['conv1'], 0, (5, 5, 5))], parameters=parameters)

    first = everything()
    torch.manual_seed(99), np.random.seed(99), random.seed(99)  # nothing draws from the global generators
    assert different(everything(), first) == []
