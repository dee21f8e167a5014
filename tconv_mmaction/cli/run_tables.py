"""Tables and curves of trained classifiers that were tested forwards and backwards, over folds and seeds.

A run is a dict with ``model``, ``fold``, ``seed``, ``accuracy`` and ``accuracy_reversed`` in %, ``losses`` (one per
epoch), ``parameters``, and for the table per class ``labels`` and ``predicted`` (lists of class numbers, or strings
with one digit per clip). Pairs are runs of the same fold and seed.
"""
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..utils.markdown import markdown_table
from .run_log import as_table
from .run_statistics import holm, mean_std, p_text, paired

PAIRED_BY = ['fold', 'seed']
NOTE = ('Mean ± standard deviation over the runs (folds x seeds), in %. Differences are paired by fold and seed, with '
        "Student's 95 % interval over the pairs and p of the paired t test, corrected for the comparisons of the table "
        "(Holm's method). Folds share training clips and seeds share all of them, so the intervals are a little too "
        'narrow: they say what another seed would change, less what other persons or recordings would.')


def _series(table: pd.DataFrame, model: str, value: str) -> pd.Series:
    return table[table.model == model].set_index(PAIRED_BY)[value].sort_index()


def _models(table: pd.DataFrame, titles: Dict[str, str]) -> List[str]:
    found = set(table.model)
    return [name for name in titles if name in found] + sorted(found - set(titles))


def summary_table(runs: Sequence[dict], titles: Optional[Dict[str, str]] = None,
                  others: Optional[Dict[str, str]] = None) -> str:
    """One row per model: accuracy forwards and backwards, and what playing the clips backwards changes.

    Args:
        runs: see the module.
        titles: {model: name in the table}, in the order of the rows; models without one come after them.
        others: {name in the runs: head of the column}, accuracies on other tests, in %.
    """
    titles, others, table, rows = titles or {}, others or {}, as_table(runs), []
    for model in _models(table, titles):
        forward, backward = (_series(table, model, name) for name in ('accuracy', 'accuracy_reversed'))
        change = paired(forward, backward)
        parameters = table[table.model == model].parameters.dropna()
        losses = [losses[-1] for losses in table[table.model == model].losses if losses]
        rows.append([titles.get(model, model), f'{int(parameters.iloc[0]):,}' if len(parameters) else '',
                     len(forward), mean_std(forward), mean_std(backward), change.text(),
                     *(mean_std(_series(table, model, name)) for name in others), mean_std(losses, 2)])
    return markdown_table(['network', 'parameters', 'runs', 'accuracy', 'played backwards', 'change by reversal',
                           *others.values(), 'training loss at the end'], rows)


def fold_table(runs: Sequence[dict], titles: Optional[Dict[str, str]] = None, folds: Sequence[int] = (1, 2, 3)) -> str:
    """One row per model: its learning rate (``lr``), and the accuracy of every fold, mean over its seeds."""
    titles, rows = titles or {}, []
    for model in _models(as_table(runs), titles):
        own = [run for run in runs if run['model'] == model]
        cells = [[run['accuracy'] for run in own if run['fold'] == fold] for fold in folds]
        rows.append([titles.get(model, model), f"{own[0]['lr']:g}",
                     *(f'{np.mean(cell):.1f} ({len(cell)})' if cell else '' for cell in cells)])
    first, *rest = folds
    return markdown_table(['network', 'learning rate', f'fold {first} (runs)', *(f'fold {n}' for n in rest)], rows)


