"""What the transforms of a 3T network become on words: from ImageNet's 2D weights against from scratch.

    python projects/words_filters/motion_3t.py --data-root data/miracl --weights resnet18.pth
    python projects/words_filters/motion_3t.py --table-only

    OUT/motion_3t.jsonl   one line per finished training, with the statistics of the transforms per layer
    OUT/table.md          its tables, after those of words_filters.py

The question of Tables 2 and 4 of Ras et al., "Temporal Factorization of 3D Convolutional Kernels" (arXiv:2006.15983):
means and standard deviations of |s-1|, |r|, |p_x| and |p_y|. ResNet18 up to layer3 with all its channels; both starts
have the transforms at the identity, the same clips in the same order, and are trained alike. What is finished is not
run again.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from tables import MOTION_LOG, PAGE, write_results  # noqa: E402  beside this file

from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.cli.spoken_words import HEIGHT, WIDTH, WORDS, decoded, lists, middle_crop  # noqa: E402
from tconv_mmaction.cli.study_clips import cropped_and_mirrored, normalized  # noqa: E402
from tconv_mmaction.cli.study_nets import resnet18_to_layer3  # noqa: E402
from tconv_mmaction.cli.study_training import accuracy, answers, fit  # noqa: E402
from tconv_mmaction.interpret import parameter_statistics, temporal_parameters  # noqa: E402
from tconv_mmaction.interpret.parameter_statistics import TABLE_2  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'
FRAMES, CHANNELS = 8, 64
PER_CLASS, EPOCHS, BATCH, LR, HEAD_LR = 20, 12, 10, 3e-4, 1e-3
STARTS, FOLDS = ('scratch', 'imagenet'), (1, 2, 3)


def statistics(model: torch.nn.Module) -> Dict[str, List[float]]:
    """{layer or 'whole model': mean and standard deviation of |s-1|, |r| in radians, |p_x|, |p_y| in half kernels}."""
    found = parameter_statistics(model, parameters=temporal_parameters(model, clip_shape=(3, FRAMES, HEIGHT, WIDTH)))
    columns = [f'abs_{name}_{kind}' for name in TABLE_2.values() for kind in ('mean', 'std')]
    return {layer: [float(f'{value:.4g}') for value in row] for layer, row in zip(found.index, found[columns].values)}


def train(key: Key, data_root: str, weights: Optional[str], cache: str) -> dict:
    """One line of motion_3t.jsonl."""
    torch.set_num_threads(1)
    clips, seed = decoded(data_root, cache, FRAMES), key['seed']
    (names, labels), (test_names, test_labels) = lists(data_root, key['fold'], key['per_class'], seed, False)
    torch.manual_seed(seed)
    model = resnet18_to_layer3((7, 3, 3, 3), dict(type='Conv3T', init='he'), CHANNELS, len(WORDS), 2, 3,
                               weights if key['start'] == 'imagenet' else None)
    optimizer = torch.optim.Adam([dict(params=model.backbone.parameters(), lr=key['lr']),
                                  dict(params=model.head.parameters(), lr=HEAD_LR)], fused=True)
    frames, draw = torch.from_numpy(np.stack([clips[name] for name in names])), torch.Generator().manual_seed(seed)
    losses = fit(model, optimizer, lambda batch: normalized(cropped_and_mirrored(frames[batch], HEIGHT, WIDTH, draw)),
                 torch.tensor(labels), key['epochs'], key['batch'], draw)
    tested = middle_crop(torch.from_numpy(np.stack([clips[name] for name in test_names])))
    return dict(losses=[round(loss, 4) for loss in losses], statistics=statistics(model),
                accuracy=accuracy(answers(model, tested), test_labels),
                accuracy_reversed=accuracy(answers(model, tested.flip(2)), test_labels))


def keys(folds: Sequence[int], seeds: Sequence[int]) -> List[Key]:
    return [dict(start=start, fold=fold, seed=seed, lr=LR, per_class=PER_CLASS, epochs=EPOCHS, batch=BATCH)
            for seed in seeds for fold in folds for start in STARTS]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of the results (default: beside this file)')
    parser.add_argument('--cache', default='work_dirs/miracl_words', help='folder for decoded clips')
    parser.add_argument('--data-root', default='data/miracl', help='videos/ and the lists (default data/miracl)')
    parser.add_argument('--weights', help="a 2D ResNet18 checkpoint under torchvision's names")
    parser.add_argument('--folds', nargs='+', type=int, default=list(FOLDS), help='(default: 1 2 3)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='(default: 0)')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='the tables of the runs there are')
    args = parser.parse_args(argv)
    if args.weights is None and not args.table_only:
        parser.error('--weights is needed: one of the two starts has them.')
    deadline = None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer
    log = args.out / MOTION_LOG

    def work() -> None:
        run_all(log, keys(args.folds, args.seeds), lambda key: train(key, args.data_root, args.weights, args.cache),
                deadline=deadline)

    page = PAGE if args.out.resolve() == RESULTS else None  # it shows what is committed, not somebody's own runs
    return finish_study(log, None if args.table_only else work,
                        lambda _: write_results(read_runs(args.out / 'runs.jsonl'), args.out, page))


if __name__ == '__main__':
    sys.exit(main())
