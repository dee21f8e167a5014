"""Conv3T's two evaluations against each other: whether ``evaluation='auto'`` takes the faster one in training.

    python tools/benchmarks/evaluation_paths.py --out-dir docs/benchmarks

Forward and backward of one 3x3x3 layer at stride 1, with its 3D kernel ('kernel', the peer: the fastest way that
makes it) and without ('factored'), at shapes around the limits of its rule (``ops/conv3t/implementations.py``), whose
``positions`` are N*T*H*W of the input. ``auto`` is what 'auto' takes there, and ``auto_is`` whether that was the faster
of the two, the slower, or even, where 1 is within the ratio's quartiles.
"""
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from tconv_mmaction.cli.timing import interleave, parser, report, rows_against, step, verdict
from tconv_mmaction.layers import Conv3T
from tconv_mmaction.ops import explain, use
from tconv_mmaction.ops.conv3t.implementations import CONV3T
from tconv_mmaction.ops.dispatch import dispatch


class Shape(NamedTuple):
    in_channels: int
    out_channels: int
    batch: int
    size: Tuple[int, int, int]  # (T, H, W)

    @property
    def positions(self) -> int:
        return self.batch * int(np.prod(self.size))


SHAPES = [
    Shape(64, 64, 2, (4, 14, 14)),
    Shape(128, 128, 2, (1, 7, 7)),
    Shape(128, 128, 2, (4, 14, 14)),
    Shape(128, 192, 2, (4, 14, 14)),
    Shape(144, 288, 2, (3, 6, 6)),
    Shape(160, 320, 2, (3, 6, 6)),
    Shape(192, 192, 2, (5, 14, 14)),
    Shape(192, 192, 2, (8, 14, 14)),
    Shape(128, 128, 2, (8, 28, 28)),
    Shape(256, 256, 2, (1, 7, 7)),
    Shape(256, 256, 2, (4, 28, 28)),
    Shape(256, 256, 2, (8, 28, 28)),
    Shape(512, 512, 2, (8, 14, 14)),
]
QUICK = [SHAPES[0], SHAPES[1], Shape(256, 256, 2, (1, 7, 7))]


def time_shape(shape: Shape, rounds: int, device: str) -> List[dict]:
    """The row of one shape."""
    torch.manual_seed(0)
    layer = Conv3T(shape.in_channels, shape.out_channels, 3, padding=1, bias=False).to(device)
    x = torch.randn(shape.batch, shape.in_channels, *shape.size, device=device, requires_grad=True)
    reasons = explain(layer, x)
    auto = 'factored' if reasons['factored'] == 'chosen' else 'kernel'
    # the fastest of the ways that make the kernel, as it is chosen where the factored one is not
    others = [i for i in CONV3T if i.name != 'factored']
    kernel = dispatch(tuple(others), layer, *layer.lay_out(x)).name
    with torch.no_grad():
        grad = torch.randn_like(layer(x))

    def by(name: str) -> Callable[[], None]:
        run = step(layer, x, grad)

        def with_name() -> None:
            with use(name):
                run()

        return with_name

    seconds = interleave({'kernel': by(kernel), 'factored': by('factored')}, rounds, device)
    what = dict(layer=f'{shape.in_channels}->{shape.out_channels} @ {"x".join(map(str, shape.size))}, batch '
                f'{shape.batch}', positions=shape.positions)
    auto_is = verdict(seconds['factored'] / seconds['kernel'], auto == 'factored')
    return [{**row, 'auto': auto, 'auto_is': auto_is} for row in rows_against('kernel', seconds, **what)]


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.set_defaults(rounds=9)
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 5)
    rows: List[dict] = []
    for shape in QUICK if args.quick else SHAPES:
        rows += time_shape(shape, args.rounds, args.device)
    report('evaluation_paths', rows, args)


if __name__ == '__main__':
    main()
