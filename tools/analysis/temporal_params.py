"""What trained 3T networks have learned about motion, side by side (arXiv:2006.15983, sec. 3.4 and 4.4).

    python tools/analysis/temporal_params.py CONFIG CKPT
    python tools/analysis/temporal_params.py CONFIG CKPT --compare OTHER_CONFIG OTHER_CKPT ANOTHER_CKPT_OF_OTHER_CONFIG

Prints the table of means and standard deviations of |s-1|, |r| (radians), |p_x|, |p_y| in the layout of Table 2 and
writes into the output folder: table_2.md, statistics.csv (all models and layers), one npz of parameters and one figure
of the filters that move most (Fig. 3) per model, with its numbers as csv, and the figure distributions (Fig. 4) with
all models on the same axes.
p_x and p_y are the raw numbers t: 1 is half the kernel. Pixels of the kernel, t*(W-1)/2, are in statistics.csv.

With --fit plain 3D convolutions are read as the 3T kernels nearest to them (docs/fit.md), and only filters whose motion
is above the null are in tables and figures.

Steps that no clip makes use of (the slices after them see no frame; docs/interpretation.md) are left out of tables and
figures and counted. The clips' size is read from the config's train pipeline, or given by --clip-shape.
"""
import argparse
import re
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

import tconv_mmaction  # noqa: F401  first: mmaction2 and old checkpoints load on today's PyTorch with it

# isort: split
import pandas as pd
from mmaction.registry import MODELS
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from tconv_mmaction.cli.clip_shape import clip_shape
from tconv_mmaction.cli.clip_tool import fitted_parameters
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.cli.several_models import add_compare_arguments, chosen_titles, pair_up
from tconv_mmaction.compat.checkpoints import UnsafeCheckpointError
from tconv_mmaction.interpret import (
    draw_distributions,
    draw_trajectories,
    kernel_sizes,
    parameter_statistics,
    save_parameters,
    table_2,
    temporal_layers,
    temporal_parameters,
)
from tconv_mmaction.interpret.model_motion import left_out, steps_to_show, to_show, unused_layers
from tconv_mmaction.interpret.pictures.temporal_figures import chosen_trajectories, shared_limits
from tconv_mmaction.interpret.trajectories import LEAST, Motion, trajectory_table
from tconv_mmaction.utils import atomic_write_text
from tconv_mmaction.utils.config_file import read_config


def load_model(config: str, checkpoint: str, options: Dict, fit: bool = False) -> nn.Module:
    """Build the model and load the checkpoint on the CPU.

    Raises:
        ValueError: if the temporal parameters of model and checkpoint are not the same; other keys that do not fit
            are logged by MMEngine, as everywhere.
    """
    cfg = read_config(config)
    if options:
        cfg.merge_from_dict(options)
    init_default_scope(cfg.get('default_scope', 'mmaction'))
    model = MODELS.build(cfg.model)
    needed = {f'{layer}.{name}' for layer, module in temporal_layers(model).items() for name, parameter
              in module.named_parameters() if name not in ('weight', 'bias', 'gain')}
    if not needed and not fit:
        raise ValueError(f"the model of {config} has no Conv3T layer. Give a config with temporal_cfg=dict("
                         "type='Conv3T') (*-3t_*), or --fit to read plain 3D convolutions as 3T kernels.")
    try:
        loaded = load_checkpoint(model, checkpoint, map_location='cpu')
    except UnsafeCheckpointError:
        raise
    except ValueError as error:  # from Conv3T; it knows the shapes, not the files
        raise ValueError(f'{checkpoint} is of another model than {config}: {error}') from error
    keys = {re.sub(r'^module\.', '', key) for key in loaded.get('state_dict', loaded)}
    missing = sorted(needed - keys)
    surplus = sorted(key for key in keys - needed if key.endswith(('.rotate', '.theta')))
    if missing or surplus:
        what = f'lacks {missing[0]} ({len(missing)} such)' if missing else f'has {surplus[0]}, which the model has not'
        raise ValueError(f'{checkpoint} is of another model than {config}: it {what}. Give the config that it was '
                         'trained with (work_dirs/NAME/NAME.py), or the right --cfg-options.')
    return model


def clips_of(title: str, config: str, args: argparse.Namespace) -> Optional[Tuple[int, ...]]:
    """(C, T, H, W) of a model's training, None (said) where nothing tells it."""
    if args.clip_shape:
        return tuple(args.clip_shape)
    cfg = read_config(config)
    cfg.merge_from_dict(args.cfg_options)
    shape, why = clip_shape(cfg)
    if shape is None:
        print(f'{title}: the config does not tell the size of its clips ({why}), so transforms that no clip makes use '
              'of are not known and count like the others. Give --clip-shape C T H W.')
    return shape


