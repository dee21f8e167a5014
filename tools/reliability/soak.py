"""Soak test: a small training for hours, its memory, open files, threads and workers measured from outside.

    python tools/reliability/soak.py OUT_DIR --hours 2        train, sample every 10 s, Ctrl-C at the end, report
    python tools/reliability/soak.py OUT_DIR --report-only    the report of what OUT_DIR/samples.csv has by now

The training is LeNet-5-3T on 80 videos of Video-MNIST through tools/train.py: an epoch is 20 iterations, then an
evaluation, a checkpoint (three are kept) and a record of TemporalParamsHook with its two figures. The data workers are
not persistent: every epoch starts and ends its own, so thousands of them come and go.

samples.csv has a line per process and sample: seconds, iteration and epoch, role, RSS, PSS and USS in MB (10^6 bytes),
open files, threads, CPU seconds and, for the main process, its children. report.json, table.md and soak.png hold
straight lines fitted to the block means after a warm-up: consecutive samples depend on each other, so the confidence
interval comes from 30 means of equal parts of the time instead of from the samples. The main process is judged by its
RSS: a forked worker shares its pages, so its USS falls by hundreds of MB whenever a worker is alive.
"""
import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import pandas as pd
import psutil

from tconv_mmaction.cli.run_statistics import block_slope

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
COLUMNS = ('seconds', 'iteration', 'epoch', 'role', 'pid', 'rss_mb', 'pss_mb', 'uss_mb', 'files', 'threads', 'cpu_s',
           'children')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', type=Path, help='samples.csv, train.log, report.json, soak.png and the work_dir')
    parser.add_argument('--hours', type=float, default=2., help='how long to train (wall time)')
    parser.add_argument('--every', type=float, default=10., help='seconds from one sample to the next')
    parser.add_argument('--workers', type=int, default=2, help='data workers of the training and of the evaluation')
    parser.add_argument('--warm-up', type=float, default=10., help='minutes at the start that the fit leaves out')
    parser.add_argument('--report-only', action='store_true', help='read samples.csv, write report.json and soak.png')
    return parser.parse_args(argv)


def training(out_dir: Path, workers: int) -> List[str]:
    """The command of the training."""
    options = ['train_cfg.max_epochs=1000000', 'train_dataloader.batch_size=4', 'val_dataloader.batch_size=10',
               'train_dataloader.dataset.videos_per_class=8', 'val_dataloader.dataset.videos_per_class=2',
               'default_hooks.checkpoint.max_keep_ckpts=3', 'default_hooks.logger.interval=5',
               'custom_hooks.1.interval=1']
    options += [f'{loader}_dataloader.{key}' for loader in ('train', 'val')
                for key in (f'num_workers={workers}', 'persistent_workers=False')]
    return [sys.executable, str(ROOT / 'tools/train.py'), str(CONFIG), '--work-dir', str(out_dir / 'work'),
            '--cfg-options', *options]


