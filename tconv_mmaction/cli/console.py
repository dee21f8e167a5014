"""What a training or test shows on the console: what one wants to see, while the log file has everything.

MMEngine prints the machine, the whole config and the list of hooks before the first iteration, hundreds of lines. Here
a message of many lines becomes one on the console, and a few that say nothing to a user stay in the log file. A test
has a progress bar where the output is a terminal. ``--verbose`` shows all.
"""
import contextlib
import copy
import functools
import logging
import sys
from typing import Any, Iterator, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.utils import ProgressBar

LONGEST = 8  # lines of a message that is shown as it is
# beginnings of messages that stay in the file: nothing follows from them for a user
_FILE_ONLY = ('Distributed training is not used, all SyncBatchNorm', 'Exp name: ', '"FileClient" will be deprecated',
              '"HardDiskBackend" is the alias')
_TEST_LINE = 'Epoch(test) ['


class BriefConsole(logging.Filter):
    """Of what goes to a console handler, a line per long message; nothing of what is for the file alone.

    Args:
        handler: the console's, which this filter is added to.
        logger: whose file handler is named as the place of the rest.
        bar: whether a progress bar stands for the lines of a test.
    """

    def __init__(self, handler: logging.Handler, logger: logging.Logger, bar: bool = False) -> None:
        super().__init__()
        self.handler, self.logger, self.bar, self.named = handler, logger, bar, False

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith(_FILE_ONLY) or (self.bar and text.startswith(_TEST_LINE) and 'acc' not in text):
            return False
        lines = text.splitlines()
        if record.levelno > logging.INFO or len(lines) <= LONGEST:
            return True
        # the record itself goes on to the file handler, so a copy is shortened
        short = copy.copy(record)
        title = next((line.strip(' :') for line in lines if any(map(str.isalnum, line))), 'A message')
        short.msg, short.args = f'{title}: {len(lines)} lines{self._where()}', None
        self.handler.emit(short)
        return False

    def _where(self) -> str:
        if self.named:
            return ' in the log file'
        self.named = True
        path = next((handler.baseFilename for handler in self.logger.handlers
                     if isinstance(handler, logging.FileHandler)), None)
        return f' in the log file {path} (--verbose shows them here)' if path else ', which --verbose shows'


class ProgressHook(Hook):
    """A progress bar with the time that is left, for the main process of a test."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.bar: Optional[ProgressBar] = None

    def before_test_epoch(self, runner: Any) -> None:
        self.bar = ProgressBar(len(runner.test_dataloader.dataset), file=sys.stdout)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None,
                        outputs: Optional[Sequence] = None) -> None:
        from mmengine.dist import get_world_size
        left = self.bar.task_num - self.bar.completed
        self.bar.update(min(left, len(outputs) * get_world_size()))

    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        sys.stdout.write('\n')


@contextlib.contextmanager
def brief(bar: bool) -> Iterator[None]:
    """Inside, every logger that MMEngine makes has a brief console."""
    original = MMLogger.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for handler in self.handlers:
            if type(handler) is logging.StreamHandler:  # a file handler is one too, of a class of its own
                handler.addFilter(BriefConsole(handler, self, bar))

    MMLogger.__init__ = __init__
    try:
        yield
    finally:
        MMLogger.__init__ = original


def bar_wanted() -> bool:
    """Whether a progress bar can be seen: the output is a terminal and this is the main process."""
    from mmengine.dist import is_main_process
    return sys.stdout.isatty() and is_main_process()
