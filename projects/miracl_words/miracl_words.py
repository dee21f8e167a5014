"""3T against 3D, (2+1)D and 2D on spoken words of speakers nobody has trained on (MIRACL-VC1).

    python projects/miracl_words/miracl_words.py --data-root data/miracl                         from scratch
    python projects/miracl_words/miracl_words.py --data-root data/miracl --weights resnet18.pth  and from these
    python projects/miracl_words/miracl_words.py --table-only                                    tables of what is there

    OUT/runs.jsonl   one line per finished training, with every prediction, forwards and backwards
    OUT/table.md     accuracy per network, paired differences with 95 % intervals, what playing backwards costs
    OUT/figure.png   losses and accuracies

OUT is ``results`` beside this file unless given; README.md there says what the settings are. Learning rates are chosen
on two speakers of the training list of fold 1, the same number of tries for every network. The last epoch is tested.
What is finished is not run again.
"""
import argparse
import logging
import os
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from nets import NETS, build, motion, parameter_groups  # noqa: E402  beside this file
from plan import IMAGENET, SETTINGS, STAGES, Setting, chosen_lr, key_of, setting_of, tuning_keys  # noqa: E402
from tables import PAGE, write_results  # noqa: E402  beside this file
from torch import Tensor, nn  # noqa: E402

from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.cli.study_clips import cropped_and_mirrored, kept, normalized, whole_videos  # noqa: E402
from tconv_mmaction.utils.atomic import atomic_open  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
CLASSES = 10
FRAMES, HEIGHT, WIDTH, MARGIN = 8, 32, 64, 4  # what a network sees; training crops it from MARGIN (2 MARGIN) more


# -- data ---------------------------------------------------------------------------------------------------------


def read_list(data_root: str, part: str, fold: int) -> Tuple[List[str], List[int]]:
    """Names and classes of ``words_{part}_unseen{fold}.txt``."""
    path = Path(data_root) / f'words_{part}_unseen{fold}.txt'
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there; --data-root must have the lists and videos/ of MIRACL-VC1.')
    lines = [line.rsplit(' ', 1) for line in path.read_text().splitlines() if line.strip()]
    return [name for name, _ in lines], [int(label) for _, label in lines]


def speaker(name: str) -> str:
    """``words/begin/F02_01.avi`` -> ``F02``."""
    return Path(name).stem.split('_')[0]


@lru_cache(maxsize=1)
def decoded(data_root: str, cache: str) -> Dict[str, np.ndarray]:
    """All clips as (3, T, H, W) uint8, the whole video in FRAMES frames, decoded once and kept in a file."""
    def make(names: Sequence[str]) -> np.ndarray:
        return whole_videos(Path(data_root) / 'videos', names, FRAMES, HEIGHT + MARGIN, WIDTH + 2 * MARGIN)

    return kept(Path(cache) / f'words_{FRAMES}x{HEIGHT + MARGIN}x{WIDTH + 2 * MARGIN}.npz',
                lambda: {name for part in ('train', 'test') for name in read_list(data_root, part, 1)[0]}, make)


def subset(names: Sequence[str], labels: Sequence[int], per_class: int, seed: int) -> List[int]:
    """Indices of ``per_class`` clips of every class, as equally many of each speaker as possible, drawn by ``seed``."""
    rng, chosen = np.random.default_rng(seed), []
    for label in sorted(set(labels)):
        by_speaker = {}
        for index in rng.permutation([i for i, own in enumerate(labels) if own == label]):
            by_speaker.setdefault(speaker(names[index]), []).append(int(index))
        order = rng.permutation(sorted(by_speaker))
        rounds = [by_speaker[name][turn] for turn in range(max(map(len, by_speaker.values()))) for name in order
                  if turn < len(by_speaker[name])]
        if len(rounds) < per_class:
            raise ValueError(f'class {label} has {len(rounds)} clips, fewer than {per_class}.')
        chosen += rounds[:per_class]
    return sorted(chosen)


def lists(data_root: str, fold: int, per_class: int, seed: int, tuning: bool
          ) -> Tuple[Tuple[List[str], List[int]], Tuple[List[str], List[int]]]:
    """Training and test (names, classes). Tuning: two speakers of the training list are tested on, nobody else's."""
    names, labels = read_list(data_root, 'train', fold)
    tested = read_list(data_root, 'test', fold)
    if tuning:
        held = sorted({speaker(name) for name in names})[::5][:2]
        out = [i for i, name in enumerate(names) if speaker(name) in held]
        tested = [names[i] for i in out], [labels[i] for i in out]
        keep = [i for i, name in enumerate(names) if speaker(name) not in held]
        names, labels = [names[i] for i in keep], [labels[i] for i in keep]
    chosen = subset(names, labels, per_class, seed)
    return ([names[i] for i in chosen], [labels[i] for i in chosen]), tested


