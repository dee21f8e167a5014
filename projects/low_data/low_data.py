"""LeNet-5-3D against LeNet-5-3T on few videos of Video-MNIST: accuracy over videos per class, and paired tests.

    python projects/low_data/low_data.py OUT --data-root data/mnist --processes 2
    python projects/low_data/low_data.py OUT --digits sklearn --quick

    OUT/settings.json   what all runs have in common
    OUT/runs.csv        one row per finished training: net, videos per class, repeat, accuracies in %
    OUT/table.md        mean +- standard deviation over the repeats, and a paired test per row
    OUT/figure.png      accuracy over videos per class; the bands are +- one standard deviation

The experiment of Figure 4 in Ras et al., "Temporal Factorization of 3D Convolutional Kernels" (arXiv:1912.04075): Adam,
batches of 20, 20 epochs, balanced random subsets of the training videos with 1 to 100 videos per class, drawn anew for
every repeat. In a repeat all nets see the same videos in the same order, so they are compared in pairs. The last epoch
is the one that is tested, on 200 validation and 200 test videos of the repeat: nothing is chosen on either.

Beyond the paper: another initialisation, other learning rates, and channels that give both nets (almost) as many
parameters.

What is finished is not run again: the same command goes on after an interruption, and a larger --repeats adds runs.
"""
import argparse
import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

os.environ.setdefault('OMP_NUM_THREADS', '1')  # one thread per process; before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from fast_lenet5 import scores  # noqa: E402  beside this file
from matplotlib.figure import Figure  # noqa: E402
from mmaction.models.recognizers import BaseRecognizer  # noqa: E402
from mmaction.registry import MODELS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.utils import ProgressBar  # noqa: E402
from scipy import stats  # noqa: E402
from torch import Tensor  # noqa: E402

from tconv_mmaction.cli.studies import check_settings, write_results  # noqa: E402
from tconv_mmaction.datasets import VideoMNIST  # noqa: E402
from tconv_mmaction.utils.atomic import atomic_open  # noqa: E402
from tconv_mmaction.utils.markdown import markdown_table  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/recognition/lenet5'
ROWS = (1, 2, 3, 4, 5, 10, 50, 100)  # videos per class
FEW = ROWS[:6]
# Mean validation accuracy in the notes of the paper's authors, the best of their three channel settings per row
AUTHORS = {'3D': (39.7, 52.7, 64.3, 69.4, 74.3, 83.9, 95.6, 97.5),
           '3T': (46.8, 59.6, 71.2, 73.2, 77.1, 83.2, 92.1, 96.0)}


class Net(NamedTuple):
    """A LeNet5 and its learning rate.

    ``small`` starts the first slices of a 3T net as Conv3d starts its weights, uniform in +-1/sqrt(inputs of a filter),
    instead of the paper's standard normal distribution.
    """
    kind: str
    channels: Tuple[int, int] = (6, 16)
    lr: float = 1e-3
    small: bool = False

    @property
    def name(self) -> str:
        """As in runs.csv."""
        return f'{self.kind} {self.channels[0]},{self.channels[1]} lr {self.lr:g}{" small start" * self.small}'


def count_parameters(kind: str, channels: Sequence[int]) -> int:
    """Of LeNet-5-3D or -3T for ten classes and clips of 30x28x28."""
    total, inputs = 0, 1
    for out in channels:  # weights and bias, or the first slice, four steps of four parameters and bias
        total, inputs = total + out * (inputs * (125 if kind == '3D' else 25) + (1 if kind == '3D' else 17)), out
    return total + 121 * 84 + 85 * 10 + (125 * inputs + 1) * 120


def closest_channels(kind: str, count: int, most: int = 32) -> Tuple[int, int]:
    """Channels, at most ``most`` in a layer, with which a net of that kind has as nearly as possible ``count``
    parameters; of equally near ones the narrower first layer."""
    return min(((first, second) for first in range(1, most + 1) for second in range(1, most + 1)),
               key=lambda channels: (abs(count_parameters(kind, channels) - count), channels))


