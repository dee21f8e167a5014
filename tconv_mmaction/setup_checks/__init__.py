"""Looks at a config and its files before a training or test starts, and names everything that is wrong at once.

:func:`check_config` needs no Runner: tools/train.py and tools/test.py call it first, since a data set that cannot be
built fails before any hook exists. ``CheckSetupHook`` calls it for everybody else. It builds the network on the meta
device, reads annotation lists as text and opens no video.
"""
from typing import Any, Optional, Sequence, Tuple, Union

from mmengine.registry import init_default_scope

from .data import DataOptions, check_loader
from .network import build_on_meta, check_checkpoint, check_model, check_optimizer, check_pretrained
from .problems import Problem, Problems, SetupError
from .runtime import check_hooks, check_loop, check_metrics, check_monitors, labels_wanted

__all__ = ['HOOK', 'Problem', 'Problems', 'SetupError', 'check_config', 'check_once', 'options_in']

HOOK = 'CheckSetupHook'
MODES = dict(train=('train', 'val'), val=('val', ), test=('test', ))
_passed: Optional[Tuple[str, str]] = None  # what a tool has checked just before it builds the Runner


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
        An empty list, whose ``notes`` say what could not be checked.

    Raises:
        SetupError: naming each key or line, the value and the way out.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {", ".join(MODES)}, got {mode!r}.')
    init_default_scope(cfg.get('default_scope') or 'mmaction')
    problems = Problems()
    options = DataOptions(duplicates, confine_paths)
    model_cfg = cfg.get('model')
    head = model_cfg.get('cls_head') if isinstance(model_cfg, dict) else None
    num_classes = head.get('num_classes') if isinstance(head, dict) else None
    num_classes = num_classes if isinstance(num_classes, int) and num_classes > 0 else None

    sizes, reported = {}, None
    for split in MODES[mode]:
        evaluator, loader = cfg.get(f'{split}_evaluator'), cfg.get(f'{split}_dataloader')
        if split == 'val' and mode == 'train' and loader is None:
            continue
        sizes.update(check_loader(loader, f'{split}_dataloader', num_classes,
                                  split == 'train' or labels_wanted(evaluator), options, problems))
        if split != 'train':
            reported = check_metrics(evaluator, f'{split}_evaluator', num_classes, problems)
        check_loop(cfg.get(f'{split}_cfg'), f'{split}_cfg', problems)
    check_hooks(cfg, problems)
    if mode == 'train':
        check_monitors(cfg, reported, problems)

    model = build_on_meta(model_cfg, problems)
    if model is not None:
        check_model(model, model_cfg, sizes, problems)
        check_pretrained(model, model_cfg, problems)
        if mode == 'train':
            check_optimizer(cfg.get('optim_wrapper'), model, cfg.get('param_scheduler'), problems)
        check_checkpoint(cfg.get('load_from'), bool(cfg.get('resume')), mode != 'train', model, problems)
    problems.raise_if_any()
    return problems


def check_once(cfg: Any, mode: str) -> None:
    """For a tool, before it builds the Runner: check with the options in the config; the hook need not do it again."""
    global _passed
    options = options_in(cfg)
    if options is not None:
        check_config(cfg, mode, **options)
        _passed = mode, repr(cfg)


def take_passed(cfg: Any, mode: str) -> bool:
    """Whether :func:`check_once` has just passed this config; the next call says False."""
    global _passed
    passed, _passed = _passed == (mode, repr(cfg)), None
    return passed
