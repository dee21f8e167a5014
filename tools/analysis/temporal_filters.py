"""What the filters of a network do along time (Kobayashi and Ye, WACV 2024, sec. 2.1, Fig. 1 and Fig. B).

    python tools/analysis/temporal_filters.py CONFIG CKPT --out DIR

Writes distributions.png (one column per layer: primary temporal filters on the plane of average and 1st differential,
and on that of 1st and 2nd; both signs, weighted by the singular values; the triangle is the filter that looks at the
middle frame only), energy.csv (per layer the share of energy at the centre, average and differential filters) and
filters.npz (singular values and filters of every layer, in float32).
"""
import argparse
import sys

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret import (
    energy_table,
    filter_distribution,
    primary_temporal_filters,
    temporal_kernels,
)
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.temporal_filters import density
from tconv_mmaction.utils import atomic_open, atomic_write_text

PLANES = (((1, 0), '1st differential', 'average'), ((1, 2), '1st differential', '2nd differential'))


def draw(kernels) -> Figure:
    figure = Figure(figsize=(1.9 * len(kernels) + 0.6, 4.2), layout='constrained')
    axes = figure.subplots(2, len(kernels), squeeze=False)
    for column, (name, weight) in enumerate(kernels.items()):
        distribution = filter_distribution(weight)
        for row, (plane, x_label, y_label) in enumerate(PLANES):
            axis = axes[row, column]
            cells, edges = density(distribution, plane)
            if cells.max() > 0:
                axis.pcolormesh(edges, edges, np.ma.masked_equal(cells, 0), norm=LogNorm(), cmap='viridis')
            angle = np.linspace(0, 2 * np.pi, 181)
            axis.plot(np.cos(angle), np.sin(angle), color='0.6', linewidth=0.5)
            centre = distribution.centre.numpy()[list(plane)]
            for sign in (1, -1):
                axis.plot(*(sign * centre), '^', color='magenta', markersize=5)
            axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect='equal', xticks=(), yticks=())
            if row == 0:
                axis.set_title(f'{name}\nt = {weight.size(2)}', fontsize=7)
            if column == 0:
                axis.set_xlabel(x_label, fontsize=7)
                axis.set_ylabel(y_label, fontsize=7)
    return figure


def analyse(args) -> int:
    files = figure_files(args)
    kernels = temporal_kernels(load_recognizer(args.config, args.checkpoint, 'cpu', args.cfg_options))
    if args.layers:
        kernels = {name: weight for name, weight in kernels.items() if any(part in name for part in args.layers)}
        if not kernels:
            raise ValueError(f'no 3D convolution with t > 1 has a name with one of {args.layers} in it.')
    table = energy_table(kernels)
    atomic_write_text(args.out / 'energy.csv', table.to_csv())
    files.save(draw(kernels), args.out / 'distributions')
    numbers = {}
    for name, weight in kernels.items():
        found = primary_temporal_filters(weight)
        numbers[f'{name}/filters'] = found.filters.float().numpy()
        numbers[f'{name}/weights'] = found.weights.float().numpy()
    with atomic_open(args.out / 'filters.npz', 'wb') as file:
        np.savez_compressed(file, **numbers)
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
