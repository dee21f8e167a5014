"""A whole mmaction2 project of a few seconds: a real config with a 3T LeNet-5 on clips of twelve 12x12 frames."""
import contextlib
import io
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

COMPONENTS = '''
import os
import signal

import numpy as np
import torch
from mmaction.registry import DATASETS, HOOKS
from mmaction.structures import ActionDataSample
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank
from mmengine.hooks import Hook


@DATASETS.register_module()
class TinyClips(BaseDataset):
    """Noise with a bright square that moves right (class 0) or down (class 1); a clip is a function of its index."""

    METAINFO = dict(palette=np.arange(6, dtype='uint8').reshape(2, 3))  # an array in every checkpoint's meta

    def load_data_list(self):
        return [dict(label=index % 2) for index in range(16)]

    def __getitem__(self, index):
        label = index % 2
        clip = np.random.RandomState(index).randint(0, 60, (1, 12, 12, 12), dtype='uint8')
        for t in range(12):
            start = min(t, 8)
            rows, columns = (slice(4, 8), slice(start, start + 4))[::1 if label == 0 else -1]
            clip[0, t, rows, columns] = 255
        sample = ActionDataSample()
        sample.set_gt_label(label)
        return dict(inputs=torch.from_numpy(clip)[None], data_samples=sample)


@HOOKS.register_module()
class KillHook(Hook):
    """kill -9 of the own process after that many iterations or epochs, when the variable is set."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == int(os.environ.get('KILL_AFTER_ITER', 0)):
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == int(os.environ.get('KILL_AFTER_EPOCH', 0)):
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class SaveEveryRankHook(Hook):
    """The parameters as each process of a distributed run has them at the end."""

    def after_train(self, runner):
        model = runner.model.module if hasattr(runner.model, 'module') else runner.model
        torch.save(model.state_dict(), f'{runner.work_dir}/rank{get_rank()}.pth')
'''

CONFIG = '''
default_scope = 'mmaction'
custom_imports = dict(imports=['tconv_mmaction', 'tiny_components'], allow_failed_imports=False)
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(3, 4), clip_shape=(12, 12, 12)),
    cls_head=dict(type='I3DHead', num_classes=2, in_channels=84, dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW'))
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(type='TinyClips'),
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(type='TinyClips', test_mode=True),
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.001))
param_scheduler = dict(type='CosineAnnealingLR', T_max=3, by_epoch=True)
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1, save_best='acc/top1', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'))
custom_hooks = [dict(type='KillHook'), dict(type='SaveEveryRankHook')]
visualizer = dict(type='ActionVisualizer', vis_backends=[dict(type='LocalVisBackend')])
'''


def make_project(folder):
    """Write the config and its components into ``folder``; returns the path of the config."""
    (folder / 'tiny_components.py').write_text(COMPONENTS)
    config = folder / 'tiny.py'
    config.write_text(CONFIG)
    return config


@contextlib.contextmanager
def inside(folder):
    """The folder as working directory and on the search path, and afterwards everything a tool changes as it was."""
    here, argv, path, environment = os.getcwd(), sys.argv, list(sys.path), dict(os.environ)
    threads = torch.get_num_threads()
    for manager in (MMLogger, MessageHub, Visualizer):  # a Runner finds those of an earlier one by the name and second
        manager._instance_dict.clear()
    try:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        yield
    finally:
        os.chdir(here)
        sys.argv, sys.path[:] = argv, path
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        for manager in (MMLogger, MessageHub, Visualizer):
            manager._instance_dict.clear()


def run_here(command, folder, check=True):
    """As :func:`run`, for ``python SCRIPT ...`` and ``python -m tconv_mmaction ...``, in this process.

    Ten seconds of imports less per command. What a fresh process is part of the question needs :func:`run`.
    """
    program, *words = [str(word) for word in command]
    if program != 'python':
        raise ValueError(f'run_here runs Python only, got {command}')
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with inside(folder), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            if words[0] == '-m':
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name='__main__')
            else:
                sys.argv = words
                sys.path.insert(0, str(Path(words[0]).parent))  # as Python does for a script
                runpy.run_path(words[0], run_name='__main__')
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            stderr.write('' if isinstance(end.code, int) or end.code is None else f'{end.code}\n')
        except Exception:
            code = 1
            traceback.print_exc()
    done = subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())
    if check and code != 0:
        raise AssertionError(f'{command} ended with {code}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}')
    return done


def run(command, folder, check=True, **environment):
    """Run ``command`` in ``folder`` with its components importable; the interpreter of the tests is ``python``."""
    search_path = os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))
    env = dict(os.environ, PYTHONPATH=search_path, PYTHON=sys.executable, OMP_NUM_THREADS='1', **environment)
    command = [sys.executable if word == 'python' else str(word) for word in command]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    if check and done.returncode != 0:
        raise AssertionError(f'{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}')
    return done
