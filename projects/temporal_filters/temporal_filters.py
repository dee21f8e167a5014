"""A small controlled study of temporal lengths, multi-branch filters and temporal augmentation, on Video-MNIST.

    python projects/temporal_filters/temporal_filters.py OUT --jobs 2
    python projects/temporal_filters/temporal_filters.py projects/temporal_filters/results --table-only

    OUT/settings.json   what all runs have in common
    OUT/runs.csv        one line per finished training: the net (row), the seed, accuracies in % on four test sets
    OUT/table.md        mean and standard deviation over the seeds, and differences paired by seed
    OUT/figure.png      the same as a picture

It asks, at a size that a CPU trains in seconds, what Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves
3D-CNN For Action Classification" (WACV 2024) ask on mini-SSv2: (a) temporal lengths t1-...-t5, Table 2; (b) one filter
or several branches at weights eta of the average filter, Table 3; (c) random sampling rate and camera ego-motion in
training, Table 4. A run that was interrupted goes on where it stopped, and more seeds can be added later.

Classes are Video-MNIST's ten motions. By default a video shows the digit of another video's class (--digits shuffled),
so that a single frame says little about the class, as in Something-Something; --digits own is Video-MNIST as it is.
"""
import argparse
import dataclasses
import json
import math
import random
import sys
import time
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Dict, Iterable, NamedTuple, Optional, Sequence, Tuple

import tconv_mmaction  # noqa: F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from mmaction.registry import MODELS, TRANSFORMS
from mmengine.registry import init_default_scope
from mmengine.utils import ProgressBar
from scipy import stats
from torch import Tensor, nn

from tconv_mmaction.cli.studies import write_results
from tconv_mmaction.datasets import VideoMNIST
from tconv_mmaction.datasets.digit_motions import draw
from tconv_mmaction.layers import MultiBranchConv3d, switch_to_deploy
from tconv_mmaction.layers.registry import register_layer
from tconv_mmaction.utils.atomic import atomic_open, atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table


