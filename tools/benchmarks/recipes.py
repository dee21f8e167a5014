"""What each switch of a training recipe does to the time of a training step, beside the same step without it.

    python tools/benchmarks/recipes.py --out-dir docs/benchmarks
    python tools/benchmarks/recipes.py --out-dir docs/benchmarks --cases 3t-resnet18 --switches compile
    python tools/benchmarks/recipes.py --out-dir docs/benchmarks --parts decode loader

Each step is forward, loss, backward and Adam, by mmengine's optimizer wrappers. 'accumulation' makes the same batch in
two halves: its ratio is the cost of the smaller batches, its gain is memory, as checkpointing's. ``difference`` is the
norm of the difference of all gradients over their norm, at the same weights and batch, before anything is timed;
under accumulation BatchNorm takes its statistics over half the batch, which is its difference. 'compile' takes minutes
on two cores and is left out unless it is named; the rows of a case that was measured again replace all it had.

The part 'decode' reads the same frames with each decode setting and compares the pixels with those of the default; for
a reduced size both are followed by mmaction2's ``Resize`` to that size. The part 'loader' reads small clips with two
workers for three epochs, with and without ``persistent_workers``: the time to the first batch and of the whole epoch.
"""
import copy
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import decord
import numpy as np
import torch
from mmaction.registry import DATASETS, MODELS
from mmengine.dataset import Compose, pseudo_collate
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import turn_on_activation_checkpointing
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tconv_mmaction.cli.timing import interleave, parser, report, rows_against
from tconv_mmaction.hooks.channels_last_hook import channels_last
from tconv_mmaction.optim.bf16_optim_wrapper import BF16OptimWrapper

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
    '3t-googlenet': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')), (16, 112, 112), 2, ()),
    'r2plus1d18': (dict(type='R2Plus1d18'), (8, 64, 64), 2, STAGES),
    'clstm': (dict(type='ConvLSTMNet', num_layers=3), (16, 64, 64), 2, None),
}
PARTS = ('steps', 'decode', 'loader')
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
        # one shape per compiled network; what other cases compiled must not make it dynamic
        self.run: Callable = torch.compile(self.model, dynamic=False) if switch == 'compile' else self.model
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


