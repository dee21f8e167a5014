"""Does the fit find the exact answer where there is one? Deployed 3T kernels with large, unsteady motion.

    python projects/motion_fit/recovery.py --out work_dirs/recovery

Every layer is a Conv3T whose steps all differ (shifts ~ N(0, spread) half kernels, turns ~ N(0, spread) radians,
log zoom ~ N(0, spread/3)), as the plain kernel that it computes with. An answer that explains 1 - 1e-5 of the squared
weight is counted as found: what float32 and the ridge leave is 1e-6. ``--starts`` tries other numbers of starts.
"""
import argparse
import time
from pathlib import Path

import tconv_mmaction  # noqa: F401

# isort: split
import pandas as pd
import torch
from tables import write  # beside this file
from torch import Tensor

from tconv_mmaction.interpret import fit_temporal_parameters
from tconv_mmaction.layers import Conv3T
from tconv_mmaction.utils import atomic_write_text

LAYERS = ((6, 64, (5, 5, 5)), (16, 64, (3, 5, 5)), (16, 64, (3, 3, 3)), (3, 16, (3, 7, 7)))  # inputs, filters, size
SPREADS = (0.2, 0.4)
FOUND = 1e-5


@torch.no_grad()
def moving_kernel(inputs: int, filters: int, size, gain: bool, spread: float, seed: int = 0) -> Tensor:
    """(O, I, T, H, W) of a 3T layer with random motion."""
    torch.manual_seed(seed)
    layer = Conv3T(inputs, filters, size, init='paper', gain=gain, gain_std=0.5 if gain else 0.)
    for name in ('translate_x', 'translate_y', 'rotate'):
        getattr(layer, name).normal_(0, spread)
    layer.scale.normal_(0, spread / 3).exp_()
    return layer.kernel()


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder for recovery.csv and .md')
    parser.add_argument('--starts', type=int, default=8, help='per filter (default 8)')
    args = parser.parse_args(argv)
    rows = []
    for inputs, filters, size in LAYERS:
        for gain in (False, True):
            for spread in SPREADS:
                weight, begin = moving_kernel(inputs, filters, size, gain, spread), time.process_time()
                left = 1 - fit_temporal_parameters(weight, gain=gain, starts=args.starts).explained
                rows.append(dict(kernel='x'.join(map(str, size)), inputs=inputs, gains='yes' if gain else 'no',
                                 spread=spread, filters=filters, missed=int((left > FOUND).sum()),
                                 worst=float(f'{left.max():.2g}'), cpu_seconds=round(time.process_time() - begin, 1)))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    atomic_write_text(args.out / 'recovery.csv', table.to_csv(index=False))
    write(args.out)
    print(f'{table.missed.sum()} of {table.filters.sum()} filters missed, {table.cpu_seconds.sum():.1f} s of CPU')


if __name__ == '__main__':
    main()
