"""What the studies under projects/ share: settings of a folder of runs, lists, baselines, means and tables."""
import json
import sys
from pathlib import Path
from typing import Callable, Dict, Sequence

import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import f1_score

from ..interpret.pictures.figure_files import save_figure
from ..utils.atomic import atomic_write_text


def check_settings(folder: Path, settings: dict) -> None:
    """Runs of other settings must not be mixed into one folder."""
    path = folder / 'settings.json'
    if not path.is_file():
        atomic_write_text(path, json.dumps(settings))
    found = json.loads(path.read_text())
    if found != settings:
        raise ValueError(f'{folder} has runs with {found}, asked for are {settings}. Give another --work-dir, or '
                         'delete that one.')


def write_table(folder: Path, names: Sequence[str], table: Callable[..., str]) -> int:
    """table.md of a folder, which ``table`` makes of its files ``NAME.csv``, and print it. The exit status."""
    missing = [name for name in names if not (folder / f'{name}.csv').is_file()]
    if missing:
        print(f'error: {folder} has no {missing[0]}.csv: run the study first.', file=sys.stderr)
        return 2
    text = table(*(pd.read_csv(folder / f'{name}.csv') for name in names))
    atomic_write_text(folder / 'table.md', text)
    print(f'\n{text}\n{", ".join(f"{name}.csv" for name in names)} and table.md are in {folder}')
    return 0


def read_list(path: Path) -> Dict[str, int]:
    """{clip: label} of a list in mmaction2's form, ``path label`` per line."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there. --data-root must have videos/ and the lists of the study.')
    lines = (line.rsplit(maxsplit=1) for line in path.read_text().splitlines() if line.strip())
    return {name: int(label) for name, label in lines}


def majority_baseline(train: Sequence[int], test: Sequence[int]) -> Dict[str, float]:
    """Accuracy and mean F1 on ``test`` of always answering the label that ``train`` has most often (or the lower)."""
    answer = max(sorted(set(train)), key=list(train).count)
    predicted = [answer] * len(test)
    return dict(label=answer, accuracy=sum(label == answer for label in test) / len(test),
                f1=float(f1_score(test, predicted, average='macro', zero_division=0)))


def direction_changes(results: Sequence[dict]) -> pd.DataFrame:
    """Per model, over all splits: how many test clips get another answer when they are played backwards."""
    rows = []
    for model in sorted({r['model'] for r in results}):
        by_order = {order: {r['split']: r for r in results
                            if (r['model'], r['clips'], r['order']) == (model, 'test', order)}
                    for order in ('normal', 'reversed')}
        counts = dict(n=0, changed=0, right_to_wrong=0, wrong_to_right=0)
        for split in sorted(set(by_order['normal']) & set(by_order['reversed'])):
            normal, backwards = by_order['normal'][split], by_order['reversed'][split]
            for label, before, after in zip(normal['label'], normal['predicted'], backwards['predicted']):
                counts['n'] += 1
                counts['changed'] += before != after
                counts['right_to_wrong'] += before == label != after
                counts['wrong_to_right'] += before != label == after
        rows.append(dict(model=model, **counts))
    return pd.DataFrame(rows)


def mean_std(values: Sequence[float]) -> str:
    """Mean and sample standard deviation over the splits, ``0.52 ± 0.04``."""
    series = pd.Series(list(values), dtype=float)
    return f'{series.mean():.2f}' if len(series) < 2 else f'{series.mean():.2f} ± {series.std(ddof=1):.2f}'


def write_results(out: Path, table: str, figure: Figure) -> None:
    """``table.md`` and ``figure.png`` in the folder ``out``; the table is printed too."""
    atomic_write_text(out / 'table.md', table)
    save_figure(figure, out / 'figure.png')
    print(table)
