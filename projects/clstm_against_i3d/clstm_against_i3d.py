"""C-LSTM against I3D on J-HMDB sit/stand: trained on three splits, tested forwards and backwards, on one CPU core.

    python projects/clstm_against_i3d/clstm_against_i3d.py --data-root data/jhmdb \\
        --out-dir projects/clstm_against_i3d/results
    python projects/clstm_against_i3d/clstm_against_i3d.py --out-dir projects/clstm_against_i3d/results --table-only

Mänttäri et al., "Interpreting Video Features" (ACCV 2020), Table 1, test both networks on clips played backwards too.
This does so on data that a CPU can train on: the clips `sit` and `stand` of J-HMDB (Jhuang et al., ICCV 2013) in
DATA_ROOT/videos, with the lists DATA_ROOT/sitstand_{train,test}_split{1,2,3}.txt. Networks, frames and schedule are in
configs/. Each run is tools/train.py followed by tools/test.py on the test clips in both directions and on the
training clips.

What is finished is not run again, and a training that was stopped goes on from its last checkpoint (every 5 epochs),
so the same command resumes. results.csv has one row per test and what the majority of the training clips would get,
changes.csv the answers that change backwards, losses.csv the training loss; table.md comes from these three.
"""
import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Sequence

import pandas as pd
from scipy.stats import binom, binomtest

from tconv_mmaction.cli.studies import (
    check_settings,
    direction_changes,
    majority_baseline,
    mean_std,
    read_list,
    write_table,
)
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table
from tconv_mmaction.utils.read_dump import read_dump

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).resolve().parent / 'configs'
MODELS = {'clstm': 'C-LSTM', 'i3d': 'I3D', 'clstm_shared': 'C-LSTM, shared BatchNorm'}
TESTS = [('test', 'normal'), ('test', 'reversed'), ('train', 'normal')]
LOOP = 'Epoch(train)'
MAJORITY = 'majority'  # in results.csv: no network
TABLES = ('results', 'changes', 'losses')  # the csv files that table.md comes from


def run(command: List[str], log: Path, show: str = '') -> None:
    """Run ``command`` from the repository's root, output to ``log``; the lines that contain ``show`` are printed too.

    Raises:
        RuntimeError: with the end of the log, if the command fails.
    """
    paths = os.pathsep.join([str(CONFIGS), *filter(None, [os.environ.get('PYTHONPATH')])])
    environment = {**os.environ, 'PYTHONPATH': paths}
    environment.setdefault('OMP_NUM_THREADS', '1')
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'a') as file:
        file.write(f'$ {" ".join(command)}\n')
        process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        for line in process.stdout:
            file.write(line)
            if show and show in line:
                print('   ', line[line.index(show):].rstrip(), flush=True)
    if process.wait():
        end = '\n'.join(log.read_text().splitlines()[-15:])
        raise RuntimeError(f'{" ".join(command[:2])} ended with {process.returncode}; all of its output is in {log}:\n'
                           f'{end}')


def data_options(prefix: str, data_root: Path, split: int, part: str) -> List[str]:
    """--cfg-options that point a dataloader of the configs to the clips of a list."""
    return [f'{prefix}.dataset.ann_file={data_root / f"sitstand_{part}_split{split}.txt"}',
            f'{prefix}.dataset.data_prefix.video={data_root / "videos"}']


def train(model: str, split: int, folder: Path, data_root: Path, epochs: int) -> Path:
    """Train, or go on training, and return the checkpoint of the last epoch."""
    marker, last = folder / 'last_checkpoint', f'epoch_{epochs}.pth'
    if not marker.is_file() or Path(marker.read_text().strip()).name != last:
        run([sys.executable, 'tools/train.py', str(CONFIGS / f'{model}.py'), '--work-dir', str(folder), '--resume',
             '--cfg-options', f'train_cfg.max_epochs={epochs}', f'param_scheduler.0.T_max={epochs}',
             *data_options('train_dataloader', data_root, split, 'train')], folder / 'train.log', LOOP)
    return folder / last


