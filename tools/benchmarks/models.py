"""Whole networks against their 3D twins: training step (Adam), inference, deployed inference, peak memory of a step.

    python tools/benchmarks/models.py --out-dir docs/benchmarks

Each row is two networks that differ in the type of their temporal convolutions only, run in turn in one process. The
memory is measured in a process of its own for each network.
"""
import multiprocessing
from pathlib import Path

import torch
from common import interleave, parser, report, rows_against
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

import tconv_mmaction  # noqa: F401
from tconv_mmaction.layers import switch_to_deploy

RESNET18 = dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=2,
                pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2))
I3D_R50 = dict(type='TemporalResNet3d', depth=50, temporal_kernels=(1, 1, 3, 3, 5))
CONV3D, CONV3T, BRANCHES = (dict(type=t) for t in ('Conv3d', 'Conv3T', 'MultiBranchConv3d'))
# (name, peer, {name: backbone}, (T, H, W), batch)
CASES = [
    ('3T-ResNet18', '3D-ResNet18', RESNET18, CONV3T, (8, 112, 112), 2),
    ('3T-ResNet18', '3D-ResNet18', RESNET18, CONV3T, (8, 112, 112), 8),
    ('3T-GoogLeNet', '3D-GoogLeNet', dict(type='GoogLeNet3d'), CONV3T, (16, 112, 112), 2),
    ('I3D-R50 1-1-3-3-5 multi-branch', 'I3D-R50 1-1-3-3-5', I3D_R50, BRANCHES, (8, 112, 112), 2),
]


class Classifier(nn.Module):
    """Backbone, global average, linear layer."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.fc = nn.LazyLinear(27)

    def forward(self, x):
        return self.fc(self.backbone(x).mean((2, 3, 4)))


def build(backbone: dict, temporal_cfg: dict, device: str):
    init_default_scope('mmaction')
    torch.manual_seed(0)
    model = Classifier(dict(backbone, temporal_cfg=temporal_cfg))
    model.backbone.init_weights()
    return model.to(device)


def training_step(model, x, labels):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def run():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return run


def inference(model, x):
    @torch.no_grad()
    def run():
        model(x)
    return run


def peak_of_a_step(backbone, temporal_cfg, size, batch, device, queue) -> None:
    model = build(backbone, temporal_cfg, device)
    x, labels = torch.randn(batch, 3, *size, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    step = training_step(model, x, labels)
    for _ in range(3):
        step()
    if device == 'cuda':
        queue.put(torch.cuda.max_memory_allocated() / 2**20)
    else:
        # not ru_maxrss: a new process takes over its parent's
        lines = Path('/proc/self/status').read_text().split('\n')
        queue.put(next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 2**10)


def peak_memory(*arguments) -> float:
    """MiB, in a fresh process: on CPU the resident peak, the interpreter and libraries included."""
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=peak_of_a_step, args=(*arguments, queue))
    process.start()
    peak = queue.get()
    process.join()
    return peak


def main() -> None:
    options = parser(__doc__)
    args = options.parse_args()
    if args.quick:
        args.rounds = min(args.rounds, 3)
    rows, memory = [], []
    for name, peer, backbone, temporal_cfg, size, batch in CASES[:1] if args.quick else CASES:
        case = dict(clip='x'.join(map(str, size)), batch=batch)
        models = {peer: build(backbone, CONV3D, args.device), name: build(backbone, temporal_cfg, args.device)}
        x = torch.randn(batch, 3, *size, device=args.device)
        labels = torch.zeros(batch, dtype=torch.long, device=args.device)
        for model in models.values():
            model(x)  # makes the lazy layer
        steps = {key: training_step(model, x, labels) for key, model in models.items()}
        rows += rows_against(peer, interleave(steps, args.rounds, args.device), **case, mode='training step')
        models = {key: model.eval() for key, model in models.items()}
        models[f'{name}, deployed'] = switch_to_deploy(models[name])
        seconds = interleave({k: inference(m, x) for k, m in models.items()}, args.rounds, args.device)
        rows += rows_against(peer, seconds, **case, mode='eval')
        if not args.quick:
            ours, theirs = (peak_memory(backbone, cfg, size, batch, args.device) for cfg in (temporal_cfg, CONV3D))
            memory.append(dict(**case, candidate=name, peer=peer, memory_ratio=round(ours / theirs, 3),
                               MiB=round(ours), peer_MiB=round(theirs)))
        print(f'{name} at batch {batch} done', flush=True)
    report('models', rows, args)
    if memory:
        report('models_memory', memory, args)


if __name__ == '__main__':
    main()
