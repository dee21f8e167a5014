"""How far networks really look: effective receptive fields (Kobayashi and Ye, WACV 2024, sec. 5, Fig. 4).

    python tools/analysis/receptive_field.py CONFIG CKPT --out DIR
    python tools/analysis/receptive_field.py CONFIG CKPT --compare OTHER_CONFIG OTHER_CKPT --titles ours orig --out DIR

Writes the figure field (per model the X-Y and X-T maps, and in one plot the curves along time with their standard
deviations in frames), time.csv (the curves), std.csv and per model field.npz or field_TITLE.npz (the field (T, H, W)
and its marginals). Clips have the size that the config of each model gives, or --shape. A 2D recognizer sees one frame
at a time and has no such field.
"""
import argparse
import re
import sys

import numpy as np
import pandas as pd

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.clip_shape import clip_shape
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.cli.several_models import add_compare_arguments, chosen_titles, pair_up
from tconv_mmaction.interpret import effective_receptive_field, field_marginals
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.pictures.receptive_fields import draw_receptive_fields
from tconv_mmaction.utils import atomic_open, atomic_write_text


def analyse(args) -> int:
    files = figure_files(args)
    pairs = pair_up(args.config, args.checkpoint, args.compare)
    titles = chosen_titles(pairs, args.titles)
    fields, marginals = {}, {}
    for title, (config, checkpoint) in zip(titles, pairs):
        model = load_recognizer(config, checkpoint, args.device, args.cfg_options)
        shape, why = (tuple(args.shape), '') if args.shape else clip_shape(model.cfg, ('test', 'train'))
        if shape is None:
            raise ValueError(f'{config} does not tell the size of its clips: {why}. Give --shape C T H W.')
        fields[title] = effective_receptive_field(model, shape, args.repeats, args.seed)
        marginals[title] = field_marginals(fields[title])
        print(f'{title}: clips {shape}, standard deviation along time: {marginals[title].std:.3f} frames', flush=True)
    files.save(draw_receptive_fields(marginals, files.width), args.out / 'field')
    atomic_write_text(args.out / 'time.csv', pd.concat(
        [pd.DataFrame(dict(model=title, frame=range(len(found.time)), share=found.time.numpy()))
         for title, found in marginals.items()]).to_csv(index=False))
    atomic_write_text(args.out / 'std.csv', pd.DataFrame(
        [dict(model=title, std_frames=found.std) for title, found in marginals.items()]).to_csv(index=False))
    for title, found in marginals.items():
        name = 'field' if len(titles) == 1 else f'field_{re.sub(r"[^A-Za-z0-9_.-]+", "_", title)}'
        with atomic_open(args.out / f'{name}.npz', 'wb') as file:
            np.savez_compressed(file, field=fields[title].numpy(), xy=found.xy.numpy(), xt=found.xt.numpy(),
                                time=found.time.numpy(), std=found.std)
    print(f'written to {args.out}')
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    clip_tool.add_model_arguments(parser)
    add_compare_arguments(parser)
    parser.add_argument('--shape', type=int, nargs=4, metavar=('C', 'T', 'H', 'W'),
                        help='of the input (default: the clips of the config)')
    parser.add_argument('--repeats', type=int, default=10, help='random inputs (default 10)')
    parser.add_argument('--seed', type=int, default=0)
    add_figure_arguments(parser)
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