def test(model: str, split: int, folder: Path, data_root: Path, checkpoint: Path, part: str, order: str) -> dict:
    """The result of one test as a row of results.csv and the predicted labels, from a file if it was run before."""
    result = folder / f'{part}_{order}.json'
    if not result.is_file():
        work_dir, dump = folder / f'{part}_{order}', folder / f'{part}_{order}.pkl'
        run([sys.executable, 'tools/test.py', str(CONFIGS / f'{model}.py'), str(checkpoint), '--work-dir',
             str(work_dir), '--dump', str(dump), '--cfg-options',
             f'test_dataloader.dataset.pipeline.2.enabled={order == "reversed"}',
             *data_options('test_dataloader', data_root, split, part)], folder / 'test.log')
        metrics = json.loads(max(work_dir.glob('*/*.json')).read_text())  # named by the time; test.py's own numbers
        samples = read_dump(dump)
        atomic_write_text(result, json.dumps(dict(
            model=model, split=split, clips=part, order=order,
            accuracy=metrics['f1/top1'], f1=metrics['f1/mean'],
            f1_sit=metrics.get('f1/sit'), f1_stand=metrics.get('f1/stand'),
            label=[int(sample['gt_label']) for sample in samples],
            predicted=[int(sample['pred_score'].argmax()) for sample in samples])))
    return json.loads(result.read_text())


def losses(model: str, split: int, folder: Path) -> List[dict]:
    """The mean training loss of every epoch, from the scalars that train.py logged."""
    epochs = {}
    for scalars in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in scalars.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                epochs[entry['epoch']] = entry['loss']
    return [dict(model=model, split=split, epoch=epoch, loss=round(loss, 5)) for epoch, loss in sorted(epochs.items())]


def result_rows(results: Sequence[dict]) -> pd.DataFrame:
    """results.csv: one row per test, with the exact 95 % interval of the accuracy if clips were drawn at random."""
    rows = []
    for result in results:
        n = len(result['label'])
        right = sum(p == t for p, t in zip(result['predicted'], result['label']))
        interval = binomtest(right, n).proportion_ci(0.95, method='exact')
        rows.append(dict(
            {key: result[key] for key in ('model', 'split', 'clips', 'order')}, n=n, right=right,
            accuracy=round(result['accuracy'], 4), accuracy_low=round(interval.low, 4),
            accuracy_high=round(interval.high, 4),
            **{key: None if result[key] is None else round(result[key], 4) for key in ('f1', 'f1_sit', 'f1_stand')}))
    return pd.DataFrame(rows)


def majority_rows(lists: Dict[int, Dict[str, Dict[str, int]]]) -> pd.DataFrame:
    """Rows of results.csv: the test clips of every split, all answered with the most frequent training label."""
    rows = []
    for split, parts in lists.items():
        base, n = majority_baseline(list(parts['train'].values()), list(parts['test'].values())), len(parts['test'])
        rows.append(dict(model=MAJORITY, split=split, clips='test', order='normal', n=n,
                         right=round(base['accuracy'] * n), accuracy=round(base['accuracy'], 4),
                         f1=round(base['f1'], 4)))
    return pd.DataFrame(rows)


def change_rows(results: Sequence[dict], lists: Dict[int, Dict[str, Dict[str, int]]]) -> pd.DataFrame:
    """changes.csv: per network over all splits; ``distinct``: test clips that are in several splits counted once."""
    return direction_changes(results).assign(distinct=len(set().union(*(p['test'] for p in lists.values()))))