def write_video(path: Path, width: int, height: int, count: int) -> Path:
    """MPEG-4 of OpenCV, a key frame every 12: a window that wanders over a smooth random picture."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 25, (width, height))
    picture = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    picture = cv2.resize(picture, (width + 2 * count, height + count), interpolation=cv2.INTER_CUBIC)
    for t in range(count):
        writer.write(np.ascontiguousarray(picture[t:t + height, 2 * t:2 * t + width]))
    writer.release()
    return path


def frame_size(video: str) -> Tuple[int, int]:
    """(width, height) in pixels."""
    height, width = decord.VideoReader(video, num_threads=1).get_batch([]).shape[1:3]
    return width, height


def decoding(video: str, init: dict, decode: dict, num_clips: int = 1, backwards: bool = False,
             short_side: Optional[int] = None) -> Callable[[], np.ndarray]:
    """Reads clips of 32 frames at interval 2 of one video, resized to ``short_side`` if that is given."""
    steps = [dict(type='DecordInit', **init),
             dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips=num_clips, test_mode=True),
             dict(type='ReverseFrames', enabled=backwards), dict(type='DecordDecode', **decode)]
    if short_side is not None:
        steps.append(dict(type='Resize', scale=(-1, short_side)))
    pipeline = Compose(steps)
    return lambda: np.stack(pipeline(dict(filename=video, label=0, start_index=0, modality='RGB'))['imgs'])


def compare(clip: str, peer: str, runs: Dict[str, Callable[[], np.ndarray]], args) -> List[dict]:
    """Time and pixels of each of the runs against those of ``peer``."""
    reference = runs[peer]()
    pixels = {}
    for name, run in runs.items():
        frames = run()
        pixels[name] = (float(np.abs(frames.astype(np.int16) - reference).mean()), psnr(frames, reference))
    rows = rows_against(peer, interleave(runs, args.rounds, 'cpu', warmup=1), clip=clip)
    return [{**row, 'mean_abs_difference': round(pixels[row['candidate']][0], 2),
             'PSNR_dB': round(pixels[row['candidate']][1], 1)} for row in rows]


def decode_rows(video: str, args, large: Optional[str] = None) -> List[dict]:
    """What DecordInit and DecordDecode offer, for 32 frames at interval 2: forwards, backwards, in a test of ten clips.

    Then at half the height of ``video``, and of ``large`` at 256 pixels, each against Resize to that size.
    """
    def runs(settings: Dict[str, Tuple[dict, dict]], path: str = video, **how) -> Dict[str, Callable]:
        return {name: decoding(path, init, decode, **how) for name, (init, decode) in settings.items()}

    forward = {'default': ({}, {}), "mode='forward'": ({}, dict(mode='forward'))}
    size = 'x'.join(map(str, frame_size(video)))
    rows = compare(f'{size}, one clip', 'default', runs({
        **forward, 'num_threads=2': (dict(num_threads=2), {}), "mode='efficient'": ({}, dict(mode='efficient'))}), args)
    rows += compare(f'{size}, one clip backwards', 'default', runs(forward, backwards=True), args)
    rows += compare(f'{size}, ten clips', 'default', runs(forward, num_clips=10), args)
    for path, short_side in ((video, min(frame_size(video)) // 2), *([(large, 256)] if large else [])):
        size = 'x'.join(map(str, frame_size(path)))
        rows += compare(f'{size} to {short_side}', f'Resize((-1, {short_side}))', runs({
            f'Resize((-1, {short_side}))': ({}, {}), f'short_side={short_side}': (dict(short_side=short_side), {})},
            path, short_side=short_side), args)
    return rows


CLIPS, BATCH, EPOCHS = 64, 8, 3
PERSISTENT = {'persistent_workers=False': False, 'persistent_workers=True': True}


def timed_epochs(loader: DataLoader, epochs: int) -> List[Tuple[float, float, int]]:
    """(seconds to the first batch, seconds of the epoch, samples) of each epoch."""
    found = []
    for _ in range(epochs):
        start, first, samples = time.perf_counter(), math.nan, 0
        for batch in loader:
            if samples == 0:
                first = time.perf_counter() - start
            samples += len(batch['inputs'])
        found.append((first, time.perf_counter() - start, samples))
    return found


def loader_rows(folder: Path, args) -> List[dict]:
    """Three epochs of 64 clips of 8 frames at interval 2 from 170x128 videos of 40 frames, two workers, batches of 8.

    Each round makes both loaders anew, so the first epoch starts workers in either case.
    """
    video = write_video(folder / 'clip0.mp4', 170, 128, 40)
    for index in range(1, CLIPS):
        shutil.copyfile(video, folder / f'clip{index}.mp4')
    (folder / 'list.txt').write_text(''.join(f'clip{index}.mp4 0\n' for index in range(CLIPS)), encoding='utf-8')
    data = DATASETS.build(dict(
        type='VideoDataset', ann_file=str(folder / 'list.txt'), data_prefix=dict(video=str(folder)), pipeline=[
            dict(type='DecordInit'), dict(type='SampleFrames', clip_len=8, frame_interval=2, num_clips=1),
            dict(type='DecordDecode'), dict(type='RandomResizedCrop'), dict(type='Resize', scale=(112, 112),
                                                                            keep_ratio=False),
            dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]))
    seconds = {name: np.empty((args.rounds, EPOCHS, 2)) for name in PERSISTENT}
    for i in range(args.rounds):
        for name in list(PERSISTENT)[::1 if i % 2 == 0 else -1]:
            loader = DataLoader(data, batch_size=BATCH, num_workers=2, shuffle=True, collate_fn=pseudo_collate,
                                persistent_workers=PERSISTENT[name])
            epochs = timed_epochs(loader, EPOCHS)
            if {samples for _, _, samples in epochs} != {CLIPS}:
                raise RuntimeError(f'{name}: epochs of {[samples for _, _, samples in epochs]} instead of {CLIPS}.')
            seconds[name][i] = [epoch[:2] for epoch in epochs]
    return [row for epoch in range(EPOCHS) for place, what in enumerate(('to the first batch', 'whole epoch'))
            for row in rows_against('persistent_workers=False', {
                name: values[:, epoch, place] for name, values in seconds.items()}, epoch=epoch + 1, time=what)]


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--cases', nargs='+', choices=list(CASES), default=None, metavar='NAME',
                         help=f'these only (default: all; with --quick the first), of {", ".join(CASES)}')
    options.add_argument('--switches', nargs='+', choices=SWITCHES, metavar='NAME',
                         help=f'these only (default: all but compile), of {", ".join(SWITCHES)}')
    options.add_argument('--parts', nargs='+', choices=PARTS, metavar='NAME', help='these only (default: all; with '
                         f'--switches the steps), of {", ".join(PARTS)}')
    options.add_argument('--video', help='for the decode settings (default: 340x256 and 854x480 are made)')
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    init_default_scope('mmaction')
    parts = args.parts or (PARTS if args.switches is None else ('steps',))
    rows = []
    for name in (args.cases or (list(CASES)[:1] if args.quick else list(CASES))) if 'steps' in parts else ():
        usable = offered(name, args.device)
        asked = args.switches or [s for s in SWITCHES if s != 'compile']
        left_out = [s for s in args.switches or () if s not in usable]
        if left_out:
            print(f'{name}: {", ".join(left_out)} not offered on {args.device}')
        switches = [s for s in asked if s in usable]
        if switches:
            rows += step_rows(name, switches, args)
    if rows:
        report('recipes', rows, args, list(CASES))
    with tempfile.TemporaryDirectory() as folder:
        if 'decode' in parts:
            from transforms import make_video
            videos = dict(video=args.video) if args.video else dict(
                video=str(make_video(Path(folder))), large=str(write_video(Path(folder) / 'large.mp4', 854, 480, 80)))
            report('decode', decode_rows(args=args, **videos), args)
        if 'loader' in parts:
            report('loader', loader_rows(Path(folder), args), args)


if __name__ == '__main__':
    main()
