"""table.md, the figures and the tables of docs/words_filters.md from runs.jsonl and motion_3t.jsonl."""
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
import torch
from nets import NETS  # beside this file
from plan import EPOCHS, chosen_lr  # beside this file

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_file, mean_std, p_text, paired
from tconv_mmaction.cli.run_tables import NOTE, PAIRED_BY, curves, difference_table, fold_table, summary_table
from tconv_mmaction.interpret import save_figure
from tconv_mmaction.interpret.parameter_statistics import MODEL_ROW, TABLE_2
from tconv_mmaction.interpret.pictures.filter_distributions import draw_filter_distributions
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

PAGE = Path(__file__).resolve().parents[2] / 'docs/words_filters.md'
TITLES = {name: net.title for name, net in NETS.items()}
OTHERS = dict(slow='half speed', fast='double speed', drift='drifting camera')
# {section: {(first, second): second minus first in the paper, mini-SSv2, points}}
PAPER: Dict[str, Dict[Tuple[str, str], float]] = {
    'lengths': {('3333', '1133'): 68.07 - 67.54, ('3333', '1135'): 68.83 - 67.54, ('1133', '1135'): 68.83 - 68.07},
    'eta': {('1135', 'multi1'): 68.17 - 68.83, ('1135', 'multi2'): 68.82 - 68.83, ('1135', 'multi4'): 68.54 - 68.83,
            ('multi1', 'multi2'): 68.82 - 68.17, ('multi1', 'multi4'): 68.54 - 68.17},
    'augmentation': {
        ('1135', '1135_both'): 68.74 - 68.83, ('multi2', 'multi2_both'): 69.98 - 68.82,
        ('1135_both', 'multi2_both'): 69.98 - 68.74, ('3333', 'multi2_both'): 69.98 - 67.54,
        ('3333', '3333_both'): 67.70 - 67.54, ('1135', '1135_rate'): 68.81 - 68.83, ('1135', '1135_ego'): 67.93 - 68.83,
        ('multi2', 'multi2_rate'): 69.69 - 68.82, ('multi2', 'multi2_ego'): 69.19 - 68.82}}
MOTION_LOG = 'motion_3t.jsonl'
START_TITLES = dict(scratch='from scratch', imagenet='ImageNet weights')
# arXiv:2006.15983, Tables 4 (from scratch) and 2 (pretrained), 3T-ResNet18 on Jester and on UCF101, x 1e-3
PAPER_3T = dict(scratch=dict(s=('42.37 / 51.92', '14.85 / 19.47'), r=('29.31 / 38.26', '13.12 / 19.32'),
                             p_x=('18.21 / 22.85', '7.06 / 8.95'), p_y=('17.94 / 22.59', '7.23 / 10.22')),
                imagenet=dict(s=('8.46 / 16.1', '3.57 / 5.3'), r=('3.26 / 5.44', '1.65 / 2.55'),
                              p_x=('1.87 / 3.16', '1.49 / 2.07'), p_y=('1.99 / 3.5', '1.51 / 2.21')))
HEADINGS = {'3t-accuracy': '3T: accuracy', '3t-model': '3T: the transforms of the whole network, x 1e-3',
            '3t-layers': '3T: the transforms per layer, x 1e-3'}
HEADINGS.update(summary='Accuracy', folds='Folds', tuning='What was tried on two speakers of the training list',
                lengths='Temporal lengths (Table 2)', eta='Multi-branch filters and eta (Table 3)',
                augmentation='Augmentation (Table 4)', interaction='Whom the augmentation helps more',
                energy='Temporal filters per stage')
FILTER_NETS = {'3333': 'single', 'multi2_3333': 'branches', '3333_both': 'augmented',
               'multi2_3333_both': 'branches, augm.'}  # all have three frames in every layer
ENERGY_NETS = (*FILTER_NETS, '1135', 'multi2', '1135_both', 'multi2_both')
FILTER_LAYERS = {'backbone.conv1.conv': 'stem', 'backbone.layer3.1.conv2.conv': 'last layer'}


def tested(runs: Sequence[dict], epochs: int = EPOCHS[0]) -> List[dict]:
    """The runs that are reported, with the network as ``model``."""
    return [dict(run, model=run['net']) for run in runs if not run['tuning'] and run['epochs'] == epochs]


def interaction_table(runs: Sequence[dict]) -> Optional[str]:
    """What both augmentations give the multi-branch network minus what they give the single filter, paired."""
    table = pd.DataFrame(runs)
    rows = []
    for name, title in {'accuracy': 'forwards', **OTHERS}.items():
        wide = table.pivot_table(index=PAIRED_BY, columns='model', values=name)
        if not {'1135', '1135_both', 'multi2', 'multi2_both'} <= set(wide):
            return None
        result = paired(wide['1135_both'] - wide['1135'], wide['multi2_both'] - wide['multi2'])
        if result is not None:
            rows.append([title, result.n, f'{result.first:+.1f}', f'{result.second:+.1f}', result.text(),
                         p_text(result.t_p), '+1.25' if name == 'accuracy' else ''])
    return markdown_table(['test', 'pairs', 'single filter', 'multi-branch', 'difference, 95 % interval', 'p', 'paper'],
                          rows) if rows else None


def stage_of(layer: str) -> str:
    """``backbone.layer3.1.conv2.conv`` -> ``3``, ``backbone.conv1.conv`` -> ``stem``."""
    found = re.search(r'layer(\d)', layer)
    return found[1] if found else 'stem'