def table(results: pd.DataFrame, changes: pd.DataFrame, losses: pd.DataFrame) -> str:
    """table.md from the three csv files: means over the splits, baselines, what chance does, and how often the
    direction mattered."""
    body = []
    for model in [m for m in MODELS if m in set(results['model'])]:
        for order, name in (('normal', ''), ('reversed', ' (rev.)')):
            rows = results[(results['model'] == model) & (results['order'] == order)]
            tested, trained = rows[rows['clips'] == 'test'], rows[rows['clips'] == 'train']
            body.append([MODELS[model] + name, mean_std(tested['f1']), mean_std(tested['accuracy']),
                         ', '.join(f'{a:.2f}' for a in tested['accuracy']),
                         mean_std(trained['accuracy']) if len(trained) else ''])
    base = results[results['model'] == MAJORITY]
    body.append(['always the majority of the training clips', mean_std(base['f1']), mean_std(base['accuracy']),
                 ', '.join(f'{a:.2f}' for a in base['accuracy']), ''])
    parts = [markdown_table(['network', 'F1, test', 'accuracy, test', 'per split', 'accuracy, training clips'], body)]

    sizes = base['n'].tolist()
    low, high = binom.interval(0.95, sizes[0], 0.5)
    parts.append(
        f'Mean ± standard deviation over {len(base)} splits. Test clips: {", ".join(map(str, sizes))} '
        f'({changes.distinct.iloc[0]} different ones). One clip '
        f'of {sizes[0]} is {1 / sizes[0]:.3f} of accuracy; a coin gets {low:.0f} to '
        f'{high:.0f} of {sizes[0]} right in at least 95 % of all cases ({low / sizes[0]:.2f} to '
        f'{high / sizes[0]:.2f}; standard deviation {(0.25 / sizes[0])**0.5:.2f}).')

    reversal = []
    for row in changes.itertuples(index=False):
        moved = row.right_to_wrong + row.wrong_to_right
        p_value = f'{binomtest(row.right_to_wrong, moved).pvalue:.3f}' if moved else ''
        reversal.append([MODELS[row.model], row.n, row.changed, row.right_to_wrong, row.wrong_to_right, p_value])
    parts.append(markdown_table(['network', 'test clips, all splits', 'answer changes backwards', 'right to wrong',
                                 'wrong to right', 'exact McNemar p'], reversal))

    ends = losses.sort_values('epoch').groupby(['model', 'split'])['loss'].agg(['first', 'last']).groupby('model')
    parts.append(markdown_table(['network', 'training loss, first epoch', 'last epoch'],
                                [[MODELS[model], mean_std(values['first']), mean_std(values['last'])]
                           for model, values in ends]))
    return '\n\n'.join(parts) + '\n'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', type=Path, default=Path('data/jhmdb'), help='videos/ and the lists')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/clstm_against_i3d'))
    parser.add_argument('--out-dir', type=Path, help='for results.csv, losses.csv and table.md; default: --work-dir')
    parser.add_argument('--models', nargs='+', choices=list(MODELS), default=['clstm', 'i3d'],
                        help='default: clstm i3d')
    parser.add_argument('--splits', nargs='+', type=int, choices=[1, 2, 3], default=[1, 2, 3])
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--table-only', action='store_true', help='table.md from the csv files of --out-dir')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.table_only:
        return write_table(args.out_dir or args.work_dir, TABLES, table)
    data_root, work_dir = args.data_root.resolve(), args.work_dir.resolve()
    lists = {split: {part: read_list(data_root / f'sitstand_{part}_split{split}.txt') for part in ('train', 'test')}
             for split in args.splits}
    check_settings(work_dir, dict(epochs=args.epochs, data_root=str(data_root)))
    results, loss_rows, start = [], [], time.perf_counter()
    runs = list(itertools.product(args.splits, args.models))
    for i, (split, model) in enumerate(runs):
        print(f'[{i + 1}/{len(runs)}, {time.perf_counter() - start:.0f} s] {MODELS[model]}, split {split}', flush=True)
        folder = work_dir / f'{model}_split{split}'
        checkpoint = train(model, split, folder, data_root, args.epochs)
        for part, order in TESTS:
            results.append(test(model, split, folder, data_root, checkpoint, part, order))
            print(f'    {part} clips, {order}: accuracy {results[-1]["accuracy"]:.3f}, F1 {results[-1]["f1"]:.3f}',
                  flush=True)
        loss_rows += losses(model, split, folder)
    out_dir = args.out_dir or work_dir
    rows = pd.concat([result_rows(results), majority_rows(lists)], ignore_index=True)
    for name, content in (('results.csv', rows), ('changes.csv', change_rows(results, lists)),
                          ('losses.csv', pd.DataFrame(loss_rows))):
        atomic_write_text(out_dir / name, content.to_csv(index=False))
    return write_table(out_dir, TABLES, table)


if __name__ == '__main__':
    sys.exit(main())
