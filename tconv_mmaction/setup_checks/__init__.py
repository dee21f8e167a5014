"""Looks at a config and its files before a training or test starts, and names everything that is wrong at once.

:func:`check_config` needs no Runner: tools/train.py and tools/test.py call it first, since a data set that cannot be
built fails before any hook exists. ``CheckSetupHook`` calls it for everybody else. It builds the network on the meta
device, reads annotation lists as text, and opens a few of their files for the size of the frames; it decodes no video.
"""
import sys
from typing import Any, Dict, NamedTuple, Optional, Sequence, Set, Tuple, Union

from mmengine.registry import init_default_scope

from . import agreement
from .batches import batches_of, check_cutting, check_last_batch, processes, shares
from .data import DataOptions, Loader, Model, check_loader, datasets_of, model_for_data
from .determinism import check_determinism
from .network import build_on_meta, check_checkpoint, check_model, check_optimizer, check_pretrained, say_unused_motion
from .problems import Problem, Problems, SetupError
from .runtime import (
    check_hooks,
    check_loop,
    check_metrics,
    check_monitors,
    check_names_of_keys,
    check_work_dir,
    labels_wanted,
    metrics_of,
)
from .schedules import check_counting, run_length
from .tracing import check_checkpointed, check_efficient_eval, say_compile

__all__ = ['HOOK', 'Problem', 'Problems', 'SetupError', 'check_config', 'check_once', 'options_in']

HOOK = 'CheckSetupHook'
MODES = dict(train=('train', 'val'), val=('val', ), test=('test', ))


class Passed(NamedTuple):
    """What a tool has checked just before it builds the Runner."""
    mode: str
    config: str
    found: Problems


_passed: Optional[Passed] = None


def options_in(cfg: Any) -> Optional[dict]:
    """The arguments of the CheckSetupHook in a config; None if it is switched off, {} if it is not mentioned."""
    hooks = cfg.get('default_hooks') or {}
    if 'check_setup' in hooks and hooks['check_setup'] is None:
        return None
    for hook in [*hooks.values(), *(cfg.get('custom_hooks') or ())]:
        if isinstance(hook, dict) and hook.get('type') == HOOK:
            return {name: value for name, value in hook.items() if name not in ('type', 'priority')}
    return {}


