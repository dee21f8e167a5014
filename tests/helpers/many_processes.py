"""Several ranks of one job over gloo, forked from the process of the tests: nothing is imported twice."""
import multiprocessing
import os
import socket
import sys
import time
import traceback
from pathlib import Path

import torch


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _rank(work, rank, processes, port, folder, arguments):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)  # a fork does not inherit OpenMP's threads, and a parallel region would wait for them
    with open(folder / f'rank{rank}.log', 'w', buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            torch.save(work(*arguments), folder / f'rank{rank}.result')
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
        except BaseException:
            traceback.print_exc(file=log)
            log.flush()
            os._exit(1)


def run_ranks(work, processes, folder, *arguments, timeout=240, check=True, wait_for=None):
    """What ``work(*arguments)`` returns in each of so many ranks; with ``check=False`` (exit codes, logs, seconds).

    ``wait_for`` names the ranks that have to end by themselves, all of them if it is None; the others are killed then.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    context, port, start = multiprocessing.get_context('fork'), free_port(), time.monotonic()
    ranks = [context.Process(target=_rank, args=(work, rank, processes, port, folder, arguments))
             for rank in range(processes)]
    for process in ranks:
        process.start()
    awaited = ranks if wait_for is None else [ranks[rank] for rank in wait_for]
    try:
        for process in awaited:
            process.join(max(0.1, timeout - (time.monotonic() - start)))
        seconds, hung = time.monotonic() - start, [process for process in awaited if process.is_alive()]
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
            process.join()
    codes = [process.exitcode for process in ranks]
    logs = [(folder / f'rank{rank}.log').read_text() for rank in range(processes)]
    if hung:
        raise AssertionError(f'{len(hung)} of {processes} ranks did not end within {timeout} s; exit codes {codes}\n'
                             + '\n'.join(log[-3000:] for log in logs))
    if not check:
        return codes, logs, seconds
    if any(codes):
        raise AssertionError(f'exit codes {codes}\n' + '\n'.join(log[-5000:] for log in logs))
    return [torch.load(folder / f'rank{rank}.result', weights_only=False) for rank in range(processes)]
