"""A log of finished runs: one line of JSON each, only ever added to, so that a long study can be stopped at any moment.

A run is described by a dict of plain values (its *key*: network, learning rate, fold, seed, ...) and ends in a dict of
results; a line of the file is both together. What is in the file is not run again, a half-written last line (the
process was killed, the disk was full) is left out with a warning, and several processes may add to one file.
"""
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import pandas as pd

Key = Dict[str, object]


def read_runs(path: Union[str, Path]) -> List[dict]:
    """The lines of a log, in the order in which the runs ended.

    Raises:
        ValueError: if a line before the last one is no JSON object.
    """
    path, runs = Path(path), []
    lines = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            run = json.loads(line)
            if not isinstance(run, dict):
                raise ValueError('no JSON object')
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f'{path}, line {number}, is not the record of a run ({error}). Repair or delete that '
                                 'line; the run is then done again.') from None
            warnings.warn(f'{path}: the last line is incomplete and is left out; that run is done again.',
                          stacklevel=2)
            continue
        runs.append(run)
    return runs


def append_run(path: Union[str, Path], run: dict) -> None:
    """Add one line, in one write; after a half-written line a new one is begun."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(run, allow_nan=True) + '\n'
    with open(path, 'ab+') as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b'\n':
                # what is before the first complete line of ours can only be the torn one: cut it off
                file.seek(0)
                whole = file.read().rfind(b'\n') + 1
                file.truncate(whole)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def is_done(runs: Iterable[dict], key: Key) -> bool:
    """Whether a run has all the values of ``key``."""
    return any(all(name in run and run[name] == value for name, value in key.items()) for run in runs)


def time_text(seconds: float) -> str:
    """``'45 s'``, ``'12 min'``, ``'3.2 h'``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


def run_all(path: Union[str, Path], keys: Sequence[Key], run: Callable[[Key], dict],
            cost: Optional[Callable[[Key], float]] = None, deadline: Optional[float] = None,
            say: Callable[[str], None] = lambda text: print(text, flush=True)) -> Tuple[int, int]:
    """Do what is not in the log yet, in order, and write down each run when it ends.

    Args:
        path: the log.
        keys: the runs, as dicts of strings, numbers, booleans, None and lists of them.
        run: gives the results of a run; seconds of processor and wall time are added to them.
        cost: how long a run takes relative to others, for the time that is left; None: all alike.
        deadline: seconds since the epoch after which no run is begun.
        say: gets one line per run.

    Returns:
        how many were done now, and how many are left.

    Raises:
        ValueError: for a log that cannot be read.
    """
    cost = cost or (lambda key: 1.)
    runs = read_runs(path)
    todo = [key for key in keys if not is_done(runs, key)]
    say(f'{len(keys) - len(todo)} of {len(keys)} runs are there, {len(todo)} to do')
    left, spent, done_cost = sum(map(cost, todo)), 0., 0.
    for done, key in enumerate(todo):
        if deadline is not None and time.time() > deadline:
            say(f'the time is over: {len(todo) - done} runs are not begun')
            return done, len(todo) - done
        if is_done(read_runs(path), key):  # another process has done it
            left -= cost(key)
            continue
        wall, cpu = time.time(), time.process_time()
        results = run(key)
        wall, cpu = time.time() - wall, time.process_time() - cpu
        append_run(path, {**key, **results, 'wall_seconds': round(wall, 1), 'cpu_seconds': round(cpu, 1)})
        spent, done_cost, left = spent + wall, done_cost + cost(key), left - cost(key)
        say(f'{done + 1} of {len(todo)}, {time_text(wall)}, about {time_text(spent / done_cost * left)} left: '
            + ', '.join(f'{value}' for value in key.values()))
    return len(todo), 0


def as_table(runs: Sequence[dict]) -> pd.DataFrame:
    """The log as a table, one row per run; lists as tuples, so that they can be grouped by."""
    return pd.DataFrame([{name: tuple(value) if isinstance(value, list) else value for name, value in run.items()}
                         for run in runs])


def finish_study(path: Union[str, Path], work: Optional[Callable[[], object]],
                 write: Callable[[List[dict]], str]) -> int:
    """What the command of a study does: its runs, then its tables from all that the log has. Gives the exit status.

    Args:
        path: the log.
        work: does the runs that are missing; None for the tables only.
        write: writes the tables of the runs it is given, and returns what is printed.
    """
    try:
        if work is not None:
            work()
        runs = read_runs(path)
        if not runs:
            raise FileNotFoundError(f'{path} has no runs yet.')
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(write(runs))
    return 0
