"""How the clips of a training list move, for 3T networks that start with such motion instead of at rest.

    python tools/data/clip_motion.py CONFIG motion.npz
    python tools/train.py CONFIG --cfg-options "model.backbone.init_cfg={'type':'MotionOfClips','file':'motion.npz'}"
    python tools/convert/inflate_2d.py CONFIG resnet18.pth resnet18-3t.pth --motion motion.npz

Takes clips through the training pipeline of the config, as the network sees them, and fits a zoom, turn and shift to
the dense optical flow of every two frames (OpenCV). OUT.npz has motion (n, 4): log zoom, clockwise turn in radians,
pixels right and down, per frame of the clip, and clip_shape (C, T, H, W).
"""
import argparse
import sys
from pathlib import Path

import tconv_mmaction  # noqa: F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np
from mmaction.registry import DATASETS
from mmengine.config import DictAction
from mmengine.registry import init_default_scope

from tconv_mmaction.cli.mistakes import exit_code
from tconv_mmaction.datasets.clip_motion import NUMBERS, clip_motion
from tconv_mmaction.utils import atomic_open
from tconv_mmaction.utils.config_file import read_config


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='its train_dataloader.dataset gives the clips')
    parser.add_argument('out', type=Path, help='npz file to write')
    parser.add_argument('--clips', type=int, default=500, help='at most so many, drawn at random (default 500)')
    parser.add_argument('--seed', type=int, default=0, help='draws them (default 0)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value')
    args = parser.parse_args(argv)
    if args.clips < 1:
        parser.error(f'--clips must be at least 1, got {args.clips}.')
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope(config.get('default_scope', 'mmaction'))
    dataset = DATASETS.build(config.train_dataloader.dataset)
    np.random.seed(args.seed)  # the pipeline's own draws
    chosen = np.random.default_rng(args.seed).permutation(len(dataset))[:args.clips]
    found, shape = [], None
    for index in chosen:
        inputs = dataset[int(index)]['inputs']  # clips, C, T, H, W, before the normalisation
        if inputs.dim() != 5 or inputs.shape[1] not in (1, 3) or inputs.shape[2] < 2:
            raise ValueError(f'the pipeline gives {tuple(inputs.shape)}; clips (clips, C, T, H, W) of 1 or 3 colours '
                             "and several frames are needed: FormatShape(input_format='NCTHW').")
        if shape not in (None, tuple(inputs.shape[1:])):
            raise ValueError(f'the pipeline gives clips of different sizes, {shape} and {tuple(inputs.shape[1:])}.')
        shape = tuple(inputs.shape[1:])
        frames = inputs[0].permute(1, 2, 3, 0).contiguous().numpy().astype(np.uint8)
        found.append(clip_motion(frames[..., 0] if shape[0] == 1 else frames))
    motion = np.concatenate(found)
    if not len(motion):
        raise ValueError(f'nothing is to be seen in {len(chosen)} clips: no edge to follow.')
    with atomic_open(args.out, 'wb') as file:
        np.savez_compressed(file, motion=motion, clip_shape=np.array(shape))
    print(f'{len(motion)} steps of {len(chosen)} clips (C, T, H, W) = {shape}; per frame, mean and standard deviation:')
    for name, values in zip(NUMBERS, motion.T):
        print(f'  {name:27} {values.mean():8.4f} {values.std():8.4f}')
    print(f'written to {args.out}')


if __name__ == '__main__':
    sys.exit(exit_code(main))