def parse_filters(texts: Sequence[str]):
    """['6'] -> 6, ['backbone.conv1:3', ...] -> [('backbone.conv1', 3), ...]."""
    if len(texts) == 1 and texts[0].isdigit():
        return int(texts[0])
    pairs = [text.rpartition(':') for text in texts]
    for text, (layer, _, channel) in zip(texts, pairs):
        if not layer or not channel.isdigit():
            raise ValueError(f'--filters takes a number or LAYER:CHANNEL, as in backbone.conv1:3, got {text!r}.')
    return [(layer, int(channel)) for layer, _, channel in pairs]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a 3T model')
    parser.add_argument('checkpoint', help='its checkpoint')
    add_compare_arguments(parser)
    parser.add_argument('--out-dir', type=Path, help='default: temporal_params/CKPT_NAME beside the first checkpoint')
    parser.add_argument('--filters', nargs='+', default=['6'], metavar='N | LAYER:CHANNEL',
                        help='whose trajectories to draw: the N filters that move most (default 6), or these')
    parser.add_argument('--clip-shape', type=int, nargs=4, metavar=('C', 'T', 'H', 'W'),
                        help='of the training clips of all models (default: as the config makes them)')
    parser.add_argument('--least', type=float, nargs=3, default=LEAST, metavar=('ZOOM', 'DEGREES', 'PIXELS'),
                        help='how far axes go at least to both sides of no motion, so that rounding is not drawn as '
                        f'motion (default {" ".join(map(str, LEAST))}; 0 0 0: as narrow as the values)')
    parser.add_argument('--ddof', type=int, default=0, choices=(0, 1),
                        help='divisor of the standard deviation: n (0, default) or n-1 (1)')
    parser.add_argument('--fit', action='store_true', help='read plain 3D convolutions as 3T kernels, too')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='override settings of all the configs: key=value pairs, lists as key="[a,b]"')
    add_figure_arguments(parser)
    return parser


def analyse(args: argparse.Namespace) -> Path:
    pairs = pair_up(args.config, args.checkpoint, args.compare)
    titles = chosen_titles(pairs, args.titles)
    filters, files = parse_filters(args.filters), figure_files(args)
    models = {title: load_model(*pair, args.cfg_options, args.fit) for title, pair in zip(titles, pairs)}
    clips = {title: clips_of(title, config, args) for title, (config, _) in zip(titles, pairs)}
    parameters = {title: fitted_parameters(model, clips[title]) if args.fit
                  else temporal_parameters(model, clip_shape=clips[title]) for title, model in models.items()}
    statistics = {title: parameter_statistics(model, args.ddof, parameters[title]) for title, model in models.items()}
    moving = {title: values for title, values in parameters.items()
              if any(steps_to_show(layer) and to_show(layer).any() for layer in values.values())}
    for title in parameters:
        unused = sum(map(left_out, parameters[title].values()))
        if unused:
            print(f'{title}: {unused} steps x filters are left out: their slices see no frame of clips of '
                  f'{clips[title][1]} frames ({len(unused_layers(parameters[title]))} layers).')
        if title not in moving:
            print(f'{title}: no filter is left whose motion means anything (above the null, on slices that see a '
                  'frame), so none is drawn.')
    # drawn before anything is written: a wrong --filters leaves no half of a result behind
    least = Motion(*args.least)
    limits = shared_limits(moving, least, least.pixels)  # a pixel of a 3x3 kernel is half of it
    figures = {'distributions': draw_distributions(moving, limits, width=files.width)} if moving else {}
    names = {title: re.sub(r'[^\w.-]+', '_', title) for title in titles}
    if len(set(names.values())) < len(names):
        names = {title: f'{i}_{name}' for i, (title, name) in enumerate(names.items(), 1)}
    drawn: Dict[str, pd.DataFrame] = {}
    for title in moving:
        sizes = kernel_sizes(models[title], args.fit)
        figures[f'trajectories_{names[title]}'] = draw_trajectories(
            parameters[title], sizes, filters, least=least, width=files.width)
        drawn[f'trajectories_{names[title]}'] = trajectory_table(
            chosen_trajectories(parameters[title], sizes, filters))

    checkpoint = Path(args.checkpoint)
    out = args.out_dir or checkpoint.parent / 'temporal_params' / checkpoint.stem
    table = table_2(statistics)
    atomic_write_text(out / 'table_2.md', table + '\n')
    atomic_write_text(out / 'statistics.csv', pd.concat(statistics, names=['model']).to_csv())
    for title, model in models.items():
        save_parameters(out / f'{names[title]}.npz', model, parameters[title])
    for name, numbers in drawn.items():
        atomic_write_text(out / f'{name}.csv', numbers.to_csv(index=False))
    for name, figure in figures.items():
        files.save(figure, out / name)
    for title, statistic in statistics.items():
        if statistic['transform'].isin(('free', 'mixed')).any():
            print(f'{title}: free transforms are read as their closest similarity; the mean part it leaves out is '
                  f'{statistic["residual_mean"].iloc[-1]:.3g} (statistics.csv, residual_mean).')
    print('\nMean / standard deviation of |s-1|, |r| (radians), |p_x|, |p_y| (half kernels), as in Table 2:\n')
    print(table)
    return out


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    try:
        out = analyse(args)
    except (ValueError, FileNotFoundError, IndexError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'\nPer layer, parameters and figures: {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
