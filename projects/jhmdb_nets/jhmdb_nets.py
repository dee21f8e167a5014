"""Five small video networks from scratch on J-HMDB, three splits, tested on clips played forwards and backwards.

    python projects/jhmdb_nets/jhmdb_nets.py OUT --data-root data/jhmdb --processes 2
    python projects/jhmdb_nets/jhmdb_nets.py projects/jhmdb_nets/results --table-only   table.md from the csv files

    OUT/settings.json   what all runs have in common
    OUT/runs/           one file per finished training, with every label and prediction
    OUT/results.csv     one row per test, and what the majority of the training clips would get
    OUT/changes.csv     how many answers change when the test clips are played backwards
    OUT/losses.csv      the mean training loss of every epoch
    OUT/table.md        means over the splits, the majority baseline, and how often the direction of time mattered

3T-ResNet18 and 3D-ResNet18 (Ras et al., arXiv:1912.04075), R(2+1)D-18 (Tran et al., arXiv:1711.11248), I3D-ResNet18
with temporal lengths 1-1-3-3-5 and multi-branch filters (Kobayashi and Ye, WACV 2024) and a C-LSTM (Mänttäri et al.,
ACCV 2020). All with an eighth of the channels, C-LSTM with half, so that a CPU can train them.

Data: the lists DATA_ROOT/{jhmdb5,sitstand}_{train,test}_split{1,2,3}.txt of clips in DATA_ROOT/videos (docs/data.md).
jhmdb5 are five actions; sitstand is sit against stand, alike but for the direction of time. The whole video in 8
frames, the whole image in 48x64. Seed, batch size, schedule and number of epochs are the same for all; the last epoch
is tested, so nothing is chosen on the test clips. What is finished is not run again.
"""
import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

os.environ.setdefault('OMP_NUM_THREADS', '1')  # one thread per process; before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmaction.registry import MODELS, TRANSFORMS  # noqa: E402
from mmcv.transforms import Compose  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.utils import ProgressBar  # noqa: E402
from scipy.stats import binomtest  # noqa: E402
from sklearn.metrics import f1_score  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from tconv_mmaction.backbones import R2Plus1d18  # noqa: E402
from tconv_mmaction.cli.studies import (  # noqa: E402
    check_settings,
    direction_changes,
    majority_baseline,
    mean_std,
    read_list,
    write_table,
)
from tconv_mmaction.utils.atomic import atomic_open, atomic_write_text  # noqa: E402
from tconv_mmaction.utils.complexity import BackboneAndHead  # noqa: E402
from tconv_mmaction.utils.markdown import markdown_table  # noqa: E402

DATA = {'jhmdb5': 5, 'sitstand': 2}  # list -> number of classes
MAJORITY = 'majority'  # in results.csv: no network
TABLES = ('results', 'changes', 'losses')  # the csv files that table.md comes from
TESTS = (('test', 'normal'), ('test', 'reversed'), ('train', 'normal'))


class Net(NamedTuple):
    """A row of the tables: its name there, and its learning rate."""
    title: str
    lr: float = 1e-3


