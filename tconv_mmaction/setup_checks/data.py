"""Loaders, data sets and pipelines of a config, looked at before any of them works.

Transforms are built, since that is where they check their arguments; data sets are not: building one reads its whole
list and fails at the first line.
"""
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmaction.registry import DATASETS, TRANSFORMS
from mmengine.registry import DATA_SAMPLERS

from ..utils.confinement import check_confined, roots_of
from .lists import Entry, check_files, form_of, joined, read_list
from .problems import Problems, build, check_names, find_class

POSITIVE = ('clip_len', 'num_clips', 'frame_interval', 'test_interval', 'num_segments', 'crop_size', 'size')
DATASET_WRAPPERS = dict(RepeatDataset='dataset', ClassBalancedDataset='dataset', ConcatDataset='datasets')


class DataOptions(NamedTuple):
    """What CheckSetupHook may be told about data."""
    duplicates: bool = False
    confine_paths: Any = False


class ClipSize(NamedTuple):
    """What a pipeline makes of a video, as far as its settings tell: frames, rows, columns."""
    frames: Optional[int]
    height: Optional[int] = None
    width: Optional[int] = None


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


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


def check_pipeline(pipeline: Any, key: str, problems: Problems) -> None:
    """Build every transform; look at numbers that mmaction2 takes on trust, and at the order."""
    if not isinstance(pipeline, (list, tuple)) or not pipeline:
        problems.add(key, f'must be a list of transforms that ends with PackActionInputs, got {pipeline!r}.')
        return
    names: List[str] = []
    for i, cfg in enumerate(pipeline):
        where = f'{key}.{i}'
        if callable(cfg):
            names.append(getattr(cfg, '__name__', type(cfg).__name__))
            continue
        cls = find_class(TRANSFORMS, cfg, where, problems)
        if cls is None:
            names.append('?')
            continue
        names.append(str(cfg['type']))
        wrong = not check_names(cls, cfg, where, problems)
        for name in POSITIVE:
            value = cfg.get(name)
            values = value if isinstance(value, (list, tuple)) else [value]
            if value is not None and not all(_whole(v, 1) for v in values):
                wrong = True
                problems.add(f'{where}.{name}', f'{cfg["type"]} needs a positive whole number, got {value!r}.')
        if not wrong:
            build(TRANSFORMS, cfg, where, problems)
    if '?' in names:
        return
    if 'PackActionInputs' not in names and not any('Pack' in name for name in names):
        problems.add(key, f'nothing packs the clip for the model: {names}. End it with '
                     "dict(type='PackActionInputs').")
    sampled = next((i for i, name in enumerate(names) if 'Sample' in name), None)
    decoded = next((i for i, name in enumerate(names) if name.endswith('Decode')), None)
    if decoded is not None and sampled is not None and sampled > decoded:
        problems.add(f'{key}.{sampled}', f'{names[sampled]} chooses frames after {names[decoded]} has decoded them. '
                     'Put it before.')
    if decoded is not None and sampled is None:
        problems.add(key, f'{names[decoded]} has no frames to decode: put a transform before it that chooses them '
                     '(SampleFrames, WholeVideoSampleFrames).')


def clip_size(pipeline: Sequence[Any]) -> ClipSize:
    """Frames and pixels at the end of a pipeline, None where its settings leave them open."""
    frames = height = width = None
    for cfg in pipeline:
        if not isinstance(cfg, dict):
            continue
        if _whole(cfg.get('clip_len'), 1):
            frames = cfg['clip_len']
        kind, size = cfg.get('type'), cfg.get('crop_size', cfg.get('size'))
        if kind == 'Resize':
            scale = cfg.get('scale')
            fixed = cfg.get('keep_ratio', True) is False and isinstance(scale, (list, tuple)) and min(scale) > 0
            width, height = scale if fixed else (None, None)
        elif kind in ('CenterCrop', 'RandomCrop', 'EgoMotionCrop', 'ThreeCrop', 'TenCrop') and size:
            width, height = (size, size) if isinstance(size, int) else size
        elif kind in ('RandomResizedCrop', 'MultiScaleCrop', 'RandomRescale', 'ThreeCrop', 'EgoMotionCrop'):
            height = width = None
    return ClipSize(frames, height, width)


def _check_dataset(cfg: Any, key: str, num_classes: Optional[int], labelled: bool, options: DataOptions,
                   problems: Problems) -> Optional[List[Entry]]:
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
    return _check_list(cfg, key, form, num_classes, labelled, options, problems)


def _check_list(cfg: dict, key: str, form: Any, num_classes: Optional[int], labelled: bool, options: DataOptions,
                problems: Problems) -> Optional[List[Entry]]:
    own = cfg.get('num_classes')
    if form.multi_class and not _whole(own, 1):
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
    if other in pipeline:
        place = pipeline.index(other)
        problems.add(f'{key}.pipeline.{place}', f'{other} reads {"video files" if form.frames else "folders of frames"}'
                     f', and {cfg["type"]} has {"folders of frames" if form.frames else "video files"}. Use '
                     f'{"RawFrameDecode" if form.frames else "DecordInit and DecordDecode"}, or the other data set.')
    entries = read_list(path, form, f'{key}.ann_file', problems, num_classes, labelled, options.duplicates)
    indices = cfg.get('indices')
    if isinstance(indices, int) and entries and abs(indices) > len(entries):
        problems.add(f'{key}.indices', f'{indices}, and {path} has {len(entries)} lines.')
    folder = prefixes[prefix_key]
    folder = joined(cfg.get('data_root'), folder) if folder is not None else ''
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
    return entries


def check_loader(cfg: Any, key: str, num_classes: Optional[int], labelled: bool, options: DataOptions,
                 problems: Problems) -> Dict[str, ClipSize]:
    """Check a data loader; returns the clip size of each of its pipelines by key."""
    if not isinstance(cfg, dict) or 'dataset' not in cfg:
        problems.add(key, f'must be a dict with dataset, batch_size, num_workers and sampler, got '
                     f'{sorted(cfg) if isinstance(cfg, dict) else cfg!r}.')
        return {}
    if not _whole(cfg.get('batch_size'), 1) and 'batch_sampler' not in cfg:
        problems.add(f'{key}.batch_size', f'must be a positive whole number, got {cfg.get("batch_size")!r}.')
    workers = cfg.get('num_workers', 0)
    if not _whole(workers, 0):
        problems.add(f'{key}.num_workers', f'must be 0 or a positive whole number, got {workers!r}.')
    elif workers == 0 and cfg.get('persistent_workers'):
        problems.add(f'{key}.persistent_workers', 'True needs workers, and num_workers is 0. Set it to False.')
    if isinstance(cfg.get('sampler'), dict):
        find_class(DATA_SAMPLERS, cfg['sampler'], f'{key}.sampler', problems)
    sizes: Dict[str, ClipSize] = {}
    for dataset, where in datasets_of(cfg['dataset'], f'{key}.dataset'):
        _check_dataset(dataset, where, num_classes, labelled, options, problems)
        if not isinstance(dataset, dict):
            continue
        size = clip_size(dataset.get('pipeline') or ())
        if dataset.get('type') == 'VideoMNIST':
            side = dataset.get('size', 28)
            size = ClipSize(dataset.get('num_frames', 30), side, side)
        sizes[f'{where}.pipeline'] = size
    return sizes
