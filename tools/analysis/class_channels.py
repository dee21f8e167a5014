"""Which channels of a 3T network drive a class, and what motion they follow (arXiv:2006.15983, sec. 3.4).

    python tools/analysis/class_channels.py CONFIG CKPT VIDEO... --out DIR
    python tools/analysis/class_channels.py CONFIG CKPT --dataset test --limit 50 --target label --out DIR

Gradient x activation of every channel of the Conv3T layers, averaged over the clips of a class (of --target: the
predicted class, the label, or one class for all clips). Writes per class NAME.png (ranked contributions and the motion
of the first channels), for all channels.csv (all channels with rank, contribution and motion) and contributions.npz
(per class and layer, channels' means and deviations). A clip that cannot be read is reported and skipped.
With --fit plain 3D convolutions are read as the 3T kernels nearest to them (docs/fit.md): channels that are not above
the null have no motion in the table and in the figures.
"""
import sys

import numpy as np
import torch

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import figure_files
from tconv_mmaction.interpret import RecognizerScores, temporal_parameters
from tconv_mmaction.interpret.class_channels import (
    analysed_layers,
    by_class,
    channel_contributions,
    channel_table,
    check_top,
    draw_class_channels,
)
from tconv_mmaction.interpret.model_motion import unused_layers
from tconv_mmaction.interpret.temporal_parameters import with_used
from tconv_mmaction.interpret.trajectories import LEAST, Motion
from tconv_mmaction.utils import atomic_open, atomic_write_text


def analyse(args) -> int:
    model, reader = clip_tool.open_model(args)
    loop = clip_tool.ClipLoop(reader, args)
    names = loop.names
    analysed_layers(model, args.layers, args.fit)
    parameters = clip_tool.fitted_parameters(model) if args.fit else temporal_parameters(model)
    check_top(args.top)
    files = figure_files(args)
    logits = RecognizerScores(model, 'logits')
    found = []

    def work(_name, clip):
        target = loop.target_of(clip)
        if target == 'prediction':
            with torch.no_grad():
                target = int(logits(clip.inputs).argmax())
        contributions = channel_contributions(model, clip.inputs, target, args.layers, args.fit)
        if not found:  # of which steps clips of this size make use
            parameters.update(with_used(model, parameters, clip.inputs.shape[1:]))
        found.append((names[target], {layer: values.cpu() for layer, values in contributions.items()}))

    loop(work)
    classes = by_class(found)
    # drawn before anything is written: a wrong --top leaves no half of a result behind
    figures = {title: draw_class_channels(model, channels, title, args.top, args.layers or args.max_layers,
                                          parameters, args.moving_first, Motion(*args.least), files.width)
               for title, channels in classes.items()}
    taken: set = set()
    for title, figure in figures.items():
        files.save(figure, args.out / clip_tool.unique(title, taken))
    if classes:
        table = channel_table(model, classes, parameters=parameters)
        atomic_write_text(args.out / 'channels.csv', table.to_csv(index=False))
        with atomic_open(args.out / 'contributions.npz', 'wb') as file:
            np.savez_compressed(file, **{
                f'{title}/{layer}/{key}': values for title, channels in classes.items()
                for key in ('mean', 'std') for layer, values in getattr(channels, key).items()})
        shown = table[table['rank'] <= args.top]
        columns = ['class', 'layer', 'rank', 'channel', 'share', 'zoom', 'clockwise', 'right', 'down']
        unused = unused_layers(parameters)
        if unused:
            print(f'{len(unused)} layer(s) have slices that see no frame of these clips, which are not followed: '
                  f'{", ".join(unused)}')
        print(shown.reindex(columns=[*columns, 'explained', 'baseline'][:None if args.fit else len(columns)])
              .to_string(index=False, float_format='{:.3f}'.format))
        print(f'written to {args.out}')
    return loop.exit_code()


def main(argv=None) -> int:
    parser = clip_tool.clip_parser(__doc__)
    parser.add_argument('--layers', nargs='+', help='Conv3T layers to analyse and draw (default: analyse all)')
    parser.add_argument('--max-layers', type=int, default=6, help='without --layers: draw so many, those in which one '
                        'channel has the largest share (default 6)')
    parser.add_argument('--top', type=int, default=3, help='channels per layer whose motion is drawn, up to 5 '
                        '(default 3)')
    parser.add_argument('--moving-first', action='store_true', help='follow channels that move before those that '
                        'hardly do')
    parser.add_argument('--least', type=float, nargs=3, default=LEAST, metavar=('ZOOM', 'DEGREES', 'PIXELS'),
                        help='up to here a channel hardly moves, and axes go at least so far to both sides of no '
                        f'motion (default {" ".join(map(str, LEAST))})')
    parser.add_argument('--fit', action='store_true', help='read plain 3D convolutions as 3T kernels, too')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
