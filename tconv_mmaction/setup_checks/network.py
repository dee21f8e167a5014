"""The network of a config, built on PyTorch's meta device: shapes and names, no memory, no arithmetic.

A clip without content goes through backbone and head, which finds kernels that are longer than the clip, layers that
do not fit each other and heads that wait for other features. Checkpoints are read for their names and shapes.
"""
import os
from typing import Any, Dict, Optional

import torch
from mmaction.models.recognizers import Recognizer3D
from mmaction.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..interpret.temporal_reach import UnusedMotion, least_clip_length
from ..layers import Conv3T
from .data import ClipSize
from .problems import Problems, build, explained, find_class
from .schedules import RunLength, check_schedules

PARTS = ('backbone', 'neck', 'cls_head', 'data_preprocessor')


def build_on_meta(cfg: Any, problems: Problems) -> Optional[nn.Module]:
    """The model without content, or None with entries for the part that cannot be built."""
    cls = find_class(MODELS, cfg, 'model', problems)
    if cls is None:
        return None
    before, whole = len(problems), Problems()
    state = torch.get_rng_state()
    try:
        with torch.device('meta'):
            model = build(MODELS, cfg, 'model', whole)
            if model is None:  # which part was it?
                for part in PARTS:
                    if cfg.get(part) is not None:
                        build(MODELS, cfg[part], f'model.{part}', problems)
                if len(problems) == before:
                    problems.extend(whole)
    finally:
        torch.set_rng_state(state)
    # a component that cannot live without content is no mistake of the user's
    for problem in [problem for problem in problems[before:] if _about_meta(problem.text)]:
        problems.remove(problem)
        problems.notes.append(f'{problem.key}: it cannot be built without content ({problem.text[:200]})')
    return model


def _about_meta(text: str) -> bool:
    return 'meta tensor' in text or 'meta device' in text or "'Meta' backend" in text or 'Meta' in text.split()


def _check_classes(cfg: dict, head: Any, problems: Problems) -> None:
    if 'num_classes' not in head:
        return  # building the head says so, if it needs the number
    classes = head['num_classes']
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        problems.add('model.cls_head.num_classes', f'must be the number of your classes, got {classes!r}.')
        return
    loss = head.get('loss_cls')
    for name, count in (('num_classes', lambda value: value), ('class_weight', len)):
        value = loss.get(name) if isinstance(loss, dict) else None
        if value is not None and count(value) != classes:
            problems.add(f'model.cls_head.loss_cls.{name}', f'{count(value)} classes, and model.cls_head.num_classes '
                         f'is {classes}. Make them equal.')


def _check_kernels(model: nn.Module, sizes: Dict[str, ClipSize], problems: Problems) -> None:
    for key, size in sizes.items():
        if size.frames is None:
            continue
        long = [(name, module.kernel_size[0]) for name, module in model.named_modules()
                if isinstance(getattr(module, 'kernel_size', None), tuple) and len(module.kernel_size) == 3
                and hasattr(module, 'in_channels') and module.kernel_size[0] > size.frames]
        if long:
            name, kernel = max(long, key=lambda entry: entry[1])
            problems.add(key, f'clip_len={size.frames}, and the temporal kernel of {name} has {kernel} frames: parts '
                         f'of it would never see one. Use clips of at least {kernel} frames, or a smaller temporal '
                         'kernel (model.backbone.temporal_kernels).')
            return


def _forward(model: nn.Module, cfg: dict, sizes: Dict[str, ClipSize], problems: Problems) -> None:
    """A clip of every size once through backbone and head."""
    mean = (cfg.get('data_preprocessor') or {}).get('mean')
    channels = len(mean) if isinstance(mean, (list, tuple)) else 3
    done = set()
    for key, size in sizes.items():
        if None in size:
            problems.notes.append(f'{key}: its settings do not tell the size of the clip ({size}), so none was passed '
                                  'through the model')
            continue
        shape = (1, channels, *size)
        if shape in done:
            continue
        done.add(shape)
        clip = f'a clip of {channels} channels, {size.frames} frames and {size.height}x{size.width} pixels (HxW)'
        with torch.no_grad(), torch.device('meta'):
            model.eval()
            try:
                features = model.backbone(torch.empty(shape))
                if model.with_neck:
                    features = model.neck(features)[0]
            except Exception as error:  # PyTorch and every backbone have errors of their own
                if _about_meta(str(error)):
                    problems.notes.append(f'{key}: the backbone takes no clip without content ({str(error)[:200]})')
                    continue
                problems.add('model.backbone', f'{clip}, as {key} makes it, does not go through: {explained(error)} '
                             'Change the size (clip_len, Resize, crop), data_preprocessor.mean (one value per '
                             'channel), or the backbone.')
                continue
            head, shapes = model.cls_head, _shapes(features)
            last = features[-1] if isinstance(features, (list, tuple)) else features
            try:
                head(features)
            except Exception as error:
                if _about_meta(str(error)):
                    problems.notes.append(f'{key}: the head takes no features without content ({str(error)[:200]})')
                    continue
                wanted = getattr(head, 'in_channels', None)
                if torch.is_tensor(last) and wanted not in (None, last.shape[1]):
                    problems.add('model.cls_head.in_channels', f'{wanted}, and the backbone gives {last.shape[1]} '
                                 f'channels. Set in_channels={last.shape[1]}.')
                else:
                    problems.add('model.cls_head', f'does not take the features of {clip} ({key}), which are {shapes}: '
                                 f'{explained(error)}')


