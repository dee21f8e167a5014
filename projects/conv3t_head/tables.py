"""Tables and figure of runs.jsonl and real_videos.jsonl, and the same in docs/conv3t_head.md."""
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import pandas as pd
import torch
from truth import CLASSES, KERNEL, NAMES, agreement, learned_parameters, permutation_p, true_parameters  # beside this

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_page, mean_std, p_text, paired
from tconv_mmaction.interpret import draw_trajectories, save_figure
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

PAGE = Path(__file__).resolve().parents[2] / 'docs/conv3t_head.md'
HEADS = {'conv3t': 'Conv3THead', 'conv3t_gain': 'Conv3THead with gains', 'i3d': 'I3DHead'}
NONE = 'No runs yet.'
REAL_LOG = 'real_videos.jsonl'
REAL = {'miracl': 'words (MIRACL-VC1)', 'jhmdb': 'five actions (J-HMDB)'}
KINDS = {'motion': 'any digit', 'digits': 'class = digit'}


def of(runs: Sequence[dict], kind: str, head: str) -> List[dict]:
    return sorted((run for run in runs if run['clips'] == kind and run['head'] == head), key=lambda run: run['seed'])


def accuracy_table(runs: Sequence[dict]) -> str:
    rows = []
    for kind, title in KINDS.items():
        base = {run['seed']: run['accuracy'] for run in of(runs, kind, 'i3d')}
        for head, name in HEADS.items():
            own = of(runs, kind, head)
            found = paired(pd.Series(base), pd.Series({run['seed']: run['accuracy'] for run in own}))
            if own:
                rows.append([title, name, f"{own[0]['parameters']:,}", len(own),
                             mean_std([run['accuracy'] for run in own]),
                             '' if head == 'i3d' or found is None else found.text()])
    return markdown_table(['clips', 'head', 'parameters', 'seeds', 'accuracy, %', 'minus I3DHead, 95 % interval'], rows)


def agreement_table(runs: Sequence[dict], draws: int = 1999) -> str:
    rows = []
    for kind, title in KINDS.items():
        for head, name in HEADS.items():
            learned = [learned_parameters(run['motion']) for run in of(runs, kind, head) if 'motion' in run]
            if learned:
                found, p = np.array([agreement(values) for values in learned]), permutation_p(np.array(learned), draws)
                rows.append([title, name, len(learned), *(f'{mean_std(values, 2)} ({p_text(value)})'
                                                          for values, value in zip(found.T, p))])
    return markdown_table(['clips', 'head', 'seeds', *(f'{name} (p)' for name in NAMES), 'all four (p)'], rows)


def class_table(runs: Sequence[dict]) -> Optional[str]:
    """Mean over the seeds of what each class's filter has learned on clips of any digit, beside the truth."""
    learned = [learned_parameters(run['motion']) for run in of(runs, 'motion', 'conv3t')]
    if not learned:
        return NONE
    mean, truth = np.mean(learned, axis=0), true_parameters()
    rows = [[name, *(f'{a:+.2f} ({b:+.2f})' for a, b in zip(values, true))]
            for name, values, true in zip(CLASSES, mean, truth)]
    return markdown_table(['class', *(f'{name}, learned (true)' for name in NAMES)], rows)


def real_table(runs: Sequence[dict]) -> str:
    """Of real_videos.jsonl: accuracy forwards and backwards, differences paired by fold and seed."""
    rows = []
    for data, title in REAL.items():
        found = {head: {(run['fold'], run['seed']): run for run in runs
                        if (run['data'], run['head']) == (data, head)} for head in HEADS}
        for head, name in HEADS.items():
            own = list(found[head].values())
            if own:
                against = paired(*(pd.Series({key: run['accuracy'] for key, run in side.items()}, dtype=float)
                                   for side in (found['i3d'], found[head])))
                rows.append([title, name, f"{own[0]['parameters']:,}", len(own),
                             *(mean_std([run[key] for run in own]) for key in ('accuracy', 'accuracy_reversed')),
                             '' if head == 'i3d' or against is None else against.text()])
    return markdown_table(['clips', 'head', 'parameters', 'runs', 'accuracy, %', 'played backwards',
                           'minus I3DHead, 95 % interval'], rows) if rows else NONE


def write_results(runs: Sequence[dict], out: Path, page: Optional[Path]) -> str:
    """Writes tables.md, classes.png and, if given, the page; returns the tables. Runs of real videos are read from
    ``out``."""
    tables: Dict[str, str] = dict(accuracy=accuracy_table(runs), agreement=agreement_table(runs),
                                  classes=class_table(runs), real=real_table(read_runs(out / REAL_LOG)), figure=NONE)
    own = of(runs, 'motion', 'conv3t')
    figure = None
    if own:
        best = max(own, key=lambda run: run['accuracy'])  # one network: means of paths would hide a lot
        values = {'cls_head.conv': {name: torch.tensor(v) for name, v in best['motion'].items()}}
        filters = [('cls_head.conv', channel) for channel in range(len(CLASSES))]
        figure = draw_trajectories(values, {'cls_head.conv': (5, KERNEL, KERNEL)}, filters, dict(zip(filters, CLASSES)))
        save_figure(figure, out / 'classes.png')
        tables['figure'] = '![zoom, turn and path of each class](images/conv3t_head.png)'
    text = '\n\n'.join(tables.values())
    atomic_write_text(out / 'tables.md', text.replace('images/conv3t_head.png', 'classes.png') + '\n')
    if page is not None:
        atomic_write_text(page, fill_page(page.read_text(encoding='utf-8'), tables))
        if figure is not None:
            save_figure(figure, page.parent / 'images/conv3t_head.png')
    return text
