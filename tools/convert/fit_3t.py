"""Turn a trained 3D network into a 3T network: fit every kernel, then fine-tune.

    python tools/convert/fit_3t.py CONFIG_3T CKPT_3D fitted.pth
    python tools/train.py CONFIG_3T --cfg-options load_from=fitted.pth

CONFIG_3T is the config of the same network with Conv3T in the place of Conv3d (a *-3t_* config). Prints per layer how
much of the squared weight the 3T kernel keeps, and how much the best kernel that does not move would keep. Everything
but the 3T layers is copied. docs/fit.md has accuracies before, after the fit and after fine-tuning.
"""
import argparse
import io
import sys
from pathlib import Path

import tconv_mmaction

# isort: split
import torch
from mmaction.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from tconv_mmaction.backbones.inflation import read_state_dict
from tconv_mmaction.interpret.convert_3d import convert_3d
from tconv_mmaction.utils.atomic import atomic_write_bytes


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='of the 3T network')
    parser.add_argument('checkpoint', help='of the 3D network, path or URL')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--starts', type=int, default=8, help='of the search, per filter (default 8)')
    parser.add_argument('--iterations', type=int, default=100, help='of the search, at most (default 100)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value')
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope(config.get('default_scope', 'mmaction'))
    if config.model.backbone.get('pretrained'):
        config.model.backbone.pretrained = None
    model = MODELS.build(config.model)
    converted = convert_3d(read_state_dict(args.checkpoint, prefix=''), model, starts=args.starts,
                           iterations=args.iterations, progress=lambda name, share: print(
                               f'{name}: {100 * share:.1f} % of the squared weight is kept', flush=True))
    for name, share in converted.still.items():
        print(f'{name}: without motion it would be {100 * share:.1f} %')
    buffer = io.BytesIO()
    meta = dict(fitted_from=Path(args.checkpoint).name, config=Path(args.config).name, explained=converted.explained,
                tconv_mmaction=tconv_mmaction.__version__)
    torch.save(dict(state_dict=converted.state_dict, meta=meta), buffer)
    atomic_write_bytes(args.out, buffer.getvalue())
    print(f'written to {args.out}; fine-tune it: python tools/train.py {args.config} --cfg-options '
          f'load_from={args.out}')


if __name__ == '__main__':
    try:
        main()
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        print(f'fit_3t: {error}', file=sys.stderr)
        sys.exit(2)
