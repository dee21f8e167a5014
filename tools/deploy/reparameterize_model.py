"""Fuse the re-parameterised layers of a checkpoint into plain convolutions.

    python tools/deploy/reparameterize_model.py CONFIG CHECKPOINT OUT.pth

writes OUT.pth with the weights of the fused net, and OUT.py, the config that builds it. Both are then used as always:

    python tools/test.py OUT.py OUT.pth
    model = init_recognizer('OUT.py', 'OUT.pth')

In OUT.py every MultiBranchConv3d is a DeployedConv3d (an nn.Conv3d with bias and no norm behind it) and every Conv3T an
nn.Conv3d. The arguments are those of mmaction2's tools/convert/reparameterize_model.py, which fuses RepVGG blocks.
"""
import argparse
import inspect
import io
import sys
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from torch import nn

import tconv_mmaction
from tconv_mmaction.cli.mistakes import exit_code
from tconv_mmaction.layers import DeployedConv3d, switch_to_deploy
from tconv_mmaction.utils import atomic_write_text
from tconv_mmaction.utils.atomic import atomic_write_bytes
from tconv_mmaction.utils.config_file import read_config

FUSED_TYPES = {'MultiBranchConv3d': DeployedConv3d, 'Conv3T': nn.Conv3d}  # type in a config -> what it is when fused
# entries of a training checkpoint that belong to the parameters before fusing
TRAINING_STATE = ('optimizer', 'param_schedulers', 'message_hub', 'ema_state_dict')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config_path', metavar='CONFIG', help='the config that the checkpoint was trained with')
    parser.add_argument('checkpoint_path', metavar='CHECKPOINT', help='the trained weights')
    parser.add_argument('save_path', metavar='OUT', help='file to write, .pth or .tar')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value')
    args = parser.parse_args(argv)
    if Path(args.save_path).suffix not in ('.pth', '.tar'):
        parser.error(f'OUT must end in .pth or .tar, got {args.save_path}')
    out = Path(args.save_path).resolve()
    if Path(args.checkpoint_path).resolve() == out or Path(args.config_path).resolve() == out.with_suffix('.py'):
        parser.error(f'OUT ({out} and {out.with_suffix(".py").name}) would replace the trained model; choose another')
    return args


def fused_config(config):
    """``config`` (nested dicts and lists) with the types of :data:`FUSED_TYPES` exchanged."""
    if isinstance(config, (list, tuple)):
        return type(config)(fused_config(value) for value in config)
    if not isinstance(config, dict):
        return config
    new = {key: fused_config(value) for key, value in config.items()}
    kind = new.get('type')
    if isinstance(kind, str) and kind in FUSED_TYPES:
        fused = FUSED_TYPES[kind]
        accepted = inspect.signature(fused).parameters  # branches, eta, transform, ... have done their work
        new = {'type': fused.__name__, **{key: value for key, value in new.items() if key in accepted}}
    return new


def largest_difference(model, fused):
    """The largest difference between a layer and its fused convolution on noise, relative to the largest output."""
    after, worst = dict(fused.named_modules()), 0.
    for name, layer in model.named_modules():
        if hasattr(layer, 'switch_to_deploy'):
            size = [d * (k - 1) + 2 for d, k in zip(layer.dilation, layer.kernel_size)]
            x = torch.randn(1, layer.in_channels, *size)
            with torch.no_grad():
                expected = layer(x)
                worst = max(worst, ((after[name](x) - expected).abs().max() / expected.abs().max()).item())
    return worst


def main(argv=None):
    args = parse_args(argv)
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    from mmengine.runner.checkpoint import CheckpointLoader
    config = read_config(args.config_path)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope(config.get('default_scope', 'mmaction'))
    if config.model.get('backbone', {}).get('pretrained'):
        config.model.backbone.pretrained = None
    config.load_from, config.resume = None, False
    config.pop('_wandb', None)
    deployed = Config(fused_config(config.to_dict()))

    model = MODELS.build(config.model)
    checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint_path, map_location='cpu')
    given = checkpoint.get('state_dict', checkpoint)
    state_dict = {key[7:] if key.startswith('module.') else key: value for key, value in given.items()}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ValueError(f'{args.checkpoint_path} does not fit {args.config_path}: {error}') from error
    count = sum(hasattr(module, 'switch_to_deploy') for module in model.modules())
    if count == 0:
        raise ValueError(f'{args.config_path} has no layer to fuse: neither of {sorted(FUSED_TYPES)}.')
    fused = switch_to_deploy(model.eval())
    MODELS.build(deployed.model).load_state_dict(fused.state_dict())  # OUT.py does build the net that OUT.pth is of

    kept = {key: value for key, value in checkpoint.items() if key not in (*TRAINING_STATE, *given)}
    kept['meta'] = {**kept.get('meta', {}), 'cfg': deployed.pretty_text,
                    'fused_from': dict(config=args.config_path, checkpoint=args.checkpoint_path,
                                       tconv_mmaction=tconv_mmaction.__version__)}
    kept['state_dict'] = fused.state_dict()
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    config_path = Path(args.save_path).with_suffix('.py')
    atomic_write_bytes(args.save_path, buffer.getvalue())
    atomic_write_text(config_path, deployed.pretty_text)
    before, now = (sum(p.numel() for p in net.parameters()) for net in (model, fused))
    print(f'{count} layers fused, {before:,} -> {now:,} parameters, largest relative difference of a layer '
          f'{largest_difference(model, fused):.1e}\nwritten to {args.save_path} and {config_path}')


if __name__ == '__main__':
    sys.exit(exit_code(main))
