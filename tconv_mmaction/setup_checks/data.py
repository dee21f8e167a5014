"""Loaders and data sets of a config, looked at before any of them works.

Data sets are not built: building one reads its whole list and fails at the first line.
"""
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import cv2
from mmaction.registry import DATASETS
from mmengine.registry import DATA_SAMPLERS

from ..utils.confinement import check_confined, roots_of
from ..utils.packed_frames import read_index
from .batches import check_wrapper, samples_of
from .dry_run import Output, Sample, check_outputs, probe_videos, try_pipeline
from .frames import check_frames, frame_name
from .lists import Entry, check_files, ends_of, form_of, joined, read_list
from .pipelines import ClipSize, check_pipeline, clip_size, is_whole, views_of
from .problems import Problems, find_class

DATASET_WRAPPERS = dict(RepeatDataset='dataset', ClassBalancedDataset='dataset', ConcatDataset='datasets')


class DataOptions(NamedTuple):
    """What CheckSetupHook may be told about data."""
    duplicates: bool = False
    confine_paths: Any = False


class Listed(NamedTuple):
    """What the list of a data set holds, as far as it could be read."""
    entries: List[Entry]
    multi_class: bool
    outputs: List[Output]  # what the pipeline makes of some of them
    folder: str


class Loader(NamedTuple):
    """What a data loader gives, as far as its config and its lists tell."""
    sizes: Dict[str, ClipSize]  # by the key of the pipeline
    views: Dict[str, int]
    samples: Optional[int]
    multi_class: Optional[bool]
    labels: Optional[Set[int]]
    videos: Optional[Set[Tuple[str, Tuple[int, ...]]]]


class Model(NamedTuple):
    """What data have to fit."""
    num_classes: Optional[int]
    volumes: bool  # a Recognizer3D
    channels: Optional[int]  # of data_preprocessor.mean


def model_for_data(cfg: Any) -> Model:
    """From the model's config."""
    cfg = cfg if isinstance(cfg, dict) else {}
    head, preprocessor = cfg.get('cls_head'), cfg.get('data_preprocessor')
    classes = head.get('num_classes') if isinstance(head, dict) else None
    mean = preprocessor.get('mean') if isinstance(preprocessor, dict) else None
    return Model(classes if is_whole(classes, 1) else None, cfg.get('type') == 'Recognizer3D',
                 len(mean) if isinstance(mean, (list, tuple)) else None)


def datasets_of(cfg: Any, key: str) -> Iterator[Tuple[dict, str]]:
    """(config, key) of every data set, those inside wrappers too."""
    if not isinstance(cfg, dict) or cfg.get('type') not in DATASET_WRAPPERS:
        yield cfg, key
        return
    inner = DATASET_WRAPPERS[cfg['type']]
    if inner == 'dataset':
        yield from datasets_of(cfg.get(inner), f'{key}.{inner}')
    else:
        for i, entry in enumerate(cfg.get(inner) or ()):
            yield from datasets_of(entry, f'{key}.{inner}.{i}')


def _check_dataset(cfg: Any, key: str, model: Model, labelled: bool, options: DataOptions, batch_size: Any,
                   problems: Problems) -> Optional[Listed]:
    num_classes = model.num_classes
    cls = find_class(DATASETS, cfg, key, problems)
    if cls is None:
        return None
    if 'pipeline' in cfg:
        check_pipeline(cfg['pipeline'], f'{key}.pipeline', problems)
    own = cfg.get('num_classes')
    if own is not None and num_classes is not None and own != num_classes:
        problems.add(f'{key}.num_classes', f'{own}, and model.cls_head.num_classes is {num_classes}. Make them equal.')
    classes = (cfg.get('metainfo') or {}).get('classes') or getattr(cls, 'METAINFO', {}).get('classes')
    if classes is not None and num_classes is not None and len(classes) != num_classes:
        problems.add('model.cls_head.num_classes', f'{num_classes}, and {cfg["type"]} ({key}) has {len(classes)} '
                     f'classes. Set num_classes={len(classes)}.')
    form = form_of(cls, cfg)
    if form is None:
        problems.notes.append(f'{key}: lines of a {cfg["type"]} are read by the data set itself')
        return None
    listed = _check_list(cfg, key, form, num_classes, labelled, options, problems)
    if listed is None:
        return None
    entries, folder, samples = listed
    start = cfg.get('start_index', 1 if form.frames else 0)
    before, outputs = len(problems), []
    if isinstance(cfg.get('pipeline'), (list, tuple)) and not any(f'{key}.pipeline' in found.key for found in problems):
        outputs = try_pipeline(cfg['pipeline'], samples, start, f'{key}.pipeline', problems)
    if len(problems) == before:
        check_outputs(outputs, batch_size, model.volumes, model.channels, f'{key}.pipeline', problems)
    return Listed(entries, form.multi_class, outputs, folder)


