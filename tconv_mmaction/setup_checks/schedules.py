"""Schedules of the learning rate against the length of the run: what ends too early, too late, or never begins.

MMEngine counts ``T_max``, ``milestones``, ``begin`` and ``end`` for themselves: with another ``max_epochs`` a cosine
stops half way or rises again, and milestones are never reached, without a word.
"""
import math
from typing import Any, List, NamedTuple, Optional, Tuple

from mmengine.registry import PARAM_SCHEDULERS

from .problems import Problems, build, find_class


class RunLength(NamedTuple):
    """How long the training is; None where it is not known."""
    by_epoch: bool
    epochs: Optional[int]
    iterations: Optional[int]
    per_epoch: Optional[int]


def run_length(train_cfg: Any, per_epoch: Optional[int]) -> RunLength:
    """From ``train_cfg`` and the number of batches of an epoch."""
    cfg = train_cfg if isinstance(train_cfg, dict) else {}
    epochs, iterations = (value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
                          for value in (cfg.get('max_epochs'), cfg.get('max_iters')))
    by_epoch = cfg.get('by_epoch', 'IterBased' not in str(cfg.get('type', '')))
    if by_epoch:
        iterations = epochs * per_epoch if epochs and per_epoch else None
    return RunLength(by_epoch, epochs, iterations, per_epoch)


def entries_of(schedulers: Any) -> List[Tuple[str, Any]]:
    """(key, config) of every schedule."""
    listed = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers] if schedulers else []
    return [(f'param_scheduler.{i}', entry) for i, entry in enumerate(listed)]


def check_schedules(schedulers: Any, wrapper: Any, length: RunLength, problems: Problems) -> None:
    """Names and arguments, by building each; ``wrapper`` is the OptimWrapper, None if it could not be built."""
    for key, entry in entries_of(schedulers):
        if find_class(PARAM_SCHEDULERS, entry, key, problems) is None:
            continue
        begin, end = entry.get('begin', 0), entry.get('end')
        if end is not None and begin >= end:
            problems.add(f'{key}.end', f'{end} must be greater than begin={begin}.')
            continue
        plain = {name: value for name, value in entry.items() if name != 'convert_to_iter_based'}
        total = length.epochs if entry.get('by_epoch', True) else length.iterations
        if total is not None and total > begin:  # as the Runner does
            plain.setdefault('end', total)
        if wrapper is not None:
            build(PARAM_SCHEDULERS, plain, key, problems, optimizer=wrapper)
        _check_units(key, entry, length, problems)


def _check_units(key: str, entry: dict, length: RunLength, problems: Problems) -> None:
    """What is counted in epochs, in iterations, and how many of them there are."""
    if 'ReduceOnPlateau' in str(entry['type']):
        return
    by_epoch, converted = entry.get('by_epoch', True), bool(entry.get('convert_to_iter_based'))
    if by_epoch and not length.by_epoch and not converted:
        problems.warn(key, f'{entry["type"]} counts epochs, and a loop of iterations has none: the learning rate would '
                      'stay what it is. Set by_epoch=False and give T_max, milestones, begin and end in iterations.')
        return
    total = length.epochs if by_epoch else length.iterations
    if by_epoch and converted and total is None and length.iterations and length.per_epoch:
        total = math.ceil(length.iterations / length.per_epoch)
    if total is None:
        return
    unit = 'epochs' if by_epoch else 'iterations'
    run = f'the run has {total} {unit} ({"train_cfg.max_epochs" if length.by_epoch else "train_cfg.max_iters"})'
    begin, end = entry.get('begin', 0), entry.get('end')
    if begin >= total:
        problems.warn(f'{key}.begin', f'{begin}, and {run}: {entry["type"]} never begins. Take it out, or begin '
                      'earlier.')
    elif end is not None and end > total:
        problems.warn(f'{key}.end', f'{end}, and {run}: {entry["type"]} is cut off before it has done its part. Leave '
                      f'end out (it is then that of the run), or set at most {total}.')
    else:
        _check_shape(key, entry, min(end or total, total) - begin, total, unit, run, problems)


