"""Watch a 3T network learn motion: its temporal parameters, written and drawn while it trains.

Ras et al., arXiv:2006.15983, sec. 3.4 and 4.4. What the numbers and the figures mean stands in
:mod:`tconv_mmaction.interpret.temporal_parameters` and :mod:`tconv_mmaction.interpret.pictures.temporal_figures`.
"""
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from mmaction.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

from ..interpret.parameter_statistics import MODEL_ROW, parameter_statistics
from ..interpret.pictures.figure_files import save_figure
from ..interpret.pictures.temporal_figures import draw_distributions, draw_trajectories
from ..interpret.temporal_parameters import (
    is_sharded,
    kernel_sizes,
    save_parameters,
    temporal_layers,
    temporal_parameters,
)
from ..interpret.temporal_reach import used_steps
from ..interpret.trajectories import filter_trajectory
from ..utils import atomic_write_text
from ..utils.wrappers import unwrap

# what each quantity is called in scalars, and how it is written in the log
SCALARS = dict(scale='scale_minus_1', rotate='rotate', translate_x='translate_x', translate_y='translate_y')
SHOWN = ('scale - 1', 'rotate, radians', 'translate_x, half kernels', 'translate_y, half kernels')


def clip_shape_of(data_batch: Any) -> Optional[Tuple[int, ...]]:
    """(C, T, H, W) of the first clip of a batch of mmaction2: ``inputs`` are (views, C, T, H, W) each, also collated.
    None for any other batch."""
    inputs = data_batch.get('inputs') if isinstance(data_batch, dict) else None
    clip = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else inputs
    return tuple(clip.shape[-4:]) if isinstance(clip, Tensor) and clip.dim() in (5, 6) else None