def _samples(entries: List[Entry], folder: str, cfg: dict, form: Any, path: str, key: str,
             problems: Problems) -> List[Sample]:
    """Sizes of the frames of a few files of a list."""
    ends = ends_of(entries)
    if form.packed:
        rows = [(entry, found[1]) for index in [read_index(folder)] for entry in ends
                for found in [index.get(entry.path)] if found is not None]
        return [Sample(os.path.join(folder, entry.path), row.width, row.height, row.frames, row.fps)
                for entry, row in rows]
    if not form.frames:
        return probe_videos([(entry.line, os.path.join(folder, entry.path)) for entry in ends], path, form.tolerant,
                            f'{key}.data_prefix.video', problems)
    check_frames(ends, folder, cfg, form, path, key, problems)
    samples = []
    for entry in ends:
        first = cfg.get('start_index', 1) + (entry.part[0] if form.offset else 0)
        template = cfg.get('filename_tmpl', 'img_{:05}.jpg')
        name = frame_name(template, first, 'RGB') if isinstance(template, str) else None
        image = cv2.imread(os.path.join(folder, entry.path, name)) if name is not None else None
        if image is not None:
            samples.append(Sample(os.path.join(folder, entry.path), image.shape[1], image.shape[0], entry.part[-1]))
    return samples


def _check_list(cfg: dict, key: str, form: Any, num_classes: Optional[int], labelled: bool, options: DataOptions,
                problems: Problems) -> Optional[Tuple[List[Entry], str, List[Sample]]]:
    own = cfg.get('num_classes')
    if form.multi_class and not is_whole(own, 1):
        problems.add(f'{key}.num_classes', f'multi_class=True needs the number of classes here too, got {own!r}.')
    if form.delimiter == '':
        problems.add(f'{key}.delimiter', "must not be empty; it is ' ' unless the list uses another one.")
        return None
    path = cfg.get('ann_file')
    if not isinstance(path, str) or not path:
        problems.add(f'{key}.ann_file', f'must be the path of the annotation list, got {path!r}.')
        return None
    path = joined(cfg.get('data_root'), path)
    if '://' in path:
        problems.notes.append(f'{key}.ann_file: {path} is not on this machine')
        return None
    prefix_key = 'img' if form.frames else 'video'
    prefixes = cfg.get('data_prefix', {prefix_key: ''})
    if not isinstance(prefixes, dict) or prefix_key not in prefixes:
        problems.add(f'{key}.data_prefix', f'must be dict({prefix_key}=FOLDER) for a {cfg["type"]}, got {prefixes!r}.')
        return None
    pipeline = [str(step.get('type')) for step in cfg.get('pipeline') or () if isinstance(step, dict)]
    other = 'RawFrameDecode' if not form.frames else next(
        (name for name in pipeline if name in ('DecordInit', 'PyAVInit', 'OpenCVInit', 'PIMSInit')), None)
    if other in pipeline and not form.packed:  # a packed data set replaces whatever decodes
        place = pipeline.index(other)
        problems.add(f'{key}.pipeline.{place}', f'{other} reads {"video files" if form.frames else "folders of frames"}'
                     f', and {cfg["type"]} has {"folders of frames" if form.frames else "video files"}. Use '
                     f'{"RawFrameDecode" if form.frames else "DecordInit and DecordDecode"}, or the other data set.')
    before = len(problems)
    entries = read_list(path, form, f'{key}.ann_file', problems, num_classes, labelled, options.duplicates)
    indices = cfg.get('indices')
    if isinstance(indices, int) and entries and abs(indices) > len(entries):
        problems.add(f'{key}.indices', f'{indices}, and {path} has {len(entries)} lines.')
    folder = prefixes[prefix_key]
    folder = joined(cfg.get('data_root'), folder) if folder is not None else ''
    files_from = len(problems)
    samples: List[Sample] = []
    if '://' not in folder:
        check_files(entries, folder, form, path, f'{key}.data_prefix.{prefix_key}', problems)
    if options.confine_paths:
        with problems.noted(f'{key}.ann_file'):
            roots = roots_of(options.confine_paths, cfg.get('data_root'), folder)
            outside = [(entry, text) for entry in entries
                       for text in [check_confined(os.path.join(folder, entry.path), roots)] if text]
            if outside:
                entry, text = outside[0]
                problems.add(f'{key}.ann_file', f'{path}, line {entry.line}: {text} ({len(outside)} such lines.) '
                             'Take them out; or, if the place is meant, name its folder too: confine_paths=[...].')
    # not before it is known that none of them may not be opened
    whole = len(problems) == (before if form.frames else files_from)
    if whole and '://' not in folder:
        samples = _samples(entries, folder, cfg, form, path, key, problems)
    return entries, folder, samples