THREE_D, THREE_T = Net('3D'), Net('3T')
LOW, HIGH = 10**-3.5, 10**-2.5  # a factor of ten apart, as the papers' rates for the two kinds are, around 1e-3
EQUAL_3D = Net('3D', closest_channels('3D', count_parameters('3T', THREE_T.channels)))
EQUAL_3T = Net('3T', closest_channels('3T', count_parameters('3D', THREE_D.channels)))


class Comparison(NamedTuple):
    """Two nets, the second minus the first."""
    three_d: Net
    three_t: Net


class Part(NamedTuple):
    """Some comparisons, for some rows; ``repeats`` are a range, of which --repeats may cut the end."""
    name: str
    title: str
    comparisons: Tuple[Comparison, ...]
    rows: Tuple[int, ...]
    repeats: range


RATES = (Comparison(THREE_D._replace(lr=LOW), THREE_T._replace(lr=HIGH)),
         Comparison(THREE_D._replace(lr=HIGH), THREE_T._replace(lr=LOW)))
SMALL = Comparison(THREE_D, THREE_T._replace(small=True))
WIDTHS = tuple(Comparison(THREE_D._replace(channels=c), THREE_T._replace(channels=c)) for c in ((12, 22), (18, 28)))
TITLES = dict(
    main='As published: 6 and 16 channels, learning rate 0.001 for both',
    equal='As many parameters: one net narrowed or widened to the count of the other',
    start="Initialisation: 3T starts with weights as small as 3D's",
    rates='Learning rates: ten times higher for one net, and swapped',
    widths="The paper's other channel settings")
