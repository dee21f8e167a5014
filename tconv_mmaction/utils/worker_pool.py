"""Work on many files in processes of their own, where a file may crash or hang the library that reads it.

A process that dies or does not answer in time is one failed task; another takes its place and the rest goes on.
"""
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple


class Failure(NamedTuple):
    """What stands for the result of a task whose process was lost: ``kind`` is 'crash' or 'timeout'."""
    kind: str
    reason: str


def _work(connection: Any, start: Callable[[], Callable], timeout: float) -> None:
    """A worker: tasks in, results out, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # FFmpeg's remarks on damaged files
    parent, function = os.getppid(), start()
    while True:
        try:
            while not connection.poll(1):
                if os.getppid() != parent:  # it was killed; forked processes hold its end of the pipe open
                    return
            task = connection.recv()
        except EOFError:
            return
        if hasattr(signal, 'alarm'):
            signal.alarm(int(timeout) + 10)  # ends a hanging decoder also when the parent was killed
        connection.send(function(task))


class _Worker:
    """A process that does one task at a time."""

    def __init__(self, context: Any, start: Callable[[], Callable], timeout: float) -> None:
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, start, timeout), daemon=True)
        self.process.start()
        other.close()  # so that the end of the process ends the pipe
        self.name: Optional[str] = None
        self.timeout, self.deadline = timeout, 0.

    def give(self, name: str, task: Any) -> None:
        self.name, self.deadline = name, time.monotonic() + self.timeout
        self.connection.send(task)

    def result(self, answered: List[Any]) -> Any:
        """What came back, a Failure, or None while there is nothing yet."""
        if self.connection in answered:
            try:
                return self.connection.recv()
            except (EOFError, ConnectionResetError):
                self.process.join()
                code = self.process.exitcode
                how = signal.Signals(-code).name if code < 0 else f'exit code {code}'
                return Failure('crash', f'the decoder crashed ({how})')
        if time.monotonic() >= self.deadline:
            return Failure('timeout', f'not decoded within {self.timeout:g} s')
        return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def each(tasks: Dict[str, Any], start: Callable[[], Callable], workers: int,
         timeout: float) -> Iterator[Tuple[str, Any]]:
    """(name, result or Failure) of every task, in the order in which they are done.

    Args:
        tasks: by name.
        start: called once in every process; gives the function of a task that the process calls from then on. Its
            results must not be None.
        workers: how many processes.
        timeout: seconds for one task.
    """
    # Forking costs nothing; elsewhere libraries do not bear it.
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    queue, pool = list(tasks.items())[::-1], []
    try:
        pool = [_Worker(context, start, timeout) for _ in range(min(workers, len(queue)))]
        while queue or any(worker.name is not None for worker in pool):
            for worker in pool:
                if worker.name is None and queue:
                    worker.give(*queue.pop())
            busy = [worker for worker in pool if worker.name is not None]
            left = min(worker.deadline for worker in busy) - time.monotonic()
            answered = wait([worker.connection for worker in busy], timeout=max(left, 0))
            for worker in busy:
                result = worker.result(answered)
                if result is None:
                    continue
                name, worker.name = worker.name, None
                if isinstance(result, Failure):
                    worker.stop()
                    pool[pool.index(worker)] = _Worker(context, start, timeout)
                yield name, result
    finally:
        for worker in pool:
            worker.stop()
