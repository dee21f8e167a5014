"""What whole networks cost against their peers, in one table and one picture, from what models.py wrote.

    python tools/benchmarks/summary.py --out-dir docs/benchmarks

Nothing is measured: models_DEVICE.csv and models_memory_DEVICE.csv of the out-dir become summary_DEVICE.md and
summary_DEVICE.png, one row per network and clip with its ratios of the time of a training step, of the time in eval
mode and of the peak memory of a step. ``all.py --page`` does it by itself.
"""
import argparse
import sys
import textwrap
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import pandas as pd

from tconv_mmaction.utils import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

RATIOS = ('training step', 'eval', 'memory')
COLORS = ('#4477aa', '#ee7733', '#777777')
KEYS = ['case', 'clip', 'batch', 'candidate', 'peer']


def rows(models: pd.DataFrame, memory: Optional[pd.DataFrame]) -> List[Dict[str, object]]:
    """One row per network, clip and peer: the ratios (None where not measured), then what was compared.

    Deployed networks are left out: they are the plain networks that they are compared with.
    """
    found: Dict[tuple, Dict[str, object]] = {}
    tables = [(models, 'ratio', models['mode'])]
    if memory is not None:
        tables.append((memory, 'memory_ratio', pd.Series('memory', memory.index)))
    for table, column, kinds in tables:
        for (_, row), kind in zip(table.iterrows(), kinds):
            if not row['candidate'].endswith(', deployed'):
                key = tuple(row[name] for name in KEYS)
                found.setdefault(key, dict.fromkeys(RATIOS))[kind] = float(row[column])
    return [dict(ratios, network=candidate, against=peer, input=f'{batch} x {clip}')
            for (_, clip, batch, candidate, peer), ratios in found.items()]


def plot(found: Sequence[Dict[str, object]], title: str, path: Path) -> None:
    """A line per network with a dot for each ratio, less than 1 to the left; narrow, to be read on a phone too."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(5, 1.3 + 0.42 * len(found)), layout='constrained')
    axes = figure.subplots()
    axes.axvline(1, color='black', linewidth=0.8)
    for kind, color, marker in zip(RATIOS, COLORS, 'osD'):
        points = [(row[kind], place) for place, row in enumerate(found) if row[kind] is not None]
        axes.scatter(*zip(*points), color=color, marker=marker, s=36, label=kind, zorder=3)
    for place, row in enumerate(found):
        axes.text(0.256, place - 0.27, f'{row["network"]} / {row["against"]}, {row["input"]}', fontsize=7.5,
                  va='center', bbox=dict(color='white', pad=0.5))
    axes.hlines(range(len(found)), 0.25, 2.1, color='#dddddd', linewidth=0.7, zorder=1)
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.set_yticks([])
    axes.set_xscale('log', base=2)
    ticks = [0.25, 0.35, 0.5, 0.7, 1, 1.4, 2]
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.25, 2.1)
    axes.set_xlabel('network / peer: left of 1 is faster or smaller')
    figure.legend(loc='outside upper center', ncols=3, fontsize=9, frameon=False,
                  title='\n'.join(textwrap.wrap(title, 76)), title_fontsize=6.5)
    figure.savefig(path, dpi=160)


def write(out_dir: Path, device: str = 'cpu') -> bool:
    """summary_DEVICE.md and .png beside the tables that they are made from; False where models_DEVICE is not there."""
    source, beside = out_dir / f'models_{device}', out_dir / f'models_memory_{device}.csv'
    if not source.with_suffix('.csv').exists():
        return False
    found = rows(pd.read_csv(source.with_suffix('.csv')), pd.read_csv(beside) if beside.exists() else None)
    where = source.with_suffix('.md').read_text(encoding='utf-8').split('\n', 1)[0].replace('models on ', '', 1)
    stem = out_dir / f'summary_{device}'
    cells = [['not measured' if cell is None else cell for cell in row.values()] for row in found]
    atomic_write_text(stem.with_suffix('.md'), f'{where}\n\n{markdown_table(list(found[0]), cells)}\n')
    plot(found, where, stem.with_suffix('.png'))
    return True


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--out-dir', type=Path, default=Path('work_dirs/benchmarks'),
                         help='the tables of models.py are there (default: %(default)s)')
    options.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    args = options.parse_args(argv)
    if not write(args.out_dir, args.device):
        print(f'{args.out_dir} has no models_{args.device}.csv: run tools/benchmarks/models.py with that --out-dir '
              'first.', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
