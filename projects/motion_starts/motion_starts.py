"""From which start does a 3T network learn a class that is the motion alone? Generated clips, the recipe of folders.

    python projects/motion_starts/motion_starts.py               all of it, some minutes of one processor core
    python projects/motion_starts/motion_starts.py --table-only  the tables of what is there, also of its docs page

    OUT/runs.jsonl   one line per finished training
    OUT/table.md     accuracy per start and learning rate, mean +- standard deviation over the seeds, and differences
                     paired by seed with 95 % intervals

OUT is ``results`` beside this file unless given. A narrow ResNet18 with the strides that tools/data/class_folders.py
chooses for 8 frames, batches of 8, Adam, a cosine to 0. What is finished is not run again.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmaction.registry import MODELS  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils.parametrize import register_parametrization  # noqa: E402

from tconv_mmaction.cli.folder_config import resnet18_strides  # noqa: E402
from tconv_mmaction.cli.run_log import Key, finish_study, run_all  # noqa: E402
from tconv_mmaction.cli.run_statistics import fill_page, mean_std, paired  # noqa: E402
from tconv_mmaction.layers.conv3t import TEMPORAL_PARAMETERS, Conv3T  # noqa: E402
from tconv_mmaction.utils.atomic import atomic_write_text  # noqa: E402
from tconv_mmaction.utils.complexity import BackboneAndHead  # noqa: E402
from tconv_mmaction.utils.markdown import markdown_table  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
PAGE = Path(__file__).resolve().parents[2] / 'docs/motion_starts.md'
CLASSES = ('down', 'up', 'grow', 'shrink')
FRAMES, SIZE, CHANNELS, BATCH, EPOCHS = 8, 32, 8, 8, 10
TRAIN, TEST = 20, 25  # clips per class
LRS, SEEDS = (1e-3, 2e-4, 3e-3), (0, 1, 2, 3, 4)  # in the order in which they run
MOVING = (0.5, 0.3, 0.1)


class Start(NamedTuple):
    """``mult``: learning rate of the transforms and gains over that of everything else. ``log_scale``: what is learned
    is log s, so that half as large is as far from s = 1 as twice as large."""
    title: str
    temporal_cfg: dict
    mult: float = 1.
    log_scale: bool = False


STARTS: Dict[str, Start] = {
    '3d': Start('3D', dict(type='Conv3d')),
    'paper': Start("3T, the paper's: N(0, 1), identity", dict(type='Conv3T', init='paper')),
    'paper_moving': Start('3T, N(0, 1), moving', dict(type='Conv3T', init='paper', motion_std=MOVING)),
    'conv3d': Start("3T, nn.Conv3d's, identity", dict(type='Conv3T', init='conv3d')),
    'he': Start('3T, He, identity', dict(type='Conv3T', init='he')),
    'he_moving': Start('3T, He, moving', dict(type='Conv3T', init='he', motion_std=MOVING)),
    'paper_x10': Start("3T, the paper's, transforms 10x", dict(type='Conv3T', init='paper'), 10.),
    'he_x3': Start('3T, He, identity, transforms 3x', dict(type='Conv3T', init='he'), 3.),
    'he_x10': Start('3T, He, identity, transforms 10x', dict(type='Conv3T', init='he'), 10.),
    'he_moving_x10': Start('3T, He, moving, transforms 10x', dict(type='Conv3T', init='he', motion_std=MOVING), 10.),
    'he_log': Start('3T, He, identity, log s', dict(type='Conv3T', init='he'), log_scale=True),
    'he_moving_log': Start('3T, He, moving, log s', dict(type='Conv3T', init='he', motion_std=MOVING), log_scale=True),
    'he_gain': Start('3T, He, identity, gain per slice', dict(type='Conv3T', init='he', gain=True)),
}

MAIN = ('3d', 'paper', 'conv3d', 'he', 'he_moving')  # every start at the first learning rate, then these at the others
# (first, second): the table of differences has second - first
PAIRS = (('3d', 'he_moving'), ('3d', 'he'), ('he', 'he_moving'), ('paper', 'he'), ('conv3d', 'he'),
         ('paper', 'paper_moving'), ('paper', 'paper_x10'), ('he', 'he_x3'), ('he', 'he_x10'),
         ('he_moving', 'he_moving_x10'), ('he', 'he_log'), ('he_moving', 'he_moving_log'), ('he', 'he_gain'))


def draw_clip(label: int, rng: np.random.Generator) -> np.ndarray:
    """A square of some colour on noise, (T, H, W, 3): it falls, rises, grows or shrinks; backwards it is the other."""
    clip = rng.integers(0, 60, (FRAMES, SIZE, SIZE, 3)).astype(np.float32)
    colour, side, (x, y) = rng.integers(120, 255, 3), rng.uniform(3, 5), rng.uniform(12, 20, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for frame, position in zip(clip, np.linspace(-1, 1, FRAMES) * (1, -1)[label % 2]):
        top, half = (16 + 9 * position, side + 1.5) if label < 2 else (y, 6 + 4 * position)
        frame[(abs(rows - top) <= half) & (abs(columns - x) <= half)] = colour
    return clip


def clips_of(per_class: int, seed: int) -> Tuple[Tensor, Tensor]:
    """Clips (N, 3, T, H, W), normalised, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    clips = np.stack([draw_clip(label, rng) for label in labels]).transpose(0, 4, 1, 2, 3)
    return torch.from_numpy((clips - 118) / 57).float(), torch.from_numpy(labels)


class Exp(nn.Module):
    """s = exp(u)."""

    def forward(self, u: Tensor) -> Tensor:
        return u.exp()

    def right_inverse(self, s: Tensor) -> Tensor:
        return s.log()