# In the order in which they run: what the page in the docs needs most comes first.
PLAN = (
    Part('main', TITLES['main'], (Comparison(THREE_D, THREE_T), ), FEW, range(10)),
    Part('main', TITLES['main'], (Comparison(THREE_D, THREE_T), ), ROWS[6:], range(10)),
    Part('start', TITLES['start'], (SMALL, ), FEW, range(10)),
    Part('equal', TITLES['equal'], (Comparison(EQUAL_3D, THREE_T), Comparison(THREE_D, EQUAL_3T)), FEW, range(10)),
    Part('rates', TITLES['rates'], RATES, FEW, range(10)),
    Part('main', TITLES['main'], (Comparison(THREE_D, THREE_T), ), FEW, range(10, 30)),
    Part('widths', TITLES['widths'], WIDTHS, FEW, range(10)),
    Part('main', TITLES['main'], (Comparison(THREE_D, THREE_T), ), ROWS[6:], range(10, 30)),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of a folder have in common; the defaults are the paper's."""
    data_root: Optional[str] = 'data/mnist'
    epochs: int = 20
    batch_size: int = 20
    eval_videos_per_class: int = 20


# -- one training -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=6)
def videos(split: str, per_class: int, repeat: int, data_root: Optional[str], cache: str) -> Tuple[Tensor, Tensor]:
    """``(n, 30, 28, 28)`` uint8 and classes ``(n,)`` of the balanced subset of a repeat, drawn once and kept in a file.

    With the same repeat, a smaller subset of a split is part of a larger one.
    """
    path = Path(cache) / f'{split}_{per_class}_{repeat}.npz'
    if not path.is_file():
        data = VideoMNIST([], split=split, data_root=data_root, videos_per_class=per_class, subset_seed=repeat)
        frames = np.stack([data.frames(i) for i in range(len(data))])
        labels = np.array([data.get_data_info(i)['label'] for i in range(len(data))])
        with atomic_open(path, 'wb') as file:
            np.savez_compressed(file, videos=frames, labels=labels)
    with np.load(path) as kept:
        return torch.from_numpy(kept['videos']), torch.from_numpy(kept['labels'])


def build(net: Net) -> BaseRecognizer:
    """The recognizer of the committed config, with the net's channels, initialised."""
    config = Config.fromfile(next(CONFIGS.glob(f'lenet5-{net.kind.lower()}_*.py')))
    config.model.backbone.channels = net.channels
    model = MODELS.build(config.model)
    model.init_weights()
    for conv in (model.backbone.conv1, model.backbone.conv2) if net.small else ():
        bound = (conv.in_channels * math.prod(conv.kernel_size))**-0.5
        torch.nn.init.uniform_(conv.weight, -bound, bound)
        torch.nn.init.uniform_(conv.bias, -bound, bound)
    return model.train()


def train_steps(model: BaseRecognizer, clips: Tensor, labels: Tensor, lr: float, settings: Settings,
                order: torch.Generator) -> List[List[float]]:
    """Train in place; the losses of all steps, one list per epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr, fused=True)
    losses = []
    for _ in range(settings.epochs):
        losses.append([])
        for batch in torch.randperm(len(clips), generator=order).split(settings.batch_size):
            loss = F.cross_entropy(scores(model, clips[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model: BaseRecognizer, clips: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    right = sum(int((scores(model, part).argmax(1) == label).sum()) for part, label in
                zip(clips.split(20), labels.split(20)))
    return 100 * right / len(labels)


def train(net: Net, per_class: int, repeat: int, settings: Settings, cache: str) -> dict:
    """One run: a row of runs.csv. Videos, their order and the seed of the weights depend on ``repeat`` alone."""
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    torch.set_num_threads(1)
    start = time.process_time()
    clips, labels = videos('train', per_class, repeat, settings.data_root, cache)
    torch.manual_seed(repeat)
    model = build(net)
    losses = train_steps(model, clips, labels, net.lr, settings, torch.Generator().manual_seed(repeat))
    tested = {split: accuracy(model, *videos(split, settings.eval_videos_per_class, repeat, settings.data_root, cache))
              for split in ('val', 'test')}
    return dict(net=net.name, per_class=per_class, repeat=repeat, **tested,
                train_loss=float(np.mean(losses[-1])), parameters=sum(p.numel() for p in model.parameters()),
                cpu_seconds=time.process_time() - start)


# -- all of them --------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What identifies a run, as in the first columns of runs.csv, with the net itself."""
    net: Net
    per_class: int
    repeat: int

    @property
    def key(self) -> Tuple[str, int, int]:
        return self.net.name, self.per_class, self.repeat

    def steps(self, settings: Settings) -> int:
        """How many optimizer steps it takes."""
        return settings.epochs * math.ceil(10 * self.per_class / settings.batch_size)


def plan(names: Sequence[str], rows: Sequence[int], repeats: int) -> List[Job]:
    """All runs of these parts in the order of :data:`PLAN`, none twice."""
    jobs = {}
    for part in PLAN:
        if part.name in names:
            for repeat in (r for r in part.repeats if r < repeats):
                for per_class in (row for row in part.rows if row in rows):
                    for net in (net for comparison in part.comparisons for net in comparison):
                        job = Job(net, per_class, repeat)
                        jobs.setdefault(job.key, job)
    return list(jobs.values())


def _train(arguments: tuple) -> dict:
    return train(*arguments)


def run_all(out: Path, jobs: Sequence[Job], settings: Settings, processes: int) -> pd.DataFrame:
    """Do the runs that OUT/runs.csv does not have yet; after each, the file is replaced by one with its row.

    Raises:
        ValueError: if ``out`` has runs of other settings.
    """
    check_settings(out, dataclasses.asdict(settings))
    path, cache = out / 'runs.csv', str(out / 'videos')
    rows = pd.read_csv(path).to_dict('records') if path.is_file() else []
    done = {(row['net'], row['per_class'], row['repeat']) for row in rows}
    todo = [job for job in jobs if job.key not in done]
    print(f'{len(jobs) - len(todo)} of {len(jobs)} runs are there, {len(todo)} to do', flush=True)
    if todo:
        steps = {job.key: job.steps(settings) for job in todo}
        arguments = [(*job, settings, cache) for job in todo]
        here = contextlib.nullcontext()
        with here if processes == 1 else get_context('spawn').Pool(min(processes, len(todo))) as pool:
            progress = ProgressBar(sum(steps.values()), file=sys.stdout)  # in steps, for an honest time left
            for row in map(_train, arguments) if pool is None else pool.imap_unordered(_train, arguments):
                rows.append(row)
                with atomic_open(path) as file:
                    pd.DataFrame(rows).to_csv(file, index=False, float_format='%.6g')
                progress.update(steps[row['net'], row['per_class'], row['repeat']])
            print()
    return pd.read_csv(path)


# -- tests, table and figure --------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> List[float]:
    """Holm's step-down correction: controls the chance of one false alarm in the family, whatever its dependence."""
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, float)[order]), 1)
    return corrected.tolist()


