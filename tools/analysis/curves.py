"""Curves of trainings: loss, accuracy, learning rate, of one run or of several with mean and spread.

    python tools/analysis/curves.py WORK_DIR
    python tools/analysis/curves.py work_dirs/3t_seed* work_dirs/3d_seed* --keys loss acc/top1

Runs whose folders differ by a seed or number at the end (3t_seed0, 3t_seed1) are of one kind: each is a thin line,
their mean a thick one, and the band is one standard deviation to both sides. Writes curves.png and curves.csv.
"""
import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import tconv_mmaction  # noqa: F401
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.run_logs import mean_and_spread, read_runs

COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#444444']  # told apart by all eyes


def draw(runs, keys) -> Figure:
    """A panel per key, with all runs of all labels."""
    figure = Figure(figsize=(5.2 * min(len(keys), 3), 3.6 * -(-len(keys) // 3)), layout='constrained')
    panels = figure.subplots(-(-len(keys) // 3), min(len(keys), 3), squeeze=False).ravel()
    labels = list(dict.fromkeys(runs.label))
    for axes, key in zip(panels, keys):
        chosen = runs[runs.key == key]
        for index, label in enumerate(labels):
            color, of_label = COLORS[index % len(COLORS)], chosen[chosen.label == label]
            several = of_label.run.nunique() > 1
            for _, run in of_label.groupby('run'):
                marker = 'o' if len(run) == 1 else None
                axes.plot(run.step, run.value, color=color, linewidth=0.8 if several else 1.6,
                          alpha=0.4 if several else 1, label=None if several else label, marker=marker)
            if several:
                spread = mean_and_spread(runs, key, label)
                axes.plot(spread.index, spread['mean'], color=color, linewidth=2,
                          marker='_' if len(spread) == 1 else None, markersize=18, markeredgewidth=2,
                          label=f'{label} (mean of {spread.runs.max() if len(spread) else 0})')
                axes.fill_between(spread.index, spread['mean'] - spread['std'], spread['mean'] + spread['std'],
                                  color=color, alpha=0.18, linewidth=0)
        axes.set(xlabel=chosen.unit.iloc[0], title=key)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True, min_n_ticks=1))  # no half epochs
        axes.legend(fontsize=8)
    for axes in panels[len(keys):]:
        axes.remove()
    return figure


def main(arguments=None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folder of a training, one per run')
    parser.add_argument('--keys', nargs='+', metavar='KEY', help='what to draw (default: loss, and the first number '
                        'of the validation); --keys list prints what there is')
    parser.add_argument('--labels', nargs='+', default=(), metavar='LABEL', help='one per run; equal labels are runs '
                        'of one kind (default: the folder\'s name without its number)')
    parser.add_argument('--out-dir', default='.', help='where curves.png and curves.csv go (%(default)s)')
    add_figure_arguments(parser)
    args = parser.parse_args(arguments)
    try:
        files = figure_files(args)
        runs = read_runs(args.work_dirs, args.labels)
    except (FileNotFoundError, ValueError) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 1
    present = list(dict.fromkeys(runs.key))
    validation = [key for key in present if runs[runs.key == key].unit.iloc[0] == 'epoch']
    validation = [key for key in ('acc/top1', 'f1/top1') if key in present] or validation
    keys = args.keys or [key for key in ('loss', *validation[:1]) if key in present]
    if keys == ['list']:
        print('\n'.join(f'{key}  ({runs[runs.key == key].unit.iloc[0]})' for key in present))
        return 0
    missing = [key for key in keys if key not in present]
    if missing:
        print(f'ValueError: no run has {", ".join(missing)}. There are: {", ".join(present)}', file=sys.stderr)
        return 1
    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    picture = files.save(draw(runs, keys), out / 'curves')
    atomic_write_text(out / 'curves.csv', runs[runs.key.isin(keys)].to_csv(index=False))
    for key in keys:
        for label in dict.fromkeys(runs.label):
            spread = mean_and_spread(runs, key, label)
            if len(spread):
                last = spread.iloc[-1]
                more = f' +- {last["std"]:.4g} over {last.runs:.0f} runs' if last.runs > 1 else ''
                print(f'{label}: {key} {last["mean"]:.4g}{more} at {runs[runs.key == key].unit.iloc[0]} {last.name}')
    print(f'Written: {picture} and {out / "curves.csv"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
