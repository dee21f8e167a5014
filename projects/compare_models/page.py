"""Tables and figures of this study from its csv files, and the tables in its README.

    python projects/compare_models/page.py

``tables.md`` and ``histograms.png`` are what ``tools/analysis/compare_models.py --table-only`` makes; the reversal of
whole clips is of the runs of projects/compare_runs that the two checkpoints are of.
"""
import runpy
import sys
from pathlib import Path
from typing import Dict, Sequence

import tconv_mmaction  # noqa: F401

# isort: split
import mask_figure  # beside this file
from sklearn.metrics import f1_score

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_page
from tconv_mmaction.utils import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = ROOT / 'projects/compare_runs/results_words/runs.jsonl'
FOLDERS = {'own': 'results', 'same cells': 'results_same_cells'}  # the layers of the paper; maps of equally many cells
MODELS = {'i3d-ours': 'I3D', 'clstm': 'C-LSTM'}  # in that log: here


def reversal_table(runs: Sequence[dict]) -> str:
    """F1, mean over the classes, and accuracy of fold 1, seed 0, forwards and backwards: the paper's Table 1."""
    rows = []
    for name, title in MODELS.items():
        run, = (run for run in runs if run['model'] == name and run['fold'].endswith('/1') and run['seed'] == 0)
        for suffix, key in (('', 'predicted'), (' (rev.)', 'predicted_reversed')):
            right = sum(a == b for a, b in zip(run['labels'], run[key]))
            rows.append([title + suffix, f"{f1_score(run['labels'], run[key], average='macro', zero_division=0):.2f}",
                         f"{100 * right / len(run['labels']):.1f} %"])
    return markdown_table(['model', 'F1', 'accuracy'], rows)


def tables(folder: Path) -> Dict[str, str]:
    """{name: table} of the page, from the tables.md of both comparisons."""
    blocks = {which: (folder / name / 'tables.md').read_text(encoding='utf-8').split('\n\n')
              for which, name in FOLDERS.items()}
    wanted = (('blobs', 'own', '| Model | Blob'), ('masks', 'own', '| Model | Mask'), ('tests', 'own', '| Measure'),
              ('same-cells', 'same cells', '| Model | Blob'), ('same-cells-tests', 'same cells', '| Measure'))
    found = {name: next(block for block in blocks[which] if block.startswith(start)).strip()
             for name, which, start in wanted}
    kept = [line for line in found['same-cells-tests'].splitlines()  # its masks were not searched
            if not line.startswith(('| Mask', '| Drop'))]
    return dict(found, reversal=reversal_table(read_runs(RUNS)), **{'same-cells-tests': '\n'.join(kept)})


def main() -> int:
    tool = runpy.run_path(str(ROOT / 'tools/analysis/compare_models.py'))
    for folder in FOLDERS.values():
        code = tool['main'](['--out', str(HERE / folder), '--table-only'])
        if code:
            return code
    page = HERE / 'README.md'
    atomic_write_text(page, fill_page(page.read_text(encoding='utf-8'), tables(HERE)))
    mask_figure.main([])
    return 0


if __name__ == '__main__':
    sys.exit(main())
