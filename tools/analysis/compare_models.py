"""Two recognizers over one test set: where they look and which frames they need (Maenttaeri et al., ACCV 2020).

    python tools/analysis/compare_models.py CFG1 CKPT1 CFG2 CKPT2 --out DIR
    torchrun --nproc-per-node=2 tools/analysis/compare_models.py CFG1 CKPT1 CFG2 CKPT2 --out DIR --launcher pytorch

Each model sees the clips of its own test_dataloader, in its own preparation; both must list the same videos. Per clip:
blobs of the Grad-CAM map of every frame, a temporal mask, and the scores OS, FS and RS. Writes samples.csv (a row per
clip and model), summary.json (means, standard deviations, t-tests, histograms), tables.md (Tables 2 to 4 of the paper)
and histograms.png (Fig. 4).

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
from typing import Dict, List, Optional, Tuple

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

from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files
from tconv_mmaction.interpret import drop_ratio, mask_runs
from tconv_mmaction.interpret.access.clips import ClipReader, class_names, load_recognizer
from tconv_mmaction.interpret.comparison.comparison_log import (
    RowLog,
    check_run,
    file_hash,
    read_rows,
    start_run,
    text_hash,
)
from tconv_mmaction.interpret.comparison.comparison_report import draw_histograms, tables
from tconv_mmaction.interpret.comparison.model_comparison import (
    BLOB_MEASURES,
    TARGETS,
    Settings,
    clip_means,
    compare,
    comparison_layer,
    measure_clips,
    open_units,
    work_units,
)
from tconv_mmaction.utils import atomic_write_text

MISTAKES = (ValueError, TypeError, KeyError, IndexError, FileNotFoundError, ImportError, MemoryError)
WAIT = 7 * 24 * 3600  # seconds that a process which is done waits for the others


def reason(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f'{type(error).__name__}: {text}'


class Model:
    """One of the two: network, clips, and the layer to look at."""

    def __init__(self, number: int, config: str, checkpoint: str, layer: Optional[str], args) -> None:
        self.number, self.config, self.checkpoint = number, config, checkpoint
        self.network = load_recognizer(config, checkpoint, args.device, args.cfg_options)
        self.reader = ClipReader(self.network, args.view)
        self.videos = self._videos()
        self.layer = comparison_layer(self.network, self._any_clip(), layer)
        cfg = self.network.cfg
        seen = [cfg.get('model'), cfg.get('test_pipeline'), cfg.test_dataloader['dataset'], args.view]
        self.fingerprint = {'configuration (model, test data, pipeline, view)': text_hash(seen),
                            'checkpoint': checkpoint if '://' in checkpoint else file_hash(checkpoint),
                            'list of videos': text_hash(self.videos), 'layer': self.layer}

    def _videos(self) -> List[Tuple[str, Optional[int]]]:
        """Name, without folder and ending, and label of every clip."""
        dataset = self.reader.dataset('test')
        videos = []
        for i in range(len(dataset)):
            info = dataset.get_data_info(i) if hasattr(dataset, 'get_data_info') else {}
            path = info.get('filename') or info.get('frame_dir') or f'clip {i}'
            label = info.get('label')
            videos.append((Path(str(path)).stem, int(label) if isinstance(label, int) else None))
        if not videos:
            raise ValueError(f'the test data set of {self.config} is empty.')
        return videos

    def _any_clip(self) -> Tensor:
        for i in range(len(self.videos)):
            try:
                return self.reader.sample('test', i).inputs
            except Exception as error:  # an odd clip; it gets its row when its turn comes
                last = error
        raise ValueError(f'no clip of the test data set of {self.config} can be read. The last reason: {reason(last)}')


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


def measure_unit(model: Model, unit: range, settings: Settings) -> List[dict]:
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


def sample_table(models: List[Model], rows: Dict[Tuple[int, int], dict], used: List[int], titles: List[str],
                 threshold: float) -> pd.DataFrame:
    table = []
    for index, number in sorted((index, number) for number, index in rows):
        row = rows[number, index]
        means = clip_means([row])
        ratio = drop_ratio([row['original']], [row['freeze']], [row['reverse']]).values
        runs = mask_runs(torch.tensor([row['mask']], dtype=torch.float64), threshold)[0]
        frames, height, width = row['size']
        table.append(dict(
            index=index, video=row['video'], model=titles[number], label=row['label'], prediction=row['prediction'],
            target=row['target'], OS=row['original'], FS=row['freeze'], RS=row['reverse'],
            **{name: float(means[name][0]) for name in BLOB_MEASURES}, mask_length=row['mask_length'],
            runs=' '.join(f'{start}-{stop - 1}' for start, stop in runs),
            drop_ratio=float(ratio[0]) if ratio.size else None, drop_difference=row['reverse'] - row['freeze'],
            iterations=row['iterations'], frames=frames, height=height, width=width, used=index in used))
    return pd.DataFrame(table).astype({'label': 'Int64'})


def report(models: List[Model], titles: List[str], rows: dict, samples: int, args, settings: Settings) -> int:
    """Tables, figure and summary of the rows that are there; the exit code."""
    rows = {key: row for key, row in rows.items() if key[1] < samples}
    skipped = [dict(model=titles[key[0]], index=key[1], video=row['video'], reason=row['error'])
               for key, row in sorted(rows.items()) if 'error' in row]
    good = {key: row for key, row in rows.items() if 'error' not in row}
    used = [i for i in range(samples) if all((model.number, i) in good for model in models)]
    for item in skipped:
        print(f"skipped {item['video']} ({item['model']}): {item['reason']}", file=sys.stderr)
    if not used:
        print(f'error: none of the {samples} clips could be analysed by both models.', file=sys.stderr)
        return 2
    comparison = compare(*([good[model.number, i] for i in used] for model in models))
    names = class_names(args.classes, models[0].network.cls_head.num_classes) if args.classes else None
    text = tables(comparison, titles, names, args.target)
    if skipped:
        text += f'\n{samples - len(used)} of {samples} clips were skipped; summary.json names them.\n'
    summary = dict(
        models=[dict(title=title, config=model.config, checkpoint=model.checkpoint, layer=model.layer,
                     checkpoint_sha256=model.fingerprint['checkpoint']) for title, model in zip(titles, models)],
        settings=settings._asdict(), **comparison, skipped=skipped,
        versions=dict(tconv_mmaction=tconv_mmaction.__version__, mmaction2=mmaction.__version__,
                      torch=torch.__version__, opencv=cv2.__version__))
    atomic_write_text(args.out / 'samples.csv', sample_table(models, good, used, titles, settings.threshold)
                      .to_csv(index=False))
    atomic_write_text(args.out / 'summary.json', json.dumps(summary, indent=1, allow_nan=False) + '\n')
    atomic_write_text(args.out / 'tables.md', text)
    figure_files(args).save(draw_histograms(comparison, titles), args.out / 'histograms')
    print(f'\n{text}\nwritten to {args.out}', flush=True)
    return 1 if skipped else 0


def titles_of(args) -> List[str]:
    """What to call the models: the names given, or the configs', or the checkpoints'."""
    if args.names:
        if args.names[0] == args.names[1]:
            raise ValueError(f'--names must be two different names, got {args.names}.')
        return args.names
    for pair in ((args.config1, args.config2), (args.checkpoint1, args.checkpoint2)):
        titles = [Path(path).stem for path in pair]
        if titles[0] != titles[1]:
            return titles
    return ['model 1', 'model 2']


def same_videos(models: List[Model]) -> int:
    """How many clips both test sets have; ValueError if they are not the same ones."""
    first, second = (model.videos for model in models)
    if first != second:
        if len(first) != len(second):
            what = f'{len(first)} and {len(second)} clips'
        else:
            i = next(i for i in range(len(first)) if first[i] != second[i])
            what = f'clip {i} is {first[i]} of the first and {second[i]} of the second (name, label)'
        raise ValueError(f'the two test data sets are not the same videos in the same order: {what}. Give both configs '
                         'the same list, for example --cfg-options test_dataloader.dataset.ann_file=LIST.')
    return len(first)


def analyse(args: argparse.Namespace) -> int:
    settings = Settings(args.target, args.iterations, args.lambda1, args.lambda2, args.threshold)
    settings.check()
    figure_files(args)
    if args.max_samples is not None and args.max_samples < 1:
        raise ValueError(f'--max-samples must be at least 1, got {args.max_samples}.')
    titles = titles_of(args)
    models = [Model(0, args.config1, args.checkpoint1, args.layer1, args),
              Model(1, args.config2, args.checkpoint2, args.layer2, args)]
    samples = same_videos(models)
    if args.max_samples:
        samples = min(samples, args.max_samples)
    if args.classes:
        class_names(args.classes, models[0].network.cls_head.num_classes)  # a wrong file is said now, not at the end
    units = work_units(samples, args.chunk_size)
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
        here = sum(key[1] < samples for key in done)
        print(f'{samples} clips, {here} of {len(models) * samples} rows are there'
              + (f'; {broken} line(s) of an interrupted run were cut off and are made again' if broken else ''),
              flush=True)
    progress = Progress(sum(len(unit) for _, unit in todo), processes)
    for number, unit in todo:
        log.append(measure_unit(models[number], unit, settings))
        progress(len(unit))
    barrier()
    code = [report(models, titles, read_rows(args.out)[0], samples, args, settings) if is_main_process() else None]
    broadcast_object_list(code, src=0)  # also keeps the others alive until the files are written
    return code[0]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for number in (1, 2):
        parser.add_argument(f'config{number}', help=f'config of model {number}, a 2D or 3D recognizer')
        parser.add_argument(f'checkpoint{number}', help='its checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='folder for the rows and results')
    parser.add_argument('--names', nargs=2, metavar=('NAME1', 'NAME2'),
                        help="of the models in tables and figure (default: the configs')")
    parser.add_argument('--classes', help='file with one class name per line, for Table 2')
    parser.add_argument('--target', choices=TARGETS, default='prediction',
                        help="the class whose score is explained (default: each model's prediction)")
    for number in (1, 2):
        parser.add_argument(f'--layer{number}', help=f'layer of model {number} for Grad-CAM. Default: the last cell of '
                            'a C-LSTM; else the last layer of the backbone with a map (Mixed_5c, layer4, ...)')
    parser.add_argument('--max-samples', type=int, help='only the first so many clips')
    parser.add_argument('--view', type=int, help='which crop or clip, of several (default: the middle one)')
    parser.add_argument('--iterations', type=int, default=300, help='of the mask search, at most (default 300)')
    parser.add_argument('--lambda1', type=float, default=0.01, help='weight of the mask length (default 0.01)')
    parser.add_argument('--lambda2', type=float, default=0.02, help='weight of its total variation (default 0.02)')
    parser.add_argument('--threshold', type=float, default=0.1, help='above it a frame is in the mask (default 0.1)')
    parser.add_argument('--chunk-size', type=int, default=4, help='clips searched side by side; bounds the memory '
                        '(default 4)')
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
