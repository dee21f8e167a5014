"""Does the motion of a class stand in its filter? Conv3THead on digits that move steadily, each class in its own way.

    python projects/conv3t_head/conv3t_head.py --data-root data/mnist    all runs; real_videos.py has the others
    python projects/conv3t_head/conv3t_head.py --table-only              table, figure and page of what is there

    OUT/runs.jsonl   one line per finished training, with the motion that each class's filter has learned
    OUT/tables.md, OUT/classes.png

A 2D network per frame (two convolutions, stride 4 in all) and a head: all that knows of time is the head. Clips of 12
frames: a digit of any kind (``motion``) or the class's own (``digits``) that goes left, right, up, down, turns, grows,
shrinks, goes aslant or stays, steadily. The filter's motion (5 frames, 7x7 positions, all of the map) is compared with
that of its class, over the classes, parameter by parameter; the null permutes the classes. OUT is ``results`` beside
this file unless given. What is finished is not run again.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmaction.registry import MODELS  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from tables import PAGE, write_results  # noqa: E402  beside this file
from torch import Tensor, nn  # noqa: E402
from truth import CLASSES, motion_of  # noqa: E402  beside this file

from tconv_mmaction.cli.run_log import Key, finish_study, run_all  # noqa: E402
from tconv_mmaction.datasets import VideoMNIST  # noqa: E402
from tconv_mmaction.datasets.digit_motions import draw  # noqa: E402
from tconv_mmaction.interpret import temporal_parameters  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
HEADS: Dict[str, dict] = {
    'conv3t': dict(type='Conv3THead', in_channels=12, kernel_size=(5, 7, 7), motion_std=(0.05, 0.05, 0.02),
                   dropout_ratio=0.),
    'conv3t_gain': dict(type='Conv3THead', in_channels=12, kernel_size=(5, 7, 7), motion_std=(0.05, 0.05, 0.02),
                        dropout_ratio=0., gain=True),
    'i3d': dict(type='I3DHead', in_channels=12, dropout_ratio=0.),
}
BATCH, EPOCHS, PER_CLASS, TESTED, LR, MULT = 20, 30, 20, 20, 3e-3, 3.
SEEDS = range(5)
ORDER = (('motion', ('conv3t', 'i3d')), ('motion', ('conv3t_gain', )), ('digits', ('conv3t', 'i3d')))


class PerFrame(nn.Module):
    """(N, 1, T, 28, 28) -> (N, 12, T, 7, 7), every frame by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 12, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        y = self.norm1(self.conv1(x.transpose(1, 2).flatten(0, 1))).relu()
        y = self.norm2(self.conv2(y)).relu()
        return y.unflatten(0, (-1, frames)).transpose(1, 2)


def clips(kind: str, split: str, per_class: int, seed: int, data_root: Optional[str]) -> Tuple[Tensor, Tensor]:
    """``(n, 1, 12, 28, 28)`` from 0 to 1 and classes ``(n,)``: 'digits' class = digit = motion, 'motion' any digit."""
    data = VideoMNIST([], split=split, data_root=data_root, videos_per_class=per_class, subset_seed=seed)
    infos = [data.get_data_info(i) for i in range(len(data))]
    rng = np.random.default_rng((seed, ('train', 'val', 'test').index(split)))
    labels = np.array([info['label'] for info in infos])
    labels = rng.permutation(labels) if kind == 'motion' else labels
    videos = [draw(data.images[info['source_index']], motion_of(int(label), rng)) for info, label in zip(infos, labels)]
    return torch.from_numpy(np.stack(videos))[:, None].float() / 255, torch.from_numpy(labels)


def build(head: str) -> nn.Module:
    made = MODELS.build(dict(num_classes=len(CLASSES), **HEADS[head]))
    made.init_weights()
    return nn.Sequential(PerFrame(), made)


def temporal_groups(model: nn.Module, lr: float, mult: float) -> List[dict]:
    """Adam's groups: the transforms, if there are some, at ``mult`` times the rate."""
    transforms = {name: value for name, value in model.named_parameters()
                  if name.rsplit('.', 1)[1] in ('scale', 'rotate', 'translate_x', 'translate_y')}
    groups = [dict(params=[p for name, p in model.named_parameters() if name not in transforms], lr=lr)]
    return groups + ([dict(params=list(transforms.values()), lr=mult * lr)] if transforms else [])


def fit(model: nn.Module, x: Tensor, y: Tensor, lr: float, mult: float, epochs: int, seed: int) -> float:
    """Adam, all learning rates falling to 0 as a cosine; the mean loss of the last epoch."""
    optimizer = torch.optim.Adam(temporal_groups(model, lr, mult), fused=True)
    order = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // BATCH))
    model.train()
    for _ in range(epochs):
        losses = []
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            loss = F.cross_entropy(model(x[batch].float()), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return round(float(np.mean(losses)), 4)


def run(key: Key, data_root: Optional[str]) -> dict:
    """One line of runs.jsonl."""
    torch.set_num_threads(1)
    seed = key['seed']
    x, y = clips(key['clips'], 'train', PER_CLASS, seed, data_root)
    torch.manual_seed(seed)
    model = build(key['head'])
    loss = fit(model, x, y, key['lr'], key['mult'], key['epochs'], seed)
    model.eval()
    x, y = clips(key['clips'], 'test', TESTED, seed, data_root)
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in x.split(50)])
    results = dict(accuracy=round(100 * float((found == y).float().mean()), 3), loss=loss,
                   parameters=sum(p.numel() for p in model.parameters()))
    if key['head'] != 'i3d':
        results['motion'] = {name: np.round(values.double().numpy(), 5).tolist() for name, values in
                             temporal_parameters(model)['1.conv'].items() if name != 'gain'}
    return results


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='(default: results beside this file)')
    parser.add_argument('--data-root', help="folder with MNIST's idx files (default: scikit-learn's digits)")
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--quick', action='store_true', help='one seed, one epoch')
    parser.add_argument('--table-only', action='store_true', help='table and figure of the runs there are')
    args = parser.parse_args(argv)
    log, deadline = args.out / 'runs.jsonl', None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    keys = [dict(clips=kind, head=head, seed=seed, lr=LR, mult=MULT, epochs=1 if args.quick else EPOCHS)
            for kind, heads in ORDER for seed in (SEEDS[:1] if args.quick else SEEDS) for head in heads]

    def work() -> None:
        run_all(log, keys, lambda key: run(key, args.data_root), deadline=deadline)

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work, lambda runs: write_results(runs, args.out, page))


if __name__ == '__main__':
    sys.exit(main())