def check_config(cfg: Any, mode: str = 'train', duplicates: bool = False,
                 confine_paths: Union[bool, str, Sequence[str]] = False) -> Problems:
    """Check what ``mode`` will use of ``cfg``.

    Args:
        cfg: a Config, with command line options merged.
        mode: 'train' (with validation, if there is one), 'val' or 'test'.
        duplicates: allow lists that name a video twice with the same label.
        confine_paths: files of lists must be in the data set's folder (True) or in these folders.

    Returns:
        An empty list, whose ``warnings`` say what runs and is probably not meant, and whose ``notes`` say what could
        not be checked.

    Raises:
        SetupError: naming each key or line, the value and the way out.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {", ".join(MODES)}, got {mode!r}.')
    init_default_scope(cfg.get('default_scope') or 'mmaction')
    problems = Problems()
    options = DataOptions(duplicates, confine_paths)
    model_cfg = cfg.get('model')
    wanted, world_size = model_for_data(model_cfg), processes(cfg)

    loaders, reported = _check_splits(cfg, MODES[mode], mode, wanted, world_size, options, problems)
    check_hooks(cfg, problems)
    check_names_of_keys(cfg, problems)
    check_work_dir(cfg.get('work_dir'), problems)
    agreement.check_backends(cfg.get('visualizer'), problems)
    agreement.check_preprocessor(model_cfg, problems)
    agreement.check_views(model_cfg, {f'{split}_dataloader': cfg.get(f'{split}_dataloader') for split in loaders
                                      if split != 'train'}, problems)
    train = loaders.get('train')
    length = run_length(cfg.get('train_cfg'), batches_of(train.samples if train else None, cfg.get('train_dataloader'),
                                                         world_size))
    if mode == 'train':
        check_monitors(cfg, reported, problems)
        check_counting(cfg, length, problems)
        _check_training(cfg, model_cfg, loaders, wanted.num_classes, problems)

    model = build_on_meta(model_cfg, problems)
    if model is not None:
        before = len(problems)
        sizes = {key: size for loader in loaders.values() for key, size in loader.sizes.items()}
        check_model(model, model_cfg, sizes, problems)
        fits = len(problems) == before
        if mode == 'train' and train is not None and train.samples and wanted.volumes and len(problems) == before:
            check_batches(model, model_cfg, train, train.samples, cfg.get('train_dataloader'), world_size, problems)
        if mode == 'train' and train is not None and len(problems) == before:
            say_unused_motion(model, model_cfg, train.sizes, problems)
        check_determinism(cfg, model, model_cfg, sizes if fits else {}, mode == 'train', problems)
        check_pretrained(model, model_cfg, problems)
        if mode == 'train':
            check_optimizer(cfg.get('optim_wrapper'), model, cfg.get('param_scheduler'), length, problems)
        check_checkpoint(cfg.get('load_from'), bool(cfg.get('resume')), mode != 'train', model, problems)
        if mode == 'train':
            check_checkpointed(cfg.get('activation_checkpointing'), model, problems)
        check_efficient_eval(cfg.get('efficient_conv_bn_eval'), model, problems)
        say_compile(cfg.get('compile'), model, problems)
    problems.raise_if_any()
    return problems


def _check_splits(cfg: Any, splits: Sequence[str], mode: str, wanted: Model, world_size: int, options: DataOptions,
                  problems: Problems) -> Tuple[Dict[str, Loader], Optional[Set[str]]]:
    """Loaders, evaluators and loops; what the loaders give, and the names that the last evaluator reports."""
    loaders: Dict[str, Loader] = {}
    reported = None
    for split in splits:
        evaluator, loader = cfg.get(f'{split}_evaluator'), cfg.get(f'{split}_dataloader')
        if split == 'val' and mode == 'train' and loader is None:
            continue
        key, loop = f'{split}_dataloader', cfg.get(f'{split}_cfg')
        found = check_loader(loader, key, wanted, split == 'train' or labels_wanted(evaluator), options, problems)
        if found is not None:
            loaders[split] = found
            check_cutting(loader, key, split, found.samples, loop, world_size, problems)
            for dataset, where in datasets_of(loader['dataset'], f'{key}.dataset'):
                if isinstance(dataset, dict) and split != 'train':
                    agreement.check_evaluation_pipeline(dataset.get('pipeline'), f'{where}.pipeline', problems)
        if split != 'train':
            reported = check_metrics(evaluator, f'{split}_evaluator', wanted.num_classes, problems)
            agreement.check_scores(metrics_of(evaluator), f'{split}_evaluator', cfg.get('model'),
                                   found.multi_class if found is not None else None, problems)
        check_loop(loop, f'{split}_cfg', problems)
    return loaders, reported


def _check_training(cfg: Any, model_cfg: Any, loaders: Dict[str, Loader], num_classes: Optional[int],
                    problems: Problems) -> None:
    """What only a training has: losses, mixed batches, frozen layers, two lists that belong together."""
    train, val = loaders.get('train'), loaders.get('val')
    agreement.check_labels(model_cfg, train.multi_class if train else None, problems)
    agreement.check_blending(model_cfg, num_classes, problems)
    agreement.check_dropout(model_cfg, problems)
    agreement.check_frozen(model_cfg, cfg.get('load_from'), bool(cfg.get('resume')), problems)
    if train is None:
        return
    key = 'val_dataloader.dataset.ann_file'
    agreement.check_classes_seen(train.labels, val.labels if val else None, num_classes, key, problems)
    if val is not None:
        agreement.check_overlap(train.videos, val.videos, key, problems)


def check_batches(model: Any, model_cfg: Any, train: Loader, samples: int, loader_cfg: Any, world_size: int,
                  problems: Problems) -> None:
    """A last batch of one sample, for every clip size of the training; ``model`` is on the meta device."""
    mean = (model_cfg.get('data_preprocessor') or {}).get('mean')
    channels = len(mean) if isinstance(mean, (list, tuple)) else 3
    for key, size in train.sizes.items():
        if None not in size and model.with_cls_head:
            check_last_batch(model, (channels, *size), train.views[key], samples, loader_cfg, world_size, problems)


def check_built_batches(cfg: Any, samples: int) -> None:
    """For the hook: the last batch, where the list did not tell how many samples there are.

    Raises:
        SetupError: as :func:`check_config`.
    """
    loader_cfg, problems = cfg.get('train_dataloader'), Problems()
    wanted = model_for_data(cfg.get('model'))
    size = loader_cfg.get('batch_size') if isinstance(loader_cfg, dict) else None
    if not wanted.volumes or not isinstance(size, int) or size > 1 and loader_cfg.get('drop_last'):
        return
    own = shares(samples, processes(cfg), False) | shares(samples, processes(cfg), True)
    if size > 1 and not any(count % size == 1 for count in own):
        return
    train = check_loader(loader_cfg, 'train_dataloader', wanted, False, DataOptions(True), Problems())
    model = build_on_meta(cfg.get('model'), Problems())
    if train is not None and train.samples is None and model is not None:
        check_batches(model, cfg.get('model'), train, samples, loader_cfg, processes(cfg), problems)
    problems.raise_if_any()


def check_once(cfg: Any, mode: str) -> None:
    """For a tool, before it builds the Runner: check with the options in the config; the hook need not do it again."""
    global _passed
    options = options_in(cfg)
    if options is not None:
        found = check_config(cfg, mode, **options)
        _passed = Passed(mode, repr(cfg), found)
        if not _has_hook(cfg):  # the hook writes them into the log
            for warning in found.warnings:
                print(f'Warning: {warning.key}: {warning.text}', file=sys.stderr)


def _has_hook(cfg: Any) -> bool:
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
    return any(isinstance(hook, dict) and hook.get('type') == HOOK for hook in hooks)


def take_passed(cfg: Any, mode: str) -> Optional[Problems]:
    """What :func:`check_once` has found if it has just passed this config; the next call says None."""
    global _passed
    passed, _passed = _passed, None
    return passed.found if passed is not None and passed[:2] == (mode, repr(cfg)) else None
