"""Turn a 2D checkpoint into one for the backbone of a config, once, instead of at the start of every training.

    python tools/convert/inflate_2d.py CONFIG resnet18.pth resnet18-3t.pth [--divide-3t] [--no-norm]

Then ``load_from = 'resnet18-3t.pth'`` in the config. What is loaded, skipped and missing is printed by name; the rules
are in tconv_mmaction/backbones/inflation.py. Only what the 2D net gives is written, nothing initialised at random; with
--motion also the velocities that 3T filters start with, drawn from those of the training clips.
"""
import argparse
import io
import sys

import torch
from mmaction.registry import MODELS
from mmengine.config import DictAction
from mmengine.registry import init_default_scope

import tconv_mmaction
from tconv_mmaction.backbones.inflation import inflate_state_dict, is_2d, read_state_dict
from tconv_mmaction.backbones.moving_start import read_motion, start_moving
from tconv_mmaction.cli.mistakes import exit_code
from tconv_mmaction.layers import TEMPORAL_PARAMETERS
from tconv_mmaction.utils.atomic import atomic_write_bytes
from tconv_mmaction.utils.config_file import read_config


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='its model.backbone says which layers the weights are for')
    parser.add_argument('checkpoint', help="path, URL, or 'torchvision://resnet18' where torchvision is installed")
    parser.add_argument('out', help='file to write')
    parser.add_argument('--prefix', default='backbone.', help='of the backbone in the checkpoint (default backbone.)')
    parser.add_argument('--divide-3t', action='store_true', help='divide K_1 of 3T convolutions by kT')
    parser.add_argument('--no-norm', action='store_true', help='leave the batch norms as they are initialised')
    parser.add_argument('--motion', metavar='NPZ', help='how the training clips move, written by tconv motion')
    parser.add_argument('--motion-seed', type=int, default=0, help='draws a velocity for every filter (default 0)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope('mmaction')
    backbone = MODELS.build({**config.model.backbone, 'pretrained': None})
    if not hasattr(backbone, 'key_from_2d'):
        raise ValueError(f'{type(backbone).__name__} has no key_from_2d, so it cannot start from a 2D net.')
    state_dict = read_state_dict(args.checkpoint, args.prefix)
    if not is_2d(state_dict):
        raise ValueError(f'{args.checkpoint} holds 3D kernels; load it as it is, with load_from.')
    new, report = inflate_state_dict(state_dict, backbone, backbone.key_from_2d, args.divide_3t, not args.no_norm)
    print(report)
    if args.motion:
        motion, clip_shape = read_motion(args.motion)
        ratios = start_moving(backbone, motion, clip_shape, args.motion_seed)
        moving = backbone.state_dict()
        new.update({f'{name}.{key}': moving[f'{name}.{key}'] for name in ratios for key in TEMPORAL_PARAMETERS})
        print(f'{len(ratios)} 3T layers start with motion drawn from {len(motion)} steps of {args.motion}')
    buffer = io.BytesIO()
    meta = dict(inflated_from=str(args.checkpoint), config=str(args.config), divide_3t=args.divide_3t,
                norms=not args.no_norm, motion=args.motion, tconv_mmaction=tconv_mmaction.__version__)
    torch.save(dict(state_dict={f'backbone.{name}': value for name, value in new.items()}, meta=meta), buffer)
    atomic_write_bytes(args.out, buffer.getvalue())
    print(f'written to {args.out}')


if __name__ == '__main__':
    sys.exit(exit_code(main))
