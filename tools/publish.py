"""Make a training checkpoint fit to be given away: weights and plain data, checked, with its hash in the name.

    python tools/publish.py work_dirs/demo/best_acc_top1_epoch_8.pth zoo/lenet5-3t.pth [--config CONFIG]

writes zoo/lenet5-3t-1a2b3c4d.pth, where 1a2b3c4d begins the SHA-256 of the file, so that anyone can check a download
(mmengine does for a URL that ends in such a name). Of the checkpoint, 'meta' and 'state_dict' are kept: no optimizer,
no schedules, no log. In meta.cfg, what names this machine (work_dir, load_from, resume) is left out.

Refused is what is no tensor and no plain data (str, int, float, bool, None, list, tuple, dict; their subclasses too), a
weight that is no finite number, and with --config a state dict that does not fill the model exactly. The file is read
back with torch.load(weights_only=True) and nothing on PyTorch's list of allowed names before it gets its name.
"""
import argparse
import contextlib
import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

import tconv_mmaction  # noqa: F401  checkpoints of MMEngine load with weights_only through it
from tconv_mmaction.cli.mistakes import exit_code
from tconv_mmaction.utils.atomic import atomic_write_bytes
from tconv_mmaction.utils.config_file import read_config

PLAIN = (str, int, float, bool, type(None))
KEPT = ('meta', 'state_dict')
TRAINING = ('optimizer', 'param_schedulers', 'message_hub', 'ema_state_dict')  # dropped as they are
OF_THIS_MACHINE = ('work_dir', 'load_from', 'resume')  # in meta.cfg


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='IN', help='the checkpoint of a training')
    parser.add_argument('out', metavar='OUT', help='NAME.pth, written as NAME-{first 8 digits of its SHA-256}.pth')
    parser.add_argument('--config', help='config whose model the weights must fill exactly')
    args = parser.parse_args(argv)
    if Path(args.out).suffix != '.pth':
        parser.error(f'OUT must end in .pth, got {args.out}')
    return args


def plain(value, key):
    """A copy of ``value`` that shares nothing with it.

    Raises:
        TypeError: for what is neither a tensor nor plain data; it names the key and the type.
        ValueError: for a tensor with values that are no finite numbers.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple):
        return kind(plain(entry, f'{key}[{i}]') for i, entry in enumerate(value))
    if isinstance(value, dict):  # subclasses such as OrderedDict become dicts
        for name in value:
            if type(name) not in PLAIN:
                raise TypeError(f'{key} has the key {name!r} of type {_name(type(name))}. {_WAY_OUT}')
        return {name: plain(entry, f'{key}.{name}' if key else str(name)) for name, entry in value.items()}
    if kind in (torch.Tensor, nn.Parameter):
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f'{key} is a tensor of layout {value.layout}{", quantized" * value.is_quantized}; only '
                            'dense ones are published.')
        if not torch.isfinite(value).all():
            raise ValueError(f'{key} has {int((~torch.isfinite(value)).sum())} of {value.numel()} values that are no '
                             'finite numbers. Publish the checkpoint of an earlier epoch.')
        return value.detach().cpu().contiguous().clone()  # a view would bring all of what it is a part of
    # the loader's stand-in for arrays is a subclass
    raise TypeError(f'{key} is a {_name(np.ndarray if isinstance(value, np.ndarray) else kind)}. {_WAY_OUT}')


_WAY_OUT = ('A published checkpoint holds tensors and plain data only (str, int, float, bool, None, list, tuple, '
            'dict), which any PyTorch loads without running code. Convert it, or take it out, and save it again.')


def _name(kind):
    return kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'


def stripped(checkpoint):
    """``dict(meta, state_dict)`` of what a training saved, and the names of what is left out."""
    if not isinstance(checkpoint, dict):
        raise TypeError(f'the checkpoint is a {_name(type(checkpoint))}. A dict is needed, of tensors or with '
                        "'state_dict'.")
    if 'state_dict' not in checkpoint:
        checkpoint = dict(state_dict=checkpoint)
    out = plain({key: value for key, value in checkpoint.items() if key not in TRAINING}, '')
    for name, value in out['state_dict'].items():
        if not torch.is_tensor(value):
            raise TypeError(f'state_dict.{name} is a {_name(type(value))}, and weights are tensors.')
    if not out['state_dict']:
        raise ValueError('state_dict is empty.')
    meta = out.get('meta') or {}
    if isinstance(meta.get('cfg'), str):
        config = Config.fromstring(meta['cfg'], '.py')
        for key in OF_THIS_MACHINE:
            config.pop(key, None)
        meta['cfg'] = config.pretty_text
    weights = {name[7:] if name.startswith('module.') else name: value for name, value in out['state_dict'].items()}
    return dict(meta=meta, state_dict=weights), sorted(set(checkpoint) - set(KEPT))


def check_against(config_file, state_dict):
    """Raise a ValueError unless the weights are exactly those of the config's model."""
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    config = read_config(config_file)
    init_default_scope(config.get('default_scope', 'mmaction'))
    if config.model.get('backbone', {}).get('pretrained'):
        config.model.backbone.pretrained = None
    try:
        MODELS.build(config.model).load_state_dict(state_dict)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'the weights are not those of the model in {config_file}: '
                         + ' '.join(str(error).split())) from error


@contextlib.contextmanager
def nothing_allowed():
    """Inside, weights_only loading builds what a plain PyTorch builds, whatever this process allowed before."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def publish(source, out, config=None):
    """Write the published file; returns its path and the names of what was left out of it."""
    from mmengine.runner.checkpoint import CheckpointLoader
    contents, left_out = stripped(CheckpointLoader.load_checkpoint(str(source), map_location='cpu'))
    if config:
        check_against(config, contents['state_dict'])
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    data = buffer.getvalue()
    with nothing_allowed():
        again = torch.load(io.BytesIO(data), weights_only=True)
    if again['meta'] != contents['meta'] or list(again['state_dict']) != list(contents['state_dict']) or not all(
            torch.equal(again['state_dict'][name], value) for name, value in contents['state_dict'].items()):
        raise ValueError(f'{source}: what was written is not what is read back; nothing is published.')
    path = Path(out).with_name(f'{Path(out).stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth')
    atomic_write_bytes(path, data)
    return path, left_out


def main(argv=None):
    args = parse_args(argv)
    path, left_out = publish(args.checkpoint, args.out, args.config)
    weights = torch.load(path, weights_only=True)['state_dict']
    print(f'{len(weights)} tensors with {sum(w.numel() for w in weights.values()):,} numbers, '
          f'{path.stat().st_size:,} bytes; left out: {", ".join(left_out) or "nothing"}\nwritten to {path}')


if __name__ == '__main__':
    sys.exit(exit_code(main))
