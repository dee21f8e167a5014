"""Does 3T from ImageNet weights learn words better if its transforms start moving? MIRACL-VC1, unseen speakers.

    python projects/learned_motion/words.py --data-root data/miracl --weights resnet18.pth
    python projects/learned_motion/words.py --table-only    tables and page of what is there

    OUT/words.jsonl   one line per finished training

ResNet18 up to layer3, K_1 of every 3T layer and all batch norms from a 2D network's weights; the transforms start at
the identity, with random velocities, or with velocities drawn from the dense flow of the training clips. 8 frames of
32x64 pixels (random crop of 36x72 and mirror in training), 20 clips of each word, Adam, 6 epochs. All starts of a fold
and seed see the same clips in the same order. Tested on five speakers that are not in the training list, also played
backwards. What is finished is not run again.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Sequence

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from nets import MOTION_STD, mean_motion  # noqa: E402  beside this file
from tables import PAGE, STARTS, WORDS_LOG, write_results  # noqa: E402  beside this file
from torch import nn  # noqa: E402

from tconv_mmaction.backbones.moving_start import start_moving  # noqa: E402
from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.cli.spoken_words import HEIGHT, WIDTH, decoded, middle_crop  # noqa: E402
from tconv_mmaction.cli.studies import read_list  # noqa: E402
from tconv_mmaction.cli.study_clips import cropped_and_mirrored, normalized  # noqa: E402
from tconv_mmaction.cli.study_nets import resnet18_to_layer3  # noqa: E402
from tconv_mmaction.cli.study_training import accuracy, answers, fit  # noqa: E402
from tconv_mmaction.datasets.clip_motion import clip_motion  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
CLASSES, FRAMES = 10, 8
CHANNELS = 64  # of the 2D network's stem
PER_CLASS, EPOCHS, BATCH, LR, HEAD_LR = 20, 6, 10, 3e-4, 1e-3
FOLDS, SEEDS = (1, 2, 3), (0, 1)


def listed(root: str, part: str, fold: int) -> Dict[str, int]:
    return read_list(Path(root) / f'words_{part}_unseen{fold}.txt')


def some(clips: Dict[str, int], per_class: int, seed: int) -> List[str]:
    """``per_class`` clips of every class, drawn by ``seed``."""
    names, rng = np.array(sorted(clips)), np.random.default_rng(seed)
    labels = np.array([clips[name] for name in names])
    return [str(name) for label in range(CLASSES)
            for name in rng.permutation(names[labels == label])[:per_class]]


def build(weights: str) -> nn.Module:
    """Clips (N, 3, T, H, W) -> scores (N, 10), the transforms at the identity."""
    return resnet18_to_layer3((7, 3, 3, 3), dict(type='Conv3T', init='paper'), CHANNELS, CLASSES, 2, 3, weights)


def velocities(start: str, clips: np.ndarray, seed: int) -> np.ndarray:
    """``(n, 4)`` of :func:`start_moving`, per frame of the clip; 'random' is MOTION_STD of the first layer, whose
    half kernel is three pixels."""
    if start == 'flow':
        return np.concatenate([clip_motion(clip.transpose(1, 2, 3, 0)) for clip in clips])
    shift, turn, zoom = MOTION_STD
    return np.random.default_rng(seed).normal(size=(500, 4)) * (zoom, turn, 3 * shift, 3 * shift)


def run(key: Key, root: str, weights: str, cache: str) -> dict:
    """One line of words.jsonl."""
    torch.set_num_threads(1)
    clips, seed = decoded(root, cache, FRAMES), key['seed']
    train, test = (listed(root, part, key['fold']) for part in ('train', 'test'))
    chosen = some(train, PER_CLASS, seed)
    x, y = np.stack([clips[name] for name in chosen]), torch.tensor([train[name] for name in chosen])
    torch.manual_seed(seed)
    model = build(weights)
    if key['start'] != 'identity':
        start_moving(model.backbone, velocities(key['start'], x, seed), (3, FRAMES, HEIGHT, WIDTH), seed)
    started, x = mean_motion(model), torch.from_numpy(x)
    optimizer = torch.optim.Adam([dict(params=model.backbone.parameters(), lr=LR),
                                  dict(params=model.head.parameters(), lr=HEAD_LR)], fused=True)
    draw = torch.Generator().manual_seed(seed)
    losses = fit(model, optimizer, lambda batch: normalized(cropped_and_mirrored(x[batch], HEIGHT, WIDTH, draw)), y,
                 EPOCHS, BATCH, draw)
    tested, labels = middle_crop(torch.from_numpy(np.stack([clips[name] for name in test]))), list(test.values())
    right = [accuracy(answers(model, clips), labels) for clips in (tested, tested.flip(2))]
    return dict(test=right[0], reversed=right[1], started=started, motion=mean_motion(model),
                loss=round(losses[-1], 4))


def keys(seeds: Sequence[int] = SEEDS) -> List[Key]:
    return [dict(part='words', start=start, fold=fold, seed=seed, lr=LR, per_class=PER_CLASS, epochs=EPOCHS)
            for seed in seeds for fold in FOLDS for start in STARTS]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='(default: results beside this file)')
    parser.add_argument('--data-root', default='data/miracl', help='videos/ and the lists (default data/miracl)')
    parser.add_argument('--weights', help="a 2D ResNet18 checkpoint under torchvision's names")
    parser.add_argument('--cache', default='work_dirs/learned_motion', help='folder for the decoded clips')
    parser.add_argument('--seeds', nargs='+', type=int, default=list(SEEDS), help='(default: 0 1)')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='the tables of the runs there are')
    args = parser.parse_args(argv)
    if args.weights is None and not args.table_only:
        parser.error('--weights is needed: K_1 comes from a 2D network.')
    deadline = None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer

    def work() -> None:
        run_all(args.out / WORDS_LOG, keys(args.seeds), lambda key: run(key, args.data_root, args.weights, args.cache),
                deadline=deadline)

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(args.out / WORDS_LOG, None if args.table_only else work,
                        lambda _: write_results(read_runs(args.out / 'runs.jsonl'), args.out, page))


if __name__ == '__main__':
    sys.exit(main())
