"""The temporal mask search against forward and backward passes of the model alone.

    python tools/benchmarks/masks.py --out-dir docs/benchmarks

'passes' is as many forward and backward passes of the same model on the same clip, with respect to the clip, as the
search makes iterations; the ratio is what the search costs beside them. 'one by one' searches each clip alone, with a
narrow 3D ResNet on 16x64x64 and with LeNet-5-3T on the 30x28x28 of Video-MNIST: how much eight clips together save
depends on how well the model fills the machine with one, and 'passes of 8 clips' is what the model alone takes for them
together. The freeze is compared with a loop that clones the clip for
every frame.
"""
from functools import partial
from typing import Optional, Sequence

import torch
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

import tconv_mmaction  # noqa: F401
from tconv_mmaction.cli.timing import interleave, parser, positive, report, rows_against
from tconv_mmaction.interpret import find_temporal_mask, freeze_frames


class Scores(nn.Module):
    """A narrow 3D ResNet with softmax scores: the smaller the model, the more the search's own work weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(type='TemporalResNet3d', depth=18, base_channels=16))
        self.fc = nn.Linear(128, 10)

    def forward(self, clip):
        return self.fc(self.backbone(clip).mean((2, 3, 4))).softmax(1)


class LeNetScores(nn.Module):
    """LeNet-5-3T of configs/recognition/lenet5 with softmax scores, for clips (N, 1, 30, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(6, 16),
                                          in_channels=1, clip_shape=(30, 28, 28)))
        self.fc = nn.Linear(84, 10)

    def forward(self, clip):
        return self.fc(self.backbone(clip).flatten(1)).softmax(1)


def clone_per_frame(clip, mask):
    """What the freeze is without a scan: one copy of the clip per frame."""
    out = clip
    for t in range(1, clip.shape[2]):
        frame = (1 - mask[:, t, None, None, None]) * clip[:, :, t] + mask[:, t, None, None, None] * out[:, :, t - 1]
        out = out.clone()
        out[:, :, t] = frame
    return out


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--iterations', type=positive, default=300)
    args = options.parse_args(argv)
    if args.quick:
        args.rounds, args.iterations = min(args.rounds, 3), min(args.iterations, 10)
    init_default_scope('mmaction')
    torch.manual_seed(0)
    model = Scores().to(args.device).eval().requires_grad_(False)
    clip = torch.randn(1, 3, 16, 64, 64, device=args.device)
    clips = torch.randn(8, 3, 16, 64, 64, device=args.device)
    rows = []

    def passes(net, clips, count):
        x = clips.clone().requires_grad_()
        for _ in range(count):
            torch.autograd.grad(net(x)[:, 0].sum(), x)

    def search(x, chunk_size=8):
        return find_temporal_mask(model, x, 0, iterations=args.iterations, tolerance=0., chunk_size=chunk_size)

    rounds = min(args.rounds, max(3, args.rounds // 5))  # each round is hundreds of passes
    seconds = interleave({'passes': lambda: passes(model, clip, args.iterations),
                          'search of one clip': lambda: search(clip)}, rounds, args.device, warmup=1)
    rows += rows_against('passes', seconds, case=f'{args.iterations} iterations, ResNet-18 of 16 channels, 16x64x64')
    few = min(args.iterations, 3) if args.quick else args.iterations

    def one_by_one(net, x):
        for one in x.split(1):
            find_temporal_mask(net, one, 0, iterations=few, tolerance=0.)

    def together(net, x):
        find_temporal_mask(net, x, 0, iterations=few, tolerance=0.)

    lenet = LeNetScores().to(args.device).eval().requires_grad_(False)
    digits = torch.rand(8, 1, 30, 28, 28, device=args.device)
    for name, net, x in (('ResNet-18 of 16 channels, 16x64x64', model, clips), ('LeNet-5-3T, 30x28x28', lenet, digits)):
        seconds = interleave({'one by one': partial(one_by_one, net, x), '8 clips together': partial(together, net, x),
                              'passes of 8 clips': partial(passes, net, x, few)}, rounds, args.device, warmup=1)
        for peer, other in (('one by one', 'passes of 8 clips'), ('passes of 8 clips', 'one by one')):
            rows += rows_against(peer, {key: value for key, value in seconds.items() if key != other},
                                 case=f'{few} iterations, {name}')

    large = torch.randn(8, 3, 16, 112, 112, device=args.device)
    mask = torch.rand(8, 16, device=args.device)

    def freeze(function):
        def run():
            m = mask.clone().requires_grad_()
            torch.autograd.grad(function(large, m).sum(), m)
        return run

    torch.testing.assert_close(freeze_frames(large, mask), clone_per_frame(large, mask))
    seconds = interleave({'clone per frame': freeze(clone_per_frame), 'freeze_frames': freeze(freeze_frames)},
                         args.rounds, args.device)
    rows += rows_against('clone per frame', seconds, case='8 x 16x112x112, forward + backward')
    report('masks', rows, args)


if __name__ == '__main__':
    main()
