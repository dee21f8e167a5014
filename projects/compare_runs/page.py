"""The tables of docs/compare_runs.md, and table.md and curves.png beside the runs, from the committed runs.

    python projects/compare_runs/page.py
"""
import runpy
import sys
from pathlib import Path
from typing import Dict

import tconv_mmaction  # noqa: F401

# isort: split
from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_page
from tconv_mmaction.cli.run_tables import difference_table, per_class_table, summary_table
from tconv_mmaction.utils.atomic import atomic_write_text

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / 'docs/compare_runs.md'
# how the names of its tables begin: its runs
SETS = {'': HERE / 'results', 'words-': HERE / 'results_words', 'search-': HERE / 'results_search'}


def tables() -> Dict[str, str]:
    """{name: table} of all sets."""
    found = {}
    for prefix, folder in SETS.items():
        runs, classes = read_runs(folder / 'runs.jsonl'), (folder / 'classes.txt').read_text().splitlines()
        titles = {run['model']: run['model'] for run in runs}
        found.update({f'{prefix}summary': summary_table(runs, titles),
                      f'{prefix}differences': difference_table(runs, None, titles),
                      f'{prefix}classes': per_class_table(runs, classes, titles)})
    return found


def main() -> int:
    tool = runpy.run_path(str(HERE.parents[1] / 'tools/compare_runs.py'))
    for folder in SETS.values():
        code = tool['main']([str(folder), '--table-only', '--classes', str(folder / 'classes.txt')])
        if code:
            return code
    atomic_write_text(PAGE, fill_page(PAGE.read_text(encoding='utf-8'), tables()))
    return 0


if __name__ == '__main__':
    sys.exit(main())
