"""Loops, hooks and metrics of a config: names, arguments, and quantities that somebody waits for."""
import difflib
import inspect
import os
from typing import Any, List, Optional, Set

from mmaction.registry import HOOKS, METRICS
from mmengine.registry import LOOPS

from .problems import Problems, build, check_names, find_class

# what a Runner reads of a config
KEYS = ('model', 'work_dir', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg',
        'test_cfg', 'auto_scale_lr', 'optim_wrapper', 'param_scheduler', 'val_evaluator', 'test_evaluator',
        'default_hooks', 'custom_hooks', 'data_preprocessor', 'load_from', 'resume', 'launcher', 'env_cfg',
        'log_processor', 'log_level', 'visualizer', 'default_scope', 'randomness', 'experiment_name', 'compile',
        'efficient_conv_bn_eval', 'activation_checkpointing')
BASIC = ('self', 'runner', 'dataloader', 'evaluator')  # what the Runner gives to every loop
ACCURACY_KEYS = dict(top_k_accuracy='top{}', mean_class_accuracy='mean1')


def check_loop(cfg: Any, key: str, problems: Problems) -> None:
    """Numbers of epochs and iterations."""
    if not isinstance(cfg, dict):
        problems.add(key, f'must be a dict such as dict(type=\'EpochBasedTrainLoop\', max_epochs=...), got {cfg!r}.')
        return
    loop = find_class(LOOPS, cfg, key, problems) if 'type' in cfg else None
    taken = {name: parameter.kind for base in getattr(loop, '__mro__', ()) if '__init__' in vars(base)
             and base is not object for name, parameter in inspect.signature(base.__init__).parameters.items()}
    if taken and inspect.Parameter.VAR_KEYWORD not in taken.values():
        known = list(taken)
        for name in set(cfg) - {'type', 'by_epoch', *known}:
            near = difflib.get_close_matches(name, known, n=1)
            problems.add(f'{key}.{name}', f'{loop.__name__} has no argument {name!r}.'
                         f'{f" Did you mean {near[0]!r}?" if near else f" It has {sorted(set(known) - set(BASIC))}."}')
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        value = cfg.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            problems.add(f'{key}.{name}', f'must be a positive whole number, got {value!r}.')
    if key == 'train_cfg' and cfg.get('max_epochs') is None and cfg.get('max_iters') is None:
        problems.add(key, f'says neither max_epochs nor max_iters: {dict(cfg)}.')


def check_names_of_keys(cfg: Any, problems: Problems) -> None:
    """Keys of the config that are nearly one of the Runner's, which would be ignored."""
    for name in cfg:
        if name not in KEYS and not name.startswith('_'):
            near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.9)
            if near and isinstance(cfg.get(name), (dict, list)):
                problems.warn(name, f'is no key of MMEngine, and nothing reads it. Did you mean {near[0]!r}?')


def check_work_dir(path: Any, problems: Problems) -> None:
    """That something can be written there."""
    if not isinstance(path, str) or not path:
        return
    place = os.path.abspath(path)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        problems.add('work_dir', f'{path}: {place} is a file, so no folder can be there. Give another one: --work-dir '
                     'FOLDER.')
    elif not os.access(place, os.W_OK | os.X_OK):
        problems.add('work_dir', f'{path}: this user may not write into {place}. Give another one: --work-dir FOLDER.')


def metrics_of(evaluator: Any) -> List[dict]:
    """The metrics of ``val_evaluator``: one, a list, or an Evaluator with a list."""
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator] if evaluator else []


