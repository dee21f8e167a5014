"""Ctrl-C at random moments of a training with data workers: what is left, and does the newest checkpoint load?

    python tools/reliability/interrupts.py OUT_DIR --trials 24 --seed 0

The training is LeNet-5-3T on 40 videos of Video-MNIST through tools/train.py with two data workers each for training
and evaluation, a checkpoint, an evaluation and a record of the temporal parameters per epoch. A trial waits for its
moment (while Python imports, after a random time, right after the log says that a checkpoint is being written, an
evaluation runs, a record was begun), adds a random delay, and sends SIGINT: to the whole process group as a terminal's
Ctrl-C does, or to the main process alone as ``kill -INT`` does. Two trials stop tools/dist_train.sh with two processes.

A leftover is any process that lives 10 s after the main process ended and was its descendant when SIGINT came, or is of
the trial's session: every trial gets a new one, so later orphans are found too. Then every checkpoint of the folder is
loaded, and temporary files are counted.

All but the trials at import time and those of dist_train.sh are forked from this process, which has imported the
packages once; that spares 20 imports and changes nothing of what runs afterwards.
"""
import argparse
import csv
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, List

import psutil
import torch

import tconv_mmaction  # noqa: F401  once, for all forked trials
from tconv_mmaction.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
OPTIONS = ['train_cfg.max_epochs=1000', 'train_dataloader.batch_size=5', 'val_dataloader.batch_size=2',
           'train_dataloader.dataset.videos_per_class=4', 'val_dataloader.dataset.videos_per_class=2',
           'default_hooks.logger.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=3', 'custom_hooks.1.interval=1',
           'train_dataloader.persistent_workers=False', 'val_dataloader.persistent_workers=False']
# moment: what the log has to show first, and the longest random delay after that in seconds
MOMENTS = {
    'import': (None, 5.),
    'any time': (None, 20.),
    'training': (r'Epoch\(train\)', 3.),
    'checkpoint': (r'Saving checkpoint at \d+ epochs', 0.3),
    'evaluation': (r'Epoch\(val\) +\[\d+\]\[ *\d+/10\] ', 0.5),
    'record': (r'Epoch\(train\) +\[\d+\]\[[67]/8\]', 1.5),
    'two processes': (r'Epoch\(train\)', 6.),
}
COLUMNS = ('trial', 'moment', 'to', 'delay_s', 'processes', 'last_line', 'ended_after_s', 'exit_code', 'leftover',
           'checkpoints', 'unreadable', 'temporary_files')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', type=Path, help='trials.csv and table.md')
    parser.add_argument('--trials', type=int, default=24)
    parser.add_argument('--seed', type=int, default=0, help='of the delays')
    parser.add_argument('--wait', type=float, default=300., help='seconds a trial may take to reach its moment or end')
    return parser.parse_args(argv)


def train_here(log: Path, arguments: List[str]) -> None:
    """tools/train.py in this (forked) process, as the leader of a session of its own."""
    os.setsid()
    with log.open('w', buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1, closefd=False) for number in (1, 2))
    torch.set_num_threads(1)
    sys.argv = ['train.py', *arguments]
    runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')


def start(moment: str, folder: Path) -> int:
    """Start a training; returns its process id, which is also that of its session."""
    arguments = [str(CONFIG), '--work-dir', str(folder / 'work'), '--cfg-options', *OPTIONS]
    log = folder / 'train.log'
    if moment in ('import', 'two processes'):
        command = [sys.executable, str(ROOT / 'tools/train.py'), *arguments]
        if moment == 'two processes':
            command = ['bash', str(ROOT / 'tools/dist_train.sh'), arguments[0], '2', *arguments[1:]]
        environment = dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', PYTHON=sys.executable)
        with log.open('w') as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env=environment, start_new_session=True).pid
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train_here(log, arguments)
            code = 0
        except KeyboardInterrupt:
            code = 130  # as a shell shows it
        except BaseException as error:  # os._exit below would hide it; SystemExit is how tools end
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            traceback.print_exc()
        finally:
            # what an interpreter does at its end and _exit does not: the handlers that end data workers
            sys.stdout.flush()
            from multiprocessing.util import _exit_function
            _exit_function()
            os._exit(code)
    return pid


def living(processes: List[psutil.Process]) -> List[psutil.Process]:
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def family(leader: int) -> List[psutil.Process]:
    """All living processes of that session and all descendants of its leader: torchrun gives its own new sessions."""
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                found[process.pid] = process
        except ProcessLookupError:
            continue
    if psutil.pid_exists(leader):
        found.update({child.pid: child for child in psutil.Process(leader).children(recursive=True)})
    return living(list(found.values()))


