"""Interleaved timing in one process, and the report of it: the ratio to the peer first, absolute numbers second.

Machines drift (frequency, neighbours, memory). Running the candidates in turn, round after round, puts the drift on
all of them, and the median of the per-round ratios is the number to quote.
"""
import argparse
import datetime
import platform
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
import pandas as pd
import torch

from ..utils.markdown import markdown_table

FIRST = ('ratio', 'memory_ratio', 'of_none', 'times_VideoDataset', 'quartiles')  # columns of the markdown tables


def positive(text: str) -> int:
    """An option's value that must be a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, got {text!r}')
    return int(text)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    options.add_argument('--rounds', type=positive, default=15, help='timed rounds; each runs every candidate once')
    options.add_argument('--quick', action='store_true', help='few rounds and the small cases only')
    options.add_argument('--out-dir', type=Path, help='write the table there as csv, markdown and a plot')
    return options


def add_cases(options: argparse.ArgumentParser, names: Sequence[str], quick: Sequence[str]) -> None:
    """``--cases``: run some of ``names`` only. :func:`asked_cases` reads it, :func:`report` keeps the other rows."""
    options.add_argument('--cases', nargs='+', choices=list(names), metavar='NAME',
                         help=f'these only, the rows of the others stay in the files (default: all; with --quick '
                         f'{", ".join(quick)}), of {", ".join(names)}')


def asked_cases(args: argparse.Namespace, names: Sequence[str], quick: Sequence[str]) -> List[str]:
    """What ``--cases`` names, or else all, or those of ``--quick``."""
    return args.cases or list(quick if args.quick else names)


def environment(device: str) -> str:
    """One line: machine, threads, versions, date."""
    if device == 'cuda':
        name = torch.cuda.get_device_name()
    else:
        cpuinfo = Path('/proc/cpuinfo')
        models = [line.split(':', 1)[1].strip() for line in cpuinfo.read_text().split('\n')
                  if line.startswith('model name')] if cpuinfo.exists() else []
        cpu = models[0] if models else platform.processor() or platform.machine()
        # processors of one name may differ in it, and it decides how much a convolution takes
        name = f'{cpu} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads'
    return f'{name}; torch {torch.__version__}, Python {platform.python_version()}; {datetime.date.today().isoformat()}'


def interleave(candidates: Dict[str, Callable[[], object]], rounds: int, device: str,
               warmup: int = 3) -> Dict[str, np.ndarray]:
    """Seconds per call: {name: (rounds,)}. The order of the candidates alternates from round to round."""
    def timed(run):
        if device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: Dict[str, List[float]] = {name: [] for name in candidates}
    for i in range(rounds):
        names = list(candidates) if i % 2 == 0 else list(candidates)[::-1]
        for name in names:
            seconds[name].append(timed(candidates[name]))
    return {name: np.array(values) for name, values in seconds.items()}


def step(module: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass with fresh gradients, to be timed."""
    def run():
        for parameter in module.parameters():
            parameter.grad = None
        x.grad = None
        module(x).backward(grad)
    return run