def paired_tests(runs: pd.DataFrame, comparison: Comparison, measure: str) -> pd.DataFrame:
    """3T minus 3D per row, over the repeats that both nets have; rows with fewer than two are left out.

    ``t_p`` is of the paired t test, ``wilcoxon_p`` of the signed-rank test (exact where SciPy can), both two-sided;
    ``holm_p`` is ``wilcoxon_p`` corrected for the rows of this table.
    """
    by_net = [runs[runs.net == net.name].set_index(['per_class', 'repeat'])[measure] for net in comparison]
    both = pd.concat(by_net, axis=1, join='inner', keys=['three_d', 'three_t']).sort_index()
    rows = []
    for per_class, values in both.groupby(level='per_class'):
        if len(values) < 2:
            continue
        difference = (values.three_t - values.three_d).to_numpy()
        n, error = len(difference), difference.std(ddof=1) / math.sqrt(len(difference))
        same = not difference.any()  # SciPy has no test of only zeros
        rows.append(dict(
            per_class=per_class, n=n, mean_3d=values.three_d.mean(), std_3d=values.three_d.std(ddof=1),
            mean_3t=values.three_t.mean(), std_3t=values.three_t.std(ddof=1), difference=difference.mean(),
            half_width=stats.t.ppf(.975, n - 1) * error, wins=int((difference > 0).sum()),
            t_p=1. if same else stats.ttest_rel(values.three_t, values.three_d).pvalue,
            wilcoxon_p=1. if same else stats.wilcoxon(difference).pvalue))
    tests = pd.DataFrame(rows)
    if len(tests):
        tests['holm_p'] = holm(tests.wilcoxon_p)
    return tests


def comparisons_of(runs: pd.DataFrame) -> Dict[str, List[Comparison]]:
    """{part: its comparisons of which both nets have runs}."""
    names, found = set(runs.net), {}
    for part in PLAN:
        for comparison in part.comparisons:
            if {net.name for net in comparison} <= names and comparison not in found.setdefault(part.name, []):
                found[part.name].append(comparison)
    return found


def p_text(p: float) -> str:
    return f'{p:.3f}' if p >= 0.001 else f'{p:.0e}'


def make_table(runs: pd.DataFrame) -> str:
    """table.md: one table per comparison and per set of videos."""
    parameters = runs.groupby('net').parameters.first()
    text = ['Accuracy in %, mean ± standard deviation over n repeats. Difference: 3T minus 3D, paired by repeat, with '
            'its 95 % interval (Student); "better" counts the repeats in which 3T is ahead. p: paired t test, Wilcoxon '
            "signed-rank test, and the latter corrected for the rows of its table (Holm's method); bold where that is "
            'below 0.05.']
    for part, comparisons in comparisons_of(runs).items():
        text.append(f'### {TITLES[part]}')
        for comparison in comparisons:
            three_d, three_t = (f'{net.name} ({parameters[net.name]:,} parameters)' for net in comparison)
            for measure, label in (('val', 'validation'), ('test', 'test')):
                published = part == 'main' and measure == 'val'
                lines = []
                for row in paired_tests(runs, comparison, measure).itertuples():
                    clear = '**' if row.holm_p < 0.05 else ''
                    line = [row.per_class, row.n, f'{row.mean_3d:.1f} ± {row.std_3d:.1f}',
                            f'{row.mean_3t:.1f} ± {row.std_3t:.1f}',
                            f'{clear}{row.difference:+.1f} ± {row.half_width:.1f}{clear}', f'{row.wins} of {row.n}',
                            p_text(row.t_p), p_text(row.wilcoxon_p), f'{clear}{p_text(row.holm_p)}{clear}']
                    if published:
                        line[4:4] = [f'{AUTHORS[kind][ROWS.index(row.per_class)]:.1f}' if row.per_class in ROWS else ''
                                     for kind in ('3D', '3T')]
                    lines.append(line)
                if lines:
                    header = ['per class', 'n', '3D', '3T', '3T − 3D', 'better', 't', 'Wilcoxon', 'Holm']
                    if published:
                        header[4:4] = ['authors, 3D', 'authors, 3T']
                    text += [f'{three_t} − {three_d}, {label} videos', markdown_table(header, lines)]
    return '\n\n'.join(text) + '\n'


