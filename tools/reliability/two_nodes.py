"""tools/dist_train.sh over two "nodes" of one machine: the result of one process, and what a lost rank or link does.

    python tools/reliability/two_nodes.py OUT_DIR --processes 2                 two network namespaces (Linux, root)
    python tools/reliability/two_nodes.py OUT_DIR --processes 2 --loopback      two launchers on 127.0.0.1

A node is a network namespace with one end of a veth pair (10.231.77.1 and .2) and its own loopback, so that the
launchers and gloo reach each other over that link alone. Cases:

    train   LeNet-5-3T on 40 videos of Video-MNIST, 2 epochs; the weights against those of one process with the whole
            batch (SGD, float32)
    kill    SIGKILL of one process of node 1 after the first checkpoint: both launchers must end with an error
    link    the link goes down after the first checkpoint, dist_cfg timeout=20: the same (namespaces only)

Writes result.json: exit codes, seconds from the fault to the end of each launcher, the largest difference of weights.
"""
import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

import psutil
import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
LINK = '10.231.77'
TIMEOUT = 20


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', type=Path)
    parser.add_argument('--processes', type=int, default=2, help='per node')
    parser.add_argument('--cases', nargs='+', choices=('train', 'kill', 'link'), default=('train', 'kill', 'link'))
    parser.add_argument('--loopback', action='store_true', help='no namespaces: two launchers on 127.0.0.1')
    parser.add_argument('--wait', type=float, default=900., help='seconds after which a launcher is said to hang')
    return parser.parse_args(argv)


def ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True, capture_output=True, text=True)


class Nodes:
    """Two namespaces with a link between them, or the plain machine; ``command`` starts a program on a node."""

    def __init__(self, loopback: bool) -> None:
        self.loopback, self.made = loopback, False
        self.names = [f'tconv{os.getpid()}{node}' for node in 'ab']

    def __enter__(self) -> 'Nodes':
        if self.loopback:
            return self
        try:
            for name in self.names:
                ip('netns', 'add', name)
                self.made = True
            links = [f'v{os.getpid()}{node}' for node in 'ab']
            ip('link', 'add', links[0], 'type', 'veth', 'peer', 'name', links[1])
            for number, (name, link) in enumerate(zip(self.names, links), 1):
                ip('link', 'set', link, 'netns', name)
                ip('-n', name, 'link', 'set', link, 'name', 'node0')
                ip('-n', name, 'addr', 'add', f'{LINK}.{number}/24', 'dev', 'node0')
                ip('-n', name, 'link', 'set', 'node0', 'up')
                ip('-n', name, 'link', 'set', 'lo', 'up')
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            raise PermissionError(f'network namespaces cannot be made here ({getattr(error, "stderr", error)}); they '
                                  'need Linux, iproute2 and root. --loopback does without.') from error
        return self

    def __exit__(self, *_) -> None:
        if self.made:
            for name in self.names:
                subprocess.run(['ip', 'netns', 'del', name], capture_output=True)

    def command(self, node: int, words: List[str]) -> List[str]:
        return words if self.loopback else ['ip', 'netns', 'exec', self.names[node], *words]

    def address(self) -> Dict[str, str]:
        """Of node 0, as environment variables of the launchers."""
        if self.loopback:
            with socket.socket() as probe:
                probe.bind(('127.0.0.1', 0))
                return dict(MASTER_ADDR='127.0.0.1', PORT=str(probe.getsockname()[1]), GLOO_SOCKET_IFNAME='lo')
        return dict(MASTER_ADDR=f'{LINK}.1', PORT='29500', GLOO_SOCKET_IFNAME='node0')

    def cut(self) -> None:
        ip('-n', self.names[1], 'link', 'set', 'node0', 'down')


def options(work_dir: Path, batch_size: int, epochs: int) -> List[str]:
    return ['--work-dir', str(work_dir), '--seed', '0', '--cfg-options', f'train_cfg.max_epochs={epochs}',
            f'train_dataloader.batch_size={batch_size}', 'train_dataloader.dataset.videos_per_class=4',
            'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
            'val_dataloader.dataset.videos_per_class=1', 'val_dataloader.num_workers=0',
            'val_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1',
            'optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.0001', 'custom_hooks.1.figures=False',
            f'env_cfg.dist_cfg.timeout={TIMEOUT if epochs > 2 else 600}']


def launch(nodes: Nodes, folder: Path, processes: int, epochs: int) -> List[subprocess.Popen]:
    """dist_train.sh on both nodes."""
    batch, address, launchers = 8 // (2 * processes), nodes.address(), []
    for node in (0, 1):
        environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1', NNODES='2', NODE_RANK=str(node),
                           **address)
        words = ['bash', str(ROOT / 'tools/dist_train.sh'), str(CONFIG), str(processes),
                 *options(folder / 'work', batch, epochs)]
        with (folder / f'node{node}.log').open('w') as log:
            launchers.append(subprocess.Popen(nodes.command(node, words), stdout=log, stderr=subprocess.STDOUT,
                                              env=environment, start_new_session=True))
    return launchers


