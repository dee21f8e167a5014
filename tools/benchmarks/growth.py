"""How the cost of a layer grows with frames, batch, kernel depth and channels, against nn.Conv3d of the same shape.

    python tools/benchmarks/growth.py --out-dir docs/benchmarks

One axis is changed at a time. ``ratio`` is against nn.Conv3d at the same point; ``growth`` and ``peer_growth`` are the
time over the time at the first point of the axis. A training step is forward and backward of the one layer, eval a
forward without gradients. In full that is about three minutes on two CPU cores. ConvLSTM2d runs over T only, where its
loop is; it has as many hidden channels as the convolutions and makes 8/3 of their multiply-adds.
"""
import argparse
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import pandas as pd
import torch
from torch import nn

from tconv_mmaction.cli.timing import inference, interleave, parser, report, rows_against, step
from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d

PEER = 'Conv3d'


class Point(NamedTuple):
    """A layer C -> C with kernel (depth, 3, 3) on a batch of clips T x side x side."""
    T: int
    batch: int
    depth: int
    channels: int
    side: int


AXES: Dict[str, List[Point]] = {
    'T': [Point(t, 1, 3, 64, 14) for t in (8, 16, 32, 64)],
    'batch': [Point(8, n, 3, 128, 14) for n in (1, 2, 4, 8)],
    'depth': [Point(8, 2, k, 128, 14) for k in (3, 5, 7)],
    'channels': [Point(8, 2, 3, c, 7) for c in (64, 128, 256, 512)],
}
TINY: Dict[str, List[Point]] = {
    'T': [Point(t, 1, 3, 16, 7) for t in (8, 16)], 'batch': [Point(4, n, 3, 16, 7) for n in (1, 2)],
    'depth': [Point(8, 1, k, 16, 7) for k in (3, 5)], 'channels': [Point(4, 1, 3, c, 7) for c in (16, 32)],
}
LABELS = {'T': 'frames', 'batch': 'clips', 'depth': 'kernel depth', 'channels': 'channels'}


class WithoutState(nn.Module):
    """ConvLSTM2d, its maps only."""

    def __init__(self, layer: ConvLSTM2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def layers(point: Point, recurrent: bool) -> Dict[str, nn.Module]:
    """The layers of a point; all keep (T, H, W)."""
    c, kernel, padding = point.channels, (point.depth, 3, 3), (point.depth // 2, 1, 1)
    found = {PEER: nn.Conv3d(c, c, kernel, padding=padding, bias=False),
             'Conv3T': Conv3T(c, c, kernel, padding=padding, bias=False),
             'MultiBranchConv3d': MultiBranchConv3d(c, c, kernel, padding=padding)}
    if recurrent:
        found['ConvLSTM2d'] = WithoutState(ConvLSTM2d(c, c, 3))
    return found


def rows_of_axis(axis: str, points: Sequence[Point], args: argparse.Namespace) -> List[dict]:
    rows: List[dict] = []
    first: Dict[tuple, tuple] = {}
    for point in points:
        torch.manual_seed(0)
        modules = {name: layer.to(args.device) for name, layer in layers(point, axis == 'T').items()}
        x = torch.randn(point.batch, point.channels, point.T, point.side, point.side, device=args.device,
                        requires_grad=True)
        grad = torch.randn_like(x)
        for mode in ('training step', 'eval'):
            runs = {name: step(layer, x, grad) if mode == 'training step' else inference(layer.eval(), x)
                    for name, layer in modules.items()}
            seconds = interleave(runs, args.rounds, args.device, warmup=2)
            what = dict(case=axis, value=getattr(point, axis), layer=f'{point.channels} {point.depth}x3x3 @ '
                        f'{point.T}x{point.side}x{point.side}, batch {point.batch}', mode=mode)
            for row in rows_against(PEER, seconds, **what):
                own, peers = first.setdefault((mode, row['candidate']), (row['ms'], row['peer_ms']))
                rows.append({**row, 'growth': round(row['ms'] / own, 2),
                             'peer_growth': round(row['peer_ms'] / peers, 2), 'rounds': args.rounds})
        print(f'{axis} = {getattr(point, axis)} done', flush=True)
    return rows


def plot_lines(table: pd.DataFrame, title: str, path: Path) -> None:
    """One column per axis, one row per mode: milliseconds over the axis, both logarithmic."""
    from matplotlib.figure import Figure
    axes_names, modes = list(dict.fromkeys(table['case'])), list(dict.fromkeys(table['mode']))
    names = [PEER, *dict.fromkeys(table['candidate'])]
    colours = dict(zip(names, ('#222222', '#4477aa', '#cc6677', '#228833')))
    figure = Figure(figsize=(3.4 * len(axes_names), 3 * len(modes)), layout='constrained')
    panels = figure.subplots(len(modes), len(axes_names), squeeze=False)
    for i, mode in enumerate(modes):
        for j, axis in enumerate(axes_names):
            part, panel = table[(table['mode'] == mode) & (table['case'] == axis)], panels[i][j]
            peer = part.drop_duplicates('value')
            panel.plot(peer['value'], peer['peer_ms'], 'o-', color=colours[PEER], label=PEER)
            for name, own in part.groupby('candidate', sort=False):
                panel.plot(own['value'], own['ms'], 'o-', color=colours[name], label=name)
            panel.set_xscale('log', base=2)
            panel.set_yscale('log')
            panel.set_xticks(sorted(set(part['value'])), [str(v) for v in sorted(set(part['value']))])
            panel.set_title(f'{mode}, {axis}', fontsize=9)
            panel.set_xlabel(LABELS[axis])
            panel.set_ylabel('ms')
            panel.legend(fontsize=7)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=110)


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--axes', nargs='+', choices=list(AXES), default=list(AXES), metavar='AXIS',
                         help=f'these only, of {", ".join(AXES)}; the rows of the others stay in the files')
    options.set_defaults(rounds=9)
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 5)
    points = TINY if args.quick else AXES
    rows = [row for axis in args.axes for row in rows_of_axis(axis, points[axis], args)]
    table = report('growth', rows, args, list(AXES), bars=False)
    if args.out_dir is not None:
        header = (args.out_dir / f'growth_{args.device}.md').read_text(encoding='utf-8').split('\n', 1)[0]
        plot_lines(table, header, args.out_dir / f'growth_{args.device}.png')


if __name__ == '__main__':
    main()
