"""What each switch of a training recipe does to the time of a training step, beside the same step without it.

    python tools/benchmarks/recipes.py --out-dir docs/benchmarks
    python tools/benchmarks/recipes.py --out-dir docs/benchmarks --cases 3t-resnet18 --switches compile

Each step is forward, loss, backward and Adam, by mmengine's optimizer wrappers. 'accumulation' makes the same batch in
two halves: its ratio is the cost of the smaller batches, its gain is memory, as checkpointing's. ``difference`` is the
norm of the difference of all gradients over their norm, at the same weights and batch, before anything is timed;
under accumulation BatchNorm takes its statistics over half the batch, which is its difference. 'compile' takes minutes
on two cores and is left out unless it is named. The data part reads one clip with each decode setting and compares the
pixels with those of the default.
"""
import copy
import math
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from common import interleave, parser, report, rows_against
from mmaction.registry import MODELS
from mmengine.dataset import Compose
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import turn_on_activation_checkpointing
from torch import Tensor, nn

from tconv_mmaction.hooks.bf16_optim_wrapper import BF16OptimWrapper
from tconv_mmaction.hooks.channels_last_hook import channels_last

RESNET18 = dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=2,
                pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2))
STAGES = tuple(f'backbone.layer{i}' for i in (1, 2, 3, 4))
# name -> backbone, (T, H, W), batch, modules for mmengine's activation_checkpointing (None: with_cp=True)
CASES = {
    '3t-resnet18': (dict(RESNET18, temporal_cfg=dict(type='Conv3T')), (8, 112, 112), 2, None),
    'i3d-r18-ours': (dict(type='TemporalResNet3d', depth=18, temporal_kernels=(1, 1, 3, 3, 5),
                          temporal_cfg=dict(type='MultiBranchConv3d')), (8, 64, 64), 2, None),
    's3d-r18': (dict(type='TemporalResNet3d', depth=18, temporal_cfg=dict(type='SeparableConv3d')), (8, 64, 64), 2,
                None),
    '3t-googlenet': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')), (16, 64, 64), 2, ()),
    'r2plus1d18': (dict(type='R2Plus1d18'), (8, 64, 64), 2, STAGES),
    'clstm': (dict(type='ConvLSTMNet', num_layers=3), (16, 64, 64), 2, None),
}
SWITCHES = ('bf16', 'fp16', 'channels last', 'checkpointing', 'accumulation', 'compile')


