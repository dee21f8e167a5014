"""Two recognizers over one test set: where they look and which frames they need (Maenttaeri et al., ACCV 2020).

    python tools/analysis/compare_models.py CFG1 CKPT1 CFG2 CKPT2 --out DIR
    torchrun --nproc-per-node=2 tools/analysis/compare_models.py CFG1 CKPT1 CFG2 CKPT2 --out DIR --launcher pytorch

Each model sees the clips of its own test_dataloader, in its own preparation; both must list the same videos. Per clip:
blobs of the Grad-CAM map of every time step of the layer, a temporal mask, and the scores OS, FS and RS. Writes
samples.csv (a row per clip and model), blobs.csv (a row per blob), summary.json (means, standard deviations, t-tests,
histograms), tables.md (Tables 2 to 4 of the paper) and histograms.png (Fig. 4). The last two again, from the others:

    python tools/analysis/compare_models.py --out DIR --table-only

Kill it at any time: the same command goes on where it was, also with another number of processes, which must all see
DIR. A clip that cannot be read or analysed is reported, left out of both models' numbers, and not tried again unless
--retry-skipped says so. Exit code: 0 all clips done, 1 some skipped, 2 nothing done or wrong arguments.
"""
import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import tconv_mmaction  # noqa: F401  first: mmaction2 and old checkpoints load on today's PyTorch with it

# isort: split
import cv2
import mmaction
import pandas as pd
import torch
from mmengine.config import DictAction
from mmengine.dist import barrier, broadcast_object_list, get_dist_info, is_main_process
from mmengine.runner import runner as mmengine_runner
from torch import Tensor

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.compared_models import Model, chosen_clips, names_of, reason, settings_of
from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret.comparison.comparison_csv import blob_table, rows_of, sample_table
from tconv_mmaction.interpret.comparison.comparison_log import (
    RowLog,
    check_run,
    read_rows,
    start_run,
)
from tconv_mmaction.interpret.comparison.comparison_report import draw_histograms, score_table, tables
from tconv_mmaction.interpret.comparison.method_scores import MethodScore, read_scores
from tconv_mmaction.interpret.comparison.model_comparison import (
    Settings,
    compare,
    measure_clips,
    open_units,
    work_units,
)
from tconv_mmaction.utils import atomic_write_text

MISTAKES = (ValueError, TypeError, KeyError, IndexError, FileNotFoundError, ImportError, MemoryError)
WAIT = 7 * 24 * 3600  # seconds that a process which is done waits for the others


def skipped_row(index: int, error: BaseException) -> dict:
    return dict(index=index, error=reason(error))


def measure_safely(model: Model, clips: List[Tuple[int, Tensor, Optional[int]]], settings: Settings) -> List[dict]:
    """Rows of clips of one shape; where that fails, of each alone, so that one clip does not take others along."""
    try:
        rows = measure_clips(model.network, torch.cat([clip for _, clip, _ in clips]), [label for *_, label in clips],
                             model.layer, settings)
        return [dict(index=index, **row) for (index, *_), row in zip(clips, rows)]
    except Exception as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or 'allocate memory' in str(error):
            raise MemoryError(f'{len(clips)} clip(s) at a time do not fit: lower --chunk-size. {error}') from error
        if len(clips) == 1:
            return [skipped_row(clips[0][0], error)]
        return [row for clip in clips for row in measure_safely(model, [clip], settings)]


def measure_unit(model: Model, unit: Sequence[int], settings: Settings) -> List[dict]:
    rows, by_shape = [], {}
    for index in unit:
        try:
            clip = model.reader.sample('test', index)
        except Exception as error:  # decoders have errors of their own
            rows.append(skipped_row(index, error))
        else:
            by_shape.setdefault(clip.inputs.shape, []).append((index, clip.inputs, clip.label))
    for clips in by_shape.values():
        rows += measure_safely(model, clips, settings)
    for row in rows:
        row.update(model=model.number, video=model.videos[row['index']][0])
        if 'error' in row:
            print(f"skipped {row['video']} ({model.config}): {row['error']}", file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: row['index'])


def agree_on_run(folder: Path, fingerprint: Dict[str, str]) -> bool:
    """True if the folder's run goes on, False for a fresh one; all processes get the same answer, or the same error."""
    outcome = [None]
    if is_main_process():
        try:
            outcome = [check_run(folder, fingerprint)]
            if not outcome[0]:
                start_run(folder, fingerprint)
        except ValueError as error:
            outcome = [str(error)]
    broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], str):
        raise ValueError(outcome[0])
    return outcome[0]