def until(condition: Callable[[], object], seconds: float, step: float = 0.02):
    """The first true value of ``condition``, or None after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(step)
    return None


def ended(pid: int):
    """``(exit code,)`` of the child if it has ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return (os.waitstatus_to_exitcode(status), ) if done else None


def look(work: Path) -> Dict[str, object]:
    """The checkpoints of a folder, read the way ``--resume`` and the tools read them."""
    from mmengine.runner import CheckpointLoader
    paths, unreadable = sorted(work.glob('*.pth')), []
    for path in paths:
        try:
            checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
            if not all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values()):
                raise ValueError('not finite')
        except Exception as error:  # whatever a damaged file raises
            unreadable.append(f'{path.name}: {type(error).__name__}')
    pointer = work / 'last_checkpoint'
    if pointer.is_file() and not Path(pointer.read_text().strip()).exists():
        unreadable.append('last_checkpoint names a file that is not there')
    return dict(checkpoints=len(paths), unreadable='; '.join(unreadable),
                temporary_files=sum(1 for path in work.rglob('.*.tmp')))


def trial(number: int, moment: str, group: bool, rng: random.Random, out_dir: Path, wait: float) -> Dict[str, object]:
    folder = out_dir / f'trial_{number:02d}'
    folder.mkdir(parents=True)
    pattern, longest = MOMENTS[moment]
    delay = rng.uniform(0., longest)
    pid = start(moment, folder)
    log, code = folder / 'train.log', None
    if pattern:
        def shown():
            text = log.read_text(errors='replace') if log.exists() else ''
            # from the second epoch on, so that there is a checkpoint to lose
            return re.search(r'Saving checkpoint at 1 epochs', text) and re.search(
                pattern, text.split('Saving checkpoint at 1 epochs', 1)[1])
        if until(lambda: shown() or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, wait) is None:
            raise TimeoutError(f'trial {number}: no {pattern!r} in {log} within {wait:.0f} s')
    time.sleep(delay)
    before = family(pid)
    lines = [line for line in log.read_text(errors='replace').splitlines() if 'INFO' in line] if log.exists() else []
    (os.killpg if group else os.kill)(pid, signal.SIGINT)
    sent = time.monotonic()
    code = until(lambda: ended(pid), wait)
    seconds = time.monotonic() - sent
    until(lambda: not living(before) and not family(pid), 10.)
    left = {process.pid: process for process in [*living(before), *family(pid)]}
    for process in left.values():
        process.kill()
    if code is None:
        code = (f'alive after {wait:.0f} s', )
    found = look(folder / 'work')
    row = dict(trial=number, moment=moment, to='group' if group else 'main process', delay_s=round(delay, 2),
               processes=len(before), ended_after_s=round(seconds, 2), exit_code=code[0],
               last_line=re.sub(r'.*INFO - ', '', lines[-1])[:40].strip() if lines else '', leftover=len(left), **found)
    if not left and not found['unreadable']:
        shutil.rmtree(folder / 'work', ignore_errors=True)
    return row


def write_table(rows: List[Dict[str, object]], path: Path) -> None:
    head = ('trial', 'moment', 'SIGINT to', 'log said last', 'processes', 'ended after (s)', 'exit code',
            'left over', 'checkpoints (unreadable)')
    cells = []
    for row in rows:
        damaged = len(str(row['unreadable']).split('; ')) if row['unreadable'] else 0
        cells.append((row['trial'], row['moment'], row['to'],
                      f"`{row['last_line']}`" if row['last_line'] else 'nothing', row['processes'],
                      row['ended_after_s'], row['exit_code'], row['leftover'],
                      f"{row['checkpoints']} ({damaged})"))
    path.write_text(markdown_table(head, cells) + '\n')


def main(argv=None) -> int:
    args = parse_args(argv)
    rng = random.Random(args.seed)
    if (args.out_dir / 'trials.csv').exists():
        raise FileExistsError(f'{args.out_dir} has the trials of an earlier run: give a new folder.')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    names = [name for name in MOMENTS if name != 'two processes']
    plan = [(names[i % len(names)], i // len(names) % 2 == 0) for i in range(max(0, args.trials - 2))]
    plan += [('two processes', True), ('two processes', False)][:args.trials]
    rows: List[Dict[str, object]] = []
    with (args.out_dir / 'trials.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, (moment, group) in enumerate(plan, 1):
            rows.append(trial(number, moment, group, rng, args.out_dir, args.wait))
            writer.writerow(rows[-1])
            file.flush()
            write_table(rows, args.out_dir / 'table.md')
            print(json.dumps(rows[-1]), flush=True)
    bad = [row for row in rows if row['leftover'] or row['unreadable'] or not isinstance(row['exit_code'], int)]
    print(f'{len(rows)} interrupts, {len(bad)} with a leftover process or an unreadable checkpoint')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
