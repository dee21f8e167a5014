"""Kill a training again and again, resume it each time, and compare it bit for bit with one that nobody touched.

    python tools/reliability/kill_resume.py --out-dir docs/reliability

A small LeNet-5-3T learns moving digits with dropout, random crops and flips, a plateau schedule, early stopping, a best
checkpoint and dumps of its temporal parameters: everything that a resume can get wrong. It is trained once in one piece
and once in many lives. Each life is a process that ends by SIGKILL: at a random moment, or at a planned place inside a
write (half of the bytes written, all written but not renamed, renamed but nothing else done). The number of data
workers changes from life to life. Afterwards both runs must hold the same files with the same content.

Writes kills.csv (one row per kill) and kills.md. Exit code 1 if anything differs. A few minutes on one core; not for
Windows (it forks).
"""
import argparse
import contextlib
import gc
import io
import itertools
import mmap
import os
import platform
import random
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import mmengine
import numpy as np
import pandas as pd
import torch
import torch._dynamo  # noqa: F401  which every optimizer asks for: better once than in each life
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner import runner as runner_module

import tconv_mmaction
from tconv_mmaction.utils import atomic, atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

PHASES = ['start', 'training', 'dump of temporal parameters', 'checkpoint', 'validation', 'best checkpoint',
          'last_checkpoint', 'end']
MOMENTS = ['half written', 'written, not renamed', 'renamed']
# which write, by the beginning of the file's name
TARGETS = {'checkpoint': 'epoch_', 'best checkpoint': 'best_', 'last_checkpoint': 'last_checkpoint',
           'dump of temporal parameters': 'epoch_'}


ITERATIONS = 4  # of an epoch of the training below


class Plan(NamedTuple):
    """How a life ends: ``delay`` seconds after so many iterations of its own (None: after its start), or in a write.

    A write that does not come within three epochs (a best checkpoint) is not waited for. No life passes the iteration
    ``latest`` of the whole training, counted from 0: the training would be over before its other kills.
    """
    delay: Optional[float] = None
    iterations: Optional[int] = None
    target: str = ''
    moment: str = ''
    skip: int = 0
    latest: Optional[int] = None


class Board:
    """What a life is doing, in memory that it shares with the parent, who reads it after the kill."""

    LAYOUT = 'iii'

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, struct.calcsize(self.LAYOUT))

    def write(self, phase: str, epoch: int, iteration: int) -> None:
        struct.pack_into(self.LAYOUT, self.memory, 0, PHASES.index(phase), epoch, iteration)

    def read(self) -> Dict[str, Any]:
        phase, epoch, iteration = struct.unpack_from(self.LAYOUT, self.memory)
        return dict(phase=PHASES[phase], epoch=epoch, iteration=iteration)


class BoardHook(Hook):
    """Tells the board how far the training is, and lets it get no further than planned."""

    priority = 'HIGHEST'

    def __init__(self, board: Board, latest: Optional[int]) -> None:
        self.board, self.latest = board, latest

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.board.write('training', runner.epoch, runner.iter)
        if self.latest is not None and runner.iter >= self.latest:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_val_epoch(self, runner: Runner) -> None:
        self.board.write('validation', runner.epoch, runner.iter)

    def after_train(self, runner: Runner) -> None:
        self.board.write('end', runner.epoch, runner.iter)


