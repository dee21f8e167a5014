"""table.md, figure.png and the tables of docs/low_data.md from runs.jsonl."""
import math
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import pandas as pd
from matplotlib.figure import Figure
from study import AUTHORS, PARTS, ROWS, Part, candidates, chosen, key_of, tuning_results  # beside this file

from tconv_mmaction.cli.run_statistics import fill_page, holm, mean_std, p_text, paired
from tconv_mmaction.interpret import save_figure
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

PAGE = Path(__file__).resolve().parents[2] / 'docs/low_data.md'
KEY = ('videos', 'net', 'channels', 'start', 'optimizer', 'lr', 'epochs')


def results_of(runs: Sequence[dict], part: Part, net_index: int, measure: str) -> pd.Series:
    """Accuracies of a net with its chosen settings, by (videos per class, repeat); tuning repeats are not in it."""
    net = part.nets[net_index]
    setting = chosen(runs, part, net)
    found = {}
    if setting is not None:
        wanted = {name: key_of(part, net, *setting, 0, 0)[name] for name in KEY}
        found = {(run['per_class'], run['repeat']): run[measure] for run in runs if run['repeat'] < 1000
                 and run['per_class'] in part.rows and all(run[name] == value for name, value in wanted.items())}
    index = pd.MultiIndex.from_tuples(list(found), names=['per_class', 'repeat'])
    return pd.Series(list(found.values()), index=index, dtype=float).sort_index()


def part_table(runs: Sequence[dict], part: Part, measure: str = 'test', published: bool = False) -> Optional[str]:
    """Rows: videos per class. Columns: mean ± sd of every net, differences of the pairs, p values (Wilcoxon, Holm)."""
    series = [results_of(runs, part, i, measure) for i in range(len(part.nets))]
    rows = [row for row in part.rows if sum(row in s.index.get_level_values(0) for s in series) > 1]
    pairs = {(row, pair): paired(*(series[i].loc[[row]] if row in series[i].index.get_level_values(0) else
                                   series[i].iloc[:0] for i in pair)) for row in rows for pair in part.pairs}
    tested = [key for key, value in pairs.items() if value and value.n > 1]
    corrected = dict(zip(tested, holm([pairs[key].wilcoxon_p for key in tested]))) if tested else {}
    names = [net.name for net in part.nets]
    header = ['per class', 'repeats', *names]
    if published:
        header += ['authors, 3D', 'authors, 3T']
    label = short if len({(short(names[a]), short(names[b])) for a, b in part.pairs}) == len(part.pairs) else str
    header += [f'{label(names[b])} − {label(names[a])} (p)' for a, b in part.pairs]
    lines = []
    for row in rows:
        own = [s.loc[row] if row in s.index.get_level_values(0) else s.iloc[:0] for s in series]
        counts = sorted({len(s) for s in own if len(s)})
        line = [row, '–'.join(map(str, counts if len(counts) < 2 else (counts[0], counts[-1]))), *map(mean_std, own)]
        if published:
            line += [f'{AUTHORS[kind][ROWS.index(row)]:.1f}' for kind in ('3D', '3T')]
        for pair in part.pairs:
            value = pairs[row, pair]
            if value is None or value.n < 2:
                line.append(value.text() if value else '')
                continue
            p, bold = corrected[row, pair], '**' * (corrected[row, pair] < 0.05)
            line.append(f'{bold}{value.text()}{bold} ({p_text(p)})')
        lines.append(line)
    return markdown_table(header, lines) if lines else None


def short(name: str) -> str:
    """The kind alone, as far as the pairs of a table can be told apart by it."""
    return name.replace(', moving start', ' moving').split(', ')[0]


def settings_table(runs: Sequence[dict], parts: Sequence[Part]) -> Optional[str]:
    """What was tried for each net, validation accuracy on the tuning repeats; the chosen one is bold."""
    lines = []
    for part in parts:
        for net in part.nets:
            results, best = tuning_results(runs, part, net), chosen(runs, part, net)
            if len(candidates(part, net)) < 2 or best is None:
                continue
            tried = [f'{start} {lr:g}: {value:.1f}' for (start, lr), value in results.items()]
            tried = [f'**{text}**' if setting == best else text for text, setting in zip(tried, results)]
            lines.append([part.title.split(' ')[0], net.name, ', '.join(tried)])
    return markdown_table(['part', 'network', 'start, learning rate: validation accuracy on the tuning repeats'],
                    lines) if lines else None