class Recognizer(nn.Module):
    """Backbone, global average, linear layer, cross entropy."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.fc = nn.LazyLinear(10)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.backbone(x)
        return nn.functional.cross_entropy(self.fc((y[0] if isinstance(y, tuple) else y).mean((2, 3, 4))), labels)


def with_checkpoints(backbone: dict) -> dict:
    """The same backbone with gradient checkpointing, where it has its own."""
    if backbone['type'] == 'ConvLSTMNet':
        return dict(backbone, checkpoint_steps=4)
    return dict(backbone, with_cp=True)


def offered(name: str, device: str) -> List[str]:
    """The switches that this backbone has on this device."""
    _, _, _, modules = CASES[name]
    out = [s for s in SWITCHES if s != 'fp16' or device == 'cuda']
    if modules == ():
        out.remove('checkpointing')
    if name == 'clstm':
        out.remove('channels last')
    return out


class Candidate:
    """A network with one switch on: ``step()`` trains it once, ``gradients()`` are those of the first step."""

    def __init__(self, name: str, switch: str, model: nn.Module, x: Tensor, labels: Tensor) -> None:
        backbone, _, _, modules = CASES[name]
        self.model = copy.deepcopy(model)
        if switch == 'checkpointing' and modules is None:
            self.model.backbone = MODELS.build(with_checkpoints(backbone)).to(x.device)
            self.model.backbone.load_state_dict(model.backbone.state_dict())
        elif switch == 'checkpointing':
            turn_on_activation_checkpointing(self.model, list(modules))
        elif switch == 'channels last':
            channels_last(self.model)
        self.model.train()
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-6)
        self.parts = 2 if switch == 'accumulation' else 1
        kinds = {'bf16': BF16OptimWrapper, 'fp16': AmpOptimWrapper}
        options = dict(dtype='float16') if switch == 'fp16' else {}
        self.wrapper = kinds.get(switch, OptimWrapper)(optimizer=optimizer, accumulative_counts=self.parts, **options)
        self.run: Callable = torch.compile(self.model) if switch == 'compile' else self.model
        self.batches = list(zip(x.chunk(self.parts), labels.chunk(self.parts)))

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        with self.wrapper.optim_context(self.model):
            return self.run(x, labels)

    def step(self) -> None:
        for x, labels in self.batches:
            self.wrapper.update_params(self.loss(x, labels))

    def gradients(self) -> Tensor:
        for x, labels in self.batches:
            (self.loss(x, labels) / self.parts).backward()
        found = torch.cat([p.grad.flatten().double() for p in self.model.parameters() if p.grad is not None])
        self.model.zero_grad()
        return found


def step_rows(name: str, switches: Sequence[str], args) -> List[dict]:
    backbone, size, batch, _ = CASES[name]
    torch.manual_seed(0)
    model = Recognizer(backbone)
    x = torch.randn(batch, 3, *size)
    labels = torch.arange(batch) % 10
    with torch.no_grad():
        model(x, labels)  # makes the lazy layer
    model, x, labels = model.to(args.device), x.to(args.device), labels.to(args.device)
    candidates = {s: Candidate(name, s, model, x, labels) for s in ('plain', *switches)}
    expected = candidates['plain'].gradients()
    differences = {s: float((c.gradients() - expected).norm() / expected.norm()) for s, c in candidates.items()}
    seconds = interleave({s: c.step for s, c in candidates.items()}, args.rounds, args.device, warmup=2)
    return [{**row, 'difference': f'{differences[row["candidate"]]:.1e}', 'rounds': args.rounds}
            for row in rows_against('plain', seconds, case=name, clip='x'.join(map(str, size)), batch=batch)]


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of 8-bit frames; infinite where they are the same."""
    error = float(np.mean((frames.astype(np.float64) - reference) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255 ** 2 / error)


def decode_rows(video: str, args) -> List[dict]:
    """32 frames at interval 2 of one video, with the settings that DecordInit and DecordDecode have."""
    settings = {'default': ({}, {}), 'num_threads=2': (dict(num_threads=2), {}),
                "mode='efficient'": ({}, dict(mode='efficient'))}

    def run(init: dict, decode: dict):
        pipeline = Compose([dict(type='DecordInit', **init),
                            dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips=1, test_mode=True),
                            dict(type='DecordDecode', **decode)])
        return lambda: np.stack(pipeline(dict(filename=video, label=0, start_index=0, modality='RGB'))['imgs'])

    runs: Dict[str, Callable] = {name: run(*both) for name, both in settings.items()}
    reference = runs['default']()
    pixels = {name: (float(np.abs(frames.astype(np.int16) - reference).mean()), psnr(frames, reference))
              for name, frames in ((name, once()) for name, once in runs.items())}
    rows = rows_against('default', interleave(runs, args.rounds, 'cpu'), clip='32 frames, interval 2, not resized')
    return [{**row, 'mean_abs_difference': round(pixels[row['candidate']][0], 2),
             'PSNR_dB': round(pixels[row['candidate']][1], 1)} for row in rows]


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--cases', nargs='+', choices=list(CASES), default=None, metavar='NAME',
                         help=f'these only (default: all; with --quick the first), of {", ".join(CASES)}')
    options.add_argument('--switches', nargs='+', choices=SWITCHES, metavar='NAME',
                         help=f'these only (default: all but compile), of {", ".join(SWITCHES)}')
    options.add_argument('--video', help='for the decode settings (default: one of 340x256 and 120 frames is made)')
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    init_default_scope('mmaction')
    rows = []
    for name in args.cases or (list(CASES)[:1] if args.quick else list(CASES)):
        usable = offered(name, args.device)
        asked = args.switches or [s for s in SWITCHES if s != 'compile']
        left_out = [s for s in args.switches or () if s not in usable]
        if left_out:
            print(f'{name}: {", ".join(left_out)} not offered on {args.device}')
        switches = [s for s in asked if s in usable]
        if switches:
            rows += step_rows(name, switches, args)
    if rows:
        report('recipes', rows, args)
    if args.switches is None:
        from transforms import make_video
        with tempfile.TemporaryDirectory() as folder:
            report('decode', decode_rows(args.video or str(make_video(Path(folder))), args), args)


if __name__ == '__main__':
    main()
