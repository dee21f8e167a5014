"""LeNet-5 with 3D, 3T and R(2+1)D-like convolutions on few videos of Video-MNIST, and what decides between them.

    python projects/low_data/low_data.py --data-root data/mnist                 all of it, most important first
    python projects/low_data/low_data.py --data-root data/mnist --parts tuned   one part
    python projects/low_data/low_data.py --table-only                           the tables of what is there, also
                                                                                in docs/low_data.md
    python projects/low_data/low_data.py --digits sklearn --out OUT --quick     a small one without MNIST

    OUT/runs.jsonl   one line per finished training
    OUT/table.md     accuracy, mean +- standard deviation over the repeats, paired differences with 95 % intervals
    OUT/figure.png

OUT is the folder ``results`` beside this file unless given. The experiment is Figure 4 of Ras et al., "Temporal
Factorization of 3D Convolutional Kernels" (arXiv:1912.04075); README.md beside this file says what the parts are and
docs/low_data.md what came out. The last epoch is tested; settings are chosen on validation videos of repeats of their
own. What is finished is not run again.
"""
import argparse
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import List, Optional

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from fast_lenet5 import scores  # noqa: E402  beside this file
from mmaction.models.recognizers import BaseRecognizer  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from nets import build  # noqa: E402  beside this file
from study import PARTS, ROWS, STAGES, keys_of, tuning_keys  # noqa: E402  beside this file
from tables import PAGE, write_results  # noqa: E402  beside this file
from torch import Tensor  # noqa: E402
from videos import videos  # noqa: E402  beside this file

from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.layers.conv3t import TEMPORAL_PARAMETERS  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
EVAL_VIDEOS_PER_CLASS = 20  # of the validation and of the test digits, drawn anew for every repeat


def parameter_groups(model: BaseRecognizer, lr: float, mult: float) -> List[dict]:
    """Everything else at ``lr``, the transforms of 3T at ``mult`` times that."""
    groups = [dict(params=[], lr=lr), dict(params=[], lr=mult * lr)]
    for name, parameter in model.named_parameters():
        groups[name.rsplit('.', 1)[-1] in TEMPORAL_PARAMETERS]['params'].append(parameter)
    return [group for group in groups if group['params']]


def train_steps(model: BaseRecognizer, clips: Tensor, labels: Tensor, optimizer: str, lr: float, epochs: int,
                order: torch.Generator) -> List[List[float]]:
    """Train in place; the losses of all steps, one list per epoch.

    'adam' is the schedule of the committed configs: every video once per epoch, batches of 20; with 'adam, transforms
    x3' those of 3T have three times the learning rate. 'sgd' is the authors': raw pixels, momentum 0.9, batches of 10
    with one video per class, else of 20, each drawn anew.
    """
    count, raw = len(clips), optimizer == 'sgd'
    name, _, mult = optimizer.partition(', transforms x')
    if name not in ('adam', 'sgd'):
        raise ValueError(f"optimizer must be 'adam', 'adam, transforms xN' or 'sgd', got {optimizer!r}.")
    size = 10 if raw and count <= 10 else 20
    step = (torch.optim.SGD(model.parameters(), lr, momentum=0.9) if raw else
            torch.optim.Adam(parameter_groups(model, lr, float(mult or 1)), fused=True))
    losses = []
    for _ in range(epochs):
        batches = ([torch.randperm(count, generator=order)[:size] for _ in range(math.ceil(count / size))] if raw else
                   torch.randperm(count, generator=order).split(size))
        losses.append([])
        for batch in batches:
            loss = F.cross_entropy(scores(model, clips[batch], raw), labels[batch])
            step.zero_grad()
            loss.backward()
            step.step()
            losses[-1].append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model: BaseRecognizer, clips: Tensor, labels: Tensor, raw: bool) -> float:
    """Top-1 in percent."""
    right = sum(int((scores(model, part, raw).argmax(1) == label).sum()) for part, label in
                zip(clips.split(20), labels.split(20)))
    return 100 * right / len(labels)