@partial(register_layer, force=True)
class RegularizedConv3d(MultiBranchConv3d):
    """The paper's single filter with a weight on its average: one branch, as long as the layer's kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], stride=1, padding=0,
                 dilation=1, groups: int = 1, bias: bool = False, eta: float = 2.0,
                 norm_cfg: Optional[dict] = None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
                         branches=(kernel_size[0], ), eta=eta, norm_cfg=norm_cfg or dict(type='BN3d'))


class Net(NamedTuple):
    """One row of the study: the temporal lengths, the type of the filters, and how it is trained."""
    lengths: Tuple[int, ...]
    filters: dict
    random_rate: bool = False
    ego_motion: bool = False


SINGLE = dict(type='Conv3d')
LONG = (1, 1, 3, 3, 5)  # the paper's choice, Table 2 b1


def multi(eta) -> dict:
    return dict(type='MultiBranchConv3d', eta=eta)


def regularized(eta) -> dict:
    return dict(type='RegularizedConv3d', eta=eta)


NETS: Dict[str, Net] = {
    '33333': Net((3, 3, 3, 3, 3), SINGLE),
    '11333': Net((1, 1, 3, 3, 3), SINGLE),
    '11335': Net(LONG, SINGLE),
    '11111': Net((1, 1, 1, 1, 1), SINGLE),
    'single eta=2': Net(LONG, regularized(2.)),
    'single eta=4': Net(LONG, regularized(4.)),
    'single eta=inf': Net(LONG, regularized('inf')),
    'multi eta=1': Net(LONG, multi(1.)),
    'multi eta=2': Net(LONG, multi(2.)),
    'multi eta=4': Net(LONG, multi(4.)),
    'multi eta=inf': Net(LONG, multi('inf')),
    '33333 + both': Net((3, 3, 3, 3, 3), SINGLE, True, True),
    '11335 + rate': Net(LONG, SINGLE, True, False),
    '11335 + ego': Net(LONG, SINGLE, False, True),
    '11335 + both': Net(LONG, SINGLE, True, True),
    'multi eta=2 + rate': Net(LONG, multi(2.), True, False),
    'multi eta=2 + ego': Net(LONG, multi(2.), False, True),
    'multi eta=2 + both': Net(LONG, multi(2.), True, True),
}
TESTS = ('nominal', 'interval 1', 'interval 4', 'ego-motion')  # the nominal interval is 2, and the crop stands still


class Comparison(NamedTuple):
    """``net`` minus ``reference``, and the same difference in the paper (mini-SSv2, percent), where it has one."""
    net: str
    reference: str
    paper: Optional[float]


SECTIONS: Dict[str, Tuple[Comparison, ...]] = {
    '(a) Temporal lengths (Table 2)': (
        Comparison('11333', '33333', 68.07 - 67.54), Comparison('11335', '33333', 68.83 - 67.54),
        Comparison('11335', '11333', 68.83 - 68.07), Comparison('11111', '33333', 38.39 - 67.54)),
    '(b) Weight of the average filter (Table 3)': (
        Comparison('single eta=2', '11335', 67.51 - 68.83), Comparison('single eta=4', '11335', 62.90 - 68.83),
        Comparison('single eta=inf', '11335', 54.83 - 68.83), Comparison('multi eta=1', '11335', 68.17 - 68.83),
        Comparison('multi eta=2', '11335', 68.82 - 68.83), Comparison('multi eta=2', 'multi eta=1', 68.82 - 68.17),
        Comparison('multi eta=4', 'multi eta=1', 68.54 - 68.17),
        Comparison('multi eta=inf', 'multi eta=1', 67.79 - 68.17)),
    '(c) Augmentation (Table 4)': (
        Comparison('33333 + both', '33333', 67.70 - 67.54), Comparison('11335 + rate', '11335', 68.81 - 68.83),
        Comparison('11335 + ego', '11335', 67.93 - 68.83), Comparison('11335 + both', '11335', 68.74 - 68.83),
        Comparison('multi eta=2 + rate', 'multi eta=2', 69.69 - 68.82),
        Comparison('multi eta=2 + ego', 'multi eta=2', 69.19 - 68.82),
        Comparison('multi eta=2 + both', 'multi eta=2', 69.98 - 68.82),
        Comparison('multi eta=2 + both', '11335 + both', 69.98 - 68.74)),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of a study have in common; the defaults are those of the study in the docs."""
    data_root: Optional[str] = None
    digits: str = 'shuffled'
    test_split: str = 'test'
    videos_per_class: int = 8
    test_videos_per_class: int = 30
    epochs: int = 20
    batch_size: int = 16
    lr: float = 0.05
    weight_decay: float = 1e-3
    base_channels: int = 8
    num_frames: int = 48
    size: int = 36
    crop: int = 28
    clip_len: int = 12
    ego_sigma: float = 0.5
    device: str = 'cpu'


# -- data ---------------------------------------------------------------------------------------------------------


def render(split: str, per_class: int, seed: int, settings: Settings) -> Tuple[np.ndarray, Tensor]:
    """Videos ``(n, num_frames, size, size)`` uint8 and their classes ``(n,)``: a balanced subset drawn by ``seed``."""
    dataset = VideoMNIST([], split=split, data_root=settings.data_root, videos_per_class=per_class, subset_seed=seed,
                         num_frames=settings.num_frames, size=settings.size, seed=seed)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    digits = [info['source_index'] for info in infos]
    if settings.digits == 'shuffled':
        digits = np.random.default_rng((seed, 1)).permutation(digits)
    videos = np.stack([draw(dataset.images[digit], dataset.motion(i), settings.size)
                       for i, digit in enumerate(digits)])
    return videos, torch.tensor([info['label'] for info in infos])


def make_clips(videos: Iterable[np.ndarray], sampler, crop) -> Tensor:
    """Pass videos ``(T, H, W)`` through mmaction2 transforms: ``(n, 1, clip_len, crop, crop)`` in [0, 1]."""
    clips = []
    for video in videos:
        results = sampler(dict(total_frames=len(video), start_index=0))
        results['imgs'] = [video[i][..., None] for i in results['frame_inds']]
        results['img_shape'] = video.shape[1:]
        clips.append(np.stack(crop(results)['imgs'])[..., 0])
    return torch.from_numpy(np.stack(clips)).unsqueeze(1).float().div_(255)