def make_figure(runs: pd.DataFrame, measure: str = 'val') -> Figure:
    """One panel per comparison: mean and band of both nets over videos per class; crosses are the authors' means."""
    panels = [(part, comparison) for part, comparisons in comparisons_of(runs).items() for comparison in comparisons]
    columns = min(4, max(1, len(panels)))
    figure = Figure(figsize=(4.4 * columns, 3.8 * math.ceil(len(panels) / columns)), layout='constrained')
    axes = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    for axis, (part, comparison) in zip(axes, panels):
        for net, color in zip(comparison, ('tab:blue', 'tab:orange')):
            by_row = runs[runs.net == net.name].groupby('per_class')[measure]
            mean, std = by_row.mean(), by_row.std(ddof=1).fillna(0)
            axis.fill_between(mean.index, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
            axis.plot(mean.index, mean, '.-', color=color, label=net.name)
            if part == 'main':
                axis.plot(ROWS, AUTHORS[net.kind], 'x', color=color, label=f'{net.kind}, the authors')
        axis.set(xscale='log', xlabel='videos per class', ylabel='validation accuracy, %' if measure == 'val' else
                 'test accuracy, %')
        axis.set_xticks(ROWS, map(str, ROWS))
        axis.minorticks_off()
        axis.set_title(TITLES[part].split(':')[0], fontsize=10)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for runs.csv, table.md, figure.png and the drawn videos')
    parser.add_argument('--digits', choices=('mnist', 'sklearn'), default='mnist',
                        help="MNIST's, from --data-root, or the 1797 that scikit-learn brings")
    parser.add_argument('--data-root', default='data/mnist', help="folder with MNIST's idx files (default data/mnist)")
    parser.add_argument('--parts', nargs='+', choices=list(TITLES), default=list(TITLES), metavar='PART',
                        help=f'which comparisons (default all): {", ".join(TITLES)}')
    parser.add_argument('--rows', nargs='+', type=int, choices=ROWS, default=list(ROWS), metavar='N',
                        help=f'videos per class (default {" ".join(map(str, ROWS))})')
    parser.add_argument('--repeats', type=int, default=30, help='at most so many; some parts have 10 (default 30)')
    parser.add_argument('--epochs', type=int, default=20, help='(default 20)')
    parser.add_argument('--processes', type=int, default=1, help='trainings at a time, one thread each (default 1)')
    parser.add_argument('--quick', action='store_true', help='part main, 1 and 2 videos per class, 2 repeats, 5 epochs')
    parser.add_argument('--table-only', action='store_true', help='table and figure of the runs there are')
    args = parser.parse_args(argv)
    if args.quick:
        args.parts, args.rows, args.repeats, args.epochs = ['main'], [1, 2], 2, 5
    if args.repeats < 2 or args.epochs < 1 or args.processes < 1:
        parser.error('--repeats must be at least 2 (a paired test needs them), --epochs and --processes at least 1.')
    settings = Settings(data_root=args.data_root if args.digits == 'mnist' else None, epochs=args.epochs)
    try:
        if args.table_only:
            runs = pd.read_csv(args.out / 'runs.csv')
        else:
            if args.digits == 'mnist' and not Path(args.data_root).is_dir():
                raise FileNotFoundError(f'{args.data_root} is not there. --data-root must have the four MNIST idx '
                                        'files; --digits sklearn needs none.')
            runs = run_all(args.out, plan(args.parts, args.rows, args.repeats), settings, args.processes)
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    write_results(args.out, make_table(runs), make_figure(runs))
    return 0


if __name__ == '__main__':
    sys.exit(main())