def check_loader(cfg: Any, key: str, model: Model, labelled: bool, options: DataOptions,
                 problems: Problems) -> Optional[Loader]:
    """Check a data loader; returns what it gives, None if it is no data loader."""
    if not isinstance(cfg, dict) or 'dataset' not in cfg:
        problems.add(key, f'must be a dict with dataset, batch_size, num_workers and sampler, got '
                     f'{sorted(cfg) if isinstance(cfg, dict) else cfg!r}.')
        return None
    if not is_whole(cfg.get('batch_size'), 1) and 'batch_sampler' not in cfg:
        problems.add(f'{key}.batch_size', f'must be a positive whole number, got {cfg.get("batch_size")!r}.')
    workers = cfg.get('num_workers', 0)
    if not is_whole(workers, 0):
        problems.add(f'{key}.num_workers', f'must be 0 or a positive whole number, got {workers!r}.')
    elif workers == 0 and cfg.get('persistent_workers'):
        problems.add(f'{key}.persistent_workers', 'True needs workers, and num_workers is 0. Set it to False.')
    if isinstance(cfg.get('sampler'), dict):
        find_class(DATA_SAMPLERS, cfg['sampler'], f'{key}.sampler', problems)
    check_wrapper(cfg['dataset'], f'{key}.dataset', problems)
    sizes: Dict[str, ClipSize] = {}
    views: Dict[str, int] = {}
    found: Dict[str, Optional[Listed]] = {}
    for dataset, where in datasets_of(cfg['dataset'], f'{key}.dataset'):
        listed = _check_dataset(dataset, where, model, labelled, options, cfg.get('batch_size'), problems)
        found[where] = listed
        if not isinstance(dataset, dict) or any(f'{where}.pipeline' in problem.key for problem in problems):
            continue  # no clip that the network could be tried with
        pipeline = dataset.get('pipeline') or ()
        size = clip_size(pipeline)
        if dataset.get('type') == 'VideoMNIST':
            side = dataset.get('size', 28)
            size = ClipSize(dataset.get('num_frames', 30), side, side)
        shapes = [output.shape for output in listed.outputs] if listed is not None else []
        if shapes and model.volumes and len(shapes[0]) == 5:
            size = ClipSize(*shapes[0][2:])
            views[f'{where}.pipeline'] = shapes[0][0]
        else:
            views[f'{where}.pipeline'] = views_of(pipeline)
        sizes[f'{where}.pipeline'] = size
    known = [listed for listed in found.values() if listed is not None]
    whole = bool(known) and len(known) == len(found)
    samples = samples_of(cfg['dataset'], {where: len(listed.entries) if listed is not None and listed.entries else None
                                          for where, listed in found.items()}, f'{key}.dataset')
    return Loader(
        sizes, views, samples, any(listed.multi_class for listed in known) if whole else None,
        {label for listed in known for entry in listed.entries for label in entry.labels} if whole else None,
        {(os.path.join(listed.folder, entry.path), entry.part) for listed in known for entry in listed.entries}
        if whole else None)
