"""The numbers that a training wrote, from the work_dirs of one or several runs.

MMEngine's LocalVisBackend writes a line of JSON per record into ``work_dir/TIMESTAMP/vis_data/scalars.json``: lines of
the training with ``iter`` and ``lr``, and lines of a validation, whose ``step`` is the epoch (or the iteration, in a
training that counts these). A resumed run has a folder per start.
"""
import json
import re
from pathlib import Path
from typing import List, Sequence, Union

import pandas as pd

_NOT_SHOWN = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory', 'eta'}


def read_scalars(work_dir: Union[str, Path]) -> pd.DataFrame:
    """Every number of a run: columns ``key``, ``step``, ``value``, ``unit`` ('iteration' or 'epoch').

    Where a resumed run went over the same steps again, its numbers count.

    Raises:
        FileNotFoundError: if the folder has no scalars.json, or none with a number in it.
        ValueError: if a line is no JSON object.
    """
    work_dir = Path(work_dir)
    files = sorted(work_dir.glob('**/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'{work_dir} has no vis_data/scalars.json below it. Give the work_dir of a training; '
                                'its config needs a visualizer with LocalVisBackend, as all configs here have.')
    rows = {}
    for path in files:
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            try:
                record = json.loads(line)
                items = record.items()
            except (json.JSONDecodeError, AttributeError) as error:
                raise ValueError(f'{path}, line {number} is no record of a training: {line[:80]!r}') from error
            unit = 'iteration' if 'lr' in record or any(key.startswith('temporal/') for key in record) else 'epoch'
            for key, value in items:
                if key not in _NOT_SHOWN and isinstance(value, (int, float)) and 'step' in record:
                    rows[key, record['step']] = (key, record['step'], float(value), unit)
    if not rows:
        raise FileNotFoundError(f'{files[-1]} has no numbers: the training ended before its first record.')
    return pd.DataFrame(list(rows.values()), columns=['key', 'step', 'value', 'unit']).sort_values(
        ['key', 'step'], ignore_index=True)


def label_of(work_dir: Union[str, Path]) -> str:
    """What runs of one kind have in common: the folder's name without a seed or number at its end.

    >>> label_of('work_dirs/3t_seed1'), label_of('work_dirs/3t-2'), label_of('work_dirs/resnet18-3t')
    ('3t', '3t', 'resnet18-3t')
    """
    name = Path(work_dir).resolve().name
    return re.sub(r'[-_.](seed|run|s|r)?[-_]?\d+$', '', name) or name


def read_runs(work_dirs: Sequence[Union[str, Path]], labels: Sequence[str] = ()) -> pd.DataFrame:
    """:func:`read_scalars` of several runs, with the columns ``run`` (the folder) and ``label``.

    Args:
        work_dirs: a folder per run.
        labels: one per run; runs of one label are of one kind. By default :func:`label_of`.

    Raises:
        ValueError: if there are labels, but not one per run.
    """
    if labels and len(labels) != len(work_dirs):
        raise ValueError(f'there are {len(work_dirs)} runs and {len(labels)} labels; give one per run.')
    labels = list(labels) or [label_of(work_dir) for work_dir in work_dirs]
    tables: List[pd.DataFrame] = [read_scalars(work_dir).assign(run=str(work_dir), label=label)
                                  for work_dir, label in zip(work_dirs, labels)]
    return pd.concat(tables, ignore_index=True)


def mean_and_spread(runs: pd.DataFrame, key: str, label: str) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) over the runs of a label, at the steps that all of them have.

    Returns:
        indexed by step, with the columns ``mean``, ``std`` (NaN for one run) and ``runs``.
    """
    chosen = runs[(runs.key == key) & (runs.label == label)]
    wide = chosen.pivot_table(index='step', columns='run', values='value').dropna()
    return pd.DataFrame(dict(mean=wide.mean(axis=1), std=wide.std(axis=1, ddof=1), runs=wide.shape[1]))