def training_transforms(net: Net, settings: Settings) -> tuple:
    rates = (1, 4) if net.random_rate else (2, 2)
    return (TRANSFORMS.build(dict(type='RandomRateSampleFrames', clip_len=settings.clip_len, frame_intervals=rates)),
            TRANSFORMS.build(dict(type='EgoMotionCrop', crop_size=settings.crop,
                                  sigma=settings.ego_sigma if net.ego_motion else 0.)))


@lru_cache(maxsize=1)
def test_sets(settings: Settings) -> Tuple[Dict[str, Tensor], Tensor]:
    """The four test sets, the same for all runs, and their common classes."""
    videos, labels = render(settings.test_split, settings.test_videos_per_class, 0, settings)

    def sample(interval: int, **crop) -> Tensor:
        np.random.seed(0)  # first boxes and velocities of the ego-motion
        sampler = dict(type='RandomRateSampleFrames', clip_len=settings.clip_len, test_interval=interval,
                       test_mode=True)
        return make_clips(videos, TRANSFORMS.build(sampler), TRANSFORMS.build(dict(crop, crop_size=settings.crop)))

    still = dict(type='CenterCrop')
    return dict(zip(TESTS, (sample(2, **still), sample(1, **still), sample(4, **still),
                            sample(2, type='EgoMotionCrop', sigma=settings.ego_sigma)))), labels