def build(name: str) -> nn.Module:
    conv1, pool1, stages = resnet18_strides(FRAMES)
    backbone = MODELS.build(dict(
        type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=conv1,
        pool1_kernel=(3, 3, 3), pool1_stride_t=pool1, temporal_strides=stages, base_channels=CHANNELS,
        temporal_cfg=dict(STARTS[name].temporal_cfg)))
    head = MODELS.build(dict(type='I3DHead', num_classes=len(CLASSES), in_channels=8 * CHANNELS, dropout_ratio=0.))
    model = BackboneAndHead(backbone, head)
    backbone.init_weights()
    head.init_weights()
    if STARTS[name].log_scale:
        for layer in [module for module in model.modules() if isinstance(module, Conv3T)]:
            register_parametrization(layer, 'scale', Exp())
    return model


def parameter_groups(model: nn.Module, lr: float, mult: float) -> List[dict]:
    groups = [dict(params=[], lr=lr), dict(params=[], lr=mult * lr)]
    for name, parameter in model.named_parameters():
        groups[name.rsplit('.', 1)[-1] in (*TEMPORAL_PARAMETERS, 'gain')]['params'].append(parameter)
    return [group for group in groups if group['params']]


@torch.no_grad()
def accuracy(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    return 100 * (model.eval()(clips).argmax(1) == labels).float().mean().item()


def train(key: Key) -> dict:
    """One run: a line of runs.jsonl. Clips, their order and the weights depend on the seed alone."""
    torch.set_num_threads(1)
    clips, labels = clips_of(TRAIN, 2 * key['seed'])
    tested = clips_of(TEST, 2 * key['seed'] + 1)
    torch.manual_seed(key['seed'])
    model, order = build(key['start']), torch.Generator().manual_seed(key['seed'])
    optimizer = torch.optim.Adam(parameter_groups(model, key['lr'], STARTS[key['start']].mult))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(clips) // BATCH))
    losses = []
    for _ in range(EPOCHS):
        model.train()
        losses.append([])
        for batch in torch.randperm(len(clips), generator=order).split(BATCH):
            loss = F.cross_entropy(model(clips[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses[-1].append(loss.item())
    return dict(test=round(accuracy(model, *tested), 2), train=round(accuracy(model, clips, labels), 2),
                test_reversed=round(accuracy(model, tested[0].flip(2), tested[1]), 2),
                losses=[round(float(np.mean(epoch)), 4) for epoch in losses])


def keys() -> List[Key]:
    """All runs in the order in which they are done, what the page says most about first."""
    plan = [(start, lr, seed) for starts, lrs in ((STARTS, LRS[:1]), (MAIN, LRS), (STARTS, LRS))
            for seed in SEEDS for lr in lrs for start in starts]
    return [dict(start=start, lr=lr, seed=seed, epochs=EPOCHS) for start, lr, seed in dict.fromkeys(plan)]


def table(runs: Sequence[dict], measure: str) -> str:
    """Rows: starts. Columns: learning rates. Mean ± standard deviation over the seeds, in brackets how many."""
    rows = []
    for start in [start for start in STARTS if any(run['start'] == start for run in runs)]:
        by_lr = [[run[measure] for run in runs if (run['start'], run['lr']) == (start, lr)] for lr in sorted(LRS)]
        rows.append([STARTS[start].title,
                     *(f'{mean_std(values, 0)} ({len(values)})' if values else '' for values in by_lr)])
    return markdown_table(['start', *(f'learning rate {lr:g}' for lr in sorted(LRS))], rows)


def difference_table(runs: Sequence[dict], measure: str = 'test') -> str:
    """Rows: pairs of starts. Columns: learning rates. The second minus the first, paired by seed, with Student's 95 %
    interval; in brackets the number of pairs."""
    found = {(run['start'], run['lr']): {} for run in runs}
    for run in runs:
        found[run['start'], run['lr']][run['seed']] = run[measure]
    rows = []
    for first, second in PAIRS:
        results = [paired(*(pd.Series(found.get((start, lr), {}), dtype=float) for start in (first, second)))
                   for lr in sorted(LRS)]
        if any(results):
            rows.append([f'{STARTS[second].title} − {STARTS[first].title}',
                         *(f'{result.text()} ({result.n})' if result else '' for result in results)])
    return markdown_table(['difference', *(f'learning rate {lr:g}' for lr in sorted(LRS))], rows)


def write_results(runs: Sequence[dict], out: Path, page: Path = None) -> str:
    """table.md, which is also the return value, and the tables of ``page``."""
    tables = {measure: table(runs, measure) for measure in ('test', 'test_reversed', 'train')}
    tables['differences'] = difference_table(runs)
    minutes = sum(run.get('cpu_seconds') or 0 for run in runs) / 60
    text = (f"Test clips:\n\n{tables['test']}\n\nDifferences on test clips, paired by seed, with 95 % intervals "
            f"(pairs):\n\n{tables['differences']}\n\nTest clips played backwards:\n\n{tables['test_reversed']}\n\n"
            f"Training clips:\n\n{tables['train']}\n\n{len(runs)} runs, {minutes:.0f} minutes of one processor core.\n")
    atomic_write_text(out / 'table.md', text)
    if page is not None:
        atomic_write_text(page, fill_page(page.read_text(encoding='utf-8'), tables))
    return text


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder for runs.jsonl and table.md (default: '
                        'results beside this file)')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='tables of the runs there are')
    args = parser.parse_args(argv)
    log, deadline = args.out / 'runs.jsonl', None if args.until is None else time.time() + 3600 * args.until

    def work() -> None:
        init_default_scope('mmaction')
        MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
        run_all(log, keys(), train, deadline=deadline)

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work, lambda runs: write_results(runs, args.out, page))


if __name__ == '__main__':
    sys.exit(main())
