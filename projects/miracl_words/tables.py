"""table.md, figure.png and the tables of docs/miracl_words.md from runs.jsonl."""
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from nets import NETS  # beside this file
from plan import NARROW, SAME_STEPS, SETTINGS, SEVEN, SGD, Setting, better_optimiser, setting_of  # beside this file

from tconv_mmaction.cli.run_statistics import fill_file, mean_std
from tconv_mmaction.cli.run_tables import NOTE, curves, difference_table, fold_table, per_class_table, summary_table
from tconv_mmaction.cli.spoken_words import WORDS
from tconv_mmaction.interpret import save_figure
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

PAGE = Path(__file__).resolve().parents[2] / 'docs/miracl_words.md'
TITLES = {name: net.title for name, net in NETS.items()}
DRAWN = (*SEVEN, '3t_gain_std')  # more have no colours of their own
PAIRS = (('3d', '3t'), ('3d', '3t_moving'), ('3d', '3t_moving_gain'), ('3d', '3t_gain_std'),
         ('3d', '3t_moving_gain_std'), ('3t', '3t_moving'),
         ('3t_moving', '3t_moving_gain'), ('3t_frozen', '3t'), ('3d', 's3d'), ('2d', '3t'), ('2d', '3d'),
         ('3t', '3t_x10'), ('3t_moving', '3t_moving_x10'), ('3t_paper', '3t'), ('3t_conv3d', '3t'),
         ('3t', '3t_gain_std'))


def tested(runs: Sequence[dict], setting: Setting, per_class: int) -> List[dict]:
    """The runs that are reported, with the network as ``model``."""
    return [dict(run, model=run['net']) for run in runs
            if not run['tuning'] and run['per_class'] == per_class and setting_of(run) is setting]


def motion_table(runs: Sequence[dict]) -> Optional[str]:
    """How far the transforms are from the identity after training, and how far training moved them."""
    rows = []
    for name in [name for name in NETS if any(run['model'] == name and run.get('motion') for run in runs)]:
        own = [run for run in runs if run['model'] == name]
        rows.append([TITLES[name]] + [mean_std([run['motion'][key] for run in own], 3)
                                      for key in ('shift', 'turn', 'log_scale')]
                    + [mean_std([run['moved'][i] for run in own], 4) for i in range(3)])
    return markdown_table(['network', 'mean |shift|', 'mean |turn|', 'mean |log s|', 'moved in training: shift', 'turn',
                     'log s'], rows) if rows else None


def tuning_table(runs: Sequence[dict], setting: Setting) -> Optional[str]:
    rows = []
    for name in NETS:
        own = {run['lr']: run for run in runs
               if run['tuning'] and run['net'] == name and setting_of(run) is setting}
        if own:
            rows.append([TITLES[name], *(f"{lr:g}: {own[lr]['accuracy']:.1f} ({own[lr]['accuracy_reversed']:.1f})"
                                         for lr in sorted(own))])
    width = max(map(len, rows), default=0)
    return markdown_table(['network', *('tried: accuracy (backwards)' for _ in range(width - 1))],
                    [row + [''] * (width - len(row)) for row in rows]) if rows else None


def tables(runs: Sequence[dict]) -> Dict[str, str]:
    """{name: table} of all there is; a name is kind-setting-clips per class, or tuning-setting."""
    found = {}
    for setting in SETTINGS.values():
        for per_class in SAME_STEPS:
            own, end = tested(runs, setting, per_class), f'{setting.name}-{per_class}'
            if own:
                found.update({f'summary-{end}': summary_table(own, TITLES),
                              f'differences-{end}': difference_table(own, PAIRS, TITLES),
                              f'folds-{end}': fold_table(own, TITLES), f'motion-{end}': motion_table(own),
                              f'classes-{end}': per_class_table(own, WORDS, TITLES)})
        found[f'tuning-{setting.name}'] = tuning_table(runs, setting)
    either = [run for net in NETS for setting in [better_optimiser(runs, net)] if setting
              for run in tested(runs, setting, 20) if run['model'] == net]
    if either:
        titles = {net: f'{title}, {"SGD" if better_optimiser(runs, net) is SGD else "Adam"}'
                  for net, title in TITLES.items()}
        found.update({'summary-either-20': summary_table(either, titles),
                      'differences-either-20': difference_table(either, PAIRS, titles)})
    return {name: table for name, table in found.items() if table}


HEADINGS = dict(summary='Accuracy', differences='Differences', folds='Folds', motion='The transforms',
                classes='Per class', tuning='What was tried on two speakers of the training list')


def write_results(runs: Sequence[dict], out: Path, page: Optional[Path] = None) -> str:
    """table.md and figure.png in ``out``, tables and figure of ``page``; table.md as text.

    What has not been run yet is said to be so in the page.
    """
    found, text = tables(runs), [NOTE]
    for name, table in found.items():
        kind, setting, *per_class = name.split('-')
        end = f', {per_class[0]} clips per class' if per_class else ''
        title = SETTINGS[setting].title if setting in SETTINGS else 'the better of Adam and SGD for each'
        text += [f'### {HEADINGS[kind]}{end}, {title}', table]
    minutes = sum(run.get('cpu_seconds') or 0 for run in runs) / 60
    text.append(f'{len(runs)} runs, {minutes:.0f} minutes of one processor core.')
    atomic_write_text(out / 'table.md', '\n\n'.join(text) + '\n')
    drawn = [run for run in tested(runs, NARROW, 20) if run['net'] in DRAWN]
    if drawn:
        save_figure(curves(drawn, TITLES), out / 'figure.png')
    if page is not None:
        if drawn:
            save_figure(curves(drawn, TITLES), page.parent / 'images/miracl_words.png')
            found['figure'] = '![Losses and accuracies](images/miracl_words.png)'
        fill_file(page, found)
    return '\n\n'.join(text) + '\n'