class Progress:
    """A line per unit of work of the first process, with the time left at the pace so far."""

    def __init__(self, clips: int, processes: int) -> None:
        self.left = self.clips = clips
        self.whose = f' of this process ({processes} in all)' if processes > 1 else ''
        self.start = time.monotonic()

    def __call__(self, clips: int) -> None:
        self.left -= clips
        done = self.clips - self.left
        seconds = (time.monotonic() - self.start) / done * self.left
        if is_main_process():
            print(f'[{done}/{self.clips}] clips x models{self.whose}, about '
                  f'{datetime.timedelta(seconds=round(seconds))} left', flush=True)


def write_tables(out: Path, comparison: dict, summary: dict, args) -> str:
    """tables.md and histograms.png; returns the text of the tables."""
    titles = [model['title'] for model in summary['models']]
    text = tables(comparison, titles, summary['classes'], summary['settings']['target'])
    text += ''.join(f'\n{note}\n' for note in summary['notes'])
    if summary['explanations']:
        scores = [{name: MethodScore(**score) for name, score in found.items()} for found in summary['explanations']]
        text += '\n' + score_table(scores, titles)
    atomic_write_text(out / 'tables.md', text)
    figure_files(args).save(draw_histograms(comparison, titles), out / 'histograms')
    return text


def report(models: List[Model], titles: List[str], rows: dict, indices: Sequence[int], args, settings: Settings) -> int:
    """Tables, figure and summary of the rows that are there; the exit code."""
    samples, chosen = len(indices), set(indices)
    rows = {key: row for key, row in rows.items() if key[1] in chosen}
    skipped = [dict(model=titles[key[0]], index=key[1], video=row['video'], reason=row['error'])
               for key, row in sorted(rows.items()) if 'error' in row]
    good = {key: row for key, row in rows.items() if 'error' not in row}
    used = [i for i in sorted(chosen) if all((model.number, i) in good for model in models)]
    for item in skipped:
        print(f"skipped {item['video']} ({item['model']}): {item['reason']}", file=sys.stderr)
    if not used:
        print(f'error: none of the {samples} clips could be analysed by both models.', file=sys.stderr)
        return 2
    comparison = compare(*([good[model.number, i] for i in used] for model in models))
    notes = []
    if samples < len(models[0].videos):
        notes.append(f'{samples} of {len(models[0].videos)} clips: as many of each class as can be, drawn with seed '
                     f'{args.sample_seed}.')
    if skipped:
        notes.append(f'{samples - len(used)} of {samples} clips were skipped; summary.json names them.')
    summary = dict(
        explanations=[{name: score._asdict() for name, score in read_scores(path).items()}
                      for path in args.scores or []] or None,
        models=[dict(title=title, config=model.config, checkpoint=model.checkpoint, layer=model.layer,
                     checkpoint_sha256=model.fingerprint['checkpoint']) for title, model in zip(titles, models)],
        settings=settings._asdict(), classes=names_of(models, args), notes=notes, sample=sorted(chosen), **comparison,
        skipped=skipped, versions=dict(tconv_mmaction=tconv_mmaction.__version__, mmaction2=mmaction.__version__,
                                       torch=torch.__version__, opencv=cv2.__version__))
    atomic_write_text(args.out / 'samples.csv', sample_table(good, used, titles, settings.threshold)
                      .to_csv(index=False))
    atomic_write_text(args.out / 'blobs.csv', blob_table(good, titles).to_csv(index=False))
    atomic_write_text(args.out / 'summary.json', json.dumps(summary, indent=1, allow_nan=False) + '\n')
    text = write_tables(args.out, comparison, summary, args)
    print(f'\n{text}\nwritten to {args.out}', flush=True)
    return 1 if skipped else 0


def tables_again(args: argparse.Namespace) -> int:
    """tables.md and histograms.png from the csv files and the summary of a finished run, without its models."""
    needed = ('samples.csv', 'blobs.csv', 'summary.json')
    missing = [name for name in needed if not (args.out / name).is_file()]
    if missing:
        raise FileNotFoundError(f'{args.out} has no {", ".join(missing)}: --table-only makes the tables of a finished '
                                f'run again, from {", ".join(needed)}.')
    samples, blobs = (pd.read_csv(args.out / name, float_precision='round_trip') for name in needed[:2])
    summary = json.loads((args.out / needed[2]).read_text(encoding='utf-8'))
    comparison = compare(*(rows_of(samples, blobs, model['title']) for model in summary['models']))
    print(write_tables(args.out, comparison, summary, args))
    return 0


def titles_of(args) -> List[str]:
    """What to call the models: the names given, or the configs', or the checkpoints'."""
    if args.names:
        if args.names[0] == args.names[1]:
            raise ValueError(f'--names must be two different names, got {args.names}.')
        return args.names
    pairs = [(args.config1, args.checkpoint1), (args.config2, args.checkpoint2)]
    return clip_tool.titles_of(pairs) if pairs[0] != pairs[1] else ['model 1', 'model 2']