def _check_shape(key: str, entry: dict, steps: int, total: int, unit: str, run: str, problems: Problems) -> None:
    """The quantities that one kind of schedule has beside begin and end."""
    kind, period = str(entry['type']), entry.get('T_max')
    if 'CosineAnnealing' in kind and isinstance(period, int) and period > 0 and abs(period - steps) > 1:
        ratio = (1 + math.cos(math.pi * (steps - 1) / period)) / 2
        what = (f'the last learning rate would still be {ratio:.2f} of the first' if period > steps else
                f'the learning rate would rise again after {period} {unit}')
        problems.warn(f'{key}.T_max', f'{period}, and {run}: {what} (eta_min aside). Leave T_max out: the cosine then '
                      f'ends with the run, whatever its length; or set T_max={steps}.')
    late = [m for m in entry.get('milestones') or () if isinstance(m, int) and m >= total]
    if late:
        problems.warn(f'{key}.milestones', f'{late} of {list(entry["milestones"])} are not before the end, {run}: the '
                      'learning rate never falls there. Give milestones in proportion to the run.')
    size = entry.get('step_size')
    if isinstance(size, int) and size >= steps:
        problems.warn(f'{key}.step_size', f'{size}, and {run}: the learning rate never falls. Use a smaller step_size.')
    steps_given = entry.get('total_steps')
    if isinstance(steps_given, int) and steps_given < steps:
        problems.add(f'{key}.total_steps', f'{steps_given}, and {run}: {kind} raises an error after its last step. Set '
                     f'total_steps={steps}.')
    elif isinstance(steps_given, int) and steps_given > steps:
        problems.warn(f'{key}.total_steps', f'{steps_given}, and {run}: the cycle is cut off. Set total_steps={steps}.')


def check_counting(cfg: Any, length: RunLength, problems: Problems) -> None:
    """Checkpoints and validations that are counted in what the loop does not have, or begin after its end."""
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    checkpoint = checkpoint if isinstance(checkpoint, dict) else {}
    key, interval = 'default_hooks.checkpoint', checkpoint.get('interval', -1)
    by_epoch = checkpoint.get('by_epoch', True)
    if checkpoint and by_epoch and not length.by_epoch:
        problems.warn(f'{key}.by_epoch', 'True counts epochs, and a loop of iterations has one: there would be a '
                      'single checkpoint, at its end. Set by_epoch=False and the interval in iterations.')
    elif checkpoint and not by_epoch and length.by_epoch and isinstance(interval, int) and 0 < interval < 10:
        problems.warn(f'{key}.interval', f'{interval} with by_epoch=False writes a checkpoint every {interval} '
                      'iteration(s). Leave by_epoch out to count epochs.')
    total = length.epochs if length.by_epoch else length.iterations
    if checkpoint and by_epoch == length.by_epoch and total is not None and not checkpoint.get('save_last', True) and (
            isinstance(interval, int) and interval > total):  # -1 is how to ask for none
        problems.add(f'{key}.interval', f'{interval} with save_last=False, and the run has {total} '
                     f'{"epochs" if by_epoch else "iterations"}: no checkpoint would be written. Set a smaller one.')
    loop = cfg.get('train_cfg')
    start = loop.get('val_begin') if isinstance(loop, dict) else None
    if isinstance(start, int) and total is not None and start > total and cfg.get('val_dataloader') is not None:
        problems.warn('train_cfg.val_begin', f'{start}, and the run has {total} '
                      f'{"epochs" if length.by_epoch else "iterations"}: it would never be validated. Begin earlier, '
                      'or take val_dataloader, val_cfg and val_evaluator out.')
    if checkpoint.get('save_best') not in (None, 'auto') and cfg.get('val_dataloader') is None:
        problems.warn(f'{key}.save_best', f'{checkpoint["save_best"]!r}, and there is no val_dataloader: no best '
                      'checkpoint would be kept. Add a validation, or set save_best=None.')
    processor = cfg.get('log_processor')
    if isinstance(processor, dict) and bool(processor.get('by_epoch', True)) != length.by_epoch:
        problems.warn('log_processor.by_epoch', f'{processor.get("by_epoch", True)}, and train_cfg is a loop of '
                      f'{"epochs" if length.by_epoch else "iterations"}: the log would name the wrong ones. Set '
                      f'log_processor.by_epoch={length.by_epoch}.')
