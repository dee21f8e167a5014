"""A training that was killed and resumed ends as if nobody had touched it, bit for bit, with dropout and random clips.

MMEngine's checkpoints hold no state of the random number generators, and what they could hold would be one process'
state at one moment. Here no state is needed: before each iteration all generators are seeded from (run seed, rank,
iteration), and before each sample is loaded from (run seed, epoch, index) (:mod:`tconv_mmaction.utils.sample_seeds`).
What is drawn is a function of where the training is, so it is the same after a resume, in every process, and whatever
the number of data workers.

Besides, MMEngine forgets: the validation that a run was killed in or before (and with it best score, best checkpoint
and plateau schedulers), the count of EarlyStoppingHook, and the seed of the sampler of a run without a seed. The hook
keeps or makes up for them.
"""
import os
from typing import Any, Dict, List, Optional

import numpy as np
from mmaction.registry import HOOKS
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from ..utils.sample_seeds import seed_generators, seed_samples

KEY = 'exact_resume'
_EPOCH, _ITERATION, _VALIDATION, _SAMPLE = range(4)  # what a seed is for; no two share their draws


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes the random draws of a training a function of its seed and its progress, and resumes all that counts.

    Exact are checkpoints at the end of an epoch (EpochBasedTrainLoop), before, during or after its validation, and at
    any iteration of an IterBasedTrainLoop. Not exact, and said when it happens: a checkpoint in the middle of an epoch
    (the epoch starts over), between two steps of accumulated gradients, another number of processes, batch size or
    length of the data set, and a checkpoint that was written without the hook. Kernels that are not deterministic on a
    GPU stay so; ``--cfg-options randomness.deterministic=True`` is for those.

    Args:
        on_inexact: 'warn' goes on and says what is not exact, 'error' refuses to resume.

    Raises:
        ValueError: before the first iteration, for a data set without indices; on resume with on_inexact='error'.
    """

    priority = 'VERY_HIGH'  # seeds before another hook draws, and knows of a validation before CheckpointHook saves

    def __init__(self, on_inexact: str = 'warn') -> None:
        if on_inexact not in ('warn', 'error'):
            raise ValueError(f"ExactResumeHook: on_inexact must be 'warn' or 'error', got {on_inexact!r}.")
        self.on_inexact = on_inexact
        self._loaded: Optional[dict] = None  # what the checkpoint that was loaded last has under KEY
        self._progress: Dict[str, Any] = {}  # and the epoch and iteration that its message hub was at
        self._metrics: Optional[Dict[str, float]] = None
        self._validated_iter = -1
        self._catch_up: Optional[_CatchUp] = None

    # ---- what goes into a checkpoint, and comes out of it ----

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add plain numbers only, which weights_only loading reads."""
        done = self._validated_iter == checkpoint['meta']['iter']
        loader = runner.train_dataloader
        checkpoint[KEY] = dict(
            version=1, world_size=runner.world_size, batch_size=getattr(loader.batch_sampler, 'batch_size', None),
            samples=len(loader.dataset), sampler_seed=getattr(loader.sampler, 'seed', None),
            metrics=self._metrics if done else None,
            early_stopping=[[hook.wait_count, float(hook.best_score)] for hook in _early_stopping(runner)])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep our part until the training starts; whether this is a resume is known only then."""
        self._loaded = checkpoint.get(KEY, {})
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        self._progress = {name: info[name] for name in ('epoch', 'iter') if name in info}

    # ---- the course of a training ----

    def before_run(self, runner: Runner) -> None:
        """Register the part that has to come after all other hooks."""
        if self._catch_up is None:
            self._catch_up = _CatchUp(self)
            runner.register_hook(self._catch_up, priority='LOWEST')

    def before_train(self, runner: Runner) -> None:
        """Seed the samples, and take up what the checkpoint holds."""
        loop = runner.train_loop
        endless = isinstance(loop, IterBasedTrainLoop)
        if runner.iter > 0:
            self._take_up(runner)
        # An epoch gives each sample to one process. In endless training two may draw for the same one.
        process = runner.rank if endless else 0
        self._sampler = seed_samples(loop.dataloader, (runner.seed, _SAMPLE, process))
        if endless:
            _start_over(loop)

    def before_train_epoch(self, runner: Runner) -> None:
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._sampler.epoch = runner.epoch
        seed_generators(runner.seed, _EPOCH, runner.rank, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_generators(runner.seed, _ITERATION, runner.rank, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        if self._training(runner):
            seed_generators(runner.seed, _VALIDATION, runner.rank, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        if self._training(runner):
            self._validated_iter = runner.iter
            self._metrics = {name: value.item() if isinstance(value, np.generic) else value
                             for name, value in (metrics or {}).items() if isinstance(value, (int, float, np.number))}

    @staticmethod
    def _training(runner: Runner) -> bool:
        return runner._train_loop is not None and not isinstance(runner._train_loop, dict)

    # ---- resuming ----

    def _take_up(self, runner: Runner) -> None:
        state = self._loaded or {}
        inexact = _inexact(runner, state)
        if inexact:
            message = ('ExactResumeHook: the resumed training will not be bit for bit the uninterrupted one: '
                       + '; '.join(inexact) + '.')
            if self.on_inexact == 'error':
                raise ValueError(message + " Resume from another checkpoint, or set on_inexact='warn'.")
            runner.logger.warning(message)
        sampler = runner.train_dataloader.sampler
        if state.get('sampler_seed') is not None and hasattr(sampler, 'seed'):
            sampler.seed = state['sampler_seed']  # the sampler was made before the checkpoint's seed was known
        for hook, (wait_count, best_score) in zip(_early_stopping(runner), state.get('early_stopping', [])):
            hook.wait_count, hook.best_score = wait_count, best_score

    def catch_up(self, runner: Runner) -> None:
        """Make up for the validation that belongs to the checkpoint, if it was not, or not wholly, in it."""
        hub = runner.message_hub
        if runner.iter == 0 or not self._loaded:
            return
        for hook in runner.hooks:  # a resumed CheckpointHook does not know which file to write a new best score into
            if isinstance(hook, CheckpointHook) and hook.last_ckpt is None and 'last_ckpt' in hub.runtime_info:
                name = os.path.basename(hub.get_info('last_ckpt'))
                hook.last_ckpt = hook.file_backend.join_path(hook.out_dir, name)
        if not _validation_is_due(runner):
            return
        # The message hub counts what has begun, and a resumed RuntimeInfoHook has moved it on to what begins next. The
        # best checkpoint of this validation holds the hub, so it is set back to where the validation belongs; the next
        # epoch and iteration set it anew.
        for name, value in self._progress.items():
            hub.update_info(name, value)
        metrics = self._loaded.get('metrics')
        if metrics is None:
            runner.logger.info(f'ExactResumeHook: the checkpoint of epoch {runner.epoch}, iteration {runner.iter}, is '
                               'from before its validation, which is done now.')
            runner.val_loop.run()
            return
        # CheckpointHook wrote it in the middle of after_val_epoch: the hooks after it have not seen this validation
        self._validated_iter, self._metrics = runner.iter, metrics
        last = max(place for place, hook in enumerate(runner.hooks) if isinstance(hook, CheckpointHook))
        for hook in runner.hooks[last + 1:]:
            hook.after_val_epoch(runner, metrics=dict(metrics))


class _CatchUp(Hook):
    """Calls :meth:`ExactResumeHook.catch_up` when every other hook is ready for a validation."""

    def __init__(self, owner: ExactResumeHook) -> None:
        self.owner = owner

    def before_train(self, runner: Runner) -> None:
        self.owner.catch_up(runner)


def _early_stopping(runner: Runner) -> List[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _in_epoch(runner: Runner) -> int:
    """Iterations done of an epoch that is not finished."""
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return 0
    return runner.iter - runner.epoch * len(runner.train_dataloader)


def _validation_is_due(runner: Runner) -> bool:
    """Whether the training loop validates where this checkpoint was written."""
    loop = runner.train_loop
    if runner.val_loop is None or _in_epoch(runner):
        return False
    loop._decide_current_val_interval()  # a resumed loop does that one epoch too late
    endless = isinstance(loop, IterBasedTrainLoop)
    now, end = (runner.iter, loop.max_iters) if endless else (runner.epoch, loop.max_epochs)
    return now >= loop.val_begin and (now % loop.val_interval == 0 or now == end)


def _inexact(runner: Runner, state: dict) -> List[str]:
    """What keeps a resume from being exact, in words."""
    if not state:
        return ['the checkpoint was written without ExactResumeHook']
    found = []
    loader = runner.train_dataloader
    now = dict(world_size=runner.world_size, batch_size=getattr(loader.batch_sampler, 'batch_size', None),
               samples=len(loader.dataset))
    for name, value in now.items():
        if state.get(name) != value:
            found.append(f'{name} was {state.get(name)} and is {value}')
    done = _in_epoch(runner)
    if done:
        found.append(f'the checkpoint is from iteration {runner.iter}, {done} of {len(loader)} iterations into epoch '
                     f'{runner.epoch + 1}, and MMEngine starts that epoch over (CheckpointHook(by_epoch=True) saves at '
                     'the end of epochs)')
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if runner.iter % counts:
        found.append(f'the gradients of {runner.iter % counts} of {counts} accumulated iterations are not in it')
    return found


def _start_over(loop: IterBasedTrainLoop) -> None:
    """A new pass over the data for a loop that began one when it was built, before its samples could be seeded."""
    loader = loop.dataloader
    kind = type(loop.dataloader_iterator)
    loop.dataloader_iterator = None
    if loader._iterator is not None:  # persistent workers have a copy of the dataset as it was
        loader._iterator._shutdown_workers()
        loader._iterator = None
    if hasattr(loader.sampler, '_indices_of_rank'):  # InfiniteSampler goes on where it was, in every pass
        loader.sampler.indices = loader.sampler._indices_of_rank()
    loop.dataloader_iterator = kind(loader)