def end_of(launchers: List[subprocess.Popen], wait: float) -> List[Dict[str, Optional[float]]]:
    """Exit code and seconds until then, of each; a code of None is a launcher that hung and was killed."""
    start, ends = time.monotonic(), [None] * len(launchers)
    while None in ends and time.monotonic() - start < wait:
        for k, launcher in enumerate(launchers):
            if ends[k] is None and launcher.poll() is not None:
                ends[k] = dict(exit_code=launcher.returncode, seconds=round(time.monotonic() - start, 1))
        time.sleep(0.05)
    for k, launcher in enumerate(launchers):
        if ends[k] is None:
            for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                process.kill()
            launcher.wait()
            ends[k] = dict(exit_code=None, seconds=None)
    return ends


def trained(nodes: Nodes, out_dir: Path, processes: int, wait: float) -> Dict[str, object]:
    folder = out_dir / 'train'
    folder.mkdir(parents=True)
    ends = end_of(launch(nodes, folder, processes, epochs=2), wait)
    if any(end['exit_code'] != 0 for end in ends):
        return dict(launchers=ends, passed=False)
    with (folder / 'alone.log').open('w') as log:
        subprocess.run([sys.executable, str(ROOT / 'tools/train.py'), str(CONFIG), *options(folder / 'alone', 8, 2)],
                       check=True, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ, OMP_NUM_THREADS='1'))
    ours, single = (weights(folder / name / 'epoch_2.pth') for name in ('work', 'alone'))
    difference = max(float((value - ours[name]).abs().max()) for name, value in single.items())
    scale = max(float(value.abs().max()) for value in single.values())
    steps = sum('Epoch(train)' in line for line in (folder / 'node0.log').read_text().splitlines())
    return dict(launchers=ends, iterations=steps, largest_difference=difference, largest_weight=scale,
                passed=difference < 1e-4)


def weights(path: Path) -> Dict[str, torch.Tensor]:
    from mmengine.runner import CheckpointLoader

    import tconv_mmaction  # noqa: F401  lets weights_only loading read what MMEngine writes
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')['state_dict']


def faulted(nodes: Nodes, out_dir: Path, processes: int, wait: float, case: str) -> Dict[str, object]:
    folder = out_dir / case
    folder.mkdir(parents=True)
    launchers = launch(nodes, folder, processes, epochs=1000)
    start = time.monotonic()
    while not (folder / 'work/epoch_1.pth').exists():
        if time.monotonic() - start > wait or any(launcher.poll() is not None for launcher in launchers):
            ends = end_of(launchers, 0.1)
            raise RuntimeError(f'{case}: no checkpoint within {wait:.0f} s, see {folder}; launchers {ends}')
        time.sleep(0.05)
    time.sleep(1.)
    below = [process for launcher in launchers for process in psutil.Process(launcher.pid).children(recursive=True)]
    if case == 'kill':
        ranks = [process for process in psutil.Process(launchers[1].pid).children(recursive=True)
                 if process.environ().get('LOCAL_RANK')]
        ranks[-1].send_signal(signal.SIGKILL)
    else:
        nodes.cut()
    ends = end_of(launchers, wait)
    _, alive = psutil.wait_procs(below, timeout=15)
    for process in alive:
        process.kill()
    return dict(launchers=ends, left_over=len(alive),
                passed=all(end['exit_code'] not in (0, None) for end in ends) and not alive)


def main(argv=None) -> int:
    args = parse_args(argv)
    if args.processes not in (1, 2, 4):
        raise ValueError(f'--processes must be 1, 2 or 4, which divide the batch of 8 for two nodes; got '
                         f'{args.processes}.')
    results: Dict[str, object] = dict(network='loopback' if args.loopback else 'two namespaces, one veth pair',
                                      processes_per_node=args.processes)
    for case in args.cases:
        if case == 'link' and args.loopback:
            results[case] = 'needs namespaces'
            continue
        with Nodes(args.loopback) as nodes:
            results[case] = trained(nodes, args.out_dir, args.processes, args.wait) if case == 'train' else faulted(
                nodes, args.out_dir, args.processes, args.wait, case)
        print(case, json.dumps(results[case]), flush=True)
    (args.out_dir / 'result.json').write_text(json.dumps(results, indent=1))
    return 0 if all(result['passed'] for result in results.values() if isinstance(result, dict)) else 1


if __name__ == '__main__':
    sys.exit(main())