# The papers train 3T with ten times the learning rate of 3D (arXiv:1912.04075, Table 3): so here, beside the same rate.
NETS = {
    '3t': Net('3T-ResNet18'),
    '3d': Net('3D-ResNet18'),
    'r2plus1d': Net('R(2+1)D-18'),
    'i3d_multi': Net('I3D-ResNet18, 1-1-3-3-5, multi-branch'),
    'clstm': Net('C-LSTM'),
    '3t_fast': Net('3T-ResNet18, learning rate 0.01', 1e-2),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs of a folder have in common."""
    data_root: str
    epochs: int = 15
    batch_size: int = 8
    clip_len: int = 8
    height: int = 48
    width: int = 64
    base_channels: int = 8
    seed: int = 0


def build(name: str, classes: int, settings: Settings) -> nn.Module:
    """The network, initialised; clips (N, 3, T, H, W) -> scores (N, classes)."""
    base = settings.base_channels
    resnet = dict(type='TemporalResNet3d', depth=18, base_channels=base)
    head = dict(type='I3DHead', num_classes=classes, in_channels=8 * base, dropout_ratio=0.)
    if name in ('3t', '3t_fast', '3d'):  # as configs/recognition/tconv3/_base_/resnet18.py
        backbone = MODELS.build(dict(
            resnet, temporal_kernels=(7, 3, 3, 3, 3),
            temporal_cfg=dict(type='Conv3d') if name == '3d' else dict(type='Conv3T', init='paper'),
            conv1_stride_t=2, pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2)))
    elif name == 'i3d_multi':
        backbone = MODELS.build(dict(resnet, temporal_cfg=dict(type='MultiBranchConv3d'),
                                     temporal_kernels=(1, 1, 3, 3, 5)))
    elif name == 'r2plus1d':
        backbone = R2Plus1d18(base_channels=base)
    else:  # two layers, BatchNorm over the clip: see docs/clstm_against_i3d.md for why
        backbone = MODELS.build(dict(type='ConvLSTMNet', num_layers=2, hidden_channels=2 * base, shared_norm=False,
                                     norm_statistics='clip'))
        head = dict(type='SequenceHead', num_classes=classes, in_channels=2 * base, clip_len=settings.clip_len,
                    feature_size=backbone.feature_size(settings.height, settings.width), topk=(1, ))
    model = BackboneAndHead(backbone, MODELS.build(head))
    model.backbone.init_weights()
    model.head.init_weights()
    return model


# -- data ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def clips(data: str, part: str, split: int, settings: Settings, cache: str) -> Tuple[Tensor, Tensor]:
    """``(n, 3, T, H, W)`` uint8 and labels ``(n,)`` in the order of the list, decoded once and kept in a file."""
    path = Path(cache) / f'{data}_{part}_{split}.npz'
    if not path.is_file():
        root = Path(settings.data_root)
        pipeline = Compose([TRANSFORMS.build(step) for step in (
            dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=settings.clip_len),
            dict(type='DecordDecode'), dict(type='Resize', scale=(settings.width, settings.height), keep_ratio=False),
            dict(type='FormatShape', input_format='NCTHW'))])
        listed = read_list(root / f'{data}_{part}_split{split}.txt')
        videos = [pipeline(dict(filename=str(root / 'videos' / name), start_index=0, modality='RGB'))['imgs'][0]
                  for name in listed]
        with atomic_open(path, 'wb') as file:
            np.savez(file, clips=np.stack(videos), labels=np.array(list(listed.values())))
    with np.load(path) as kept:
        return torch.from_numpy(kept['clips']), torch.from_numpy(kept['labels'])


def normalized(frames: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return frames.float().div_(127.5).sub_(1)


# -- one training -------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(model: nn.Module, frames: Tensor, reverse: bool) -> List[int]:
    """The classes of clips, in eval mode."""
    model.eval()
    frames = frames.flip(2) if reverse else frames
    return [int(label) for part in frames.split(16) for label in model(normalized(part)).argmax(1)]


def fit(model: nn.Module, frames: Tensor, labels: Tensor, lr: float, settings: Settings) -> List[float]:
    """Adam, the learning rate falling to 0 as a cosine, mirrored at random; the mean loss of every epoch."""
    draw = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    batches = -(-len(frames) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * batches)
    losses = []
    for _ in range(settings.epochs):
        model.train()
        total = 0.
        # equal parts, give or take one: a batch of one clip would have no variance for BatchNorm
        for batch in torch.randperm(len(frames), generator=draw).tensor_split(batches):
            x = normalized(frames[batch])
            mirrored = torch.rand(len(batch), generator=draw) < 0.5
            x = torch.where(mirrored[:, None, None, None, None], x.flip(-1), x)
            loss = F.cross_entropy(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        losses.append(total / len(frames))
    return losses


def train(data: str, name: str, split: int, settings: Settings, out: str) -> dict:
    """One training and its tests, kept in OUT/runs."""
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    torch.set_num_threads(1)
    start, cache = time.process_time(), str(Path(out) / 'clips')
    torch.manual_seed(settings.seed)
    model = build(name, DATA[data], settings)
    losses = fit(model, *clips(data, 'train', split, settings, cache), NETS[name].lr, settings)
    tests = []
    for part, order in TESTS:
        frames, labels = clips(data, part, split, settings, cache)
        tests.append(dict(clips=part, order=order, label=labels.tolist(),
                          predicted=predict(model, frames, order == 'reversed')))
    run = dict(data=data, model=name, split=split, parameters=sum(p.numel() for p in model.parameters()),
               losses=losses, tests=tests, cpu_seconds=time.process_time() - start)
    atomic_write_text(run_file(Path(out), data, name, split), json.dumps(run))
    return run


def run_file(out: Path, data: str, name: str, split: int) -> Path:
    return out / 'runs' / f'{data}_{name}_split{split}.json'


# -- all of them --------------------------------------------------------------------------------------------------


def _train(arguments: tuple) -> dict:
    return train(*arguments)


def run_all(out: Path, jobs: Sequence[Tuple[str, str, int]], settings: Settings, processes: int) -> None:
    """Do the runs (data, net, split) that are not in ``out`` yet.

    Raises:
        ValueError: if ``out`` has runs of other settings.
    """
    check_settings(out, dataclasses.asdict(settings))
    todo = [job for job in jobs if not run_file(out, *job).is_file()]
    print(f'{len(jobs) - len(todo)} of {len(jobs)} runs are there, {len(todo)} to do', flush=True)
    if todo:
        arguments = [(*job, settings, str(out)) for job in todo]
        here = contextlib.nullcontext()
        with here if processes == 1 else get_context('spawn').Pool(min(processes, len(todo))) as pool:
            progress = ProgressBar(len(todo), file=sys.stdout)
            for _ in map(_train, arguments) if pool is None else pool.imap_unordered(_train, arguments):
                progress.update()
            print()


def read_runs(out: Path) -> List[dict]:
    """All finished runs of a folder, in the order of the tables."""
    runs = [json.loads(path.read_text()) for path in (out / 'runs').glob('*.json')]
    return sorted(runs, key=lambda run: (list(DATA).index(run['data']), list(NETS).index(run['model']), run['split']))


# -- tables -------------------------------------------------------------------------------------------------------


def result_rows(runs: Sequence[dict]) -> pd.DataFrame:
    """results.csv: one row per test, with the exact 95 % interval of the accuracy if clips were drawn at random."""
    rows = []
    for run in runs:
        for test in run['tests']:
            n, right = len(test['label']), sum(p == t for p, t in zip(test['predicted'], test['label']))
            interval = binomtest(right, n).proportion_ci(0.95, method='exact')
            rows.append(dict(
                data=run['data'], model=run['model'], split=run['split'], clips=test['clips'], order=test['order'],
                n=n, right=right, accuracy=right / n, accuracy_low=interval.low, accuracy_high=interval.high,
                f1=f1_score(test['label'], test['predicted'], average='macro', zero_division=0),
                parameters=run['parameters'], cpu_seconds=run['cpu_seconds']))
    return pd.DataFrame(rows)


def majority_rows(runs: Sequence[dict]) -> pd.DataFrame:
    """Rows of results.csv: the test clips of every split, all answered with the most frequent training label."""
    labels = {(run['data'], run['split']): {test['clips']: test['label'] for test in run['tests']} for run in runs}
    rows = []
    for (data, split), of in sorted(labels.items()):
        base = majority_baseline(of['train'], of['test'])
        rows.append(dict(data=data, model=MAJORITY, split=split, clips='test', order='normal', n=len(of['test']),
                         right=round(base['accuracy'] * len(of['test'])), accuracy=base['accuracy'], f1=base['f1']))
    return pd.DataFrame(rows)


def change_rows(runs: Sequence[dict]) -> pd.DataFrame:
    """changes.csv: per data set and network, over all splits."""
    parts = []
    for data in (name for name in DATA if any(run['data'] == name for run in runs)):
        found = direction_changes([dict(test, model=run['model'], split=run['split']) for run in runs
                                   if run['data'] == data for test in run['tests']])
        parts.append(found.assign(data=data)[['data', *found.columns]])
    return pd.concat(parts, ignore_index=True)


def table(results: pd.DataFrame, changes: pd.DataFrame, losses: pd.DataFrame) -> str:
    """table.md from the three csv files: per data set the accuracies, normal and reversed, and what reversing the test
    clips changes."""
    parts = []
    for data in (name for name in DATA if name in set(results.data)):
        frame, body, reversal = results[results.data == data], [], []
        for name in (name for name in NETS if name in set(frame.model)):
            rows = frame[frame.model == name]
            normal, backwards, trained = (rows[(rows.clips == part) & (rows.order == order)].sort_values('split')
                                          for part, order in TESTS)
            of_net = losses[(losses.data == data) & (losses.model == name)].sort_values('epoch')
            body.append([NETS[name].title, f'{int(rows.parameters.iloc[0]):,}', mean_std(normal.accuracy),
                         ', '.join(f'{a:.2f}' for a in normal.accuracy), mean_std(normal.f1),
                         mean_std(backwards.accuracy), mean_std(trained.accuracy),
                         mean_std(of_net.groupby('split').loss.last())])
            row, = changes[(changes.data == data) & (changes.model == name)].itertuples(index=False)
            moved = row.right_to_wrong + row.wrong_to_right
            reversal.append([NETS[name].title, row.n, row.changed, row.right_to_wrong, row.wrong_to_right,
                             f'{binomtest(row.right_to_wrong, moved).pvalue:.3f}' if moved else ''])
        base = frame[frame.model == MAJORITY].sort_values('split')
        body.append(['always the majority of the training clips', '', mean_std(base.accuracy),
                     ', '.join(f'{a:.2f}' for a in base.accuracy), mean_std(base.f1), mean_std(base.accuracy), '', ''])
        sizes = {part: frame[frame.clips == part].groupby('split').n.first() for part in ('train', 'test')}
        parts += [
            f'### {data}',
            f'Mean ± standard deviation over {len(base)} splits; training/test clips: '
            + ', '.join(f"{sizes['train'][split]}/{sizes['test'][split]}" for split in base.split) + '.',
            markdown_table(['network', 'parameters', 'accuracy, test', 'per split', 'F1, test',
                            'accuracy, test reversed', 'accuracy, training clips', 'training loss at the end'], body),
            markdown_table(['network', 'test clips, all splits', 'answer changes backwards', 'right to wrong',
                            'wrong to right', 'exact McNemar p'], reversal)]
    return '\n\n'.join(parts) + '\n'


def loss_rows(runs: Sequence[dict]) -> pd.DataFrame:
    """losses.csv."""
    return pd.DataFrame([dict(data=run['data'], model=run['model'], split=run['split'], epoch=epoch, loss=loss)
                         for run in runs for epoch, loss in enumerate(run['losses'], 1)])


def main(argv=None) -> int:
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for the runs, the tables and the decoded clips')
    parser.add_argument('--data-root', default='data/jhmdb', help='videos/ and the lists (default data/jhmdb)')
    parser.add_argument('--data', nargs='+', choices=list(DATA), default=list(DATA), help='(default both)')
    parser.add_argument('--nets', nargs='+', choices=list(NETS), default=list(NETS), metavar='NET',
                        help=f'(default all) {", ".join(NETS)}')
    parser.add_argument('--splits', nargs='+', type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument('--epochs', type=int, default=defaults['epochs'], help=f"(default {defaults['epochs']})")
    parser.add_argument('--base-channels', type=int, default=defaults['base_channels'],
                        help=f"of the first layer; the full ResNets have 64 (default {defaults['base_channels']})")
    parser.add_argument('--processes', type=int, default=1, help='trainings at a time, one thread each (default 1)')
    parser.add_argument('--table-only', action='store_true', help='table.md from the csv files of OUT')
    args = parser.parse_args(argv)
    if min(args.epochs, args.base_channels, args.processes) < 1:
        parser.error('--epochs, --base-channels and --processes must be at least 1.')
    if args.table_only:
        return write_table(args.out, TABLES, table)
    init_default_scope('mmaction')
    settings = Settings(args.data_root, epochs=args.epochs, base_channels=args.base_channels)
    jobs = sorted(((data, name, split) for split in args.splits for name in args.nets for data in args.data),
                  key=lambda job: NETS[job[1]].lr != 1e-3)  # what the papers did first
    try:
        for data, split in {(data, split) for data, _, split in jobs}:
            read_list_of(data, split, Path(args.data_root))
        run_all(args.out, jobs, settings, args.processes)
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    runs = read_runs(args.out)
    results = pd.concat([result_rows(runs), majority_rows(runs)], ignore_index=True).astype(dict(parameters='Int64'))
    for name, content in (('results.csv', results.to_csv(index=False, float_format='%.4g')),
                          ('changes.csv', change_rows(runs).to_csv(index=False)),
                          ('losses.csv', loss_rows(runs).to_csv(index=False, float_format='%.5g'))):
        atomic_write_text(args.out / name, content)
    return write_table(args.out, TABLES, table)


def read_list_of(data: str, split: int, root: Path) -> Dict[str, Dict[str, int]]:
    """Both lists of a split, {'train': {clip: label}, 'test': ...}; an error before hours of training, not after."""
    return {part: read_list(root / f'{data}_{part}_split{split}.txt') for part in ('train', 'test')}


if __name__ == '__main__':
    sys.exit(main())
