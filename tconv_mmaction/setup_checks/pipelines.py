"""A pipeline's transforms one by one: their names, their arguments, their order; and what comes out, by the settings.

Transforms are built, since that is where they check their arguments. :mod:`.dry_run` runs them.
"""
from typing import Any, List, NamedTuple, Optional, Sequence

from mmaction.registry import TRANSFORMS

from .agreement import installed
from .problems import Problems, build, check_names, find_class

POSITIVE = ('clip_len', 'num_clips', 'frame_interval', 'test_interval', 'num_segments', 'crop_size', 'size')
OLD = dict(Collect="End the pipeline with dict(type='PackActionInputs') instead.",
           VideoCollect="End the pipeline with dict(type='PackActionInputs') instead.")


class ClipSize(NamedTuple):
    """What a pipeline makes of a video, as far as its settings tell: frames, rows, columns."""
    frames: Optional[int]
    height: Optional[int] = None
    width: Optional[int] = None


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


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
        if isinstance(cfg, dict) and cfg.get('type') in OLD and TRANSFORMS.get(cfg['type']) is None:
            problems.add(f'{where}.type', f'{cfg["type"]} is of mmaction2 0.x. {OLD[cfg["type"]]}')
            names.append('?')
            continue
        cls = find_class(TRANSFORMS, cfg, where, problems)
        if cls is None:
            names.append('?')
            continue
        names.append(str(cfg['type']))
        if cfg['type'] == 'Normalize' and cls.__module__.startswith('mmcv.'):
            problems.add(where, 'Normalize is that of mmcv, for single images. mmaction2 1.x normalises in the model: '
                         'take it out, and set mean and std of model.data_preprocessor.')
            continue
        wrong = not check_names(cls, cfg, where, problems)
        installed(cfg['type'], where, problems)
        for name in POSITIVE:
            value = cfg.get(name)
            values = value if isinstance(value, (list, tuple)) else [value]
            if value is not None and not all(is_whole(v, 1) for v in values):
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
    opened = next((name for name in names if name.endswith('Init')), None)
    wants = names[decoded].replace('Decode', 'Init') if decoded is not None else None
    if wants in ('DecordInit', 'PyAVInit', 'PIMSInit', 'OpenCVInit') and opened != wants:
        problems.add(f'{key}.{decoded}', f'{names[decoded]} decodes what {wants} has opened, and '
                     f'{f"{opened} stands there" if opened else "it is not there"}. Put dict(type={wants!r}) first.')
    if decoded is not None and sampled is None:
        problems.add(key, f'{names[decoded]} has no frames to decode: put a transform before it that chooses them '
                     '(SampleFrames, WholeVideoSampleFrames).')


def clip_size(pipeline: Sequence[Any]) -> ClipSize:
    """Frames and pixels at the end of a pipeline, None where its settings leave them open."""
    frames = height = width = None
    for cfg in pipeline:
        if not isinstance(cfg, dict):
            continue
        if is_whole(cfg.get('clip_len'), 1):
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


def views_of(pipeline: Sequence[Any]) -> int:
    """Clips of one sample, by the settings."""
    views = 1
    for cfg in pipeline:
        if isinstance(cfg, dict):
            views *= cfg['num_clips'] if is_whole(cfg.get('num_clips'), 1) else 1
            views *= dict(ThreeCrop=3, TenCrop=10).get(str(cfg.get('type')), 1)
    return views
