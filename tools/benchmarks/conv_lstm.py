"""ConvLSTM2d against plain implementations: time of a training step, and memory with gradient checkpointing.

    python tools/benchmarks/conv_lstm.py --out-dir docs/benchmarks
    python tools/benchmarks/conv_lstm.py --out-dir docs/benchmarks --cases net-224 --no-memory   # the other rows stay

**Time.** The plain implementations call modules step by step: one convolution of the input and one of the state for
all four gates ("two convolutions per step"), or one for each gate, input and step ("eight convolutions per step").
Both are peers of ours, in the same rounds, and the second has a row against the first. The whole
network is compared with the same cells in a loop over steps and, inside, layers, each followed by BatchNorm and pool.
Before anything is timed, outputs, gradients and running statistics are compared in float64, and the outputs once more
as they are timed (column "difference"); if they differ, the benchmark stops.

**Memory.** What a training step of ConvLSTMNet adds to the peak of resident memory (VmHWM of /proc/self/status,
where there is none ``ru_maxrss``), in a process of its own per setting, after a step on small frames has loaded the
libraries. With ``--device cuda`` it is torch's peak of allocated memory. ``--cases`` says nothing about this part,
which ``--no-memory`` leaves out.
"""
import argparse
import copy
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from tconv_mmaction.backbones import ConvLSTMNet
from tconv_mmaction.cli.timing import add_cases, asked_cases, interleave, parser, report, rows_against, step
from tconv_mmaction.layers import ConvLSTM2d


class Case(NamedTuple):
    """One layer C -> 32 (5x5, stride 2), or a whole network of ``layers`` such layers, on clips C x T x H x W."""
    layers: Optional[int]
    channels: int
    batch: int
    size: Tuple[int, int, int]


CASES = {  # net-224 is the paper's
    'layer-112': Case(None, 3, 4, (16, 112, 112)), 'layer-64': Case(None, 3, 4, (16, 64, 64)),
    'layer-56': Case(None, 32, 4, (16, 56, 56)), 'net-224': Case(3, 3, 2, (16, 224, 224)),
    'net-64': Case(3, 3, 4, (16, 64, 64)),
}
QUICK = ['layer-64', 'net-64']
MEMORY = [(3, 2, (16, 224, 224)), (3, 2, (64, 112, 112))]
TWO, EIGHT = 'two convolutions per step', 'eight convolutions per step'