class HalfFile(io.BufferedWriter):
    """A file that writes half of what it is given and kills its process."""

    def write(self, data: Any) -> int:
        super().write(memoryview(data)[:len(data) // 2])
        self.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def kind_of_write(name: str, folder: str) -> Optional[str]:
    """The phase that a file belongs to."""
    if folder == 'temporal_params':
        return 'dump of temporal parameters'
    return next((kind for kind, start in TARGETS.items() if name.startswith(start)), None)


def watch_writes(board: Board, plan: Plan) -> None:
    """Say on the board which file is being written, and die where the plan says."""
    write, skip = atomic.atomic_open, [plan.skip]

    @contextlib.contextmanager
    def watched(path: Any, mode: str = 'w') -> Any:
        path = Path(path)
        kind = kind_of_write(path.name, path.parent.name)
        if kind is None:
            with write(path, mode) as file:
                yield file
            return
        before = board.read()
        board.write(kind, before['epoch'], before['iteration'])
        hit = plan.target == kind and skip[0] == 0
        if plan.target == kind:
            skip[0] -= 1
        if hit and plan.moment == 'half written':
            atomic.open = half_file
        elif hit and plan.moment == 'written, not renamed':
            atomic.os = DyingOS()
        with write(path, mode) as file:
            yield file
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        board.write(before['phase'], before['epoch'], before['iteration'])

    for module in list(sys.modules.values()):  # wherever a writer has imported it
        if getattr(module, 'atomic_open', None) is write:
            module.atomic_open = watched
    from mmengine.hooks import checkpoint_hook
    checkpoint_hook.open = lambda path, mode='r', **kwargs: watched(path) if mode == 'w' else open(path, mode, **kwargs)


def half_file(path: Any, mode: str, **text: Any) -> Any:
    """What ``open`` returns inside the write that is to be cut."""
    file = HalfFile(io.FileIO(path, mode.replace('b', '')))
    return file if 'b' in mode else io.TextIOWrapper(file, write_through=True, **text)


class DyingOS:
    """The module ``os``, except that renaming kills."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, *args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def make_config(work_dir: Path, epochs: int, workers: int, persistent: bool, resume: bool, exact: bool) -> Config:
    """The training; ``workers`` must make no difference."""
    shape = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
    augment = [dict(type='EgoMotionCrop', crop_size=24, sigma=0.3), dict(type='Flip', flip_ratio=0.5)]
    loader = dict(num_workers=workers, persistent_workers=persistent and workers > 0)
    val_loader = dict(
        loader, batch_size=10, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='VideoMNIST', split='val', videos_per_class=2, test_mode=True,
                     pipeline=[dict(type='CenterCrop', crop_size=24), *shape]))
    return Config(dict(
        default_scope='mmaction', work_dir=str(work_dir), resume=resume, randomness=dict(seed=0), log_level='WARNING',
        model=dict(
            type='Recognizer3D',
            backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(3, 4), in_channels=1,
                          clip_shape=(30, 24, 24)),
            cls_head=dict(type='I3DHead', num_classes=10, in_channels=84, dropout_ratio=0.5, average_clips='prob'),
            data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW')),
        train_dataloader=dict(
            loader, batch_size=5, sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='VideoMNIST', split='train', videos_per_class=2, pipeline=[*augment, *shape])),
        val_dataloader=val_loader, val_evaluator=dict(type='AccMetric'),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs), val_cfg=dict(type='ValLoop'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-3)),
        param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='acc/top1', rule='greater', factor=0.7, patience=2)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='acc/top1', rule='greater'),
            **(dict(exact_resume=dict(type='ExactResumeHook', on_inexact='error')) if exact else {})),
        custom_hooks=[
            dict(type='TemporalParamsHook', interval=1, figures=False),
            dict(type='EarlyStoppingHook', monitor='acc/top1', rule='greater', patience=10**6)],
        visualizer=dict(type='ActionVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
        env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))))


def live(config: Config, board: Board, plan: Plan, log: Path) -> None:
    """One life, in a process of its own; it ends with os._exit or a kill."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        # Most of a short life is none of its business: asking compilers and git for their versions at the start and for
        # each checkpoint, and typesetting the config.
        runner_module.collect_env, runner_module.get_git_hash = dict, str
        Config.pretty_text = property(lambda self: '# made by tools/reliability/kill_resume.py')
        watch_writes(board, plan)
        # two lives within a second would share the folder of their logs
        config.experiment_name = f'life_{os.getpid()}'
        runner = Runner.from_cfg(config)
        runner.register_hook(BoardHook(board, plan.latest))
        runner.train()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def run_life(config: Config, plan: Plan, log: Path) -> Dict[str, Any]:
    """Fork a life and kill it by the plan; what it was doing then, its exit status and its age."""
    board = Board()
    board.write('start', 0, 0)
    started = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        live(config, board, plan, log)
    deadline = first = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        now = board.read()
        if first is None and now['phase'] != 'start':
            first = now
        done = None if first is None else now['iteration'] - first['iteration']
        if plan.delay is not None:
            due = plan.iterations is None or done is not None and done >= plan.iterations
        else:
            due = bool(plan.target) and first is not None and now['epoch'] - first['epoch'] >= 3
        if due and deadline is None:
            deadline = time.monotonic() + (plan.delay or 0.)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            break
        time.sleep(0.002)
    last = board.read()
    in_write = plan.target == last['phase'] and deadline is None
    return dict(last, seconds=round(time.monotonic() - started, 2), code=os.waitstatus_to_exitcode(status),
                where=plan.moment if in_write else 'a random moment')


def make_plans(kills: int, seed: int, epochs: int) -> List[Plan]:
    """Half of the kills at random moments, half at places inside writes, every place in turn, in random order.

    An epoch is left for every kill that is still to come, so ``epochs`` must be more than ``kills``.
    """
    if epochs <= kills:
        raise ValueError(f'{kills} kills need at least {kills + 1} epochs, got {epochs}.')
    rng = random.Random(seed)
    places = [Plan(target=target, moment=moment, skip=0 if target == 'best checkpoint' else rng.randrange(2))
              for moment, target in itertools.product(MOMENTS, TARGETS)]
    rng.shuffle(places)
    places.sort(key=lambda plan: plan.target != 'best checkpoint')  # while the score still rises
    in_turn = itertools.cycle(places)
    plans = [next(in_turn) if number % 2 else Plan(delay=rng.uniform(0, 0.2), iterations=rng.randrange(7))
             for number in range(kills)]
    plans[0] = Plan(delay=0.3)  # before the first iteration
    latest = random.Random(-1 - seed)  # draws of its own: what a seed draws above stays what it was
    return [plan._replace(latest=ITERATIONS * (epochs - kills + number) + latest.randrange(ITERATIONS))
            for number, plan in enumerate(plans)]


def differences(one: Any, other: Any, name: str = '') -> List[str]:
    """Names of what is not equal bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = (one.dtype, one.shape) == (other.dtype, other.shape)
        return [] if same and one.numpy().tobytes() == other.numpy().tobytes() else [name]
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            return [f'{name}: keys {sorted(set(map(str, one)) ^ set(map(str, other)))}']
        return [found for key in one for found in differences(one[key], other[key], f'{name}.{key}')]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f'{name}: {len(one)} and {len(other)} entries']
        return [found for i, pair in enumerate(zip(one, other)) for found in differences(*pair, f'{name}[{i}]')]
    if isinstance(one, np.ndarray):
        return [] if np.array_equal(one, other) else [name]
    return [] if one == other or (one != one and other != other) else [f'{name}: {one!r} and {other!r}']


def contents(path: Path) -> Any:
    """What must be equal of a file: a checkpoint without the times and paths in it, an npz's arrays, or the bytes."""
    if path.suffix == '.npz':
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix != '.pth':
        return path.read_text().replace(str(path.parent), '')
    checkpoint = torch.load(path, weights_only=True)
    hub, meta = checkpoint.pop('message_hub'), checkpoint.pop('meta')
    history = {name: [part.tolist() for part in buffer.data] for name, buffer in hub['log_scalars'].items()
               if not name.endswith('time')}
    info = {name: os.path.basename(value) if name in ('best_ckpt', 'last_ckpt') else value
            for name, value in hub['runtime_info'].items()
            if name not in ('cfg', 'experiment_name', 'eta', 'superfluous_checkpoints')}
    return dict(checkpoint, history=history, info=info, epoch=meta['epoch'], iteration=meta['iter'])


def files(work_dir: Path) -> Dict[str, Path]:
    """All that a run leaves, except its logs and the config that is written at each start."""
    return {str(path.relative_to(work_dir)): path for path in sorted(work_dir.rglob('*')) if path.is_file()
            and path.suffix != '.py' and not path.relative_to(work_dir).parts[0].startswith('20')}


def compare(whole: Path, killed: Path) -> List[Dict[str, Any]]:
    """One row per file of either run: what differs, '' for nothing."""
    ours, theirs = files(whole), files(killed)
    rows = []
    for name in sorted({*ours, *theirs}):
        missing = 'uninterrupted' if name not in ours else 'killed' if name not in theirs else ''
        found = [f'not in the {missing} run'] if missing else differences(contents(ours[name]), contents(theirs[name]))
        rows.append(dict(file=name, differences='; '.join(found)))
    return rows


def summary(table: pd.DataFrame, compared: List[Dict[str, Any]], options: argparse.Namespace, seconds: float,
            best: float) -> str:
    """kills.md."""
    bad = [row for row in compared if row['differences']]
    phases = table.groupby(['phase', 'where']).size().rename('kills').reset_index()
    command = (f'python tools/reliability/kill_resume.py --kills {options.kills} --epochs {options.epochs} '
               f'--seed {options.seed} --out-dir docs/reliability' + ' --control' * options.control)
    lines = [
        '# Killed and resumed', '',
        f'A training of {options.epochs} epochs (4 iterations and a validation each), killed {len(table)} times with '
        'SIGKILL and resumed',
        'each time with 0, 2 or 3 data workers, against the same training in one piece. Every line of kills.csv is a '
        'kill.', '', f'    {command}', '',
        '**Verdict: ' + (f'{len(compared)} files compared, all equal bit for bit.**' if not bad else
                         f'{len(bad)} of {len(compared)} files differ.**'), '',
        'Compared are all files that both runs leave: of every checkpoint the weights, the optimizer, the schedulers',
        f'with the lr, the best score ({best:g}), the name of the best checkpoint, the state of early stopping, and',
        'the history of losses and accuracies (without the times); of the dumps of the temporal parameters every',
        'number; and that no temporary file is left.',
        '', markdown_table(['killed during', 'where', 'kills'], phases.itertuples(index=False)), '',
        *(f'* {row["file"]}: {row["differences"]}' for row in bad), *([''] if bad else []),
        f'{seconds:.0f} s on {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, '
        f'mmengine {mmengine.__version__}, tconv_mmaction {tconv_mmaction.__version__}.', '']
    return '\n'.join(lines)


def train_whole(work: Path, epochs: int, exact: bool = True) -> Path:
    """The training in one piece, in ``work``/whole."""
    whole = work / 'whole'
    life = run_life(make_config(whole, epochs, 0, False, False, exact), Plan(), work / 'whole.log')
    if life['code'] != 0:
        raise RuntimeError(f'The uninterrupted training failed:\n{(work / "whole.log").read_text()[-3000:]}')
    print(f'uninterrupted: {life["seconds"]} s', flush=True)
    return whole


def train_killed(work: Path, epochs: int, plans: List[Plan], exact: bool = True) -> Tuple[Path, List[Dict[str, Any]]]:
    """The training in many lives, in ``work``/killed, and one row for each kill."""
    killed, log = work / 'killed', work / 'killed.log'
    workers = itertools.cycle([(0, False), (2, False), (3, True)])
    rows: List[Dict[str, Any]] = []
    for plan, (count, persistent) in zip([*plans, Plan()], workers):
        life = run_life(make_config(killed, epochs, count, persistent, True, exact), plan, log)
        if life['code'] != (-signal.SIGKILL if len(rows) < len(plans) else 0):
            raise RuntimeError(f'A life ended by itself with {life["code"]}, after {len(rows)} of {len(plans)} kills:\n'
                               f'{log.read_text()[-3000:]}')
        if len(rows) < len(plans):
            rows.append(dict(kill=len(rows) + 1, phase=life['phase'], where=life['where'], epoch=life['epoch'] + 1,
                             iteration=life['iteration'] + 1, age_s=life['seconds'], workers=count))
    return killed, rows


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for kills.csv and kills.md')
    parser.add_argument('--work-dir', type=Path, help='keep both runs there; must be empty (default: temporary)')
    parser.add_argument('--kills', type=int, default=24)
    parser.add_argument('--epochs', type=int, default=40, help='more than there are kills')
    parser.add_argument('--seed', type=int, default=0, help='draws the moments of the kills')
    parser.add_argument('--control', action='store_true',
                        help='without ExactResumeHook: shows that the comparison notices what it is for')
    options = parser.parse_args(argv)
    if options.kills < 1 or options.epochs <= options.kills:
        parser.error('--kills must be at least 1, and --epochs more than --kills: each kill needs one to fall into.')
    if not hasattr(os, 'fork'):
        parser.error('This needs os.fork, which this system does not have.')
    started = time.monotonic()
    gc.freeze()  # a dataset collects garbage when it is built: not the libraries' objects again in each life
    with contextlib.ExitStack() as stack:
        work = options.work_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if work.is_dir() and any(work.iterdir()):
            parser.error(f'--work-dir {work} is not empty.')
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        whole = train_whole(work, options.epochs, not options.control)
        killed, rows = train_killed(work, options.epochs, make_plans(options.kills, options.seed, options.epochs),
                                    not options.control)
        compared = compare(whole, killed)
        last = contents(killed / f'epoch_{options.epochs}.pth')
        table = pd.DataFrame(rows)
        atomic_write_text(options.out_dir / 'kills.csv', table.to_csv(index=False))
        text = summary(table, compared, options, time.monotonic() - started, last['info']['best_score'])
        atomic_write_text(options.out_dir / 'kills.md', text)
        print(text)
        return int(any(row['differences'] for row in compared))


if __name__ == '__main__':
    sys.exit(main())
