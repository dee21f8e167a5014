"""torch.compile at work in the first step: say so, and for how long, instead of minutes of silence.

``compile=True`` in a config makes MMEngine compile ``train_step``. The first call then traces the network, writes
kernels and compiles them, on the CPU with a C++ compiler; nothing is logged meanwhile, which looks like a hang.
"""
import threading
import time
from typing import Any, Optional

from mmaction.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner


@HOOKS.register_module()
class CompileProgressHook(Hook):
    """Logs that the first step compiles, every ``interval`` seconds that it still does, and how long it took.

    Does nothing without ``compile=True`` (or a dict) in the config. Our configs have it:
    ``default_hooks=dict(compile_progress=dict(type='CompileProgressHook'))``.

    Args:
        interval: seconds from one message to the next.

    Raises:
        ValueError: if interval is not positive.

    Example:
        >>> CompileProgressHook(interval=60).interval
        60
    """

    priority = 'VERY_LOW'  # the last before the step and the last after it

    def __init__(self, interval: float = 30) -> None:
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < float('inf'):
            raise ValueError(f'CompileProgressHook: interval must be a positive number of seconds, got {interval!r}.')
        self.interval = interval
        self._ended: Optional[threading.Event] = None
        self._speaking = threading.Lock()
        self._started = 0.
        self._done = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin to count, before the first step of this process only."""
        option = runner.cfg.get('compile', False)
        if self._done or not option or isinstance(option, dict) and option.get('disable', False):
            return
        self._done = True
        self._started = time.monotonic()
        self._ended = ended = threading.Event()
        runner.logger.info('torch.compile is at work: the first step traces the network and compiles its kernels, '
                           'which can take minutes (docs/recipes.md). compile=False goes without.')

        def speak() -> None:
            while not ended.wait(self.interval):
                with self._speaking:  # so that it says nothing behind the last line
                    if not ended.is_set():
                        seconds = time.monotonic() - self._started
                        runner.logger.info(f'torch.compile is still at work, after {seconds:.0f} s.')

        threading.Thread(target=speak, name='compile_progress', daemon=True).start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Say how long it was."""
        if self._ended is not None:
            self._stop()
            runner.logger.info(f'The first step took {time.monotonic() - self._started:.1f} s with its compilation; '
                               'the next ones are without, as long as no shape changes.')

    def after_run(self, runner: Runner) -> None:
        """Nothing speaks once the run is over, however it ended."""
        self._stop()

    def _stop(self) -> None:
        if self._ended is not None:
            with self._speaking:
                self._ended.set()
            self._ended = None