def energy_table(runs: Sequence[dict]) -> Optional[str]:
    """Share of the energy of the filters along four temporal directions, in %: at the start -> after training, and of
    what training added to single filters; means over the layers of a stage with three frames or more, and over runs."""
    rows = []
    for name in [name for name in ENERGY_NETS if any(run['model'] == name for run in runs)]:
        own = [run for run in runs if run['model'] == name]
        for stage in sorted({stage_of(layer) for layer in own[0]['energy']}, key=('stem', *'123').index):
            before, after, added = (
                np.mean([shares for run in own for layer, shares in run.get(when, {}).items()
                         if stage_of(layer) == stage] or [[np.nan] * 4], axis=0)
                for when in ('energy_start', 'energy', 'energy_change'))
            rows.append([TITLES[name], len(own), stage if stage == 'stem' else f'layer{stage}',
                         *(f'{100 * a:.0f} → {100 * b:.0f}' + ('' if np.isnan(c) else f' ({100 * c:.0f})')
                           for a, b, c in zip(before, after, added))])
    return markdown_table(['network', 'runs', 'stage', 'centre', 'average', '1st differential', '2nd differential'],
                          rows) if rows else None


def tuning_table(runs: Sequence[dict]) -> Optional[str]:
    rows = []
    for name in NETS:
        own = {run['lr']: run for run in runs if run['tuning'] and run['net'] == name}
        if own:
            best = chosen_lr(runs, name)
            rows.append([TITLES[name], *(f"{lr:g}: {own[lr]['accuracy']:.1f}" for lr in sorted(own)),
                         '' if best is None else f'{best:g}'])
    return markdown_table(['network', 'tried: accuracy', '', '', 'taken'], rows) if rows else None


def tables(runs: Sequence[dict]) -> Dict[str, str]:
    """{name: table} of all there is; a name is kind-epochs, or tuning."""
    found = {}
    for epochs in EPOCHS:
        own = tested(runs, epochs)
        if own:
            found[f'summary-{epochs}'] = summary_table(own, TITLES, OTHERS)
            found.update({f'{section}-{epochs}': difference_table(own, list(pairs), TITLES, OTHERS, pairs)
                          for section, pairs in PAPER.items()})
            found.update({f'interaction-{epochs}': interaction_table(own),
                          f'folds-{epochs}': fold_table(own, TITLES), f'energy-{epochs}': energy_table(own)})
    found['tuning'] = tuning_table(runs)
    return {name: table for name, table in found.items() if table}


def _cell(values: np.ndarray) -> str:
    return f'{1e3 * values[0]:.2f} / {1e3 * values[1]:.2f}'


def motion_tables(runs: Sequence[dict]) -> Dict[str, str]:
    """The 3T networks' transforms x 1e-3, means over the runs: of the whole model beside the paper's, and per layer."""
    means = {start: {layer: np.mean([run['statistics'][layer] for run in runs if run['start'] == start], axis=0)
                     for layer in runs[0]['statistics']}
             for start in START_TITLES if any(run['start'] == start for run in runs)}
    if not means:
        return {}
    whole, layers = [], []
    for i, symbol in enumerate(TABLE_2):
        row = [symbol]
        for start in means:
            row += [_cell(means[start][MODEL_ROW][2 * i:2 * i + 2]), *PAPER_3T[start][symbol]]
        whole.append(row)
    for layer in runs[0]['statistics']:
        if layer != MODEL_ROW:
            layers.append([re.sub(r'^backbone\.|\.conv$', '', layer)]
                          + [f'{1e3 * value:.2f}' for start in means for value in means[start][layer][::2]])
    results = [[START_TITLES[start], len(own), *(mean_std([run[name] for run in own])
                                                 for name in ('accuracy', 'accuracy_reversed')),
                mean_std([run['losses'][-1] for run in own], 2)]
               for start in means for own in [[run for run in runs if run['start'] == start]]]
    columns = [f'{START_TITLES[start]}: {what}' for start in means for what in ('words', 'paper, Jester', 'UCF101')]
    return {'3t-accuracy': markdown_table(['network', 'runs', 'accuracy', 'played backwards',
                                           'training loss at the end'], results),
            '3t-model': markdown_table(['μ / σ', *columns], whole),
            '3t-layers': markdown_table(['layer, μ of', *(f'{START_TITLES[start]}: {symbol}' for start in means
                                                          for symbol in TABLE_2)], layers)}


def draw_filters(folder: Path, out: Path) -> None:
    """filters.png of the networks of :data:`FILTER_NETS` whose filters are kept in ``folder``."""
    kernels = {}
    for layer, short in FILTER_LAYERS.items():
        for name, title in FILTER_NETS.items():
            path = folder / f'{name}-20-fold1-seed0.pth'
            if path.is_file():
                kernels[f'{title}, {short}'] = torch.load(path, weights_only=True)[layer]
    if kernels:
        save_figure(draw_filter_distributions(kernels), out / 'filters.png')


def write_results(runs: Sequence[dict], out: Path, page: Optional[Path] = None) -> str:
    """table.md and figure.png in ``out``, tables and figure of ``page``; table.md as text."""
    motion_runs = read_runs(out / MOTION_LOG)
    found, text = {**tables(runs), **motion_tables(motion_runs)}, [NOTE]
    for name, table in found.items():
        kind, _, epochs = ('', '', '') if name in HEADINGS else name.partition('-')
        text += [f'### {HEADINGS[kind or name]}' + (f', {epochs} epochs' if epochs else ''), table]
    minutes = sum(run['cpu_seconds'] for run in [*runs, *motion_runs]) / 60
    text.append(f'{len(runs)} runs and {len(motion_runs)} of 3T, {minutes:.0f} minutes of one processor core.')
    atomic_write_text(out / 'table.md', '\n\n'.join(text) + '\n')
    drawn = tested(runs)
    if drawn:
        save_figure(curves(drawn, TITLES), out / 'figure.png')
    if page is not None:
        fill_file(page, found)
    return '\n\n'.join(text) + '\n'
