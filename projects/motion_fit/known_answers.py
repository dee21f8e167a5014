"""What the fit and its null say of kernels whose motion is known: the table of known answers in docs/fit.md.

    python projects/motion_fit/known_answers.py --out work_dirs/known_answers

Every case is a layer of made kernels plus noise: filters that move, filters that only weigh their slices, noise alone.
The columns are means over the filters: the ladder, what motion explains of what gains leave, the same for the three
nulls (mean and 95th percentile), and the share of filters above the null: the power where filters move, false alarms
where they do not.
"""
import argparse
from pathlib import Path
from typing import Dict, Tuple

import tconv_mmaction  # noqa: F401

# isort: split
import pandas as pd
import torch
from tables import write  # beside this file
from torch import Tensor

from tconv_mmaction.interpret import fit_kernels, motion_ladder
from tconv_mmaction.interpret.motion_null import NULLS
from tconv_mmaction.interpret.pictures.ladder import ladder_table
from tconv_mmaction.layers import Conv3T
from tconv_mmaction.utils import atomic_write_text

# name -> (inputs, T, side, what K_1 is, whether it moves, noise in standard deviations of the kernel)
CASES: Dict[str, Tuple[int, int, int, str, bool, float]] = {
    'moving, any K_1, 16 inputs': (16, 3, 3, 'any', True, 0.5),
    'moving blobs, 16 inputs': (16, 3, 3, 'blobs', True, 0.3),
    'moving blobs, 1 input, 5x5x5': (1, 5, 5, 'blobs', True, 0.3),
    'gains only, any K_1, 16 inputs': (16, 3, 3, 'any', False, 0.5),
    'gains only, blobs, 16 inputs': (16, 3, 3, 'blobs', False, 0.5),
    'noise, 16 inputs': (16, 3, 3, 'none', False, 1.),
}


def kernel(filters: int, inputs: int, frames: int, side: int, first: str, moves: bool, noise: float,
           generator: torch.Generator) -> Tensor:
    """(O, I, T, H, W), of root mean square 1 before the noise."""
    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    layer = Conv3T(inputs, filters, (frames, side, side), init='paper', gain=True)
    with torch.no_grad():
        layer.weight.copy_(normal(*layer.weight.shape))
        if first == 'blobs':
            y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing='ij')
            centre = (0.5 * normal(2, filters, inputs, 1, 1, 1)).clamp(-1, 1)
            layer.weight.copy_(torch.exp(-((x - centre[0])**2 + 3 * (y - centre[1])**2) / 0.3)
                               * normal(filters, inputs, 1, 1, 1))
        if moves:
            for parameter in (layer.rotate, layer.translate_x, layer.translate_y):
                parameter.add_(0.3 * normal(1, filters))
        else:
            layer.gain.copy_(normal(frames, filters))
        made = layer.kernel()
        made = made / made.flatten(1).square().mean(1).sqrt()[:, None, None, None, None]
        return (0 if first == 'none' else made) + noise * normal(*made.shape)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='folder for known_answers.csv and .md')
    parser.add_argument('--filters', type=int, default=32, help='per case (default 32)')
    parser.add_argument('--fits', type=int, default=64, help='randomised filters per null (default 64)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    rows = []
    for name, settings in CASES.items():
        weight = kernel(args.filters, *settings, torch.Generator().manual_seed(args.seed))
        layers = fit_kernels({name: weight}, args.fits, NULLS)
        table = ladder_table({name: motion_ladder(weight, layers[name].fit)}, layers)
        rows.append(table)
        print(table.T.to_string(), flush=True)
    table = pd.concat(rows)
    atomic_write_text(args.out / 'known_answers.csv', table.to_csv())
    write(args.out)


if __name__ == '__main__':
    main()
