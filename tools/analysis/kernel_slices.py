"""Kernels slice by slice, with what their content does over the slices (arXiv:2006.15983, Fig. 2 and 3, bottom).

    python tools/analysis/kernel_slices.py CONFIG CKPT --out DIR [--layer backbone.conv1 --filters 3 5 8]

Of the network's first 3D convolution with several slices, or of --layer. Writes the figure kernels, kernels.npz (all
kernels of the layer, (O, I, t, h, w), and the channels that are drawn) and, for 3T layers, kernels.csv (zoom, rotation
and path of the filters that are drawn). Without --filters the filters that move most are drawn, of plain 3D
convolutions those whose slices differ most. Slices that see no frame at the clip length of the config are not followed.
"""
import argparse
import sys

import numpy as np
import torch

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.clip_shape import clip_shape
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret import temporal_kernels, temporal_parameters
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.access.modules import close_names
from tconv_mmaction.interpret.model_motion import steps_to_show
from tconv_mmaction.interpret.pictures.kernel_slices import draw_kernel_slices
from tconv_mmaction.interpret.trajectories import LEAST, Motion, filter_motion, filter_trajectory, trajectory_table
from tconv_mmaction.utils import atomic_open, atomic_write_text


def change_of(weight: torch.Tensor) -> torch.Tensor:
    """(O,) how much the slices of each filter differ from their mean, of its whole squared weight."""
    rest = (weight - weight.mean(2, keepdim=True)).square().flatten(1).sum(1)
    return rest / weight.square().flatten(1).sum(1).clamp_min(1e-30)


def analyse(args) -> int:
    files = figure_files(args)
    if args.count < 1:
        raise ValueError(f'--count must be at least 1 filter, got {args.count}.')
    model = load_recognizer(args.config, args.checkpoint, 'cpu', args.cfg_options)
    kernels = temporal_kernels(model)
    layer = args.layer or next(iter(kernels))
    if layer not in kernels:
        raise ValueError(f'{layer!r} is no 3D convolution with t > 1 of this model. Close to it: '
                         f'{", ".join(close_names(kernels, layer)) or ", ".join(list(kernels)[:6])}')
    weight = kernels[layer]
    values = temporal_parameters(model, clip_shape=clip_shape(model.cfg)[0]).get(layer)
    moving = values is not None and steps_to_show(values) > 0
    strength = filter_motion(values) if moving else change_of(weight)
    channels = args.filters or torch.argsort(strength, descending=True, stable=True)[:args.count].tolist()
    wrong = [channel for channel in channels if not 0 <= channel < len(weight)]
    if wrong:
        raise ValueError(f'--filters: {layer} has {len(weight)} channels (0 to {len(weight) - 1}), got {wrong[0]}.')
    size = tuple(weight.shape[2:])
    trajectories = {channel: filter_trajectory(values, channel, size) for channel in channels} if moving else {}
    figure = draw_kernel_slices(weight, channels, layer, trajectories, Motion(*args.least), files.width)
    path = files.save(figure, args.out / 'kernels')
    with atomic_open(args.out / 'kernels.npz', 'wb') as file:
        np.savez_compressed(file, kernels=weight.numpy(), channels=channels, layer=layer)
    if trajectories:
        atomic_write_text(args.out / 'kernels.csv', trajectory_table(
            {(layer, channel): found for channel, found in trajectories.items()}).to_csv(index=False))
    print(f'{layer} {tuple(weight.shape)}: channels {", ".join(map(str, channels))}; written to {path}')
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    clip_tool.add_model_arguments(parser)
    parser.add_argument('--layer', help='dotted name (default: the first 3D convolution with t > 1)')
    parser.add_argument('--filters', type=int, nargs='+', metavar='CHANNEL', help='these, instead of those that move '
                        'most')
    parser.add_argument('--count', type=int, default=8, help='without --filters: how many (default 8)')
    parser.add_argument('--least', type=float, nargs=3, default=LEAST, metavar=('ZOOM', 'DEGREES', 'PIXELS'),
                        help='how far the axes of the motion go at least to both sides of none '
                        f'(default {" ".join(map(str, LEAST))})')
    add_figure_arguments(parser)
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
