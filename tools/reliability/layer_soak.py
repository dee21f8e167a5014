"""Memory of one process over hours of computing time, while layers and sizes of clips change all the time.

    python tools/reliability/layer_soak.py OUT_DIR --cpu-hours 2              this package's layers
    python tools/reliability/layer_soak.py OUT_DIR --cpu-hours 0.5 --plain    the same draws with PyTorch's layers
    python tools/reliability/layer_soak.py OUT_DIR --report-only              the report of what OUT_DIR has by now

Each step draws a layer (Conv3T on its several paths, with gains and with free transforms, MultiBranchConv3d,
SeparableConv3d, ConvLSTM2d, small ResNets that share transforms), a number of clips, frames and pixels, and whether to
train or to test; now and then a layer is built anew. ``--plain`` takes nn.Conv3d in their places, and what PyTorch and
glibc do by themselves with such draws is seen. Time is the processor time of the process, so other work on the machine
does not shorten the test.

samples.csv has a line for every 100 steps: CPU seconds, RSS and USS in MB (10^6 bytes), what
:mod:`tconv_mmaction.ops.memory` holds in MB, and tensors that Python knows of. report.json and table.md have straight
lines fitted to 30 block means after the warm-up, as in soak.py.
"""
import argparse
import csv
import gc
import json
import random
import time
from pathlib import Path
from typing import Callable, Dict, List, Sequence

import pandas as pd
import psutil
import torch
from torch import nn

from tconv_mmaction import layers, ops
from tconv_mmaction.backbones import TemporalResNet3d
from tconv_mmaction.cli.run_statistics import block_slope
from tconv_mmaction.utils.markdown import markdown_table

COLUMNS = 'cpu_s', 'steps', 'rss_mb', 'uss_mb', 'held_mb', 'tensors'
EVERY = 100  # steps from one sample to the next
ANEW = 25  # steps, on average, after which one of the layers is built anew
SHOWN = dict(rss_mb='resident memory (RSS), MB', uss_mb='own memory (USS), MB', held_mb='held by ops.memory, MB',
             tensors='tensors')


class _Maps(nn.Module):
    """ConvLSTM2d, its maps only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = layers.ConvLSTM2d(channels, channels, 3)

    def forward(self, x):
        return self.layer(x)[0]


class _Net(nn.Module):

    def __init__(self, conv: str) -> None:
        super().__init__()
        self.net = TemporalResNet3d(depth=18, base_channels=8, temporal_cfg=dict(type=conv))

    def forward(self, x):
        return self.net(x)


def makers(plain: bool) -> Dict[str, tuple]:
    """Name -> (channels of the input, function that makes the layer)."""
    found: Dict[str, tuple] = {}

    def add(name: str, channels: int, ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]) -> None:
        found[name] = channels, theirs if plain else ours

    def conv(*args, **options):
        return lambda: nn.Conv3d(*args, padding=1, **options)

    for i, o in ((3, 16), (16, 16), (32, 64), (192, 32)):  # few channels; in place; filtering; factored
        add(f'Conv3T {i}->{o}', i, lambda i=i, o=o: layers.Conv3T(i, o, 3, padding=1), conv(i, o, 3))
    add('Conv3T with a stride', 32, lambda: layers.Conv3T(32, 48, 3, stride=2, padding=1), conv(32, 48, 3, stride=2))
    add('Conv3T with gains', 24, lambda: layers.Conv3T(24, 24, 3, padding=1, gain=True), conv(24, 24, 3))
    add('Conv3T, free transforms', 24, lambda: layers.Conv3T(24, 24, 3, padding=1, transform='free'), conv(24, 24, 3))
    add('Conv3T, factored', 16, lambda: layers.Conv3T(16, 16, 3, padding=1, evaluation='factored'), conv(16, 16, 3))
    add('MultiBranchConv3d', 24, lambda: layers.MultiBranchConv3d(24, 24, 3, padding=1), conv(24, 24, 3))
    add('SeparableConv3d', 24, lambda: layers.SeparableConv3d(24, 24, 3, padding=1), conv(24, 24, 3))
    add('ConvLSTM2d', 12, lambda: _Maps(12), conv(12, 48, 3))
    for name in ('Conv3T', 'MultiBranchConv3d'):
        add(f'ResNet of {name}', 3, lambda name=name: _Net(name), lambda: _Net('Conv3d'))
    return found


def _total(outputs) -> torch.Tensor:
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs, )
    return sum(y.square().mean() for y in outputs)


def one_step(layer: nn.Module, channels: int, rng: random.Random) -> None:
    """A training step, or a forward pass in eval mode, on a clip of random size."""
    small = isinstance(layer, _Net)
    side = rng.randrange(32, 65, 4) if small else rng.randrange(7, 29)
    x = torch.randn(rng.randint(1, 3), channels, rng.randint(4, 12), side, side + rng.choice((-2, 0, 3)))
    training = rng.random() < .7
    layer.train(training)
    if not training:
        with torch.no_grad() if rng.random() < .5 else torch.inference_mode():
            layer(x)
        return
    x.requires_grad_(rng.random() < .7)
    _total(layer(x)).backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def soak(out_dir: Path, cpu_hours: float, plain: bool, seed: int) -> None:
    """Steps until the process has computed for so long; a line of samples.csv for every ``EVERY`` of them."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / 'samples.csv'
    if path.exists():
        raise FileExistsError(f'{path} is there already: give a new folder, or --report-only to read it.')
    rng, process, steps = random.Random(seed), psutil.Process(), 0
    torch.manual_seed(seed)
    made = makers(plain)
    nets = {name: (channels, make()) for name, (channels, make) in made.items()}
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        while time.process_time() < cpu_hours * 3600:
            name = rng.choice(list(made))
            if not rng.randrange(ANEW):
                nets[name] = made[name][0], made[name][1]()
            channels, layer = nets[name]
            one_step(layer, channels, rng)
            steps += 1
            if steps % EVERY == 0:
                memory = process.memory_full_info()
                values = time.process_time(), steps, memory.rss / 1e6, memory.uss / 1e6, ops.memory.held_bytes() / 1e6
                writer.writerow(dict(zip(COLUMNS, (*(round(value, 2) for value in values), tensors()))))
                file.flush()
    (out_dir / 'settings.json').write_text(json.dumps(dict(plain=plain, seed=seed, cpu_hours=cpu_hours)))