def inference(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One forward pass without a graph, to be timed."""
    @torch.no_grad()
    def run():
        module(x)
    return run


def rows_against(peer: str, seconds: Dict[str, np.ndarray], **case) -> List[dict]:
    """One row per candidate other than ``peer``: median ratio with its quartiles, then milliseconds."""
    rows = []
    for name, values in seconds.items():
        if name == peer:
            continue
        ratios = values / seconds[peer]
        low, high = np.percentile(ratios, [25, 75])
        rows.append(dict(**case, candidate=name, peer=peer, ratio=round(float(np.median(ratios)), 3),
                         quartiles=f'{low:.3f} - {high:.3f}', ms=round(float(np.median(values)) * 1e3, 2),
                         peer_ms=round(float(np.median(seconds[peer])) * 1e3, 2)))
    return rows


def verdict(ratios: np.ndarray, chosen: bool) -> str:
    """'faster', 'slower' or 'even': how a choice did, where ``ratios`` are of what could be chosen over its peer."""
    low, high = np.percentile(ratios, [25, 75])
    if low <= 1 <= high:
        return 'even'
    return 'faster' if (high < 1) == chosen else 'slower'


def _markdown(table: pd.DataFrame) -> str:
    """The columns that a reader looks for come first: on a narrow screen the others are scrolled to."""
    columns = [name for name in FIRST if name in table] + [name for name in table if name not in FIRST]
    return markdown_table(columns, table[columns].itertuples(index=False))


def report(name: str, rows: List[dict], args: argparse.Namespace, cases: Sequence[str] = (),
           bars: bool = True, how: Optional[str] = None) -> pd.DataFrame:
    """Print the table and, with ``--out-dir``, write NAME.csv, NAME.md and, with ``bars``, NAME.png.

    A script that can run some of its ``cases`` only gives the names of all: rows of the others (column ``case``) that
    are there already, from the same machine and versions, stay in the files. Such tables need a column ``rounds``.
    ``how`` is said in the header of a table that is no median of rounds.
    """
    table = pd.DataFrame(rows)
    where = environment(args.device)
    how = how or f'medians of {"" if cases else f"{args.rounds} "}interleaved rounds'
    header = f'{name} on {where}; {how}'
    print(f'\n{header}\n\n{_markdown(table)}\n')
    if args.out_dir is not None:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        stem = args.out_dir / f'{name}_{args.device}'
        if cases:
            table = with_earlier(table, stem, where, cases)
        table.to_csv(stem.with_suffix('.csv'), index=False)
        stem.with_suffix('.md').write_text(f'{header}\n\n{_markdown(table)}\n', encoding='utf-8')
        if bars and 'ratio' in table:
            plot(table, header, stem.with_suffix('.png'))
    return table


def with_earlier(table: pd.DataFrame, stem: Path, where: str, cases: Sequence[str]) -> pd.DataFrame:
    """``table`` and the rows of other cases that ``stem``'s csv has, in the order of ``cases``; says what it drops."""
    if not stem.with_suffix('.csv').exists() or not stem.with_suffix('.md').exists():
        return table
    earlier = pd.read_csv(stem.with_suffix('.csv'), keep_default_na=False)
    header = stem.with_suffix('.md').read_text(encoding='utf-8').split('\n', 1)[0]
    machine = where.rsplit(';', 1)[0]  # all but the date
    if list(earlier.columns) != list(table.columns) or f' on {machine};' not in header:
        print(f'{stem}.csv: replaced, its rows are of another machine, version or form ({header})')
        return table
    kept = earlier[~earlier['case'].isin(table['case'])]
    both = pd.concat([kept, table], ignore_index=True)
    places = [cases.index(case) if case in cases else len(cases) for case in both['case']]
    return both.iloc[np.argsort(places, kind='stable')].reset_index(drop=True)


def plot(table: pd.DataFrame, title: str, path: Path) -> None:
    """Horizontal bars of the ratios, with a line at 1."""
    from matplotlib.figure import Figure
    left_out = ('peer', 'ratio', 'quartiles', 'rounds', 'difference')
    keys = [c for c in table.columns if c not in left_out and not c.endswith('ms')]
    labels = [', '.join(str(row[k]) for k in keys) for _, row in table.iterrows()]
    if len(set(labels)) < len(labels):  # against several peers: bars of one label would cover each other
        labels = [f'{label} : {peer}' for label, peer in zip(labels, table['peer'])]
    figure = Figure(figsize=(9, 1 + 0.3 * len(table)), layout='constrained')
    axes = figure.subplots()
    axes.barh(labels, table['ratio'], color=['#4477aa' if r <= 1 else '#cc6677' for r in table['ratio']])
    axes.axvline(1, color='black', linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f'time relative to {", ".join(sorted(set(table["peer"])))} (less is faster)')
    axes.set_title(title, fontsize=8)
    figure.savefig(path, dpi=120)
