"""Temporal lengths, multi-branch filters and temporal augmentation on spoken words of speakers nobody has trained on.

    python projects/words_filters/words_filters.py --data-root data/miracl
    python projects/words_filters/words_filters.py --table-only     tables of what is there

    OUT/runs.jsonl   one line per finished training: accuracies on five test sets, predictions, energy of the filters
    OUT/table.md     accuracies, paired differences with 95 % intervals beside the paper's, filters per layer
    OUT/figure.png   losses and accuracies
    OUT/filters.png  with --weights FOLDER: temporal filters of an early and a late layer of the networks kept there

It asks on real video what Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action
Classification" (WACV 2024), ask on mini-SSv2 in Tables 2, 3 and 4 and Fig. 1. Learning rates are chosen on two speakers
of the training list of fold 1. All networks of a fold and seed see the same clips in the same order. The last epoch is
tested. What is finished is not run again.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before PyTorch is imported
import tconv_mmaction  # noqa: E402,F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from nets import NETS, build  # noqa: E402  beside this file
from plan import STAGES, chosen_lr, key_of, tuning_keys  # noqa: E402
from tables import PAGE, draw_filters, write_results  # noqa: E402
from torch import Tensor  # noqa: E402
from views import TESTS, TIMELINE, test_view, training_view  # noqa: E402

from tconv_mmaction.cli.run_log import Key, finish_study, read_runs, run_all  # noqa: E402
from tconv_mmaction.cli.spoken_words import WORDS, decoded, lists  # noqa: E402
from tconv_mmaction.cli.study_training import accuracy, answers, fit  # noqa: E402
from tconv_mmaction.interpret import energy_table, temporal_kernels  # noqa: E402
from tconv_mmaction.layers import switch_to_deploy  # noqa: E402
from tconv_mmaction.utils.atomic import atomic_open  # noqa: E402

RESULTS = Path(__file__).resolve().parent / 'results'


def energy(kernels: Dict[str, Tensor]) -> Dict[str, List[float]]:
    """{layer: shares of the energy at the centre, average, 1st and 2nd differential filter}."""
    shares = energy_table(kernels)[['centre', 'average', 'differential_1', 'differential_2']]
    return {name: [round(float(share), 4) for share in row] for name, row in zip(kernels, shares.values)}


def train(key: Key, data_root: str, cache: str, keep: Optional[Path] = None) -> dict:
    """One run: a line of runs.jsonl. ``keep``: a folder for the weights of those that are tested."""
    torch.set_num_threads(1)
    clips, net, seed = decoded(data_root, cache, TIMELINE), NETS[key['net']], key['seed']
    (names, labels), (test_names, test_labels) = lists(data_root, key['fold'], key['per_class'], seed, key['tuning'])
    torch.manual_seed(seed)
    np.random.seed(seed)
    draw = torch.Generator().manual_seed(seed)
    model = build(key['net'], len(WORDS)).to(memory_format=torch.channels_last_3d)  # a seventh faster
    start = temporal_kernels(model)
    optimizer = torch.optim.SGD(model.parameters(), key['lr'], momentum=key['momentum'], nesterov=True,
                                weight_decay=key['weight_decay'])
    view = training_view(torch.from_numpy(np.stack([clips[name] for name in names])), net.rate, net.ego, draw)
    losses = fit(model, optimizer, view, torch.tensor(labels), key['epochs'], key['batch'], draw)
    results = dict(losses=[round(loss, 4) for loss in losses], parameters=sum(p.numel() for p in model.parameters()))
    tested, fused = torch.from_numpy(np.stack([clips[name] for name in test_names])), switch_to_deploy(model.eval())
    # in float32: in bfloat16 a fused network rounds elsewhere than the one with branches
    found = {test: answers(fused, test_view(tested, test), bfloat16=False)
             for test in (TESTS[:1] if key['tuning'] else TESTS)}
    results.update((test, accuracy(predicted, test_labels)) for test, predicted in found.items())
    if key['tuning']:
        return results
    if net.filters != 'single':
        unfused = answers(model, test_view(tested, 'accuracy'), bfloat16=False)
        results['fused_differs'] = sum(a != b for a, b in zip(unfused, found['accuracy']))
    kernels = temporal_kernels(fused)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        with atomic_open(keep / f"{key['net']}-{key['epochs']}-fold{key['fold']}-seed{seed}.pth", 'wb') as file:
            torch.save(kernels, file)
    if net.filters == 'single':  # fused branches also change by their norms' statistics
        results['energy_change'] = energy({name: weight - start[name] for name, weight in kernels.items()})
    return dict(results, energy_start=energy(start), energy=energy(kernels),
                fused_parameters=sum(p.numel() for p in fused.parameters()),
                labels=''.join(map(str, test_labels)), predicted=''.join(map(str, found['accuracy'])),
                predicted_reversed=''.join(map(str, found['accuracy_reversed'])))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of the results (default: beside this file)')
    parser.add_argument('--cache', type=Path, default=Path('work_dirs/words_filters'), help='folder for decoded clips')
    parser.add_argument('--data-root', default='data/miracl', help='videos/ and the lists (default data/miracl)')
    parser.add_argument('--nets', nargs='+', choices=list(NETS), help='(default: those of each stage)')
    parser.add_argument('--weights', type=Path, metavar='FOLDER',
                        help='keep the temporal filters of runs that are tested there, and draw those that are there')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--table-only', action='store_true', help='tables and figures of the runs there are')
    args = parser.parse_args(argv)
    log, deadline = args.out / 'runs.jsonl', None if args.until is None else time.time() + 3600 * args.until
    init_default_scope('mmaction')
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # silent about every initialised layer

    def run(keys: List[Key]) -> None:
        run_all(log, keys, lambda key: train(key, args.data_root, str(args.cache), args.weights), deadline=deadline)

    def work() -> None:
        for stage in STAGES:
            nets = [net for net in stage.nets if not args.nets or net in args.nets]
            if nets:
                run(tuning_keys(nets))
                runs = read_runs(log)
                rates = {net: chosen_lr(runs, net) for net in nets}
                run([key_of(net, fold, seed, rates[net], epochs=stage.epochs) for seed in stage.seeds
                     for fold in stage.folds for net in nets if rates[net] is not None])

    def write(runs: List[dict]) -> str:
        if args.weights is not None:
            draw_filters(args.weights, args.out)
        # the page shows what is committed, not somebody's own runs
        return write_results(runs, args.out, PAGE if args.out.resolve() == RESULTS else None)

    return finish_study(log, None if args.table_only else work, write)


if __name__ == '__main__':
    sys.exit(main())
