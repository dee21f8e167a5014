"""Do small networks learn motion where the class is nothing else? Gains, what trained 3D kernels hold, moving starts.

    python projects/learned_motion/learned_motion.py --data-root data/mnist                  all parts
    python projects/learned_motion/learned_motion.py --data-root data/mnist --parts gains    one of them
    python projects/learned_motion/learned_motion.py --table-only                            tables of what is there

    OUT/runs.jsonl   one line per finished training
    OUT/tables.md    the tables, which docs/learned_motion.md shows too

gains    3T with and without gains and moving starts against 3D, learning rates chosen alike on validation clips
ladder   3D networks trained longer, with and without weight decay: how much of their kernels, and of what training
         added to them, is motion beyond the null (docs/fit.md); a 3T network beside them, whose kernels move
start    3T from a 2D network's filters: transforms at the identity, random, or drawn from the flow of the clips

OUT is the folder ``results`` beside this file unless given. The last epoch is tested. What is finished is not run
again.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from clips import clips  # noqa: E402  beside this file
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from nets import (  # noqa: E402  beside this file
    FRAMES,
    MOTION_STD,
    NETS,
    SIDE,
    LeNet2d,
    build,
    inflate,
    kernels,
    mean_motion,
    parameter_groups,
)
from tables import PAGE, write_results  # noqa: E402  beside this file
from torch import Tensor, nn  # noqa: E402

from tconv_mmaction.backbones.moving_start import start_moving  # noqa: E402
from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.datasets.clip_motion import clip_motion  # noqa: E402
from tconv_mmaction.interpret import fit_kernels, motion_ladder  # noqa: E402
from tconv_mmaction.interpret.pictures.ladder import ladder_table  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
PARTS = ('ladder', 'start', 'gains')
STARTS = ('identity', 'random', 'flow')
LRS, TUNE_SEED = (1e-3, 3e-3), 100
SEEDS = dict(ladder=range(3), start=range(5), gains=range(3))
BATCH, TESTED = 20, 30  # clips per class that are tested
FITS = 64  # randomised filters per layer and null


def train(model: nn.Module, groups: List[dict], x: Tensor, y: Tensor, epochs: int, seed: int) -> List[float]:
    """AdamW, the rates falling to 0 as a cosine; the mean loss of every epoch."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // BATCH))
    losses = []
    for _ in range(epochs):
        total = []
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            loss = F.cross_entropy(model(scaled(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total.append(loss.item())
        losses.append(float(f'{np.mean(total):.4g}'))
    return losses


def scaled(x: Tensor) -> Tensor:
    return x[:, None].float().div_(255)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    right = sum(int((model(scaled(part)).argmax(1) == label).sum()) for part, label in zip(x.split(50), y.split(50)))
    return round(100 * right / len(y), 3)


def ladder(weights: Dict[str, Tensor], seed: int) -> Dict[str, dict]:
    """{layer: row of the ladder's table} of these kernels."""
    layers = fit_kernels(weights, FITS, seed=seed)
    table = ladder_table({name: motion_ladder(weight, layers[name].fit, seed=seed)
                          for name, weight in weights.items()}, layers)
    shown = ('filters', 'static', 'gains', 'motion', 'free', 'motion_share', 'null95_phases', 'null95_inputs', 'above')
    return {name: {key: int(row[key]) if key in ('filters', 'above') else round(float(row[key]), 4) for key in shown}
            for name, row in table.iterrows()}


def run(key: Key, data_root: Optional[str]) -> dict:
    """One line of runs.jsonl."""
    torch.set_num_threads(1)
    seed = key['seed']
    x, y = clips(key['videos'], 'train', key['per_class'], seed, data_root)
    torch.manual_seed(seed)
    model = build(key['net'])
    if key['part'] == 'start':
        start_from_2d(model, key['start'], seed, data_root, x)
    started, before = mean_motion(model), kernels(model)
    losses = train(model.train(), parameter_groups(model, key['lr'], 1., key['weight_decay']), x, y, key['epochs'],
                   seed)
    results = dict(losses=losses, started=started, motion=mean_motion(model),
                   parameters=sum(p.numel() for p in model.parameters()))
    for split in ('val',) if key['tuning'] else ('val', 'test'):
        results[split] = accuracy(model, *clips(key['videos'], split, TESTED, seed, data_root))
    if key['part'] == 'ladder':
        after = kernels(model)
        results.update(ladder=ladder(after, seed),
                       change=ladder({name: after[name] - before[name] for name in after}, seed))
    return results


def start_from_2d(model: nn.Module, start: str, seed: int, data_root: Optional[str], x: Tensor) -> None:
    """First slices from a 2D LeNet-5 that names the digits of single frames; the motion as ``start`` says."""
    frames, digits = clips('digits', 'train', 100, seed, data_root)
    draw = torch.Generator().manual_seed(seed)
    frames = frames[torch.arange(len(frames)), torch.randint(FRAMES, (len(frames), ), generator=draw)]
    flat = LeNet2d()
    optimizer = torch.optim.Adam(flat.parameters(), 2e-3, fused=True)
    for _ in range(15):
        for batch in torch.randperm(len(frames), generator=draw).split(50):
            optimizer.zero_grad()
            F.cross_entropy(flat(scaled(frames[batch])), digits[batch]).backward()
            optimizer.step()
    inflate(model, flat)
    if start == 'random':
        rng = np.random.default_rng(seed)
        shift, turn, zoom = MOTION_STD  # of conv1, whose half kernel is two pixels
        motion = rng.normal(size=(500, 4)) * (zoom, turn, 2 * shift, 2 * shift)
    elif start == 'flow':
        motion = np.concatenate([clip_motion(clip.numpy()) for clip in x])
    else:
        return
    start_moving(model.backbone, motion, (1, FRAMES, SIDE, SIDE), seed)


def key_of(part: str, net: str, videos: str, seed: int, lr: float, tuning: bool = False, **more) -> Key:
    settings = dict(per_class=20, epochs=20, weight_decay=0., **more)
    return dict(part=part, net=net, videos=videos, seed=seed, lr=lr, tuning=tuning, **settings)


def chosen_lr(runs: Sequence[dict], **key) -> Optional[float]:
    """The rate with the best accuracy on the tuning seed's validation clips; None: not all tried."""
    found = {run['lr']: run['val'] for run in runs if run['tuning'] and all(run.get(k) == v for k, v in key.items())}
    return max(LRS, key=lambda lr: found[lr]) if set(found) >= set(LRS) else None


def plan(part: str, log: Path, do) -> None:
    """Run a part's stages; rates are read from the log between them."""
    if part == 'gains':
        for videos in ('motion', 'digits'):
            do([key_of(part, net, videos, TUNE_SEED, lr, True) for lr in LRS for net in NETS])
            runs = read_runs(log)
            rates = {net: chosen_lr(runs, part=part, net=net, videos=videos) for net in NETS}
            do([key_of(part, net, videos, seed, rates[net]) for seed in SEEDS[part] for net in NETS if rates[net]])
    elif part == 'ladder':
        do([{**key_of(part, net, videos, seed, 1e-3), 'per_class': 100, 'epochs': 10, 'weight_decay': decay}
            for seed in SEEDS[part] for net, videos, decay in (
                ('3d', 'motion', 0.), ('3d', 'motion', 5.), ('3d', 'digits', 5.), ('3t_moving_gain', 'motion', 5.))])
    else:
        do([key_of(part, '3t', 'motion', seed, 1e-3, start=start) for seed in SEEDS[part] for start in STARTS])


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='(default: results beside this file)')
    parser.add_argument('--data-root', help="folder with MNIST's idx files (default: scikit-learn's digits)")
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS, help='(default: all)')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='the tables of the runs there are')
    args = parser.parse_args(argv)
    log, deadline = args.out / 'runs.jsonl', None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer

    def work() -> None:
        for part in args.parts:
            plan(part, log, lambda keys: run_all(log, keys, lambda key: run(key, args.data_root),
                                                 cost=lambda key: key['per_class'] * key['epochs'],
                                                 deadline=deadline))

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work, lambda runs: write_results(runs, args.out, page))


if __name__ == '__main__':
    sys.exit(main())
