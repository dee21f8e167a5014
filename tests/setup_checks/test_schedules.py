"""Schedules against the length of the run: by hand, and by stepping through ours."""
import math

import pytest
import torch
from helpers.paths import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from tconv_mmaction.setup_checks.problems import Problems
from tconv_mmaction.setup_checks.schedules import RunLength, check_schedules, run_length

COSINE = ['tconv3/resnet18-3t_scratch_1xb8-16x1x1-30e_folder-rgb.py',
          'temporal_filters/i3d-r18_ours_imagenet-pretrained_8xb4-32x2x1-100e_sthv2-rgb.py',
          'temporal_filters/i3d-r18_ours_imagenet-pretrained_8xb4-32x2x1-100e_kinetics400-rgb.py']


def found(entry, **length):
    problems = Problems()
    epochs = length.get('epochs')
    check_schedules([entry], None, RunLength(length.get('by_epoch', True), epochs, length.get('iterations'),
                                             length.get('per_epoch')), problems)
    return problems, [warning.key for warning in problems.warnings]


def rates(schedulers, epochs):
    """The learning rate of every epoch, as the Runner makes it: ``end`` is that of the run unless it is given."""
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.)))
    built = [PARAM_SCHEDULERS.build(dict(end=epochs, **entry), default_args=dict(optimizer=wrapper))
             for entry in schedulers]
    rates = []
    for _ in range(epochs):
        rates.append(wrapper.param_groups[0]['lr'])
        for one in built:
            one.step()
    return rates


@pytest.mark.parametrize('name', COSINE)
@pytest.mark.parametrize('epochs', [8, 30, 60])
def test_our_cosines_end_with_the_run_whatever_its_length(name, epochs):
    config = Config.fromfile(ROOT / 'configs/recognition' / name)
    config.merge_from_dict({'train_cfg.max_epochs': epochs})  # the one key
    made = rates([dict(entry) for entry in config.param_scheduler], epochs)
    assert made == pytest.approx([(1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)])
    problems, warned = found(config.param_scheduler[0], epochs=epochs)
    assert not problems and not warned


def test_the_numbers_that_a_warning_gives_are_those_of_the_schedule():
    """What the folder config had: T_max=30, with max_epochs=8 and 60."""
    entry = dict(type='CosineAnnealingLR', T_max=30, eta_min=0, by_epoch=True)
    assert round(rates([entry], 8)[-1], 2) == 0.87
    problems, warned = found(entry, epochs=8)
    assert warned == ['param_scheduler.0.T_max'] and '0.87 of the first' in problems.warnings[0].text
    made = rates([entry], 60)
    assert min(made) == made[30] and made[-1] > 0.99
    problems, warned = found(entry, epochs=60)
    assert 'would rise again after 30 epochs' in problems.warnings[0].text
    assert len(set(rates([dict(type='MultiStepLR', milestones=[20, 40])], 30))) == 2  # 40 is never reached


@pytest.mark.parametrize('entry, epochs', [
    (dict(type='CosineAnnealingLR', T_max=30), 30), (dict(type='CosineAnnealingLR', T_max=29), 30),
    (dict(type='CosineAnnealingLR', begin=5, T_max=25), 30), (dict(type='CosineAnnealingLR', T_max=20, end=20), 30),
    (dict(type='MultiStepLR', milestones=[15, 29]), 30), (dict(type='StepLR', step_size=10), 30),
    (dict(type='LinearLR', end=5), 30), (dict(type='OneCycleLR', total_steps=30, eta_max=1.), 30),
    (dict(type='ReduceOnPlateauLR', monitor='acc/top1'), 30), (dict(type='ConstantLR', end=30), 30)])
def test_schedules_that_fit_are_not_mentioned(entry, epochs):
    assert found(entry, epochs=epochs) == ([], [])


@pytest.mark.parametrize('entry, key', [
    (dict(type='CosineAnnealingLR', by_epoch=False, T_max=100), 'T_max'),
    (dict(type='MultiStepLR', by_epoch=False, milestones=[150, 300]), 'milestones'),
    (dict(type='LinearLR', by_epoch=False, end=500), 'end'),
    (dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, T_max=10), 'T_max')])
def test_iterations_are_counted_where_the_list_tells_their_number(entry, key):
    """20 epochs of 10 batches are 200 iterations."""
    assert found(entry, epochs=20, iterations=200, per_epoch=10)[1] == [f'param_scheduler.0.{key}']
    if not entry['by_epoch']:
        assert found(entry, epochs=20) == ([], [])  # not known, so nothing is said
        assert found(entry, by_epoch=False, iterations=200)[1] == [f'param_scheduler.0.{key}']


def test_the_length_of_a_run():
    assert run_length(dict(type='EpochBasedTrainLoop', max_epochs=3), 7) == (True, 3, 21, 7)
    assert run_length(dict(by_epoch=True, max_epochs=3), None) == (True, 3, None, None)
    assert run_length(dict(type='IterBasedTrainLoop', max_iters=30), 7) == (False, None, 30, 7)
    assert run_length(None, None) == (True, None, None, None)