def difference_table(runs: Sequence[dict], pairs: Optional[Sequence[Tuple[str, str]]] = None,
                     titles: Optional[Dict[str, str]] = None, others: Optional[Dict[str, str]] = None,
                     published: Optional[Dict[Tuple[str, str], float]] = None) -> Optional[str]:
    """One row per pair (first, second): second minus first. None: every model against the first; no pair: None.

    ``others`` as for :func:`summary_table`, differences with intervals and without a test; ``published``: what a paper
    has for a pair, in points.
    """
    titles, others, table = titles or {}, others or {}, as_table(runs)
    models = _models(table, titles)
    pairs = [(models[0], other) for other in models[1:]] if pairs is None else pairs
    found = []
    for first, second in pairs:
        result = paired(_series(table, first, 'accuracy'), _series(table, second, 'accuracy')) \
            if {first, second} <= set(models) else None
        if result is not None:
            found.append((first, second, result))
    if not found:
        return None
    tested = [i for i, (*_, result) in enumerate(found) if result.n > 1]
    corrected = dict(zip(tested, holm([found[i][2].t_p for i in tested]))) if tested else {}
    rows = [[f'{titles.get(second, second)} − {titles.get(first, first)}', result.n, result.text(),
             f'{result.wins} of {result.n}', p_text(corrected[i]) if i in corrected else '',
             *([f'{published[first, second]:+.2f}' if (first, second) in published else ''] if published else []),
             *(paired(_series(table, first, name), _series(table, second, name)).text() for name in others)]
            for i, (first, second, result) in enumerate(found)]
    return markdown_table(['difference', 'pairs', 'points, 95 % interval', 'ahead', 'p (Holm)',
                           *(['paper'] if published else []), *others.values()], rows)


def _numbers(values) -> np.ndarray:
    return np.array([int(value) for value in values])


def per_class_table(runs: Sequence[dict], classes: Sequence[str], titles: Optional[Dict[str, str]] = None) -> str:
    """Rows: classes. Columns: how many of a class's test clips each model gets right, in %, over all its runs."""
    titles = titles or {}
    models = _models(as_table(runs), titles)
    rows = []
    for label, name in enumerate(classes):
        row = [name]
        for model in models:
            right = [predicted == label for run in runs if run['model'] == model and run.get('labels')
                     for true, predicted in zip(_numbers(run['labels']), _numbers(run['predicted'])) if true == label]
            row.append(f'{100 * np.mean(right):.0f}' if right else '')
        rows.append(row)
    return markdown_table(['class', *(titles.get(model, model) for model in models)], rows)


def curves(runs: Sequence[dict], titles: Optional[Dict[str, str]] = None) -> Figure:
    """Left: training loss over the epochs, mean and range of the runs. Right: accuracy forwards and backwards."""
    titles, table = titles or {}, as_table(runs)
    models = _models(table, titles)
    figure = Figure(figsize=(11, 0.6 + max(3.2, 0.42 * len(models))), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for position, model in enumerate(models):
        colour = f'C{position % 10}'
        longest = max((len(losses) for losses in table[table.model == model].losses), default=0)
        losses = np.array([losses for losses in table[table.model == model].losses if len(losses) == longest])
        epochs = np.arange(1, longest + 1)
        left.plot(epochs, losses.mean(0), color=colour, linewidth=1.2, label=titles.get(model, model))
        left.fill_between(epochs, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0)
        for value, marker, shift in (('accuracy', 'o', -0.12), ('accuracy_reversed', '<', 0.12)):
            values = _series(table, model, value)
            right.plot(values, [position + shift] * len(values), marker, color=colour, markersize=4, alpha=0.7,
                       fillstyle='full' if value == 'accuracy' else 'none')
            right.plot(values.mean(), position + shift, '|', color='black', markersize=13)
    left.set(xlabel='epoch', ylabel='training loss')
    left.grid(alpha=0.3)
    right.set_yticks(range(len(models)), [titles.get(model, model) for model in models])
    for position, text in enumerate(right.get_yticklabels()):  # the legend of both: curves leave no room for one
        text.set_color(f'C{position % 10}')
    right.invert_yaxis()
    right.set(xlabel='test accuracy, %; ● forwards, ◁ backwards, | mean')
    right.grid(alpha=0.3, axis='x')
    return figure
