"""Tables of runs.jsonl and words.jsonl, and the same in docs/learned_motion.md."""
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import pandas as pd
from nets import NETS  # beside this file

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_page, mean_std, paired
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

PAGE = Path(__file__).resolve().parents[2] / 'docs/learned_motion.md'
MOVED = ('shift at first', 'turn', 'log s', 'shift trained', 'turn', 'log s')  # means of absolute values
WORDS_LOG = 'words.jsonl'
NONE = 'No runs yet.'
STARTS = {'identity': 'identity', 'random': 'random velocities', 'flow': 'velocities of the training clips'}


def _of(runs: Sequence[dict], **key) -> List[dict]:
    return [run for run in runs if all(run.get(name) == value for name, value in key.items())]


def _by_seed(runs: Sequence[dict]) -> pd.Series:
    return pd.Series({run['seed']: run['test'] for run in runs}, dtype=float)


def gains_table(runs: Sequence[dict], videos: str) -> str:
    own = _of(runs, part='gains', videos=videos, tuning=False)
    rows, base = [], _by_seed(_of(own, net='3d'))
    for name, net in NETS.items():
        found = _of(own, net=name)
        if found:
            against = paired(base, _by_seed(found)) if name != '3d' else None
            without = name.split('_gain')[0]
            gained = paired(_by_seed(_of(own, net=without)), _by_seed(found)) if without != name else None
            rows.append([net.title, f"{found[0]['parameters']:,}", f"{found[0]['lr']:g}", len(found),
                         mean_std(_by_seed(found)), against.text() if against else '', gained.text() if gained else ''])
    return markdown_table(['network', 'parameters', 'rate', 'seeds', 'test accuracy, %', 'minus 3D, 95 % interval',
                           'minus the same start without gains'], rows) if rows else NONE


def ladder_table(runs: Sequence[dict], what: str) -> str:
    """``what``: 'ladder' of the kernels, 'change' of what training added to them."""
    rows = []
    own = _of(runs, part='ladder')
    for net, videos, decay in dict.fromkeys((run['net'], run['videos'], run['weight_decay']) for run in own):
        found = _of(own, net=net, videos=videos, weight_decay=decay)
        for layer in found[0][what]:
            cells = {key: [run[what][layer][key] for run in found] for key in found[0][what][layer]}
            rows.append([NETS[net].title, videos, f'{decay:g}', mean_std([run['test'] for run in found]), layer,
                         len(found), *(f'{np.mean(cells[key]):.2f}' for key in (
                             'static', 'gains', 'motion', 'motion_share', 'null95_phases', 'null95_inputs')),
                         f"{sum(cells['above'])} of {sum(cells['filters'])}"])
    return markdown_table(['network', 'clips', 'weight decay', 'test accuracy, %', 'layer', 'seeds', 'static', 'gains',
                           'motion', 'motion_share', 'null95_phases', 'null95_inputs', 'above the null'],
                          rows) if rows else NONE


def start_table(runs: Sequence[dict]) -> str:
    own = _of(runs, part='start')
    rows, base = [], _by_seed(_of(own, start='identity'))
    for start, title in STARTS.items():
        found = _of(own, start=start)
        if found:
            against = paired(base, _by_seed(found)) if start != 'identity' else None
            moved = [mean_std([run[when][i] for run in found], 3) for when in ('started', 'motion') for i in range(3)]
            rows.append([title, len(found), mean_std(_by_seed(found)), against.text() if against else '', *moved])
    return markdown_table(['start of the transforms', 'seeds', 'test accuracy, %', 'minus identity, 95 % interval',
                           *MOVED],
                          rows) if rows else NONE


def words_table(runs: Sequence[dict]) -> str:
    """Of words.jsonl; differences are paired by fold and seed."""
    found = {start: {(run['fold'], run['seed']): run for run in _of(runs, start=start)} for start in STARTS}
    series = {start: pd.Series({key: run['test'] for key, run in own.items()}, dtype=float)
              for start, own in found.items()}
    rows = []
    for start, title in STARTS.items():
        own = list(found[start].values())
        if own:
            against = paired(series['identity'], series[start]) if start != 'identity' else None
            moved = [mean_std([run[when][i] for run in own], 3) for when in ('started', 'motion') for i in range(3)]
            rows.append([title, len(own), mean_std(series[start]), against.text() if against else '',
                         mean_std([run['reversed'] for run in own]), *moved])
    return markdown_table(['start of the transforms', 'runs', 'test accuracy, %', 'minus identity, 95 % interval',
                           'played backwards, %', *MOVED], rows) if rows else NONE


def write_results(runs: Sequence[dict], out: Path, page: Optional[Path]) -> str:
    """Writes tables.md and, if given, the page; returns the tables. Runs on words are read from ``out``."""
    tables: Dict[str, str] = {'ladder': ladder_table(runs, 'ladder'), 'change': ladder_table(runs, 'change'),
                              'start': start_table(runs), 'words': words_table(read_runs(out / WORDS_LOG)),
                              'gains-motion': gains_table(runs, 'motion'),
                              'gains-digits': gains_table(runs, 'digits')}
    text = '\n\n'.join(f'{name}\n\n{table}' for name, table in tables.items())
    atomic_write_text(out / 'tables.md', text + '\n')
    if page is not None:
        atomic_write_text(page, fill_page(page.read_text(encoding='utf-8'), tables))
    return text