# -- one training -------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """TemporalResNet3d with one block per stage, average pool, Linear."""

    def __init__(self, net: Net, base_channels: int) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(
            type='TemporalResNet3d', depth=18, stage_blocks=(1, 1, 1, 1), base_channels=base_channels, in_channels=1,
            temporal_kernels=net.lengths, temporal_cfg=net.filters, spatial_strides=(1, 2, 2, 2),
            temporal_strides=(1, 1, 1, 1), pretrained=None, pretrained2d=False))
        self.backbone.init_weights()
        self.fc = nn.Linear(8 * base_channels, 10)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, 1, T, H, W) -> (N, 10)."""
        return self.fc(self.backbone(clips).mean(dim=(2, 3, 4)))


@torch.no_grad()
def accuracy(model: nn.Module, clips: Tensor, labels: Tensor, device: str) -> float:
    """Top-1 in percent, in eval mode."""
    model.eval()
    right = sum(int((model(part.to(device)).argmax(1).cpu() == label).sum())
                for part, label in zip(clips.split(100), labels.split(100)))
    return 100 * right / len(labels)


def train(name: str, seed: int, settings: Settings) -> dict:
    """Train one net and test it, fused: one line of runs.csv.

    The videos and the order of the batches depend on ``seed`` alone, so nets of the same seed can be compared in
    pairs. SGD with Nesterov momentum, cosine schedule, weight decay on everything: on the free
    tensors of the branches it is eq. 7.
    """
    init_default_scope('mmaction')
    torch.set_num_threads(1)
    start, net = time.perf_counter(), NETS[name]
    videos, labels = render('train', settings.videos_per_class, seed, settings)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    transforms = training_transforms(net, settings)
    model = Classifier(net, settings.base_channels).to(settings.device)
    steps = settings.epochs * math.ceil(len(videos) / settings.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, momentum=0.9, nesterov=True,
                                weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(settings.epochs):
        model.train()
        seen, total = 0, 0.
        for batch in torch.randperm(len(videos), generator=order).split(settings.batch_size):
            clips = make_clips(videos[batch.numpy()], *transforms).to(settings.device)
            loss = F.cross_entropy(model(clips), labels[batch].to(settings.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen, total = seen + len(batch), total + loss.item() * len(batch)
    tests, test_labels = test_sets(settings)
    fused = switch_to_deploy(model.eval())
    return dict(
        net=name, seed=seed, train_loss=total / seen,
        **{test: accuracy(fused, clips, test_labels, settings.device) for test, clips in tests.items()},
        unfused_nominal=accuracy(model, tests['nominal'], test_labels, settings.device),
        parameters=sum(p.numel() for p in model.parameters()),
        fused_parameters=sum(p.numel() for p in fused.parameters()), seconds=time.perf_counter() - start)


# -- all of them --------------------------------------------------------------------------------------------------


def _train(job: tuple) -> dict:
    return train(*job)


def run_all(out: Path, names: Sequence[str], seeds: Sequence[int], settings: Settings, jobs: int) -> pd.DataFrame:
    """Do the trainings that OUT/runs.csv does not have yet; after each, the file is replaced by one with its line.

    Raises:
        ValueError: if ``out`` has runs that were made with other settings.
    """
    record, path = out / 'settings.json', out / 'runs.csv'
    given = dataclasses.asdict(settings)
    if record.is_file():
        before = json.loads(record.read_text())
        if before != given:
            changed = {k: (before.get(k), v) for k, v in given.items() if before.get(k) != v}
            raise ValueError(f'{out} holds runs with other settings (there, now): {changed}. Choose another folder or '
                             'the same settings.')
    elif path.is_file():
        raise ValueError(f'{path} is there, and without {record.name} beside it nobody knows how its runs were made. '
                         'Choose another folder.')
    else:
        atomic_write_text(record, json.dumps(given, indent=1) + '\n')
    rows = pd.read_csv(path).to_dict('records') if path.is_file() else []
    done = {(row['net'], row['seed']) for row in rows}
    todo = [(name, seed, settings) for seed in seeds for name in names if (name, seed) not in done]
    print(f'{len(done)} runs are there, {len(todo)} to do')
    if todo:
        with get_context('spawn').Pool(min(jobs, len(todo))) if jobs > 1 else _Here() as pool:
            progress = ProgressBar(len(todo), file=sys.stdout)
            for row in pool.imap_unordered(_train, todo):
                rows.append(row)
                with atomic_open(path) as file:
                    pd.DataFrame(rows).to_csv(file, index=False, float_format='%.6g')
                progress.update()
            print()
    return pd.read_csv(path)


class _Here:
    """A pool without processes."""
    imap_unordered = staticmethod(map)

    def __enter__(self) -> '_Here':
        return self

    def __exit__(self, *args) -> None:
        pass


# -- table and figure ---------------------------------------------------------------------------------------------


def paired_difference(runs: pd.DataFrame, net: str, reference: str, test: str) -> Tuple[float, float, float, int]:
    """``net`` minus ``reference`` over the seeds that both have.

    Returns:
        mean, its standard error (sample standard deviation / sqrt(n)), half the width of its 95 % confidence
        interval (Student's t with n-1 degrees of freedom), n. With one seed the middle two are NaN.
    """
    by_seed = {name: runs[runs.net == name].set_index('seed')[test] for name in (net, reference)}
    delta = (by_seed[net] - by_seed[reference]).dropna().to_numpy()
    n = len(delta)
    error = float(delta.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return float(delta.mean()) if n else math.nan, error, float(stats.t.ppf(.975, n - 1) * error) if n > 1 else error, n


def make_table(runs: pd.DataFrame) -> str:
    """All nets with mean and standard deviation, then every section's paired differences."""
    text, lines = [], [['net', 'seeds', 'parameters, fused', *TESTS]]
    for name in (n for n in NETS if (runs.net == n).any()):
        of_net = runs[runs.net == name]
        lines.append([name, str(len(of_net)), str(of_net.fused_parameters.iloc[0]),
                      *(f'{of_net[t].mean():.1f} ± {of_net[t].std(ddof=1):.1f}' for t in TESTS)])
    text += ['Accuracy in %, mean ± standard deviation over the seeds.', markdown_table(lines[0], lines[1:])]
    for title, comparisons in SECTIONS.items():
        lines = [['difference', *TESTS, 'paper, nominal']]
        for net, reference, paper in comparisons:
            if not ((runs.net == net).any() and (runs.net == reference).any()):
                continue
            cells = []
            for test in TESTS:
                mean, error, half, _ = paired_difference(runs, net, reference, test)
                clear = '**' if abs(mean) > half else ''
                cells.append(f'{clear}{mean:+.1f} ± {error:.1f}{clear}')
            lines.append([f'{net} − {reference}', *cells, '' if paper is None else f'{paper:+.2f}'])
        if len(lines) > 1:
            text += [f'### {title}', 'Percentage points, mean ± standard error of the differences paired by seed; bold '
                     'where the 95 % interval (Student) leaves out 0.', markdown_table(lines[0], lines[1:])]
    return '\n\n'.join(text) + '\n'


def make_figure(runs: pd.DataFrame) -> Figure:
    """Every run is a point, every mean a line; one panel per question."""
    figure = Figure(figsize=(13, 4.2), layout='constrained')
    lengths, weights, augmentation = figure.subplots(1, 3, width_ratios=(4, 5, 8))

    def points(axis, x: float, name: str, test: str, color: str, label: Optional[str] = None) -> None:
        values = runs[runs.net == name][test]
        axis.plot([x] * len(values), values, '.', color=color, alpha=0.4)
        axis.plot([x - 0.12, x + 0.12], [values.mean()] * 2, color=color, linewidth=2.5, label=label)

    for x, name in enumerate(('11111', '33333', '11333', '11335')):
        points(lengths, x, name, 'nominal', 'tab:blue')
    lengths.set_xticks(range(4), ('11111', '33333', '11333', '11335'))
    lengths.set(title='(a) temporal lengths', ylabel='accuracy, %')
    etas = ('1', '2', '4', 'inf')
    for kind, color, shift in (('single', 'tab:blue', -0.15), ('multi', 'tab:orange', 0.15)):
        for x, eta in enumerate(etas):
            name = '11335' if (kind, eta) == ('single', '1') else f'{kind} eta={eta}'
            points(weights, x + shift, name, 'nominal', color, kind if x == 0 else None)
    weights.set_xticks(range(4), etas)
    weights.set(title='(b) 11335, weight of the average', xlabel='eta')
    weights.legend()
    trained = [(f'{label}{suffix}', f'{name}{suffix}', color, shade) for name, label, color in
               (('11335', 'single', 'tab:blue'), ('multi eta=2', 'multi', 'tab:orange'))
               for suffix, shade in (('', 1.), (' + both', 0.5))]
    for i, (label, name, color, shade) in enumerate(trained):
        for x, test in enumerate(TESTS):
            values = runs[runs.net == name][test]
            augmentation.bar(x + 0.2 * i - 0.3, values.mean(), 0.19, color=color, alpha=shade,
                             yerr=values.std(ddof=1) if len(values) > 1 else None, label=label if x == 0 else None)
    augmentation.set_xticks(range(len(TESTS)), TESTS)
    augmentation.set(title='(c) trained without and with both augmentations (bars: mean ± std)', ylim=(0, 120))
    augmentation.legend(fontsize=8, ncols=2)
    return figure


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for settings.json, runs.csv, table.md and figure.png')
    parser.add_argument('--seeds', type=int, default=5, help='seeds per net (default 5)')
    parser.add_argument('--nets', nargs='+', choices=NETS, default=list(NETS), metavar='NET',
                        help=f'which nets (default all): {", ".join(NETS)}')
    parser.add_argument('--jobs', type=int, default=1, help='processes, one thread each')
    parser.add_argument('--quick', action='store_true', help='1 seed, 1 epoch, few videos: shows that it runs')
    parser.add_argument('--table-only', action='store_true', help='table and figure of the runs there are')
    for field in dataclasses.fields(Settings):
        choices = dict(digits=('shuffled', 'own'), test_split=('val', 'test')).get(field.name)
        parser.add_argument('--' + field.name.replace('_', '-'), choices=choices, default=field.default,
                            type=str if field.default is None else type(field.default),
                            help=f'(default {field.default})')
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds, args.epochs, args.videos_per_class, args.test_videos_per_class = 1, 1, 2, 2
    if args.seeds < 1 or args.jobs < 1 or args.epochs < 1 or args.batch_size < 2:
        parser.error('--seeds, --jobs and --epochs must be at least 1, and --batch-size at least 2.')
    init_default_scope('mmaction')
    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    try:
        if args.table_only and not (args.out / 'runs.csv').is_file():
            raise FileNotFoundError(f'{args.out / "runs.csv"} is not there: no run has ended yet.')
        runs = (pd.read_csv(args.out / 'runs.csv') if args.table_only else
                run_all(args.out, args.nets, range(args.seeds), settings, args.jobs))
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    write_results(args.out, make_table(runs), make_figure(runs))
    return 0


if __name__ == '__main__':
    sys.exit(main())
