"""Compare models on your videos: several configs, several seeds, several folds, one table.

    python tools/compare_runs.py work_dirs/comparison 3t=mine_3t.py 3d=mine_3d.py --folds lists/1 lists/2 --seeds 0 1 2
    python tools/compare_runs.py work_dirs/comparison --table-only

    OUT/runs.jsonl   one line per finished run, with every prediction: what is in it is not run again
    OUT/table.md     accuracy forwards and backwards, paired differences with 95 % intervals, per class
    OUT/curves.png   training losses and accuracies
    OUT/runs/        the log of every run; checkpoints only with --keep-checkpoints

Every model is trained by its own config. A fold is a folder with train.txt, test.txt and perhaps val.txt, in the form
of the configs' lists ("path label", relative to the config's data_prefix); without --folds the configs' own lists are
used. With a validation list the best checkpoint is tested, without one the last epoch. Runs of the same fold and seed
are compared in pairs; the first model is the one that the others are compared with.
"""
import argparse
import sys
import time
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import tconv_mmaction  # noqa: F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
from mmengine.config import Config, DictAction

from tconv_mmaction.cli.run_log import Key, read_runs, run_all
from tconv_mmaction.cli.run_tables import NOTE, curves, difference_table, per_class_table, summary_table
from tconv_mmaction.cli.training_run import fingerprint, train_and_test, with_fold
from tconv_mmaction.interpret import save_figure
from tconv_mmaction.setup_checks import SetupError
from tconv_mmaction.utils.atomic import atomic_write_text

OWN_LISTS = 'own lists'


def read_models(words: Sequence[str], options: dict) -> Dict[str, Config]:
    """{name: config} of ``NAME=CONFIG`` or ``CONFIG``, whose name is then that of the file.

    Raises:
        ValueError: for a name that is there twice.
        FileNotFoundError: for a config that is not there.
    """
    models = {}
    for word in words:
        name, equals, path = word.partition('=')
        path = Path(path if equals else word)
        name = name if equals else path.stem
        if name in models:
            raise ValueError(f'two models are called {name!r}. Give them names: NAME=CONFIG.')
        if not path.is_file():
            raise FileNotFoundError(f'{path} is no config. A model is given as NAME=CONFIG or CONFIG.')
        models[name] = Config.fromfile(path)
        models[name].merge_from_dict(options)
    return models


def keys_of(models: Dict[str, Config], folds: Sequence[str], seeds: Sequence[int]) -> List[Key]:
    """All models of a fold and a seed before the next, so that a stopped comparison is still one of pairs."""
    prints = {name: fingerprint(cfg) for name, cfg in models.items()}
    return [dict(model=name, fold=fold, seed=seed, config=prints[name])
            for seed in seeds for fold in folds for name in models]


def check_same_config(runs: Sequence[dict], keys: Sequence[Key], log: Path) -> None:
    """ValueError if the log has runs of a model with another config: they must not be averaged."""
    wanted = {key['model']: key['config'] for key in keys}
    for run in runs:
        if run['model'] in wanted and run['config'] != wanted[run['model']]:
            raise ValueError(f'{log} has runs of {run["model"]!r} with another config (or other --cfg-options). Give '
                             'another folder, or another name for the model: NAME=CONFIG.')


def class_names(path: str, runs: Sequence[dict]) -> List[str]:
    """The lines of a file, or the numbers of the classes."""
    count = 1 + max(max(run['labels'], default=0) for run in runs)
    if path is None:
        return [str(label) for label in range(count)]
    names = Path(path).read_text(encoding='utf-8').splitlines()
    if len(names) < count:
        raise ValueError(f'{path} names {len(names)} classes, the lists have labels up to {count - 1}.')
    return names


def write_results(runs: Sequence[dict], out: Path, titles: Dict[str, str], classes: Sequence[str]) -> str:
    """table.md, which is also the return value, and curves.png."""
    tested = sorted({run['tested'].split('_epoch_')[0] for run in runs})
    parts = [NOTE, f'Tested: {", ".join(tested)}.', summary_table(runs, titles), difference_table(runs, None, titles),
             '### Per class', per_class_table(runs, classes, titles)]
    text = '\n\n'.join(part for part in parts if part) + '\n'
    atomic_write_text(out / 'table.md', text)
    save_figure(curves(runs, titles), out / 'curves.png')
    return text


def run_models(models: Dict[str, Config], args: argparse.Namespace) -> Tuple[int, int]:
    """Do what is left to do; returns what :func:`run_all` does."""
    folds = {str(fold): fold for fold in args.folds} if args.folds else {OWN_LISTS: None}
    prepared = {(name, fold): with_fold(cfg, path) for name, cfg in models.items() for fold, path in folds.items()}
    keys = keys_of(models, list(folds), args.seeds)
    log = args.out / 'runs.jsonl'
    check_same_config(read_runs(log), keys, log)

    def run(key: Key) -> dict:
        number = list(folds).index(key['fold'])
        name = f"{key['model']}_fold{number}_seed{key['seed']}"
        return train_and_test(prepared[key['model'], key['fold']], name, key['seed'], args.out / 'runs' / name,
                              args.keep_checkpoints)

    deadline = None if args.until is None else time.time() + 3600 * args.until
    return run_all(log, keys, run, deadline=deadline)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for runs.jsonl, table.md and curves.png')
    parser.add_argument('models', nargs='*', metavar='NAME=CONFIG', help='configs; without NAME= named by their file')
    parser.add_argument('--folds', nargs='+', type=Path, metavar='FOLDER', help='folders with train.txt and test.txt')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='(default 0 1 2)')
    parser.add_argument('--classes', metavar='FILE', help='file with one class name per line')
    parser.add_argument('--until', type=float, metavar='HOURS', help='begin no run after so many hours')
    parser.add_argument('--keep-checkpoints', action='store_true', help='do not delete them when a run is tested')
    parser.add_argument('--table-only', action='store_true', help='the tables of the runs there are')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='changes to all configs')
    args = parser.parse_args(argv)
    if not args.table_only and not args.models:
        parser.error('give at least one model as NAME=CONFIG, or --table-only.')
    try:
        models = read_models(args.models, args.cfg_options)
        if not args.table_only:
            run_models(models, args)
        runs = read_runs(args.out / 'runs.jsonl')
        if not runs:
            raise FileNotFoundError(f'{args.out / "runs.jsonl"} has no runs yet.')
        order = {run['model']: run['model'] for run in runs}
        titles = {name: name for name in (*(name for name in models if name in order), *order)}
        print(write_results(runs, args.out, titles, class_names(args.classes, runs)))
    except (ValueError, FileNotFoundError, SetupError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