@HOOKS.register_module()
class TemporalParamsHook(Hook):
    """Records the temporal parameters of all ``Conv3T`` layers every N epochs or iterations, and at the end.

    Files, each written whole or not at all, by the main process only (NAME is ``epoch_5`` or ``iter_500``)::

        <work_dir>/temporal_params/NAME.npz                all parameters; load_parameters reads it
                                   NAME.csv                parameter_statistics, with the columns epoch and iter
                                   NAME_distributions.png  Fig. 4 of the paper
                                   NAME_trajectories.png   Fig. 3

    Scalars: ``temporal/abs_scale_minus_1_mean``, ``temporal/abs_rotate_mean``, ``temporal/abs_translate_x_mean``,
    ``temporal/abs_translate_y_mean``, and ``_std`` of each: the whole model's line of Table 2 (mean and standard
    deviation of |s-1|, |r| in radians, |t_x| and |t_y| in half kernels). They go to the message hub under these names
    and to the visualizer's backends (vis_data/scalars.json, TensorBoard, W&B) at the very iteration, and into the log
    as one line.

    Steps that clips of the training's length make no use of (``temporal_parameters(model, clip_shape=...)``) are in
    none of the numbers and figures, which say how many they are; the npz file has them, with ``LAYER.used``. The length
    is that of the first batch.

    A resumed run writes the same names again from where it resumes, so nothing is there twice and nothing is missing.

    Args:
        interval: epochs or iterations from one record to the next. The end of the training is always recorded.
        by_epoch: count in epochs. An IterBasedTrainLoop has none: there an epoch is one pass over the data loader's
            batches, and the files are named by iterations.
        out_dir: folder for the files instead of ``<work_dir>/temporal_params``.
        figures: draw the two figures too, about a second per record.
        filters: for the trajectories: how many of the filters that move most at that time, or (layer, channel) pairs.

    Raises:
        ValueError, IndexError: before the first iteration for settings that do not fit the model or the loop, and for
            parameters that FSDP has split over the processes; later, on all ranks and naming the layer, if a parameter
            has become NaN or infinite.
    """

    priority = 'NORMAL'  # before LoggerHook, which is to show the numbers of the same iteration

    def __init__(self, interval: int = 1, by_epoch: bool = True, out_dir: Optional[str] = None, figures: bool = True,
                 filters: Union[int, Sequence[Tuple[str, int]]] = 6) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f'TemporalParamsHook: interval must be a positive number of epochs or iterations, got '
                             f'{interval!r}. To record the end only, remove the hook and run '
                             'tools/analysis/temporal_params.py on the checkpoint.')
        if isinstance(filters, int) and filters < 1:
            raise ValueError(f'TemporalParamsHook: filters must be a positive number or (layer, channel) pairs, got '
                             f'{filters!r}. figures=False draws nothing.')
        self.interval = interval
        self.by_epoch = by_epoch
        self.out_dir = out_dir
        self.figures = figures
        self.filters = filters if isinstance(filters, int) else [(layer, channel) for layer, channel in filters]
        self.active = True
        self._recorded_iter: Optional[int] = None
        self._clip_shape: Optional[Tuple[int, ...]] = None
        self._used: Optional[Dict[str, Tensor]] = None
        self._epochs, self._every = by_epoch, interval  # what they mean in the loop at hand

    def before_train(self, runner: Runner) -> None:
        """Check the settings against the model, before hours of training."""
        layers = temporal_layers(runner.model)
        self._recorded_iter = self._clip_shape = self._used = None
        self.active = any(layer.kernel_size[0] > 1 for layer in layers.values())
        if not self.active:
            runner.logger.warning(
                f'TemporalParamsHook: {type(unwrap(runner.model)).__name__} has no Conv3T layer with kT > 1, so there '
                'are no temporal parameters to record; the hook does nothing.')
            return
        if is_sharded(runner.model):
            raise ValueError(
                'TemporalParamsHook: FSDP has split the parameters over the processes, and none has a whole one to '
                'record. Remove the hook (--cfg-options custom_hooks=...), keep the checkpoints '
                '(default_hooks.checkpoint.max_keep_ckpts=-1, state_dict_cfg="full") and run '
                'tools/analysis/temporal_params.py on them; or train with DDP.')
        self._epochs, self._every = self.by_epoch, self.interval
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            self._epochs, self._every = False, self.interval * len(runner.train_dataloader)
            runner.logger.info(
                f'TemporalParamsHook: a loop of iterations has no epochs; interval={self.interval} is taken as passes '
                f'over the data, so a record is made every {self._every} iterations. by_epoch=False counts iterations.')
        if not isinstance(self.filters, int):
            parameters, sizes = temporal_parameters(runner.model), kernel_sizes(runner.model)
            for layer, channel in self.filters:
                if layer not in parameters:
                    raise ValueError(f'TemporalParamsHook: filters names the layer {layer!r}; the Conv3T layers of '
                                     f'this model are {list(parameters)}.')
                filter_trajectory(parameters[layer], channel, sizes[layer])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Look at the size of the first clip."""
        if self._clip_shape is None and self.active:
            self._clip_shape = clip_shape_of(data_batch) or ()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        """Record if an interval ends here. An epoch's end is met here too: after_train_epoch is past LoggerHook."""
        if not self.active:
            return
        if self._epochs:
            if self.every_n_epochs(runner, self._every) and self.end_of_epoch(runner.train_dataloader, batch_idx):
                self._record(runner, runner.epoch + 1, runner.iter + 1)
        elif self.every_n_train_iters(runner, self._every):
            self._record(runner, runner.epoch, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Record the end, unless the last interval ended there. Runs also after an early stop."""
        if self.active and self._recorded_iter != runner.iter:
            self._record(runner, runner.epoch, runner.iter)

    def _mark_used(self, runner: Runner, parameters: dict) -> None:
        """Which steps the clips use, found once: the network does not change."""
        if self._used is None:
            self._used = {}
            if self._clip_shape:
                try:
                    self._used = used_steps(runner.model, self._clip_shape)
                except Exception as error:  # a model of the user's own may take no single clip
                    runner.logger.warning(
                        f'TemporalParamsHook: which steps clips of {self._clip_shape} use could not be found '
                        f'({type(error).__name__}: {error}); all are in the statistics.')
        for layer, values in parameters.items():
            if layer in self._used:
                values['used'] = self._used[layer]

    def _left_out_text(self, statistics) -> str:
        count = int(statistics.loc[MODEL_ROW].get('left_out', 0))
        if not count:
            return ''
        everything = count + int(statistics.loc[MODEL_ROW, 'values'])
        return (f'; without {count} of {everything} steps x filters, whose slices see no frame of clips of '
                f'{self._clip_shape[1]} frames')

    def _record(self, runner: Runner, epoch: int, iteration: int) -> None:
        self._recorded_iter = iteration
        # On all ranks: where the parameters are NaN, every process stops, instead of waiting for the first one.
        parameters = temporal_parameters(runner.model)  # the one copy from the device
        self._mark_used(runner, parameters)
        statistics = parameter_statistics(runner.model, parameters=parameters)
        if not is_main_process():
            return
        scalars = {f'temporal/abs_{name}_{kind}': float(statistics.loc[MODEL_ROW, f'abs_{quantity}_{kind}'])
                   for quantity, name in SCALARS.items() for kind in ('mean', 'std')}
        for name, value in scalars.items():
            runner.message_hub.update_scalar(name, value)  # without the train/ of what LoggerHook prints each time
        runner.visualizer.add_scalars(scalars, step=iteration, file_path=f'{runner.timestamp}.json')

        folder = Path(self.out_dir or Path(runner.work_dir) / 'temporal_params')
        unit, number = ('epoch', epoch) if self._epochs else ('iter', iteration)
        runner.logger.info(f'Temporal parameters of {unit} {number}, mean (standard deviation): ' + ', '.join(
            f'|{shown}| {scalars[f"temporal/abs_{name}_mean"]:.4f} ({scalars[f"temporal/abs_{name}_std"]:.4f})'
            for name, shown in zip(SCALARS.values(), SHOWN)) + self._left_out_text(statistics))
        name = f'{unit}_{number}'
        save_parameters(folder / f'{name}.npz', runner.model, parameters)
        statistics.insert(0, 'iter', iteration)
        if self._epochs:
            statistics.insert(0, 'epoch', epoch)
        atomic_write_text(folder / f'{name}.csv', statistics.to_csv())
        if self.figures:
            sizes = kernel_sizes(runner.model)
            save_figure(draw_distributions({f'{unit} {number}': parameters}), folder / f'{name}_distributions.png')
            save_figure(draw_trajectories(parameters, sizes, self.filters), folder / f'{name}_trajectories.png')