def check_metrics(evaluator: Any, key: str, num_classes: Optional[int], problems: Problems) -> Optional[Set[str]]:
    """Build the metrics; returns the names of what they report, None where that is not known."""
    names: Optional[Set[str]] = set()
    metrics = metrics_of(evaluator)
    if not metrics:
        problems.add(key, f'names no metric, got {evaluator!r}. For example dict(type=\'AccMetric\').')
    for i, cfg in enumerate(metrics):
        where = f'{key}.{i}' if isinstance(evaluator, (list, tuple)) else key
        metric = build(METRICS, cfg, where, problems)
        if metric is None:
            return None
        prefix = metric.prefix
        if cfg['type'] == 'F1Metric':
            _check_f1(metric, where, num_classes, problems)
            own = {f'mean_top{k}' if k > 1 else 'mean' for k in metric.topk} | {f'top{k}' for k in metric.topk}
            if metric.per_class:
                own |= set(metric.class_names or (f'class{i}' for i in range(num_classes or 0)))
        elif cfg['type'] == 'AccMetric':
            options = metric.metric_options.get('top_k_accuracy', {}).get('topk', (1, 5))
            own = {ACCURACY_KEYS[kind].format(k) for kind in metric.metrics if kind in ACCURACY_KEYS for k in options}
        elif cfg['type'] == 'DumpResults':
            own = set()
        else:
            names = None
        if names is not None:
            names |= {f'{prefix}/{name}' if prefix else name for name in own}
    return names


def _check_f1(metric: Any, key: str, num_classes: Optional[int], problems: Problems) -> None:
    if num_classes is None:
        return
    if metric.class_names is not None and len(metric.class_names) != num_classes:
        problems.add(f'{key}.class_names', f'{len(metric.class_names)} names, and model.cls_head.num_classes is '
                     f'{num_classes}. Give one per class.')
    if max(metric.topk) > num_classes:
        problems.add(f'{key}.topk', f'{tuple(metric.topk)} with {num_classes} classes; a top-{max(metric.topk)} is '
                     f'always right. Use at most {num_classes}.')


def labels_wanted(evaluator: Any) -> bool:
    """Whether what is evaluated compares with labels."""
    return any(not isinstance(cfg, dict) or cfg.get('type') != 'DumpResults' for cfg in metrics_of(evaluator))


def _check_monitor(name: Any, key: str, reported: Set[str], problems: Problems) -> None:
    if name in (None, 'auto'):
        return
    for one in name if isinstance(name, (list, tuple)) else [name]:
        if one not in reported:
            problems.add(key, f'{one!r} is not among what val_evaluator reports: {sorted(reported)[:12]}. Name one of '
                         'them, or change the evaluator.')


def check_hooks(cfg: Any, problems: Problems) -> None:
    """Names and arguments of the hooks. Ours are built, for their values; others may need a Runner for that."""
    entries = [(f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items()]
    entries += [(f'custom_hooks.{i}', hook) for i, hook in enumerate(cfg.get('custom_hooks') or ())]
    for key, hook in entries:
        if hook is None or not isinstance(hook, dict):  # switched off, or an object
            continue
        arguments = {name: value for name, value in hook.items() if name not in ('type', 'priority')}
        cls = find_class(HOOKS, hook, key, problems)
        if getattr(cls, '__module__', '').startswith('tconv_mmaction.'):
            build(HOOKS, dict(arguments, type=hook['type']), key, problems)
        elif isinstance(cls, type) and check_names(cls, hook, key, problems):
            with problems.noted(key, f'{cls.__name__} {inspect.signature(cls)}: '):
                inspect.signature(cls).bind(**arguments)


def check_monitors(cfg: Any, reported: Optional[Set[str]], problems: Problems) -> None:
    """Quantities that checkpoints, early stopping and schedules wait for."""
    if reported is None:
        return
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    _check_monitor(checkpoint.get('save_best'), 'default_hooks.checkpoint.save_best', reported, problems)
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if isinstance(hook, dict) and hook.get('type') == 'EarlyStoppingHook':
            _check_monitor(hook.get('monitor'), f'custom_hooks.{i}.monitor', reported, problems)
    schedulers = cfg.get('param_scheduler') or ()
    for i, entry in enumerate(schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]):
        if isinstance(entry, dict) and 'ReduceOnPlateau' in str(entry.get('type')):
            _check_monitor(entry.get('monitor'), f'param_scheduler.{i}.monitor', reported, problems)
