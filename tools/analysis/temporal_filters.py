"""What the filters of a network do along time (Kobayashi and Ye, WACV 2024, sec. 2.1, Fig. 1 and Fig. B).

    python tools/analysis/temporal_filters.py CONFIG CKPT --out DIR

Writes the figure distributions (per layer the primary temporal filters on the plane of average and 1st differential,
and below on that of 1st and 2nd; both signs, weighted by the singular values; the triangle is the filter that looks at
the middle frame only; layers wrap to --width), distributions.npz (the share of every cell), energy.csv (per layer the
share of energy at the centre, average and differential filters) and filters.npz (singular values and filters of every
layer, in float32).
"""
import argparse
import sys

import numpy as np

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret import (
    energy_table,
    primary_temporal_filters,
    temporal_kernels,
)
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.pictures.filter_distributions import PLANES, draw_filter_distributions, filter_densities
from tconv_mmaction.utils import atomic_open, atomic_write_text


def analyse(args) -> int:
    files = figure_files(args)
    kernels = temporal_kernels(load_recognizer(args.config, args.checkpoint, 'cpu', args.cfg_options))
    if args.layers:
        kernels = {name: weight for name, weight in kernels.items() if any(part in name for part in args.layers)}
        if not kernels:
            raise ValueError(f'no 3D convolution with t > 1 has a name with one of {args.layers} in it.')
    table = energy_table(kernels)
    atomic_write_text(args.out / 'energy.csv', table.to_csv())
    files.save(draw_filter_distributions(kernels, files.width), args.out / 'distributions')
    numbers = {}
    for name, weight in kernels.items():
        found = primary_temporal_filters(weight)
        numbers[f'{name}/filters'] = found.filters.float().numpy()
        numbers[f'{name}/weights'] = found.weights.float().numpy()
    with atomic_open(args.out / 'filters.npz', 'wb') as file:
        np.savez_compressed(file, **numbers)
    cells = {}
    for name, (planes, edges, centre) in filter_densities(kernels).items():
        cells.update({f'{name}/{plane[1]}': values for plane, values in zip(PLANES, planes)})
        cells.update({f'{name}/edges': edges, f'{name}/centre': centre})
    with atomic_open(args.out / 'distributions.npz', 'wb') as file:
        np.savez_compressed(file, **cells)
    print(table.round(3).to_string())
    print(f'written to {args.out}')
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    clip_tool.add_model_arguments(parser)
    parser.add_argument('--layers', nargs='+', help='only layers with one of these in their name')
    add_figure_arguments(parser)
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