# -- one training -------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(model: nn.Module, clips: Tensor, reverse: bool) -> List[int]:
    """Classes of the middle crop, in eval mode."""
    model.eval()
    clips = clips[..., MARGIN // 2:MARGIN // 2 + HEIGHT, MARGIN:MARGIN + WIDTH]
    clips = clips.flip(2) if reverse else clips
    with torch.autocast('cpu', torch.bfloat16):
        return [int(label) for part in clips.split(20) for label in model(normalized(part)).float().argmax(1)]


def fit(model: nn.Module, groups: List[dict], clips: Tensor, labels: Tensor, epochs: int, batch_size: int, seed: int
        ) -> List[float]:
    """Adam, all learning rates falling to 0 as a cosine, bfloat16 autocast; the mean loss of every epoch."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(clips) // batch_size))
    losses = []
    for _ in range(epochs):
        model.train()
        total = []
        whole = len(clips) // batch_size * batch_size
        for batch in torch.randperm(len(clips), generator=draw)[:whole].split(batch_size):
            x = normalized(cropped_and_mirrored(clips[batch], HEIGHT, WIDTH, draw))
            with torch.autocast('cpu', torch.bfloat16):
                scores = model(x)
            loss = F.cross_entropy(scores.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total.append(loss.item())
        losses.append(float(np.mean(total)))
    return losses


def train(key: Key, data_root: str, weights: Optional[str], cache: str, keep: Optional[Path] = None) -> dict:
    """One run: a line of runs.jsonl. ``keep``: a folder for the weights of those that are tested."""
    torch.set_num_threads(1)
    clips = decoded(data_root, cache)
    (names, labels), (test_names, test_labels) = lists(data_root, key['fold'], key['per_class'], key['seed'],
                                                       key['tuning'])
    torch.manual_seed(key['seed'])
    setting = setting_of(key)
    model = build(key['net'], CLASSES, setting.width, weights if setting is IMAGENET else None)
    _, before = motion(model)
    groups = parameter_groups(model, key['net'], key['lr'], setting.head_lr or key['lr'])
    frames = torch.from_numpy(np.stack([clips[name] for name in names]))
    losses = fit(model, groups, frames, torch.tensor(labels), key['epochs'], setting.batch, key['seed'])
    if keep is not None and not key['tuning']:
        keep.mkdir(parents=True, exist_ok=True)
        name = f"{key['net']}-w{setting.width}-{key['per_class']}-fold{key['fold']}-seed{key['seed']}.pth"
        with atomic_open(keep / name, 'wb') as file:
            torch.save({name.replace('head.', 'cls_head.', 1) if name.startswith('head.') else name: value
                        for name, value in model.state_dict().items()}, file)
    tested = torch.from_numpy(np.stack([clips[name] for name in test_names]))
    statistics, after = motion(model)
    moved = [float(f'{(a - b).abs().mean():.4g}') for a, b in zip(after, before)]
    forward, backward = predict(model, tested, False), predict(model, tested, True)
    right = [np.mean(np.array(found) == np.array(test_labels)) for found in (forward, backward)]
    return dict(accuracy=round(100 * right[0], 3), accuracy_reversed=round(100 * right[1], 3),
                losses=[round(loss, 4) for loss in losses], parameters=sum(p.numel() for p in model.parameters()),
                motion=statistics, moved=moved or None, labels=''.join(map(str, test_labels)),
                predicted=''.join(map(str, forward)), predicted_reversed=''.join(map(str, backward)))


# -- all of them --------------------------------------------------------------------------------------------------


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS,
                        help='folder for runs.jsonl, table.md and figure.png (default: results beside this file)')
    parser.add_argument('--cache', type=Path, default=Path('work_dirs/miracl_words'), help='folder for decoded clips')
    parser.add_argument('--data-root', default='data/miracl', help='videos/ and the lists (default data/miracl)')
    parser.add_argument('--weights', help="a 2D ResNet18 checkpoint under torchvision's names, for setting imagenet")
    parser.add_argument('--settings', nargs='+', choices=list(SETTINGS), help='(default: narrow, and imagenet with '
                        '--weights)')
    parser.add_argument('--nets', nargs='+', choices=list(NETS), help='(default: those of each stage)')
    parser.add_argument('--clips', nargs='+', type=int, metavar='N', help='only stages with so many clips per class')
    parser.add_argument('--keep-weights', type=Path, metavar='FOLDER', help='keep those of every run that is tested')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='table and figure of the runs there are')
    args = parser.parse_args(argv)
    log, deadline = args.out / 'runs.jsonl', None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    settings = args.settings or ['narrow'] + ['imagenet'] * (args.weights is not None)
    if 'imagenet' in settings and args.weights is None and not args.table_only:
        parser.error('--settings imagenet needs --weights.')

    def run(keys: List[Key]) -> None:
        run_all(log, keys, lambda key: train(key, args.data_root, args.weights, str(args.cache), args.keep_weights),
                deadline=deadline)

    def run_stage(setting: Setting, nets: List[str], per_class: int, folds: Sequence[int], seeds: Sequence[int]
                  ) -> None:
        run(tuning_keys(setting, nets))
        runs = read_runs(log)
        rates = {net: chosen_lr(runs, setting, net) for net in nets}
        run([key_of(setting, net, per_class, fold, seed, rates[net], False) for seed in seeds for fold in folds
             for net in nets if rates[net] is not None])

    def work() -> None:
        for stage in STAGES:
            nets = [net for net in stage.nets if not args.nets or net in args.nets]
            if stage.setting.name in settings and (not args.clips or stage.per_class in args.clips):
                run_stage(stage.setting, nets, *stage[2:])

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work, lambda runs: write_results(runs, args.out, page))


if __name__ == '__main__':
    sys.exit(main())