class Progress:
    """The iteration and epoch that a training has logged last, read from its scalars.json as that grows."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir, self.offset, self.last = work_dir, 0, (0, 0)

    def read(self) -> Tuple[int, int]:
        for path in sorted(self.work_dir.glob('*/vis_data/scalars.json'))[-1:]:
            with path.open('rb') as file:
                file.seek(self.offset)
                text = file.read()
            whole = text[:text.rfind(b'\n') + 1]
            self.offset += len(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                if 'iter' in entry:  # an evaluation's line has only a step, which counts epochs
                    self.last = (int(entry['iter']), int(entry['epoch']))
        return self.last


def measure(process: psutil.Process) -> Dict[str, float]:
    memory, cpu = process.memory_full_info(), process.cpu_times()
    return dict(pid=process.pid, rss_mb=round(memory.rss / 1e6, 3), pss_mb=round(memory.pss / 1e6, 3),
                uss_mb=round(memory.uss / 1e6, 3), files=process.num_fds(), threads=process.num_threads(),
                cpu_s=round(cpu.user + cpu.system, 2))


def soak(args: argparse.Namespace) -> None:
    """Train for ``args.hours`` and sample; then Ctrl-C, and see what is left."""
    args.out_dir.mkdir(parents=True, exist_ok=True)
    path = args.out_dir / 'samples.csv'
    if path.exists():
        raise FileExistsError(f'{path} is there already: give a new folder, or --report-only to read it.')
    environment = dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg')
    start = time.time()
    with (args.out_dir / 'train.log').open('w') as log, path.open('w', newline='') as file:
        child = subprocess.Popen(training(args.out_dir, args.workers), stdout=log, stderr=subprocess.STDOUT,
                                 env=environment)
        main, progress = psutil.Process(child.pid), Progress(args.out_dir / 'work')
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        while time.time() - start < args.hours * 3600 and child.poll() is None:
            iteration, epoch = progress.read()
            common = dict(seconds=round(time.time() - start, 2), iteration=iteration, epoch=epoch)
            try:
                children = main.children(recursive=True)
                writer.writerow(dict(common, role='main', children=len(children), **measure(main)))
                for worker in children:
                    try:
                        writer.writerow(dict(common, role='worker', **measure(worker)))
                    except psutil.NoSuchProcess:
                        continue  # a worker of an epoch that ended just now
                file.flush()
            except psutil.NoSuchProcess:
                break
            time.sleep(args.every)
        end = dict(ended_by_itself=child.poll(), hours=(time.time() - start) / 3600)
        if child.poll() is None:
            family = [main, *main.children(recursive=True)]
            main.send_signal(signal.SIGINT)
            _, alive = psutil.wait_procs(family, timeout=120)  # keeps the exit code, Popen would not see it any more
            end.update(leftover_processes=[process.pid for process in alive],
                       exit_code=getattr(main, 'returncode', None))
    (args.out_dir / 'end.json').write_text(json.dumps(end, indent=1))


def _slope(x: np.ndarray, y: np.ndarray) -> Dict[str, float]:
    return block_slope(x, y)._asdict()


def report(out_dir: Path, warm_up: float) -> Dict[str, object]:
    """Fit, draw and return what samples.csv has."""
    path = out_dir / 'samples.csv'
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there: run the soak test into this folder first.')
    table = pd.read_csv(path, on_bad_lines='skip')  # the last line of a running test may be half written
    main, workers = table[table.role == 'main'], table[table.role == 'worker']
    steady = main[main.seconds >= warm_up * 60]
    worker = workers[workers.seconds >= warm_up * 60].groupby('seconds').agg(
        iteration=('iteration', 'first'), rss_mb=('rss_mb', 'mean'), uss_mb=('uss_mb', 'mean'), files=('files', 'max'))
    result: Dict[str, object] = dict(
        hours=float(main.seconds.iloc[-1] / 3600), iterations=int(main.iteration.iloc[-1]),
        epochs=int(main.epoch.iloc[-1]), main_cpu_hours=float(main.cpu_s.iloc[-1] / 3600), samples=len(main),
        samples_after_warm_up=len(steady), workers_seen=int(workers.pid.nunique()),
        longest_gap_s=float(main.seconds.diff().max()))
    series = dict(main_rss=(steady, 'rss_mb'), main_files=(steady, 'files'),
                  main_threads=(steady, 'threads'), main_children=(steady, 'children'),
                  worker_rss=(worker.reset_index(), 'rss_mb'), worker_uss=(worker.reset_index(), 'uss_mb'),
                  worker_files=(worker.reset_index(), 'files'))
    for name, (rows, column) in series.items():
        values = rows[column].to_numpy(float)
        result[name] = dict(first_tenth=float(values[:max(1, len(values) // 10)].mean()), max=float(values.max()),
                            last_tenth=float(values[-max(1, len(values) // 10):].mean()),
                            per_hour=_slope(rows.seconds.to_numpy() / 3600, values),
                            per_1000_iterations=_slope(rows.iteration.to_numpy() / 1000, values),
                            per_cpu_hour=_slope(np.interp(rows.seconds, main.seconds, main.cpu_s) / 3600, values))
    end = out_dir / 'end.json'
    result['end'] = json.loads(end.read_text()) if end.is_file() else 'still running'
    (out_dir / 'report.json').write_text(json.dumps(result, indent=1))
    (out_dir / 'table.md').write_text(table_of(result))
    draw(main, workers, warm_up, out_dir / 'soak.png')
    return result


SHOWN = dict(main_rss='main process, RSS in MB', worker_rss='a data worker, RSS in MB',
             worker_uss='a data worker, USS in MB', main_files='main process, open files',
             main_threads='main process, threads', worker_files='a data worker, open files (most)')


def table_of(result: Dict[str, object]) -> str:
    """The report as Markdown: means of the first and the last tenth, and slopes with 95 % intervals."""
    from tconv_mmaction.utils.markdown import markdown_table  # late: the process that samples stays small
    lines = [f"{result['hours']:.2f} h, {result['iterations']} iterations, {result['epochs']} epochs, "
             f"{result['main_cpu_hours']:.2f} h of CPU time of the main process, {result['workers_seen']} data workers "
             f"seen. {result['samples']} samples, {result['samples_after_warm_up']} after the warm-up. End: "
             f"{result['end']}.", '']
    rows = []
    for name, title in SHOWN.items():
        row = result[name]
        cells = [f"{row[unit]['slope']:+.2f} [{row[unit]['low']:+.2f}, {row[unit]['high']:+.2f}]"
                 for unit in ('per_hour', 'per_cpu_hour', 'per_1000_iterations')]
        rows.append([title, f"{row['first_tenth']:.1f}", f"{row['last_tenth']:.1f}", *cells])
    header = ['', 'first tenth', 'last tenth', 'per hour', 'per hour of CPU', 'per 1000 iterations']
    lines.append(markdown_table(header, rows))
    return '\n'.join(lines) + '\n'


def draw(main: pd.DataFrame, workers: pd.DataFrame, warm_up: float, path: Path) -> None:
    """Memory of the main process and of the workers above, open files and threads below, over the iterations."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout='constrained')
    steady = main[main.seconds >= warm_up * 60]
    for axes in (top, bottom):
        axes.axvspan(0, steady.iteration.iloc[0], color='0.93')
        axes.grid(alpha=0.3)
    top.plot(main.iteration, main.rss_mb, '.', ms=2, color='tab:blue', label='main process, RSS')
    top.plot(workers.iteration, workers.uss_mb, '.', ms=2, color='tab:orange', label='each data worker, USS')
    top.set_ylabel('MB')
    top.set_ylim(bottom=0)
    bottom.plot(main.iteration, main.files, '.', ms=2, label='open files, main process')
    bottom.plot(main.iteration, main.threads, '.', ms=2, label='threads, main process')
    bottom.plot(main.iteration, main.children, '.', ms=2, label='child processes')
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel('iteration (grey: warm-up, left out of the fit)')
    for axes in (top, bottom):
        axes.legend(loc='center right', markerscale=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None) -> None:
    args = parse_args(argv)
    if not args.report_only:
        soak(args)
    result = report(args.out_dir, args.warm_up)
    print(table_of(result))


if __name__ == '__main__':
    main()
