"""The motion in any trained 3D network: its kernels read as 3T kernels, with what that explains and the null.

    python tools/analysis/fit.py CONFIG CKPT --out work_dirs/motion
    python tools/analysis/fit.py CKPT --out work_dirs/motion          # every 3D kernel of a state dict

Per layer, means over the filters: how much of the squared weight is explained by one slice repeated, by a gain per
slice beside it, by affine motion beside these, and by any 2x3 matrix; the part of what gains leave that motion
explains, and the same for filters whose changes over time are random (docs/fit.md). Writes into --out: ladder.csv,
ladder.md and ladder.png; parameters.npz, fitted motion, gains and shares of every filter; trajectories.png of the
filters that move most, if any is above the null: motion that is not is not drawn.
"""
import argparse
import sys
import time
from pathlib import Path
from typing import Dict

import tconv_mmaction  # noqa: F401  first: mmaction2 and old checkpoints load on today's PyTorch with it

# isort: split
import numpy as np
import torch
from mmengine.config import DictAction
from torch import Tensor

from tconv_mmaction.backbones.inflation import read_state_dict
from tconv_mmaction.cli.clip_tool import MISTAKES
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret import draw_trajectories, fit_kernels, fittable_kernels, motion_ladder
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.access.modules import close_names
from tconv_mmaction.interpret.model_motion import can_be_fitted
from tconv_mmaction.interpret.motion_null import NULLS
from tconv_mmaction.interpret.pictures.ladder import draw_ladder, ladder_table
from tconv_mmaction.utils import atomic_open, atomic_write_text

SHOWN = ('kernel', 'filters', 'static', 'gains', 'motion', 'free', 'motion_share', 'null95_phases', 'null95_inputs',
         'above')


def kernels_of(files, options: Dict, device: str) -> Dict[str, Tensor]:
    """{layer: weight}; what has several slices and cannot be read is named."""
    if len(files) > 2:
        raise ValueError(f'give CONFIG CKPT, or CKPT alone; got {len(files)} files.')
    if len(files) == 1:
        weights = {name[:-len('.weight')]: value for name, value in read_state_dict(files[0], prefix='').items()
                   if name.endswith('.weight') and value.dim() == 5 and value.shape[2] > 1}
        kernels = {name: weight.float() for name, weight in weights.items() if can_be_fitted(weight)}
        temporal = [name for name in weights if name not in kernels]
    else:
        model = load_recognizer(*files, 'cpu', options)
        kernels = fittable_kernels(model)
        temporal = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv3d)
                    and module.kernel_size[0] > 1 and name not in kernels]
    if temporal:
        print(f'left out, one pixel per slice, on which no motion acts: {", ".join(temporal)}')
    if not kernels:
        raise ValueError(f'{files[-1]} has no plain 3D convolution with T > 1 and H*W > 1. The parameters of Conv3T '
                         'layers are known: tools/analysis/temporal_params.py.')
    return {name: weight.to(device) for name, weight in kernels.items()}


def table_text(table) -> str:
    shown = [column for column in SHOWN if column in table]
    lines = [['layer', *shown], ['---'] * (1 + len(shown))]
    lines += [[name or 'layer', *(f'{row[c]:.3f}' if isinstance(row[c], float) else str(row[c]) for c in shown)]
              for name, row in table.iterrows()]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def analyse(args: argparse.Namespace) -> int:
    files = figure_files(args)
    kernels = kernels_of(args.files, args.cfg_options, args.device)
    unknown = [name for name in args.layers or [] if name not in kernels]
    if unknown:
        raise ValueError(f'--layers: there is no {unknown[0]!r} to fit. Close to it: '
                         f'{", ".join(close_names(kernels, unknown[0]) or list(kernels)[:6])}')
    kernels = {name: weight for name, weight in kernels.items() if not args.layers or name in args.layers}
    options = dict(starts=args.starts, iterations=args.iterations, seed=args.seed, memory=args.memory << 20)
    start, ladders, layers = time.perf_counter(), {}, {}
    for number, (name, weight) in enumerate(kernels.items(), 1):
        layers.update(fit_kernels({name: weight}, args.fits, kinds=NULLS, **options))
        ladders[name] = motion_ladder(weight, layers[name].fit, **options)
        print(f'[{number}/{len(kernels)}] {name} {tuple(weight.shape)}, {time.perf_counter() - start:.0f} s',
              flush=True)
    table = ladder_table(ladders, layers)
    title = args.title or Path(args.files[-1]).stem
    values = {name: layer.values() for name, layer in layers.items()}
    files.save(draw_ladder(table, title), args.out / 'ladder')
    atomic_write_text(args.out / 'ladder.csv', table.to_csv())
    atomic_write_text(args.out / 'ladder.md', table_text(table) + '\n')
    with atomic_open(args.out / 'parameters.npz', 'wb') as file:
        np.savez_compressed(file, **{f'{name}.{key}': value.numpy() for name, layer in values.items()
                                     for key, value in layer.items()},
                            **{f'{name}.kernel_size': np.array(layer.kernel_size) for name, layer in layers.items()},
                            **{f'{name}.p_value': layer.null.p for name, layer in layers.items()})
    print(f'\n{table_text(table)}\n')
    if table['above'].sum():
        sizes = {name: layer.kernel_size for name, layer in layers.items()}
        files.save(draw_trajectories(values, sizes, args.filters), args.out / 'trajectories')
    else:
        files.path(args.out / 'trajectories').unlink(missing_ok=True)  # of an earlier run
        print('No filter is above the null: there is no motion to draw.')
    print(f'{int(table["above"].sum())} of {int(table["filters"].sum())} filters are above the null; written to '
          f'{args.out}')
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('files', nargs='+', metavar='[CONFIG] CKPT', help='config and checkpoint of a recognizer, or '
                         'a checkpoint alone')
    options.add_argument('--out', type=Path, required=True, help='folder for the results')
    options.add_argument('--layers', nargs='+', help='these only')
    options.add_argument('--fits', type=int, default=128, help='randomised filters per layer and null (default 128)')
    options.add_argument('--starts', type=int, default=8, help='of the search, per filter (default 8)')
    options.add_argument('--iterations', type=int, default=40, help='of the search, at most (default 40)')
    options.add_argument('--filters', type=int, default=6, help='whose trajectories to draw (default 6)')
    options.add_argument('--memory', type=int, default=256, help='megabytes of work space, about (default 256)')
    options.add_argument('--seed', type=int, default=0)
    options.add_argument('--title', help="of the figure (default: the checkpoint's name)")
    options.add_argument('--device', default='cpu', help='default: cpu')
    options.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                         help='override settings of the config: key=value pairs, lists as key="[a,b]"')
    add_figure_arguments(options)
    return options


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    try:
        return analyse(args)
    except MISTAKES as error:
        print(f'error: {error.args[0] if isinstance(error, KeyError) and error.args else error}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
