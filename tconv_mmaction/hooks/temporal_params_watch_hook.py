"""Say when temporal parameters of a 3T network leave the range in which they mean something.

Ras et al., arXiv:2006.15983, eq. 3. A filter whose shift is larger than its kernel, or whose zoom leaves one pixel of
it, is zero or constant in every slice but the first, and its parameters get no gradient that would bring them back. The
loss hardly shows that: the network goes on with fewer filters. What the parameters mean stands in
:mod:`tconv_mmaction.interpret.temporal_parameters`.
"""
import csv
import io
import math
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmaction.registry import HOOKS
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from ..interpret.temporal_parameters import closest_similarity, is_sharded, temporal_layers
from ..layers import TEMPORAL_PARAMETERS, Conv3T
from ..utils.atomic import atomic_write_text
from ..utils.text_files import read_text
from ..utils.wrappers import unwrap
from .ragged_rows import RaggedRows

COLUMNS = ('run', 'iteration', 'epoch', 'layer', 'parameter', 'kind', 'step', 'filter', 'value', 'low', 'high', 'count')
NOT_MEASURED = -1.


class TemporalParamsError(FloatingPointError):
    """The run was stopped because temporal parameters left their range; the message names the first of them."""


class Event(NamedTuple):
    """One thing that was found; ``step`` and ``filter`` are None if it is on another rank only."""
    layer: str
    parameter: str
    kind: str  # 'not finite', 'range' or 'gradient'
    step: Optional[int]
    filter: Optional[int]
    value: float
    low: Optional[float]
    high: Optional[float]
    count: int  # values of the parameter that are outside; filters, for a gradient

    def __str__(self) -> str:
        where = 'on another rank' if self.filter is None else f'at filter {self.filter}' + (
            '' if self.step is None else f', step {self.step}')
        if self.kind == 'gradient':
            return (f"the gradient of {self.parameter} in layer '{self.layer}' has norm {self.value:.6g}, above the "
                    f'limit {self.high:g}, most of it {where}')
        what = 'is not finite' if self.kind == 'not finite' else f'is out of its range [{self.low:g}, {self.high:g}]'
        return (f"{self.parameter} in layer '{self.layer}' {what}: {self.value:.6g} {where}; {self.count} such "
                'value(s)')


def _similarity(theta: Tensor) -> Dict[str, Tensor]:
    """A free transform read as its closest similarity; a pure mirroring has scale 0 there and no translation: 0."""
    values, _ = closest_similarity(theta)
    mirrored = values['scale'] == 0
    for name in ('translate_x', 'translate_y'):
        values[name] = torch.where(mirrored, 0., values[name])
    return values


def watched_values(layer: Conv3T) -> Dict[str, Tensor]:
    """Scale, rotation and translations ``(kT-1, O)`` of a layer in float32, on its device."""
    if layer.transform == 'affine':
        return {name: getattr(layer, name).detach().float() for name in TEMPORAL_PARAMETERS}
    return _similarity(layer.theta.detach().float())


def _limits(name: str, value: Optional[Sequence[float]]) -> Tuple[float, float]:
    if value is None:
        return -math.inf, math.inf
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise ValueError(f'TemporalParamsWatchHook: {name} must be (smallest, largest), or None for any finite value, '
                         f'got {value!r}.')
    return low, high


