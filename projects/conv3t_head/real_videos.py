"""Conv3THead against I3DHead on real videos: spoken words (MIRACL-VC1) and actions (J-HMDB), on frozen features.

    python projects/conv3t_head/real_videos.py --data-root data --weights resnet18.pth
    python projects/conv3t_head/real_videos.py --table-only    tables and page of what is there

    OUT/real_videos.jsonl   one line per finished training of a head

A 2D ResNet18 up to layer2 sees every frame by itself and is not trained; its maps, 128 channels at an eighth of the
image, are normalised (batch norm) and go to the head: all that knows of time is the head, and only it is trained. The
motion of these classes is not known, so what is reported is the accuracy, forwards and on clips played backwards. One
learning rate for all, which was not tuned. What is finished is not run again.
"""
import argparse
import logging
import os
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Dict, NamedTuple, Sequence, Tuple

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from conv3t_head import fit  # noqa: E402  beside this file
from mmaction.registry import MODELS  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from tables import PAGE, REAL_LOG, write_results  # noqa: E402  beside this file
from torch import Tensor, nn  # noqa: E402

from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.cli.studies import read_list  # noqa: E402
from tconv_mmaction.cli.study_clips import kept, normalized, whole_videos  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
FRAMES, STEM = 8, 64  # of a clip; channels of the 2D network's first layer


class Data(NamedTuple):
    """``listed``: the lists' names; ``size``: height and width of a frame."""
    listed: str
    classes: int
    size: Tuple[int, int]
    epochs: int


DATA = {'miracl': Data('words_{part}_unseen{fold}.txt', 10, (48, 96), 15),
        'jhmdb': Data('jhmdb5_{part}_split{fold}.txt', 5, (96, 128), 30)}
CONV3T = dict(type='Conv3THead', kernel_size=3, motion_std=(0.05, 0.05, 0.02), dropout_ratio=0.)
HEADS = {'conv3t': CONV3T, 'i3d': dict(type='I3DHead', dropout_ratio=0.)}
LR, MULT = 1e-3, 3.
FOLDS, SEEDS = (1, 2, 3), (0, 1, 2)


# -- features -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def features_of(videos: np.ndarray, weights: str) -> Tensor:
    """``(n, 3, T, H, W)`` uint8 -> ``(n, 128, T, H/8, W/8)`` half precision, every frame by itself."""
    backbone = MODELS.build(dict(
        type='TemporalResNet3d', depth=18, base_channels=STEM, num_stages=2, out_indices=(1, ), spatial_strides=(1, 2),
        temporal_strides=(1, 1), dilations=(1, 1), temporal_kernels=(1, 1, 1), conv1_stride_t=1,
        pool1_kernel=(1, 3, 3), pool1_stride_t=1, pretrained=weights))
    backbone.init_weights()
    backbone.eval()
    return torch.cat([backbone(normalized(part)).half() for part in torch.from_numpy(videos).split(10)])


@lru_cache(maxsize=1)
def features(data: str, root: Path, weights: str, cache: str) -> Dict[str, Tensor]:
    """{clip: (128, T, H/8, W/8)} of all clips of a set, computed once and kept in a file."""
    def make(names: Sequence[str]) -> np.ndarray:
        return features_of(whole_videos(root / 'videos', names, FRAMES, *DATA[data].size), weights).numpy()

    found = kept(Path(cache) / f'{data}_of_frames.npz',
                 lambda: {name for part in ('train', 'test') for name in listed(data, root, part, 1)}, make)
    return {name: torch.from_numpy(array) for name, array in found.items()}


def listed(data: str, root: Path, part: str, fold: int) -> Dict[str, int]:
    """{clip: class}."""
    return read_list(root / DATA[data].listed.format(part=part, fold=fold))


# -- one training -------------------------------------------------------------------------------------------------


def run(key: Key, data_root: Path, weights: str, cache: str) -> dict:
    """One line of real_videos.jsonl."""
    torch.set_num_threads(1)
    root, kind = data_root / key['data'], DATA[key['data']]
    known = features(key['data'], root, weights, cache)
    train, test = (listed(key['data'], root, part, key['fold']) for part in ('train', 'test'))
    x, y = torch.stack([known[name] for name in train]), torch.tensor(list(train.values()))
    torch.manual_seed(key['seed'])
    head = MODELS.build(dict(HEADS[key['head']], num_classes=kind.classes, in_channels=2 * STEM))
    head.init_weights()
    model = nn.Sequential(nn.BatchNorm3d(2 * STEM, affine=False), head)
    loss = fit(model, x, y, key['lr'], MULT, kind.epochs, key['seed'])
    model.eval()
    x, y = torch.stack([known[name] for name in test]), torch.tensor(list(test.values()))
    right = [round(100 * float((predict(model, clips) == y).float().mean()), 3) for clips in (x, x.flip(2))]
    return dict(accuracy=right[0], accuracy_reversed=right[1], loss=loss,
                trained=len(train), tested=len(test), parameters=sum(p.numel() for p in head.parameters()))


@torch.no_grad()
def predict(model: nn.Module, clips: Tensor) -> Tensor:
    return torch.cat([model(part.float()).argmax(1) for part in clips.split(50)])


# -- all of them --------------------------------------------------------------------------------------------------


def key_of(data: str, head: str, fold: int, seed: int, lr: float = LR) -> Key:
    return dict(data=data, head=head, fold=fold, seed=seed, lr=lr, epochs=DATA[data].epochs)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='(default: results beside this file)')
    parser.add_argument('--weights', help="a 2D ResNet18 checkpoint under torchvision's names")
    parser.add_argument('--data-root', type=Path, default='data',
                        help='folder with miracl/ and jhmdb/, each with videos/ and its lists (default data)')
    parser.add_argument('--data', nargs='+', choices=list(DATA), default=list(DATA), help='(default: both)')
    parser.add_argument('--cache', default='work_dirs/conv3t_head', help='folder for the features')
    parser.add_argument('--seeds', nargs='+', type=int, default=list(SEEDS), help='(default: 0 1 2)')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='the tables of the runs there are')
    args = parser.parse_args(argv)
    if args.weights is None and not args.table_only:
        parser.error("--weights is needed: frames are seen by a 2D network's.")
    log, deadline = args.out / REAL_LOG, None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer

    def work() -> None:
        keys = [key_of(data, head, fold, seed) for data in args.data for seed in args.seeds for fold in FOLDS
                for head in HEADS]
        run_all(log, keys, lambda key: run(key, args.data_root, args.weights, args.cache), deadline=deadline)

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work,
                        lambda _: write_results(read_runs(args.out / 'runs.jsonl'), args.out, page))


if __name__ == '__main__':
    sys.exit(main())
