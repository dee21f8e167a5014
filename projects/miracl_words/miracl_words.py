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
from pathlib import Path
from typing import List, Optional, Sequence

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from nets import NETS, build, motion, parameter_groups  # noqa: E402  beside this file
from plan import IMAGENET, SETTINGS, STAGES, Setting, chosen_lr, key_of, setting_of, tuning_keys  # noqa: E402
from tables import PAGE, write_results  # noqa: E402  beside this file
from torch import Tensor, nn  # noqa: E402

from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.cli.spoken_words import HEIGHT, WIDTH, WORDS, decoded, lists, middle_crop  # noqa: E402
from tconv_mmaction.cli.study_clips import cropped_and_mirrored, normalized  # noqa: E402
from tconv_mmaction.cli.study_training import accuracy, answers, fit  # noqa: E402
from tconv_mmaction.utils.atomic import atomic_open  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
FRAMES = 8


# -- one training -------------------------------------------------------------------------------------------------


def predict(model: nn.Module, clips: Tensor, reverse: bool) -> List[int]:
    """Classes of the middle crop."""
    clips = middle_crop(clips)
    return answers(model, clips.flip(2) if reverse else clips)


def optimizer_of(setting: Setting, groups: List[dict]) -> torch.optim.Optimizer:
    """Weight decay is for ``groups[:2]``, backbone and head: it would pull the scale of a transform to 0, not to 1."""
    if setting.decay is None:
        return torch.optim.Adam(groups, fused=True)
    for group in groups[:2]:
        group['weight_decay'] = setting.decay
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True)


def train(key: Key, data_root: str, weights: Optional[str], cache: str, keep: Optional[Path] = None) -> dict:
    """One run: a line of runs.jsonl. ``keep``: a folder for the weights of those that are tested."""
    torch.set_num_threads(1)
    clips = decoded(data_root, cache, FRAMES)
    (names, labels), (test_names, test_labels) = lists(data_root, key['fold'], key['per_class'], key['seed'],
                                                       key['tuning'])
    torch.manual_seed(key['seed'])
    setting = setting_of(key)
    model = build(key['net'], len(WORDS), setting.width, weights if setting is IMAGENET else None)
    _, before = motion(model)
    groups = parameter_groups(model, key['net'], key['lr'], setting.head_lr or key['lr'])
    frames = torch.from_numpy(np.stack([clips[name] for name in names]))
    draw = torch.Generator().manual_seed(key['seed'])
    losses = fit(model, optimizer_of(setting, groups),
                 lambda batch: normalized(cropped_and_mirrored(frames[batch], HEIGHT, WIDTH, draw)),
                 torch.tensor(labels), key['epochs'], setting.batch, draw)
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
    return dict(accuracy=accuracy(forward, test_labels), accuracy_reversed=accuracy(backward, test_labels),
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
    parser.add_argument('--settings', nargs='+', choices=list(SETTINGS), help='(default: narrow and sgd, and imagenet '
                        'with --weights)')
    parser.add_argument('--nets', nargs='+', choices=list(NETS), help='(default: those of each stage)')
    parser.add_argument('--clips', nargs='+', type=int, metavar='N', help='only stages with so many clips per class')
    parser.add_argument('--keep-weights', type=Path, metavar='FOLDER', help='keep those of every run that is tested')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='table and figure of the runs there are')
    args = parser.parse_args(argv)
    log, deadline = args.out / 'runs.jsonl', None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    settings = args.settings or ['narrow', 'sgd'] + ['imagenet'] * (args.weights is not None)
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