@HOOKS.register_module()
class TemporalParamsWatchHook(Hook):
    """Checks the temporal parameters of all ``Conv3T`` layers every N iterations, and before and after the training.

    Three kinds of event, each said once per parameter and run, with the layer, the filter, the value and the limit: a
    value that is NaN or infinite, a value out of its range, and a gradient whose norm is above a limit. They are also
    rows of ``<work_dir>/temporal_params_watch.csv``, to which later runs in the folder append.

    The gradient is the one that the optimizer steps with, in the iteration of the check or the next that makes a step:
    summed over accumulated iterations, averaged over ranks, divided by the loss scale, and after ``clip_grad`` (with
    clipping on, a limit above its ``max_norm`` is never met). A step that a loss scaler leaves out because of an
    overflow is not looked at: that is the scaler's business and no fault.

    A check reads all layers on their device, together, and copies one small tensor to the CPU, the only time that the
    host waits for the device; between checks nothing is read.
    With several processes the worst value of all counts, so all stop at the same iteration, and the main process alone
    writes. A model without ``Conv3T`` layers of several frames is left alone, as is one that FSDP shards; the log says
    so.

    Args:
        interval: iterations between checks.
        scale: smallest and largest s. At 4, a 3x3 kernel reads 4 pixels from its centre; below 0 it is mirrored.
        rotate: smallest and largest r, radians.
        translate: smallest and largest t_x and t_y, in halves of the kernel; from 1 + 2 / (k - 1) on, k its side, not
            a pixel of the kernel is left.
        grad_norm: largest norm of the gradient of one parameter of one layer; None: gradients are not looked at.
        on_violation: 'log' writes it down and goes on. 'stop' also saves
            ``<work_dir>/temporal_params_stop_iter_N.pth`` and raises TemporalParamsError. The checkpoint is for a look
            at what happened; ``--resume`` still takes the last regular one.

    Raises:
        ValueError: for settings that are out of range, or a csv file of another kind in the place of ours.
        TemporalParamsError: with ``on_violation='stop'``, on all ranks.
    """

    priority = 'ABOVE_NORMAL'  # before CheckInvalidLossHook and TemporalParamsHook, which stop without a checkpoint

    def __init__(self, interval: int = 50, scale: Optional[Sequence[float]] = (0.1, 4.),
                 rotate: Optional[Sequence[float]] = (-math.pi, math.pi),
                 translate: Optional[Sequence[float]] = (-2., 2.), grad_norm: Optional[float] = 1000.,
                 on_violation: str = 'log') -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise ValueError(f'TemporalParamsWatchHook: interval must be a positive number of iterations, got '
                             f'{interval!r}.')
        if grad_norm is not None and (isinstance(grad_norm, bool) or not isinstance(grad_norm, (int, float))
                                      or not grad_norm > 0):
            raise ValueError(f'TemporalParamsWatchHook: grad_norm must be a positive number or None, got '
                             f'{grad_norm!r}.')
        if on_violation not in ('log', 'stop'):
            raise ValueError(f"TemporalParamsWatchHook: on_violation must be 'log' or 'stop', got {on_violation!r}.")
        translations = _limits('translate', translate)
        self.limits = dict(scale=_limits('scale', scale), rotate=_limits('rotate', rotate), translate_x=translations,
                           translate_y=translations)
        self.interval, self.grad_norm, self.on_violation = interval, grad_norm, on_violation
        self._layers: Dict[str, Conv3T] = {}
        self._handles: list = []
        self._forget()

    def _forget(self) -> None:
        self._told: set = set()
        self._gradients: Dict[int, Tuple[dict, Tensor]] = {}  # of the last step looked at: shapes, all end to end
        self._layouts: dict = {}
        self._gradients_due = False
        self._checked_iter: Optional[int] = None
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and look at what they start with: a checkpoint may be out of range already."""
        self._forget()
        self._layers = {name: layer for name, layer in temporal_layers(runner.model).items()
                        if layer.kernel_size[0] > 1}
        if not self._layers:
            runner.logger.info(f'TemporalParamsWatchHook: {type(unwrap(runner.model)).__name__} has no Conv3T layer '
                               'with kT > 1, so there is nothing to watch.')
            return
        if is_sharded(runner.model):
            runner.logger.warning('TemporalParamsWatchHook: the parameters are sharded over the processes (FSDP), and '
                                  'no process has a whole one to look at; the hook does nothing.')
            self._layers = {}
            return
        self._path = Path(runner.work_dir) / 'temporal_params_watch.csv'
        self._written = read_text(self._path) if self._path.is_file() else ','.join(COLUMNS) + '\n'
        if self._written.split('\n', 1)[0] != ','.join(COLUMNS):
            raise ValueError(f'{self._path} is not a file that TemporalParamsWatchHook wrote. Move it away.')
        if self.grad_norm is not None:
            self._watch_steps(runner)
        self._check(runner, runner.iter, save=False)

    def _watch_steps(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        for one in wrappers:
            optimizer = one.optimizer
            if not hasattr(optimizer, 'register_step_pre_hook'):
                runner.logger.warning(f'TemporalParamsWatchHook: {type(optimizer).__name__} has no '
                                      'register_step_pre_hook, so gradients are not watched.')
                continue
            own = {id(p) for group in optimizer.param_groups for p in group['params']}
            parameters = {(name, key): parameter for name, layer in self._layers.items()
                          for key, parameter in layer.named_parameters()
                          if key in (*TEMPORAL_PARAMETERS, 'theta') and id(parameter) in own}
            self._handles.append(optimizer.register_step_pre_hook(
                lambda optimizer, args, kwargs, parameters=parameters: self._before_step(optimizer, parameters)))

    @torch.no_grad()
    def _before_step(self, optimizer, parameters: Dict[Tuple[str, str], Tensor]) -> None:
        """Keep a copy of a step's gradients on the device, end to end."""
        if not self._gradients_due:
            return
        gradients = {key: p.grad.detach() for key, p in parameters.items() if p.grad is not None}
        if not gradients:
            return
        together = torch.cat([gradient.flatten() for gradient in gradients.values()]).float()
        # A fused optimizer unscales inside its step, and leaves an overflow out there.
        scale, overflow = getattr(optimizer, 'grad_scale', None), getattr(optimizer, 'found_inf', None)
        together = together if scale is None else together / scale
        together = together if overflow is None else torch.where(overflow > 0, 0., together)
        self._gradients[id(optimizer)] = {key: g.shape for key, g in gradients.items()}, together

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """From here to the check, the gradients of steps are kept."""
        if self._layers and self.every_n_train_iters(runner, self.interval):
            self._gradients_due = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        """Check if an interval ends here."""
        if self._layers and self.every_n_train_iters(runner, self.interval):
            self._check(runner, runner.iter + 1)
        elif self._gradients_due and self._gradients:  # the step of accumulated iterations came after the check
            self._check(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Check what the training ends with, and let go of the optimizer."""
        if self._layers and self._checked_iter != runner.iter:
            self._check(runner, runner.iter)
        self._forget()

    @torch.no_grad()
    def _check(self, runner: Runner, iteration: int, save: bool = True) -> None:
        self._checked_iter = iteration
        report, keys = self._report()
        if get_world_size() > 1:
            all_reduce(report, 'max')
        events = self._events(report.tolist(), keys)  # the one copy from the device
        if self._gradients:
            self._gradients, self._gradients_due = {}, False
        new = [event for event in events if (event.layer, event.parameter, event.kind) not in self._told]
        if not new:
            return
        self._told.update((event.layer, event.parameter, event.kind) for event in new)
        if is_main_process():
            for event in new:
                runner.logger.warning(f'TemporalParamsWatchHook: iteration {iteration}: {event}. It is said once; all '
                                      f'events are in {self._path}.')
            self._append(runner, iteration, new)
        if self.on_violation == 'stop':
            self._stop(runner, iteration, new, save)

    def _values(self) -> Tuple[Tensor, List[Tuple[str, str]], List[int]]:
        """All watched values end to end in float32, and the layer, the name and the size of each stretch."""
        values, keys, sizes = [], [], []
        free = {name: layer.theta.detach() for name, layer in self._layers.items() if layer.transform == 'free'}
        for name, layer in self._layers.items():
            for key, value in layer.named_parameters(recurse=False):
                if key in TEMPORAL_PARAMETERS and name not in free:
                    values.append(value.detach().flatten())
                    keys.append((name, key))
                    sizes.append(value.numel())
        if free:
            theta = torch.cat([value.flatten(0, 1) for value in free.values()]).float()
            for key, value in (*_similarity(theta).items(), ('theta', theta)):
                values.append(value.flatten())
                keys += [(name, key) for name in free]
                sizes += [part.numel() // (1 if key == 'theta' else 6) for part in free.values()]
        return torch.cat(values).float(), keys, sizes

    def _kept(self, *key, make: Callable):
        """What is laid out for these rows: made once, as a copy from the host would hold up every check."""
        if key not in self._layouts:
            self._layouts[key] = make()
        return self._layouts[key]

    def _report(self) -> Tuple[Tensor, List[Tuple[str, str]]]:
        """One row per layer and parameter: -min, max, whether a value is not finite, norm of the gradient; no NaN."""
        values, keys, sizes = self._values()
        device = values.device
        low, high = self._kept('values', device, make=lambda: RaggedRows(sizes, device)).extremes(values)
        bad = ~torch.isfinite(torch.stack((low, high))).all(0)
        measured, norms = [], []
        for shapes, together in self._gradients.values():
            lengths = [shape.numel() for shape in shapes.values()]
            rows = self._kept('gradients', device, *shapes, make=lambda: RaggedRows(lengths, device))  # noqa: B023
            measured += shapes
            norms.append(rows.norms(together))
        places = self._kept('places', device, *measured, make=lambda: torch.tensor(
            [measured.index(key) if key in measured else len(measured) for key in keys]).to(device))
        norm = torch.cat([*norms, low.new_full((1,), NOT_MEASURED)])[places]
        report = torch.stack((-low, high, bad.to(low), torch.nan_to_num(norm, math.inf, math.inf)), dim=1)
        return torch.nan_to_num(report, 0., math.inf, -math.inf), keys

    def _gradient(self, key: Tuple[str, str]) -> Optional[Tensor]:
        """A parameter's gradient as the optimizer got it; None where this process has none."""
        for shapes, together in self._gradients.values():
            if key in shapes:
                parts = together.split([shape.numel() for shape in shapes.values()])
                return parts[list(shapes).index(key)].view(shapes[key])
        return None

    def _events(self, report: List[List[float]], keys: List[Tuple[str, str]]) -> List[Event]:
        events = []
        for (name, key), (minus_low, largest, bad, norm) in zip(keys, report):
            low, high = self.limits.get(key, (-math.inf, math.inf))  # theta: finite, and its gradient
            if bad or -minus_low < low or largest > high:
                events.append(self._locate(name, key, bool(bad), low, high, -minus_low, largest))
            if self.grad_norm is not None and norm > self.grad_norm:
                gradient, worst, value, count = self._gradient((name, key)), None, norm, 0
                if gradient is not None:
                    norms = gradient.transpose(0, 1).flatten(1).norm(dim=1)  # O
                    worst = int(torch.where(torch.isnan(norms), math.inf, norms).argmax())
                    value, count = float(norms.norm()), int((~(norms <= self.grad_norm)).sum())
                events.append(Event(name, key, 'gradient', None, worst, value, None, self.grad_norm, count))
        order = list(self._layers)
        return sorted(events, key=lambda event: order.index(event.layer))

    def _locate(self, name: str, key: str, bad: bool, low: float, high: float, smallest: float,
                largest: float) -> Event:
        """The first value that is not finite, or the one furthest out of its range."""
        layer = self._layers[name]
        values = (layer.theta.detach() if key == 'theta' else watched_values(layer)[key]).float().cpu()
        beyond = (~torch.isfinite(values)).float() if bad else torch.maximum(low - values, values - high)
        outside = beyond > 0
        kind = 'not finite' if bad else 'range'
        limits = (None, None) if bad else (low, high)
        if not outside.any():
            value = math.nan if bad else (smallest if smallest < low else largest)
            return Event(name, key, kind, None, None, value, *limits, 0)
        index = torch.unravel_index(beyond.argmax(), beyond.shape)
        return Event(name, key, kind, int(index[0]), int(index[1]), float(values[index]), *limits, int(outside.sum()))

    def _append(self, runner: Runner, iteration: int, events: List[Event]) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator='\n')
        for event in events:
            cells = {**event._asdict(), 'run': runner.timestamp, 'iteration': iteration, 'epoch': runner.epoch}
            writer.writerow(['' if cells[column] is None else cells[column] for column in COLUMNS])
        self._written += buffer.getvalue()
        atomic_write_text(self._path, self._written)

    def _stop(self, runner: Runner, iteration: int, events: List[Event], save: bool) -> None:
        what = f'{events[0]}' + (f', and {len(events) - 1} more event(s) in {self._path}' if len(events) > 1 else '')
        if save:
            filename = f'temporal_params_stop_iter_{iteration}.pth'
            runner.save_checkpoint(runner.work_dir, filename, meta=dict(epoch=runner.epoch, iter=iteration))
            barrier()  # a launcher ends all processes when one raises: not before the file is written
            what += f'. The state is in {Path(runner.work_dir) / filename}'
        raise TemporalParamsError(
            f'iteration {iteration}: {what}. The temporal parameters have diverged. Use a lower learning rate for them '
            '(paramwise_cfg in docs/configs.md) or clip gradients (optim_wrapper.clip_grad), and go on from an earlier '
            "checkpoint; or widen the limits of TemporalParamsWatchHook, or set on_violation='log'.")