def train(key: Key, data_root: Optional[str], cache: str) -> dict:
    """One run. Videos, their order and the seed of the weights depend on ``repeat`` alone."""
    repeat, raw = key['repeat'], key['optimizer'] == 'sgd'
    clips, labels = videos(key['videos'], 'train', key['per_class'], repeat, data_root, cache)
    torch.manual_seed(repeat)
    model = build(key['net'], tuple(key['channels']), key['start'])
    losses = train_steps(model, clips, labels, key['optimizer'], key['lr'], key['epochs'],
                         torch.Generator().manual_seed(repeat))
    tested = {}
    for split in ('val', 'test'):
        shown = videos(key['videos'], split, EVAL_VIDEOS_PER_CLASS, repeat, data_root, cache)
        tested[split] = accuracy(model, *shown, raw)
    return dict(**tested, train_loss=float(f'{np.mean(losses[-1]):.4g}'),
                parameters=sum(p.numel() for p in model.parameters()))


def cost(key: Key) -> float:
    """About how long a run takes: videos that pass forward and backward, and those that are tested."""
    steps = key['per_class'] * 10 * key['epochs']
    return steps + 0.5 * 20 * EVAL_VIDEOS_PER_CLASS


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS,
                        help='folder for runs.jsonl, table.md and figure.png (default: results beside this file)')
    parser.add_argument('--cache', type=Path, default=Path('work_dirs/low_data'), help='folder for the drawn videos')
    parser.add_argument('--digits', choices=('mnist', 'sklearn'), default='mnist',
                        help="MNIST's, from --data-root, or the 1797 that scikit-learn brings")
    parser.add_argument('--data-root', default='data/mnist', help="folder with MNIST's idx files (default data/mnist)")
    parser.add_argument('--parts', nargs='+', choices=list(PARTS), metavar='PART',
                        help=f'(default: those of the plan) {", ".join(PARTS)}')
    parser.add_argument('--rows', nargs='+', type=int, choices=(*ROWS, 20), metavar='N',
                        help='these rows of the parts, not the plan')
    parser.add_argument('--repeats', type=int, default=10, help='with --rows: how many (default 10)')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--quick', action='store_true', help='part unequal, one video per class, 2 repeats')
    parser.add_argument('--table-only', action='store_true', help='table and figure of the runs there are')
    args = parser.parse_args(argv)
    if args.quick:
        args.parts, args.rows, args.repeats = ['unequal'], [1], 2
    if args.repeats < 2:
        parser.error('--repeats must be at least 2: a paired interval needs them.')
    log, data_root = args.out / 'runs.jsonl', args.data_root if args.digits == 'mnist' else None
    deadline = None if args.until is None else time.time() + 3600 * args.until

    def work() -> None:
        if args.digits == 'mnist' and not Path(args.data_root).is_dir():
            raise FileNotFoundError(f'{args.data_root} is not there. --data-root must have the four MNIST idx '
                                    'files; --digits sklearn needs none.')
        run_plan(args, log, data_root, deadline)

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work, lambda runs: write_results(runs, args.out, page))


def run_plan(args: argparse.Namespace, log: Path, data_root: Optional[str], deadline: Optional[float]) -> None:
    """The stages in order; each reads the log first, since settings are chosen by what is in it."""
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    torch.set_num_threads(1)

    def run(keys: List[Key]) -> None:
        run_all(log, keys, lambda key: train(key, data_root, str(args.cache)), cost, deadline)

    if args.rows:
        for part in (PARTS[name] for name in args.parts or ('tuned', )):
            if part.tune_lrs:
                run(tuning_keys(part))
            run(keys_of(read_runs(log), part, args.rows, range(args.repeats)))
        return
    for stage in STAGES:
        if args.parts and stage.part not in args.parts:
            continue
        print(f'-- {stage}', flush=True)
        part = PARTS[stage.part]
        run(tuning_keys(part) if stage.tune else keys_of(read_runs(log), part, stage.rows, stage.repeats))


if __name__ == '__main__':
    sys.exit(main())
