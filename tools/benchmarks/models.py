"""Whole networks against their peers: training step (Adam), inference, deployed inference, peak memory of a step.

    python tools/benchmarks/models.py --out-dir docs/benchmarks
    python tools/benchmarks/models.py --out-dir docs/benchmarks --cases r2plus1d18 clstm   # the other rows stay

The networks of a case run in turn in one process. The first is the peer: the same network with plain 3D convolutions,
mmaction2's own, or one written down here with nothing but PyTorch's modules. Two that are to be one
network must have as many parameters, or nothing is timed. Memory is measured in a process of its own for each.
"""
import multiprocessing
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

import tconv_mmaction  # noqa: F401
from tconv_mmaction.cli.timing import add_cases, asked_cases, inference, interleave, parser, report, rows_against
from tconv_mmaction.layers import switch_to_deploy


class PlainBlock(nn.Module):
    """A residual block of nn.Conv3d, nn.BatchNorm3d and nn.ReLU: two 3x3x3, or 1x1x1, 3x3x3, 1x1x1."""

    def __init__(self, inputs: int, channels: int, stride: Tuple[int, int, int], bottleneck: bool) -> None:
        super().__init__()
        outputs = channels * 4 if bottleneck else channels
        plan = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        sizes = [inputs] + [channels] * (len(plan) - 1) + [outputs]
        layers: List[nn.Module] = []
        for (kernel, step), fan_in, fan_out in zip(plan, sizes, sizes[1:]):
            layers += [nn.Conv3d(fan_in, fan_out, kernel, step, kernel // 2, bias=False), nn.BatchNorm3d(fan_out),
                       nn.ReLU(inplace=True)]
        self.residual, self.relu = nn.Sequential(*layers[:-1]), layers[-1]
        self.shortcut = nn.Identity() if inputs == outputs and stride == (1, 1, 1) else nn.Sequential(
            nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x):
        return self.relu(self.residual(x) + self.shortcut(x))


class PlainResNet(nn.Sequential):
    """3D-ResNet18 (strides in time, 7x7x7 stem) or I3D-R50 3-3-3-3-3 (none), in plain PyTorch."""

    def __init__(self, depth: int) -> None:
        bottleneck, time = depth == 50, 1 if depth == 50 else 2
        stem = 3 if bottleneck else 7
        layers = [nn.Conv3d(3, 64, (stem, 7, 7), (time, 2, 2), (stem // 2, 3, 3), bias=False), nn.BatchNorm3d(64),
                  nn.ReLU(inplace=True), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if bottleneck
                  else nn.MaxPool3d(3, 2, 1)]
        inputs = 64
        for stage, blocks in enumerate((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)):
            for block in range(blocks):
                stride = (time, 2, 2) if stage and not block else (1, 1, 1)
                layers.append(PlainBlock(inputs, 64 * 2 ** stage, stride, bottleneck))
                inputs = 64 * 2 ** stage * (4 if bottleneck else 1)
        super().__init__(*layers)


class PlainR2Plus1dBlock(nn.Module):
    """Two pairs of a 1x3x3 and a 3x1x1 convolution with as many maps between them as keep a 3x3x3's parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        between = inputs * outputs * 27 // (inputs * 9 + outputs * 3)
        layers: List[nn.Module] = []
        for fan_in, step in ((inputs, stride), (outputs, 1)):
            layers += [nn.Conv3d(fan_in, between, (1, 3, 3), (1, step, step), (0, 1, 1), bias=False),
                       nn.BatchNorm3d(between), nn.ReLU(inplace=True),
                       nn.Conv3d(between, outputs, (3, 1, 1), (step, 1, 1), (1, 0, 0), bias=False),
                       nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)]
        self.residual, self.relu = nn.Sequential(*layers[:-1]), layers[-1]
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(
            nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x):
        return self.relu(self.residual(x) + self.shortcut(x))


class PlainR2Plus1d(nn.Sequential):
    """R(2+1)D-18 in plain PyTorch; Tran et al., arXiv:1711.11248."""

    def __init__(self) -> None:
        layers = [nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), nn.BatchNorm3d(45),
                  nn.ReLU(inplace=True), nn.Conv3d(45, 64, (3, 1, 1), padding=(1, 0, 0), bias=False),
                  nn.BatchNorm3d(64), nn.ReLU(inplace=True)]
        inputs = 64
        for outputs in (64, 128, 256, 512):
            layers += [PlainR2Plus1dBlock(inputs, outputs, 1 if inputs == outputs else 2),
                       PlainR2Plus1dBlock(outputs, outputs, 1)]
            inputs = outputs
        super().__init__(*layers)


class Case(NamedTuple):
    networks: Dict[str, dict]  # name -> config of the backbone; the first is the peer
    deploy: Sequence[str]  # those that are timed deployed, too
    size: Tuple[int, int, int]  # (T, H, W)
    batch: int
    same: Sequence[str] = ()  # those that must have as many parameters as the peer


RESNET18 = dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=2,
                pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2))
ORIG = dict(type='TemporalResNet3d', depth=50, temporal_kernels=(3, 3, 3, 3, 3))
OURS = dict(type='TemporalResNet3d', depth=50, temporal_kernels=(1, 1, 3, 3, 5))
# mmaction2's I3D-R50 with the shape of ORIG
THEIRS = dict(type='ResNet3d', depth=50, pretrained=None, conv1_kernel=(3, 7, 7), conv1_stride_t=1, pool1_stride_t=1,
              with_pool2=False, inflate_style='3x3x3', inflate=((1, ) * 3, (1, ) * 4, (1, ) * 6, (1, ) * 3),
              zero_init_residual=False)
R2PLUS1D = dict(type='ResNet2Plus1d', depth=18, pretrained=None, pretrained2d=False, conv1_kernel=(3, 7, 7),
                conv_cfg=dict(type='Conv2plus1d'), norm_cfg=dict(type='BN3d'), act_cfg=dict(type='ReLU'),
                conv1_stride_t=1, pool1_stride_t=1, inflate=(1, 1, 1, 1), spatial_strides=(1, 2, 2, 2),
                temporal_strides=(1, 2, 2, 2), zero_init_residual=False, with_pool2=False)
CONV3D, CONV3T, BRANCHES, SEPARABLE = (
    dict(temporal_cfg=dict(type=t)) for t in ('Conv3d', 'Conv3T', 'MultiBranchConv3d', 'SeparableConv3d'))
CASES = {
    '3t-resnet18': Case({'3D-ResNet18': {**RESNET18, **CONV3D}, '3T-ResNet18': {**RESNET18, **CONV3T}},
                        ['3T-ResNet18'], (8, 112, 112), 2),
    '3t-resnet18-b8': Case({'3D-ResNet18': {**RESNET18, **CONV3D}, '3T-ResNet18': {**RESNET18, **CONV3T}},
                           ['3T-ResNet18'], (8, 112, 112), 8),
    '3t-resnet18-single': Case({'3D-ResNet18': {**RESNET18, **CONV3D}, '3T-ResNet18': {**RESNET18, **CONV3T}},
                               ['3T-ResNet18'], (30, 150, 224), 1),
    '3t-googlenet': Case({'3D-GoogLeNet': dict(type='GoogLeNet3d', **CONV3D),
                          '3T-GoogLeNet': dict(type='GoogLeNet3d', **CONV3T)}, ['3T-GoogLeNet'], (16, 112, 112), 2),
    '3t-googlenet-224': Case({'3D-GoogLeNet': dict(type='GoogLeNet3d', **CONV3D),
                              '3T-GoogLeNet': dict(type='GoogLeNet3d', **CONV3T)}, ['3T-GoogLeNet'], (16, 224, 224), 2),
    'i3d-r50-ours': Case({'I3D-R50 1-1-3-3-5': {**OURS, **CONV3D},
                          'I3D-R50 1-1-3-3-5 multi-branch': {**OURS, **BRANCHES}},
                         ['I3D-R50 1-1-3-3-5 multi-branch'], (8, 112, 112), 2),
    'i3d-r50-mmaction2': Case({"mmaction2's ResNet3d-50": THEIRS, 'plain PyTorch R50': dict(type=PlainResNet, depth=50),
                               'I3D-R50 3-3-3-3-3': {**ORIG, **CONV3D}, 'I3D-R50 1-1-3-3-5': {**OURS, **CONV3D},
                               'I3D-R50 1-1-3-3-5 multi-branch': {**OURS, **BRANCHES},
                               'S3D-R50 3-3-3-3-3': {**ORIG, **SEPARABLE}},
                              ['I3D-R50 1-1-3-3-5 multi-branch'], (8, 112, 112), 1,
                              ['plain PyTorch R50', 'I3D-R50 3-3-3-3-3']),
    '3d-resnet18-plain': Case({'plain PyTorch R18': dict(type=PlainResNet, depth=18),
                               '3D-ResNet18': {**RESNET18, **CONV3D}, '3T-ResNet18': {**RESNET18, **CONV3T}},
                              ['3T-ResNet18'], (8, 112, 112), 2, ['3D-ResNet18']),
    'r2plus1d18': Case({'plain PyTorch R(2+1)D-18': dict(type=PlainR2Plus1d),
                        'R2Plus1d18': dict(type='R2Plus1d18'), "mmaction2's ResNet2Plus1d-18": R2PLUS1D},
                       [], (8, 112, 112), 1, ['R2Plus1d18']),
    'clstm': Case({'InceptionI3d': dict(type='InceptionI3d'),
                   'C-LSTM': dict(type='ConvLSTMNet', num_layers=3)}, [], (16, 112, 112), 2),
}
QUICK = ['3t-resnet18']


class Classifier(nn.Module):
    """Backbone, global average, linear layer."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.fc = nn.LazyLinear(27)

    def forward(self, x):
        return self.fc(self.backbone(x).mean((2, 3, 4)))


def build(backbone: dict, device: str) -> nn.Module:
    init_default_scope('mmaction')
    torch.manual_seed(0)
    model = Classifier(backbone)
    if hasattr(model.backbone, 'init_weights'):
        model.backbone.init_weights()
    return model.to(device)


def check_same(name: str, models: Dict[str, nn.Module], same: Sequence[str]) -> None:
    """Those that are to be the peer's network have as many parameters as it."""
    counts = {key: sum(p.numel() for p in model.backbone.parameters()) for key, model in models.items()}
    peer = next(iter(models))
    for key in same:
        if counts[key] != counts[peer]:
            raise RuntimeError(f'{name}: {key} has {counts[key]} parameters, {peer} {counts[peer]}; they are to be one '
                               'network, so their times cannot be compared.')


def training_step(model, x, labels):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def run():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return run


def peak_of_a_step(backbone: dict, size: Sequence[int], batch: int, device: str) -> float:
    """MiB of this process at the most, after three steps."""
    model = build(backbone, device)
    x, labels = torch.randn(batch, 3, *size, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    step = training_step(model, x, labels)
    for _ in range(3):
        step()
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path('/proc/self/status')
    if not status.exists():
        raise RuntimeError(f'{sys.platform} has no /proc/self/status, which the peak of memory on CPU is read from.')
    # not ru_maxrss: a new process takes over its parent's
    return next(int(line.split()[1]) for line in status.read_text().split('\n') if line.startswith('VmHWM')) / 2**10


def _send_peak(connection, *arguments) -> None:
    connection.send(peak_of_a_step(*arguments))


def peak_memory(*arguments) -> float:
    """MiB, in a fresh process: on CPU the resident peak, the interpreter and libraries included."""
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(theirs, *arguments))
    process.start()
    theirs.close()  # so that a process that died is an EOFError here and no endless wait
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f'The process that measures memory died, exit status {process.exitcode}.') from None
    finally:
        process.join()


def time_case(name: str, case: Case, rounds: int, device: str) -> List[dict]:
    """The rows of one case: training step and eval of each network against the first."""
    models = {key: build(backbone, device) for key, backbone in case.networks.items()}
    x = torch.randn(case.batch, 3, *case.size, device=device)
    labels = torch.zeros(case.batch, dtype=torch.long, device=device)
    with torch.no_grad():
        for model in models.values():
            model(x)  # makes the lazy layer
    check_same(name, models, case.same)
    peer = next(iter(models))
    what = dict(case=name, clip='x'.join(map(str, case.size)), batch=case.batch)
    steps = {key: training_step(model, x, labels) for key, model in models.items()}
    rows = rows_against(peer, interleave(steps, rounds, device, warmup=2), **what, mode='training step')
    models = {key: model.eval() for key, model in models.items()}
    models.update({f'{key}, deployed': switch_to_deploy(models[key]) for key in case.deploy})
    seconds = interleave({key: inference(model, x) for key, model in models.items()}, rounds, device, warmup=2)
    rows += rows_against(peer, seconds, **what, mode='eval')
    return [{**row, 'rounds': rounds} for row in rows]


def memory_of_case(name: str, case: Case, device: str) -> List[dict]:
    """The rows of one case: peak memory of a training step of each network against the first."""
    peaks = {key: peak_memory(backbone, case.size, case.batch, device) for key, backbone in case.networks.items()}
    peer, least = next(iter(peaks.items()))
    return [dict(case=name, clip='x'.join(map(str, case.size)), batch=case.batch, candidate=key, peer=peer,
                 memory_ratio=round(peak / least, 3), MiB=round(peak), peer_MiB=round(least), rounds=1)
            for key, peak in peaks.items() if key != peer]


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    add_cases(options, list(CASES), QUICK)
    options.add_argument('--no-memory', action='store_true', help='leave the processes that measure memory out')
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    rows, memory = [], []
    for name in asked_cases(args, list(CASES), QUICK):
        rows += time_case(name, CASES[name], args.rounds, args.device)
        if not (args.quick or args.no_memory):
            memory += memory_of_case(name, CASES[name], args.device)
        print(f'{name} done', flush=True)
    report('models', rows, args, list(CASES))
    if memory:
        report('models_memory', memory, args, list(CASES), how='peak of a process that makes three steps')


if __name__ == '__main__':
    main()