def tables(runs: Sequence[dict]) -> Dict[str, str]:
    """{name: table} of all there is."""
    found = {name: part_table(runs, part) for name, part in PARTS.items()}
    for name in ('authors', 'unequal'):
        found[f'{name}-val'] = part_table(runs, PARTS[name], 'val', published=True)
    found['settings'] = settings_table(runs, [part for part in PARTS.values() if part.tune_lrs])
    return {name: table for name, table in found.items() if table}


NOT_YET = 'No runs yet.'
HEADER = ('Accuracy in %, mean ± standard deviation over the repeats, test videos unless stated. Differences are '
          'paired by repeat, with their 95 % interval (Student); in brackets p of the Wilcoxon signed-rank test, '
          "corrected for the comparisons of its table (Holm's method), bold where that is below 0.05. With n repeats p "
          'is at least 2/2^n before the correction: where there are few, look at the interval.')


def make_figure(runs: Sequence[dict]) -> Figure:
    """Mean and standard deviation over videos per class, a panel for each part of these that has been run; crosses: the
    authors' means."""
    parts = [PARTS[name] for name in ('authors', 'normal', 'tuned', 'motion', 'unequal', 'small')]
    parts = [part for part in parts if any(len(results_of(runs, part, i, 'test')) for i in range(len(part.nets)))]
    columns = min(3, max(1, len(parts)))
    rows = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.9 * max(1, rows)), layout='constrained')
    axes = figure.subplots(max(1, rows), columns, sharey=True, squeeze=False).ravel()
    for axis in axes[len(parts):]:
        axis.set_axis_off()
    colours = ('tab:blue', 'tab:orange', 'tab:red', 'tab:green')
    for axis, part in zip(axes, parts):
        label = short if len({short(net.name) for net in part.nets}) == len(part.nets) else str
        for index, (net, colour) in enumerate(zip(part.nets, colours)):
            by_row = results_of(runs, part, index, 'test').groupby(level=0)
            mean, std = by_row.mean(), by_row.std(ddof=1).fillna(0)
            if len(mean):
                axis.errorbar(mean.index * (1 + 0.03 * index), mean, std, fmt='.-', color=colour, capsize=2,
                              label=label(net.name), linewidth=1)
            if part.name == 'authors' and index < 2:
                few = [row for row in ROWS if row <= 10]
                axis.plot(few, AUTHORS[net.kind][:len(few)], 'x', color=colour, label=f'{net.kind}, published')
        axis.set(xscale='log', xlabel='videos per class', title='\n'.join(wrapped(part.title)))
        ticks = part.rows
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.title.set_fontsize(9)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, loc='lower right')
        axis.grid(alpha=0.3)
    for axis in axes[::columns]:
        axis.set_ylabel('test accuracy, %')
    return figure


def wrapped(text: str, width: int = 42) -> List[str]:
    lines = ['']
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append('')
        lines[-1] = f'{lines[-1]} {word}'.strip()
    return lines


def table_text(runs: Sequence[dict]) -> str:
    """table.md."""
    found = tables(runs)
    text = [HEADER]
    for name, part in PARTS.items():
        for key, of in ((f'{name}-val', 'validation videos'), (name, 'test videos')):
            if key in found:
                text += [f'### {part.title}: {of}', found[key]]
    if 'settings' in found:
        text += ['### What was tried', found['settings']]
    seconds = sum(run.get('cpu_seconds') or 0 for run in runs)
    text.append(f'{len(runs)} runs, {seconds / 60:.0f} minutes of one processor core.'
                if not math.isnan(seconds) else f'{len(runs)} runs.')
    return '\n\n'.join(text) + '\n'


def write_results(runs: Sequence[dict], out: Path, page: Optional[Path] = None) -> str:
    """table.md and figure.png in ``out``, tables and figure of ``page``; table.md as text.

    What has not been run yet is said to be so in the page.
    """
    text = table_text(runs)
    atomic_write_text(out / 'table.md', text)
    save_figure(make_figure(runs), out / 'figure.png')
    if page is not None:
        save_figure(make_figure(runs), page.parent / 'images/low_data.png')
        shown = {**dict.fromkeys(PARTS, NOT_YET), **tables(runs)}
        atomic_write_text(page, fill_page(page.read_text(encoding='utf-8'), shown))
    return text
