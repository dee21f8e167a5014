"""MultiBranchConv3d against its branches' own convolutions and norms, and against the single filter it becomes.

    python tools/benchmarks/multi_branch.py --out-dir docs/benchmarks

The peer 'branches' is one nn.Conv3d and one nn.BatchNorm3d per branch, summed: the same arithmetic without the
reparameterisation of eq. 6, whose cost the ratio shows.
"""
import torch
from torch import nn

from tconv_mmaction.cli.timing import interleave, parser, report, rows_against, step
from tconv_mmaction.layers import MultiBranchConv3d

# (channels, (kT, kH, kW), (T, H, W), batch): multi-branch layers of I3D-R50 and S3D-R50 1-1-3-3-5 on one clip of
# 32x224x224, as the paper trains them (several per GPU); the last shows where the kernels weigh most
SHAPES = [
    (256, (3, 3, 3), (32, 14, 14), 1),
    (512, (5, 3, 3), (32, 7, 7), 1),
    (512, (5, 1, 1), (32, 7, 7), 1),
    (64, (1, 3, 3), (32, 56, 56), 1),
    (512, (5, 1, 1), (8, 7, 7), 2),
]


class Branches(nn.Module):
    """Plain branches of 1, 3, ..., kT frames with their norms."""

    def __init__(self, channels: int, kernel) -> None:
        super().__init__()
        lengths = range(1, kernel[0] + 1, 2)
        self.convs = nn.ModuleList(
            nn.Conv3d(channels, channels, (n, *kernel[1:]), padding=(n // 2, kernel[1] // 2, kernel[2] // 2),
                      bias=False) for n in lengths)
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels) for _ in lengths)

    def forward(self, x):
        out = None
        for conv, norm in zip(self.convs, self.norms):
            y = norm(conv(x))
            out = y if out is None else out + y
        return out


def main() -> None:
    args = parser(__doc__).parse_args()
    if args.quick:
        args.rounds = min(args.rounds, 5)
    rows = []
    for channels, kernel, size, batch in SHAPES[-1:] if args.quick else SHAPES:
        torch.manual_seed(0)
        padding = tuple(k // 2 for k in kernel)
        ours = MultiBranchConv3d(channels, channels, kernel, padding=padding)
        modules = {'branches': Branches(channels, kernel), 'MultiBranchConv3d': ours}
        # the single filter with its norm, what the layer is after training but for the norm
        single = nn.Sequential(nn.Conv3d(channels, channels, kernel, padding=padding, bias=False),
                               nn.BatchNorm3d(channels))
        modules['single filter'] = single
        modules = {name: module.to(args.device) for name, module in modules.items()}
        x = torch.randn(batch, channels, *size, device=args.device, requires_grad=True)
        grad = torch.randn_like(x)
        seconds = interleave({k: step(m, x, grad) for k, m in modules.items()}, args.rounds, args.device)
        case = dict(layer=f'{channels} {"x".join(map(str, kernel))} @ {"x".join(map(str, size))}', batch=batch)
        rows += rows_against('branches', {k: seconds[k] for k in ('branches', 'MultiBranchConv3d')}, **case)
        rows += rows_against('single filter', {k: seconds[k] for k in ('single filter', 'MultiBranchConv3d')}, **case)
    report('multi_branch', rows, args)


if __name__ == '__main__':
    main()