def report(out_dir: Path, warm_up: float) -> str:
    """The table of samples.csv, also written as report.json and table.md. ``warm_up``: CPU minutes left out."""
    path = out_dir / 'samples.csv'
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there: run the test into this folder first.')
    table = pd.read_csv(path, on_bad_lines='skip').dropna()
    steady = table[table.cpu_s >= warm_up * 60]
    hours = steady.cpu_s.to_numpy() / 3600
    result: Dict[str, object] = dict(cpu_hours=round(float(table.cpu_s.iloc[-1]) / 3600, 3), samples=len(table),
                                     steps=int(table.steps.iloc[-1]), samples_after_warm_up=len(steady))
    rows: List[Sequence[str]] = []
    for column, title in SHOWN.items():
        values = steady[column].to_numpy(float)
        tenth = max(1, len(values) // 10)
        line = block_slope(hours, values)
        result[column] = dict(first_tenth=float(values[:tenth].mean()), last_tenth=float(values[-tenth:].mean()),
                              max=float(values.max()), per_cpu_hour=line._asdict())
        rows.append([title, f'{values[:tenth].mean():.1f}', f'{values[-tenth:].mean():.1f}', f'{values.max():.1f}',
                     f'{line.slope:+.2f} [{line.low:+.2f}, {line.high:+.2f}]'])
    text = (f"{result['steps']:,} steps, {result['cpu_hours']:.2f} h of CPU time, {result['samples_after_warm_up']} of "
            f"{result['samples']} samples after the warm-up.\n\n"
            + markdown_table(['', 'first tenth', 'last tenth', 'most', 'per hour of CPU [95 %]'], rows) + '\n')
    (out_dir / 'report.json').write_text(json.dumps(result, indent=1))
    (out_dir / 'table.md').write_text(text)
    return text


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', type=Path, help='samples.csv, report.json and table.md')
    parser.add_argument('--cpu-hours', type=float, default=2.)
    parser.add_argument('--plain', action='store_true', help="PyTorch's layers, for comparison")
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--warm-up', type=float, default=10., help='CPU minutes at the start that the fit leaves out')
    parser.add_argument('--report-only', action='store_true')
    args = parser.parse_args(argv)
    if not args.report_only:
        soak(args.out_dir, args.cpu_hours, args.plain, args.seed)
    print(report(args.out_dir, args.warm_up))


if __name__ == '__main__':
    main()