def _shapes(features: Any) -> str:
    if torch.is_tensor(features):
        return str(tuple(features.shape))
    return ', '.join(map(_shapes, features)) if isinstance(features, (list, tuple)) else type(features).__name__


def say_unused_motion(model: nn.Module, cfg: dict, sizes: Dict[str, ClipSize], problems: Problems) -> None:
    """A warning for clips that are too short for some slices of 3T kernels: their transforms get no gradient."""
    mean = (cfg.get('data_preprocessor') or {}).get('mean')
    channels = len(mean) if isinstance(mean, (list, tuple)) else 3
    for key, size in sizes.items():
        if None in size or not any(isinstance(module, Conv3T) for module in model.modules()):
            continue
        shape = (channels, *size)
        try:
            unused = UnusedMotion(model, shape)
        except Exception as error:  # every network has errors of its own; those of a clip are said by check_model
            problems.notes.append(f'{key}: which slices of 3T kernels see a frame ({explained(error)[:200]})')
            continue
        if not unused.values:
            continue
        least = least_clip_length(model, shape)
        longer = f'Clips of {least} frames use all of them' if least else 'Take longer clips'
        problems.warn(key, f'{100 * unused.share:.0f} % of the temporal parameters ({unused.values} of '
                      f'{unused.all_values}) get no gradient from clips of {size.frames} frames: slices of these 3T '
                      f'kernels see no frame: {", ".join(unused.layers)}. {longer}; so do smaller strides in time '
                      '(model.backbone.conv1_stride_t, pool1_stride_t, temporal_strides of a ResNet).')


def check_model(model: nn.Module, cfg: dict, sizes: Dict[str, ClipSize], problems: Problems) -> None:
    """Class counts, temporal kernels against clips, backbone against head."""
    head = cfg.get('cls_head')
    if isinstance(head, dict):
        _check_classes(cfg, head, problems)
    if isinstance(model, Recognizer3D):
        before = len(problems)
        _check_kernels(model, sizes, problems)
        if len(problems) == before and model.with_cls_head:
            _forward(model, cfg, sizes, problems)


# -- optimizer --------------------------------------------------------------------------------------------------------

def check_optimizer(cfg: Any, model: nn.Module, schedulers: Any, length: RunLength, problems: Problems) -> None:
    """Types, arguments, names of parameters, learning rate schedules."""
    if not isinstance(cfg, dict) or not isinstance(cfg.get('optimizer'), dict):
        problems.add('optim_wrapper', f'must be dict(type=\'OptimWrapper\', optimizer=dict(type=..., lr=...)), got '
                     f'{cfg!r}.')
        return
    before = len(problems)
    find_class(OPTIMIZERS, cfg['optimizer'], 'optim_wrapper.optimizer', problems)
    find_class(OPTIM_WRAPPERS, dict(type=cfg.get('type', 'OptimWrapper')), 'optim_wrapper', problems)
    if 'constructor' in cfg:
        find_class(OPTIM_WRAPPER_CONSTRUCTORS, dict(type=cfg['constructor']), 'optim_wrapper.constructor', problems)
    rate = cfg['optimizer'].get('lr')
    if rate is not None and (not isinstance(rate, (int, float)) or not 0 < rate < float('inf')):
        problems.add('optim_wrapper.optimizer.lr', f'must be a positive number, got {rate!r}.')
    names = [name for name, _ in model.named_parameters()]
    for pattern in (cfg.get('paramwise_cfg') or {}).get('custom_keys') or ():
        if not any(pattern in name for name in names):
            problems.add(f'optim_wrapper.paramwise_cfg.custom_keys.{pattern}', f'no parameter of the model has '
                         f'{pattern!r} in its name, so this would change nothing. The names are like '
                         f'{names[0]!r} and {names[-1]!r}; tools/analysis/temporal_params.py lists those of 3T layers.')
    clip = cfg.get('clip_grad')
    if clip is not None and (not isinstance(clip, dict) or not set(clip) <= {'type', 'max_norm', 'norm_type', 'foreach',
                                                                            'error_if_nonfinite', 'clip_value'}):
        problems.add('optim_wrapper.clip_grad', f'must be dict(max_norm=..., norm_type=2) or dict(type=\'value\', '
                     f'clip_value=...), got {clip!r}.')
    if len(problems) > before:
        return
    plain = {key: value for key, value in cfg.items() if key not in ('type', 'loss_scale', 'dtype', 'use_fp64')}
    wrapper = None  # OptimWrapper: AMP would ask for a GPU, which the machine that checks may not have
    with problems.noted('optim_wrapper', f'{cfg["optimizer"]["type"]}: '):
        if cfg.get('type', 'OptimWrapper') in ('OptimWrapper', 'AmpOptimWrapper'):
            wrapper = build_optim_wrapper(model, dict(plain, type='OptimWrapper'))
    check_schedules(schedulers, wrapper, length, problems)