def analyse(args: argparse.Namespace) -> int:
    figure_files(args)
    if args.table_only:
        return tables_again(args)
    if args.checkpoint2 is None:
        raise ValueError('two models are compared: give CFG1 CKPT1 CFG2 CKPT2 (or --table-only for a finished run).')
    titles = titles_of(args)
    for path in args.scores or []:
        read_scores(path)  # a wrong file is said now, not at the end
    models = [Model(0, args.config1, args.checkpoint1, args.layer1, args),
              Model(1, args.config2, args.checkpoint2, args.layer2, args)]
    indices = chosen_clips(models, args)
    settings = settings_of(models, args)
    units = work_units(indices, args.chunk_size)
    fingerprint = {f'setting {name}': value for name, value in settings._asdict().items()}
    fingerprint.update({f"model {model.number + 1}'s {name}": value for model in models
                        for name, value in model.fingerprint.items()})
    agree_on_run(args.out, fingerprint)
    rank, processes = get_dist_info()
    done, broken = read_rows(args.out)
    log = RowLog(args.out, rank)
    if args.retry_skipped:
        done = {key: row for key, row in done.items() if 'error' not in row}
    todo = open_units(units, done, len(models), rank, processes)
    barrier()  # all have read the same rows, and dealt the same units, before anyone adds one
    if is_main_process():
        for title, model in zip(titles, models):
            print(f'{title}: Grad-CAM of {model.layer}')
        here = sum(key[1] in indices for key in done)
        print(f'{len(indices)} clips, {here} of {len(models) * len(indices)} rows are there'
              + (f'; {broken} line(s) of an interrupted run were cut off and are made again' if broken else ''),
              flush=True)
    progress = Progress(sum(len(unit) for _, unit in todo), processes)
    for number, unit in todo:
        log.append(measure_unit(models[number], unit, settings))
        progress(len(unit))
    barrier()
    code = [report(models, titles, read_rows(args.out)[0], indices, args, settings) if is_main_process() else None]
    broadcast_object_list(code, src=0)  # also keeps the others alive until the files are written
    return code[0]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for number in (1, 2):
        parser.add_argument(f'config{number}', nargs='?', help=f'config of model {number}, a 2D or 3D recognizer')
        parser.add_argument(f'checkpoint{number}', nargs='?', help='its checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='folder for the rows and results')
    parser.add_argument('--names', nargs=2, metavar=('NAME1', 'NAME2'),
                        help="of the models in tables and figure (default: the configs')")
    parser.add_argument('--classes', help='file with one class name per line (default: the names that the data set or '
                        'the checkpoint has)')
    parser.add_argument('--target', default='prediction', help="the class whose score is explained: its name or index, "
                        "'label', or 'prediction': of each model its own (default)")
    for number in (1, 2):
        parser.add_argument(f'--layer{number}', help=f'layer of model {number} for Grad-CAM. Default: the last cell of '
                            'a C-LSTM; else the last layer of the backbone with a map (Mixed_5c, layer4, ...)')
    parser.add_argument('--max-samples', type=int, help='only so many clips: as many of each class as can be, drawn at '
                        'random')
    parser.add_argument('--sample-seed', type=int, default=0, help='of that draw (default 0)')
    parser.add_argument('--view', type=int, help='which crop or clip, of several (default: the middle one)')
    parser.add_argument('--iterations', type=int, default=300, help='of the mask search, at most (default 300)')
    parser.add_argument('--lambda1', type=float, default=0.01, help='weight of the mask length (default 0.01)')
    parser.add_argument('--lambda2', type=float, default=0.02, help='weight of its total variation (default 0.02)')
    parser.add_argument('--threshold', type=float, default=0.1, help='above it a frame is in the mask (default 0.1)')
    parser.add_argument('--chunk-size', type=int, default=4, help='clips searched side by side; bounds the memory '
                        '(default 4)')
    parser.add_argument('--scores', nargs=2, metavar=('JSON1', 'JSON2'), help='how good the explanations of each model '
                        'are: {method: [auc_deletion, auc_insertion, [low, high]]}')
    parser.add_argument('--table-only', action='store_true', help='make tables.md and histograms.png of a finished run '
                        'again, from its csv files and summary.json; needs no models')
    parser.add_argument('--retry-skipped', action='store_true', help='try clips again that were skipped before')
    add_figure_arguments(parser)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='default: CUDA if there is one')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='of several processes (default none)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='override settings of both configs: key=value pairs, lists as key="[a,b]"')
    return parser


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    if args.launcher != 'none':
        # the runner's: tconv_mmaction.compat makes it work without CUDA. gloo, because the processes exchange only a
        # few words, and two of them may share a GPU
        mmengine_runner.init_dist(args.launcher, backend='gloo', timeout=WAIT)
    try:
        return analyse(args)
    except MISTAKES as error:
        print(f'error: {reason(error) if isinstance(error, MemoryError) else reason(error).split(": ", 1)[1]}',
              file=sys.stderr)
        return 2
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == '__main__':
    sys.exit(main())
