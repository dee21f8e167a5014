"""How far a network really looks: its effective receptive field (Kobayashi and Ye, WACV 2024, sec. 5, Fig. 4).

    python tools/analysis/receptive_field.py CONFIG CKPT --out DIR [--shape 3 32 224 224]

Writes field.npz (the field (T, H, W) and its marginals), time.csv (the distribution along time) and field.png (X-Y and
X-T maps and the curve along time with its standard deviation in frames). A 2D recognizer sees one frame at a time and
has no such field.
"""
import argparse
import sys

import numpy as np
from matplotlib.figure import Figure

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret import effective_receptive_field, field_marginals
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.receptive_field import FieldMarginals
from tconv_mmaction.utils import atomic_open, atomic_write_text


def draw(marginals: FieldMarginals) -> Figure:
    figure = Figure(figsize=(11, 3.4), layout='constrained')
    xy, xt, time = figure.subplots(1, 3)
    xy.imshow(marginals.xy.numpy())
    xy.set(title='X-Y', xlabel='x, pixels', ylabel='y, pixels')
    xt.imshow(marginals.xt.numpy(), aspect='auto')
    xt.set(title='X-T', xlabel='x, pixels', ylabel='frame')
    time.plot(marginals.time.numpy(), marker='.')
    time.set(title=f'along time, std = {marginals.std:.2f} frames', xlabel='frame', ylabel='share', ylim=(0, None))
    return figure


def analyse(args) -> int:
    files = figure_files(args)
    model = load_recognizer(args.config, args.checkpoint, args.device, args.cfg_options)
    field = effective_receptive_field(model, args.shape, args.repeats, args.seed)
    marginals = field_marginals(field)
    files.save(draw(marginals), args.out / 'field')
    atomic_write_text(args.out / 'time.csv', '\n'.join(
        ['frame,share', *(f'{t},{share}' for t, share in enumerate(marginals.time.tolist()))]) + '\n')
    with atomic_open(args.out / 'field.npz', 'wb') as file:
        np.savez_compressed(file, field=field.numpy(), xy=marginals.xy.numpy(), xt=marginals.xt.numpy(),
                            time=marginals.time.numpy(), std=marginals.std)
    print(f'standard deviation along time: {marginals.std:.3f} frames')
    print(f'written to {args.out}')
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    clip_tool.add_model_arguments(parser)
    parser.add_argument('--shape', type=int, nargs=4, default=(3, 32, 224, 224), metavar=('C', 'T', 'H', 'W'),
                        help='of the input (default 3 32 224 224)')
    parser.add_argument('--repeats', type=int, default=10, help='random inputs (default 10)')
    parser.add_argument('--seed', type=int, default=0)
    add_figure_arguments(parser)
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