# -- checkpoints ------------------------------------------------------------------------------------------------------

def _read(path: str, key: str, problems: Problems) -> Optional[dict]:
    """A checkpoint's content, None with an entry if it cannot be had."""
    if '://' in path:
        problems.notes.append(f'{key}: {path} is not on this machine')
        return None
    if not os.path.isfile(path):
        what = 'is a folder' if os.path.isdir(path) else 'is not there'
        problems.add(key, f'{path} {what}. Give the path of a checkpoint file; relative paths count from '
                     f'{os.getcwd()}.')
        return None
    with problems.noted(key):
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    return None


def check_pretrained(model: nn.Module, cfg: dict, problems: Problems) -> None:
    """``pretrained`` and ``init_cfg`` of model and backbone: files that are not there."""
    for key, part in (('model.backbone', cfg.get('backbone')), ('model', cfg)):
        if not isinstance(part, dict):
            continue
        sources = [(f'{key}.pretrained', part.get('pretrained'))]
        inits = part.get('init_cfg') or ()
        for i, init in enumerate([inits] if isinstance(inits, dict) else inits):
            if isinstance(init, dict) and init.get('type') == 'Pretrained':
                place = f'{key}.init_cfg' if isinstance(inits, dict) else f'{key}.init_cfg.{i}'
                sources.append((f'{place}.checkpoint', init.get('checkpoint')))
        for place, source in sources:
            if source is None or source == '':
                continue
            if not isinstance(source, str):
                problems.add(place, f'must be a path or URL, got {source!r}.')
            elif '://' not in source and not os.path.isfile(source):
                meant = (' For weights of the internet give a URL, or \'torchvision://NAME\' where torchvision is '
                         'installed.' if os.path.basename(source) == source else '')
                problems.add(place, f'{source} is not there. Download the weights and give the path.{meant}')
            elif source.startswith('torchvision://'):
                _check_torchvision(source, place, problems)


def _check_torchvision(source: str, key: str, problems: Problems) -> None:
    try:
        from torchvision.models import list_models
    except ImportError:
        problems.add(key, f'{source} needs torchvision, which is not installed here. Download the weights and give the '
                     'path of the .pth file.')
        return
    name = source[len('torchvision://'):].split('.')[0].lower()
    if name not in list_models():
        problems.add(key, f'torchvision has no model {name!r}. It has, for example, resnet18, resnet50 and googlenet.')


def check_checkpoint(path: Any, resume: bool, testing: bool, model: nn.Module, problems: Problems) -> None:
    """``load_from``: that it is there, that it fits the model, and for ``resume`` that it can be resumed."""
    if path is None:
        return
    if not isinstance(path, str):
        problems.add('load_from', f'must be a path or URL, got {path!r}.')
        return
    checkpoint = _read(path, 'load_from', problems)
    if checkpoint is None:
        return
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not any(torch.is_tensor(value) for value in state.values()):
        problems.add('load_from', f"{path} holds no weights: a dict of tensors, or one under 'state_dict', is needed.")
        return
    if resume and not {'optimizer', 'meta'} <= set(checkpoint):
        problems.add('resume', f'{path} holds weights only (no optimizer state), so a training cannot go on from it. '
                     'To start from its weights: --cfg-options load_from=PATH, without --resume.')
    state = {name[7:] if name.startswith('module.') else name: value.to('meta') for name, value in state.items()
             if torch.is_tensor(value)}
    own = model.state_dict()
    other = [name for name in state if name in own and name.startswith('cls_head.')
             and own[name].shape != state[name].shape]
    if not (resume or testing):
        for name in other:  # another number of classes: fine-tuning
            del state[name]
    names = {name for name, _ in model.named_parameters()}
    try:
        found = model.load_state_dict(state, strict=False)
    except Exception as error:  # PyTorch's list of shapes, or a layer's own words
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        wrong = '; '.join(lines[1:4] or lines[:1])
        problems.add('load_from', f'{path} is of another network than model: {wrong}'
                     f'{f"; and {len(lines) - 4} more" if len(lines) > 4 else ""}. Use the config that it was trained '
                     'with, or its backbone.')
        return
    missing = sorted(names & set(found.missing_keys))
    backbone = [name for name in missing if name.startswith('backbone.')]
    total = sum(name.startswith('backbone.') for name in names)
    if total and len(backbone) == total:
        problems.add('load_from', f'nothing in {path} fits the backbone: the model wants names like {backbone[0]!r}, '
                     f'the file has {sorted(state)[:3]}. Weights of a bare or 2D backbone go to '
                     'model.backbone.pretrained.')
    elif missing and (resume or testing):
        problems.add('load_from', f'{path} lacks {len(missing)} of the {len(names)} parameters of the model, such as '
                     f'{missing[0]!r}. Use the config that it was trained with (work_dirs/NAME/NAME.py).')