class PlainCell(nn.Module):
    """The cell of ``ours`` as one writes it down first: ``parts`` convolutions of x_t and of h, 1 or 4."""

    def __init__(self, ours: ConvLSTM2d, parts: int) -> None:
        super().__init__()
        split = zip(ours.weight_ih.detach().chunk(parts), ours.weight_hh.detach().chunk(parts),
                    ours.bias.detach().chunk(parts))
        self.input_convs, self.state_convs = nn.ModuleList(), nn.ModuleList()
        for weight_ih, weight_hh, bias in split:
            args = (len(bias), ours.kernel_size)
            of_input = nn.Conv2d(ours.in_channels, *args, ours.stride, ours.padding)
            of_state = nn.Conv2d(ours.hidden_channels, *args, 1, ours.padding, bias=False)
            of_input.weight, of_input.bias = nn.Parameter(weight_ih.clone()), nn.Parameter(bias.clone())
            of_state.weight = nn.Parameter(weight_hh.clone())
            self.input_convs.append(of_input)
            self.state_convs.append(of_state)
        self.hidden_channels, self.stride = ours.hidden_channels, ours.stride

    def forward(self, x: Tensor, state: Optional[tuple]) -> tuple:
        if state is None:
            size = [(n - 1) // s + 1 for n, s in zip(x.shape[-2:], self.stride)]
            state = (x.new_zeros(len(x), self.hidden_channels, *size), ) * 2
        h, c = state
        gates = [of_input(x) + of_state(h) for of_input, of_state in zip(self.input_convs, self.state_convs)]
        i, f, g, o = gates if len(gates) == 4 else gates[0].chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Plain(nn.Module):
    """Plain cells in a loop over steps and layers; with ``norm``, each is followed by it and a 2x2 max pool."""

    def __init__(self, cells: Sequence[ConvLSTM2d], parts: int, norm: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.cells = nn.ModuleList(PlainCell(cell, parts) for cell in cells)
        self.norm, self.pool = copy.deepcopy(norm), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        states, outputs = [None] * len(self.cells), []
        for t in range(x.shape[2]):
            maps = x[:, :, t]
            for i, cell in enumerate(self.cells):
                states[i] = cell(maps, states[i])
                maps = states[i][0] if self.norm is None else self.pool(self.norm(states[i][0]))
            outputs.append(maps)
        return torch.stack(outputs, dim=2)

    def gradients(self) -> List[Tensor]:
        """In the order of ours: per cell weight_ih, weight_hh, bias."""
        result = []
        for cell in self.cells:
            for values in ([conv.weight for conv in cell.input_convs], [conv.weight for conv in cell.state_convs],
                           [conv.bias for conv in cell.input_convs]):
                result.append(torch.cat([value.grad for value in values]))
        return result


class OneLayer(nn.Module):
    """ConvLSTM2d without the state it returns."""

    def __init__(self, cell: ConvLSTM2d) -> None:
        super().__init__()
        self.cells, self.norms = nn.ModuleList([cell]), nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        return self.cells[0](x)[0]


def candidates(ours: nn.Module, name: str) -> Dict[str, nn.Module]:
    """``ours`` and the plain implementations of it, with the same weights."""
    norm = ours.norms[0] if len(ours.norms) else None
    return {TWO: Plain(ours.cells, 1, norm), name: ours, EIGHT: Plain(ours.cells, 4, norm)}


def check(ours: nn.Module, channels: int) -> None:
    """Outputs, gradients and running statistics of all candidates agree, in float64 on a small clip."""
    ours = copy.deepcopy(ours).double()
    x = torch.randn(3, channels, 5, 66, 70, dtype=torch.float64)
    expected = ours(x)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    gradients = [value.grad for cell in ours.cells for value in (cell.weight_ih, cell.weight_hh, cell.bias)]
    fresh = copy.deepcopy(ours)
    for norm in fresh.norms:
        norm.reset_running_stats()
    for name, other in candidates(fresh, '').items():
        if other is fresh:
            continue
        y = other(x)
        y.backward(grad)
        pairs = [(y, expected), *zip(other.gradients(), gradients)]
        if other.norm is not None:
            pairs += [(other.norm.running_mean, ours.norms[0].running_mean),
                      (other.norm.running_var, ours.norms[0].running_var)]
        for actual, wanted in pairs:
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f'{name}: {m}')


def difference(nets: Dict[str, nn.Module], x: Tensor, name: str) -> float:
    """Largest difference of the outputs of ``nets`` in float32, training mode; more than 1e-3 is an error."""
    with torch.no_grad():
        expected = nets[name](x)
        worst = max(float((net(x) - expected).abs().max()) for net in nets.values())
    if not worst < 1e-3:
        raise RuntimeError(f'{", ".join(nets)}: outputs differ by {worst:.2g}, so times cannot be compared.')
    return worst


def timed(ours: nn.Module, name: str, x: Tensor, args: argparse.Namespace, extra: Dict[str, nn.Module],
          **case) -> List[dict]:
    """Rows of one case: a training step of every candidate against both plain implementations."""
    check(ours, x.shape[1])
    nets = {key: net.to(args.device) for key, net in {**candidates(ours, name), **extra}.items()}
    x = x.to(args.device)
    worst = difference(nets, x, name)
    with torch.no_grad():
        grad = torch.randn_like(ours(x))
    seconds = interleave({key: step(net, x, grad) for key, net in nets.items()}, args.rounds, args.device, warmup=2)
    rows = rows_against(TWO, seconds, **case)
    rows += rows_against(EIGHT, {key: values for key, values in seconds.items() if key != TWO}, **case)
    return [{**row, 'difference': f'{worst:.1g}', 'rounds': args.rounds} for row in rows]


def shape_name(batch: int, size: Sequence[int]) -> str:
    return f'{"x".join(map(str, size))}, batch {batch}'


def time_case(name: str, case: Case, args: argparse.Namespace) -> List[dict]:
    """The rows of one case, of a single layer or of the network with and without checkpoints over time."""
    torch.manual_seed(0)
    x, shape = torch.randn(case.batch, case.channels, *case.size), shape_name(case.batch, case.size)
    if case.layers is None:
        ours = OneLayer(ConvLSTM2d(case.channels, 32, 5, 2))
        return timed(ours, 'ConvLSTM2d', x, args, {}, case=name, clip=f'{case.channels}->32 @ {shape}')
    net = ConvLSTMNet(case.layers)
    frugal = ConvLSTMNet(case.layers, checkpoint_steps=4)
    frugal.load_state_dict(net.state_dict())
    return timed(net, 'ConvLSTMNet', x, args, {'ConvLSTMNet, checkpoint_steps=4': frugal}, case=name,
                 clip=f'{case.layers} layers @ {shape}')


def peak_bytes(device: str) -> int:
    """The most memory that this process has had so far."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status')
    if status.exists():  # ru_maxrss of a child starts with the peak of its parent on Linux, this does not
        for line in status.read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def measure_step(layers: int, batch: int, size: Sequence[int], checkpoint_steps: Optional[int],
                 device: str) -> float:
    """MiB that one training step adds to the peak, in this process."""
    torch.manual_seed(0)
    net = ConvLSTMNet(layers, checkpoint_steps=checkpoint_steps).to(device)
    net(torch.randn(2, 3, 4, 64, 64, device=device)).sum().backward()
    x = torch.randn(batch, 3, *size, device=device)
    before = peak_bytes(device)
    net(x).sum().backward()
    return (peak_bytes(device) - before) / 2**20


def memory_rows(args: argparse.Namespace) -> List[dict]:
    rows = []
    for layers, batch, size in MEMORY:
        whole = None
        for steps in (None, 8, 4, 2, 1):
            case = json.dumps([layers, batch, size, steps, args.device])
            output = subprocess.run([sys.executable, __file__, '--measure', case], check=True, text=True,
                                    stdout=subprocess.PIPE).stdout
            mib = float(output.split()[-1])
            whole = mib if steps is None else whole
            rows.append(dict(case=f'{layers} layers @ {shape_name(batch, size)}', checkpoint_steps=steps or 'none',
                             peak_MiB=round(mib, 1), of_none=round(mib / whole, 3)))
    return rows


def main(argv: Optional[Sequence[str]] = None) -> None:
    if sys.argv[1:2] == ['--measure']:  # the process of one measurement of memory
        print(measure_step(*json.loads(sys.argv[2])))
        return
    options = parser(__doc__)
    add_cases(options, list(CASES), QUICK)
    options.add_argument('--no-memory', action='store_true', help='time only')
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    if not (args.quick or args.no_memory):
        report('conv_lstm_memory', memory_rows(args), args, how='one training step per process')
    rows = []
    for name in asked_cases(args, list(CASES), QUICK):
        rows += time_case(name, CASES[name], args)
        print(f'{name} done', flush=True)
    report('conv_lstm', rows, args, list(CASES))


if __name__ == '__main__':
    main()
