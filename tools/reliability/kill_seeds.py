"""The experiment of kill_resume.py with many seeds: every seed draws other moments and places to be killed at.

    python tools/reliability/kill_seeds.py docs/reliability/kill_seeds.csv --shape 6 8 --shape 10 14 --seeds 70 99

For each shape (kills, epochs) the training runs once in one piece, and for each seed once in as many lives as there are
kills, one more; both must hold the same files with the same content. One line per shape and seed is added to the table
as soon as it is known, with what differs, and a line that is there already is not made again: the run may be stopped
and started anew. Delete the table when the code has changed. Exit code 1 if anything differs.
"""
import argparse
import csv
import gc
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from kill_resume import compare, make_plans, train_killed, train_whole

from tconv_mmaction.utils import atomic_write_text

COLUMNS = ['kills', 'epochs', 'seed', 'in_writes', 'files', 'different', 'seconds', 'differences']


def read_table(path: Path) -> List[Dict[str, str]]:
    """The lines so far."""
    if not path.is_file():
        return []
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: List[Dict[str, Any]]) -> None:
    """Whole or not at all: a stop while a line is added must not lose the others."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


def one_seed(whole: Path, work: Path, kills: int, epochs: int, seed: int) -> Dict[str, Any]:
    """Train in many lives and compare."""
    started = time.monotonic()
    killed, lives = train_killed(work, epochs, make_plans(kills, seed, epochs))
    compared = compare(whole, killed)
    bad = [row for row in compared if row['differences']]
    shutil.rmtree(killed)
    return dict(kills=kills, epochs=epochs, seed=seed, files=len(compared), different=len(bad),
                in_writes=sum(life['where'] != 'a random moment' for life in lives),
                seconds=round(time.monotonic() - started),
                differences=' / '.join(f'{row["file"]}: {row["differences"]}' for row in bad))


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('table', type=Path, help='csv file, gone on with if it is there')
    parser.add_argument('--shape', type=int, nargs=2, action='append', required=True, metavar=('KILLS', 'EPOCHS'))
    parser.add_argument('--seeds', type=int, nargs=2, required=True, metavar=('FIRST', 'LAST'))
    options = parser.parse_args(argv)
    for kills, epochs in options.shape:
        if kills < 1 or epochs <= kills:
            parser.error(f'--shape {kills} {epochs}: at least one kill, and more epochs than kills.')
    if options.seeds[0] > options.seeds[1]:
        parser.error(f'--seeds {options.seeds[0]} {options.seeds[1]}: the first must not be after the last.')
    gc.freeze()  # a dataset collects garbage when it is built: not the libraries' objects again in each life
    rows: List[Dict[str, Any]] = list(read_table(options.table))
    wholes: Dict[int, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds[0], options.seeds[1] + 1):
            for kills, epochs in options.shape:
                if any((row['kills'], row['epochs'], row['seed']) == (str(kills), str(epochs), str(seed))
                       for row in rows):
                    continue
                work = Path(folder).resolve() / f'{epochs}_epochs'
                if epochs not in wholes:
                    work.mkdir()
                    wholes[epochs] = train_whole(work, epochs)
                row = one_seed(wholes[epochs], work, kills, epochs, seed)
                rows.append({name: str(value) for name, value in row.items()})
                write_table(options.table, rows)
                print(row, flush=True)
    bad = [row for row in rows if row['different'] != '0']
    print(f'{len(rows)} runs in {options.table}, {sum(int(row["kills"]) for row in rows)} kills, '
          f'{sum(int(row["files"]) for row in rows)} files compared; {len(bad)} runs differ.')
    return int(bool(bad))


if __name__ == '__main__':
    sys.exit(main())
