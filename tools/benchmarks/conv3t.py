"""Conv3T against nn.Conv3d of the same shape: forward + backward of one layer, and the layer in eval mode.

    python tools/benchmarks/conv3t.py --out-dir docs/benchmarks
"""
import torch
from torch import nn

from tconv_mmaction.cli.timing import inference, interleave, parser, report, rows_against, step
from tconv_mmaction.layers import Conv3T

# (in_channels, out_channels, kernel, stride, padding, (T, H, W)); the first two are the foundation's
SHAPES = [
    (64, 64, 3, 1, 1, (8, 28, 28)),
    (512, 512, 3, 1, 1, (2, 7, 7)),
    (3, 64, 7, 2, 3, (8, 112, 112)),
    (128, 128, 3, 1, 1, (4, 28, 28)),
    (128, 256, 3, 2, 1, (4, 28, 28)),
    (256, 256, 3, 1, 1, (4, 14, 14)),
    (256, 512, 3, 2, 1, (4, 14, 14)),
    (512, 512, 3, 1, 1, (1, 4, 4)),
    (512, 512, 3, 1, 1, (8, 7, 7)),
]


def main() -> None:
    options = parser(__doc__)
    options.add_argument('--batch', type=int, default=2)
    args = options.parse_args()
    if args.quick:
        args.rounds = min(args.rounds, 5)
    rows = []
    for in_channels, out_channels, kernel, stride, padding, size in SHAPES[:2] if args.quick else SHAPES:
        torch.manual_seed(0)
        layers = {
            'Conv3d': nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False),
            'Conv3T': Conv3T(in_channels, out_channels, kernel, stride, padding, bias=False)}
        layers = {name: layer.to(args.device) for name, layer in layers.items()}
        x = torch.randn(args.batch, in_channels, *size, device=args.device, requires_grad=in_channels > 3)
        grad = torch.randn_like(layers['Conv3d'](x))
        shape = f'{in_channels}->{out_channels} {kernel}^3 /{stride} @ {"x".join(map(str, size))}'
        seconds = interleave({k: step(v, x, grad) for k, v in layers.items()}, args.rounds, args.device)
        rows += rows_against('Conv3d', seconds, layer=shape, mode='forward + backward')
        layers = {k: v.eval() for k, v in layers.items()}
        seconds = interleave({k: inference(v, x) for k, v in layers.items()}, args.rounds, args.device)
        rows += rows_against('Conv3d', seconds, layer=shape, mode='eval')
    report('conv3t', rows, args)


if __name__ == '__main__':
    main()
