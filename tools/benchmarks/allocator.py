"""Training steps with the memory that they free kept by the process, beside what glibc does by itself.

    python tools/benchmarks/allocator.py --out-dir docs/benchmarks

A step frees and asks for the same large tensors again and again. glibc gives blocks above a threshold back to the
system, which hands them out anew page by page, zeroed. Two variables of the environment keep them:

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 python tools/train.py CONFIG

They are read when a process starts, so every time is of a process of its own: in each round one without and one with
them per network, each the median of ``--steps`` steps. The peer 'NETWORK, default' is the same network without them;
'3D-..., kept' the network of plain convolutions with them. ``faults`` and ``peer_faults`` are the pages per step that
the system had to hand out. Linux with glibc only.
"""
import json
import os
import resource
import subprocess
import sys
import time
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from models import CASES, build, training_step

from tconv_mmaction.cli.timing import add_cases, asked_cases, parser, positive, report

KEPT = {'MALLOC_MMAP_THRESHOLD_': str(1 << 32), 'MALLOC_TRIM_THRESHOLD_': str(1 << 32)}
NAMES = ['3t-resnet18', '3t-resnet18-b8', '3t-googlenet']


def measure(name: str, network: str, steps: int) -> Dict[str, float]:
    """Seconds and page faults per training step, in this process."""
    case = CASES[name]
    model = build(case.networks[network], 'cpu')
    x, labels = torch.randn(case.batch, 3, *case.size), torch.zeros(case.batch, dtype=torch.long)
    step = training_step(model, x, labels)
    for _ in range(3):
        step()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return dict(seconds=float(np.median(seconds)), faults=faults / steps)


def in_a_process(name: str, network: str, steps: int, variables: Dict[str, str]) -> Dict[str, float]:
    """:func:`measure` with ``variables`` in the environment."""
    plain = {key: value for key, value in os.environ.items() if key not in KEPT}
    done = subprocess.run([sys.executable, __file__, '--child', name, network, '--steps', str(steps)],
                          env={**plain, **variables}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f'{name}, {network}: the process that measures ended with exit status {done.returncode}.')
    return json.loads(done.stdout.strip().split('\n')[-1])


def rows_of(name: str, rounds: int, steps: int) -> List[dict]:
    """Per network the step with memory kept against the same without, and against the first network's with it kept."""
    networks = list(CASES[name].networks)
    found = {(network, how): [] for network in networks for how in ('default', 'kept')}
    for i in range(rounds):
        for network, how in list(found)[::1 if i % 2 == 0 else -1]:
            found[network, how].append(in_a_process(name, network, steps, KEPT if how == 'kept' else {}))
    seconds = {key: np.array([run['seconds'] for run in runs]) for key, runs in found.items()}
    faults = {key: round(float(np.median([run['faults'] for run in runs]))) for key, runs in found.items()}
    rows = []
    for network in networks:
        peers = [(network, 'default'), *([(networks[0], 'kept')] if network != networks[0] else [])]
        for peer in peers:
            ratios = seconds[network, 'kept'] / seconds[peer]
            low, high = np.percentile(ratios, [25, 75])
            rows.append(dict(
                case=name, candidate=f'{network}, kept', peer=', '.join(peer), ratio=round(float(np.median(ratios)), 3),
                quartiles=f'{low:.3f} - {high:.3f}', ms=round(float(np.median(seconds[network, 'kept'])) * 1e3, 2),
                peer_ms=round(float(np.median(seconds[peer])) * 1e3, 2), faults=faults[network, 'kept'],
                peer_faults=faults[peer], rounds=rounds))
    return rows


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.set_defaults(rounds=5)
    add_cases(options, NAMES, NAMES[:1])
    options.add_argument('--steps', type=positive, default=7, help='timed steps per process')
    options.add_argument('--child', nargs=2, metavar=('CASE', 'NETWORK'), help='print the measure of one as JSON')
    args = options.parse_args(argv)
    if args.child:
        print(json.dumps(measure(*args.child, args.steps)))
        return
    if args.device != 'cpu':
        print('allocator: the memory of the C library is that of the CPU; nothing to measure on another device')
        return
    if args.quick:
        args.rounds, args.steps = 1, min(args.steps, 3)
    rows: List[dict] = []
    for name in asked_cases(args, NAMES, NAMES[:1]):
        rows += rows_of(name, args.rounds, args.steps)
        print(f'{name} done', flush=True)
    report('allocator', rows, args, NAMES, how='medians of processes in turn')


if __name__ == '__main__':
    main()
