"""The three tables of this study from its csv files, without computing anything again.

    python projects/motion_fit/tables.py                    those of results/
    python projects/motion_fit/tables.py work_dirs/mine     those of another folder that has the csv files
"""
import argparse
import sys
from pathlib import Path

import tconv_mmaction  # noqa: F401

# isort: split
import pandas as pd

from tconv_mmaction.interpret.motion_ladder import RUNGS
from tconv_mmaction.interpret.motion_null import DECISIVE, NULLS
from tconv_mmaction.utils import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

RESULTS = Path(__file__).resolve().parent / 'results'


def known_answers(table: pd.DataFrame) -> str:
    """Of known_answers.py: a row per case, means over its filters."""
    columns = ['static', 'gains', 'motion', 'motion_share', *(f'null95_{kind}' for kind in NULLS)]
    rows = [[case.layer, *(f'{getattr(case, name):.2f}' for name in columns), f'{case.above} of {case.filters}']
            for case in table.itertuples()]
    return markdown_table(['kernels', *columns, 'above'], rows) + '\n'


def recovery(table: pd.DataFrame) -> str:
    """Of recovery.py: a row per kind of layer."""
    return markdown_table(list(table), table.astype(str).to_numpy().tolist()) + '\n'


def ladder_words(table: pd.DataFrame) -> str:
    """Of tools/analysis/fit.py on a 3D network trained on words: a row per layer."""
    columns = [*RUNGS, 'motion_share', *(f'null95_{kind}' for kind in DECISIVE)]
    names = [name.removeprefix('backbone.').removesuffix('.conv') for name in table.layer]
    rows = [[name, layer.kernel, layer.filters, *(f'{getattr(layer, name):.3f}' for name in columns),
             layer.above] for name, layer in zip(names, table.itertuples())]
    return markdown_table(['layer', 'kernel', 'filters', *columns, 'above'], rows) + '\n'


TABLES = dict(known_answers=known_answers, recovery=recovery, ladder_words=ladder_words)


def write(folder: Path) -> int:
    """NAME.md of every NAME.csv that is there; how many."""
    found = [name for name in TABLES if (folder / f'{name}.csv').is_file()]
    for name in found:
        atomic_write_text(folder / f'{name}.md', TABLES[name](pd.read_csv(folder / f'{name}.csv')))
        print(f'written: {folder / name}.md')
    return len(found)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, nargs='?', default=RESULTS, help='(default: results/ beside this file)')
    folder = parser.parse_args(argv).folder
    if not write(folder):
        print(f'error: {folder} has none of {", ".join(f"{name}.csv" for name in TABLES)}.', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
