"""A pipeline on frames without content, of the sizes that the videos of a list have.

Crops that are larger than the frames, frames that become clips of different sizes, and clips of a form that the model
does not take show up only when the first sample of that kind is loaded, maybe in the first validation. Here the
transforms run once for each frame size met among the first and last files of a list. Decoders are stood in for: they
give black frames, so no video is decoded.
"""
import contextlib
import os
import random
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmaction.registry import TRANSFORMS

from ..utils.video_file import find_problem, video_path
from .problems import Problems, explained

SIZES = 3  # different frame sizes that are tried
MOST_FRAMES = 64  # of all clips of a sample; beyond it one clip stands for all
OURS = ('mmaction.', 'mmcv.', 'tconv_mmaction.')


class Sample(NamedTuple):
    """A file of a list: its frames' size in pixels, and how many there are."""
    path: str
    width: int
    height: int
    frames: int
    rate: float = 25.

    def __str__(self) -> str:
        return f'frames of {self.width}x{self.height} pixels (WxH), as {self.path} has'


class Output(NamedTuple):
    """What a pipeline makes of a sample: (views, C, T, H, W), and the sample it was made of."""
    shape: Tuple[int, ...]
    sample: Sample


def probe_video(path: str) -> Optional[Sample]:
    """Size and length from the header; None if OpenCV cannot open the file."""
    if os.path.getsize(path) < 32:  # no container is that small, and FFmpeg would complain on stderr
        return None
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            return None
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        numbers = [capture.get(prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT,
                                                  cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)]
    finally:
        capture.release()
    width, height = int(numbers[0]), int(numbers[1])
    if width < 1 or height < 1:
        return None
    return Sample(path, width, height, max(int(numbers[2]), 1), numbers[3] if numbers[3] > 0 else 25.)


def probe_videos(paths: Sequence[Tuple[int, str]], list_path: str, tolerant: bool, key: str,
                 problems: Problems) -> List[Sample]:
    """Samples of (line, file) pairs; a file that neither OpenCV nor decord opens is named, unless some may be bad."""
    found = []
    for line, path in paths:
        path = video_path(path)
        if not os.path.isfile(path) or os.path.getsize(path) == 0:
            continue  # said where the list is read
        sample = probe_video(path)
        if sample is not None:
            found.append(sample)
        elif not tolerant and not _decord_opens(path):
            problems.add(key, f'{list_path}, line {line}: {path} cannot be opened as a video: '
                         f'{find_problem(path).text}. To find all such files: python tools/data/check_videos.py; to '
                         "train without them: type='TolerantVideoDataset'.")
    return found


def _decord_opens(path: str) -> bool:
    try:
        import decord
        return len(decord.VideoReader(path)) > 0
    except Exception:  # decord has errors of its own, and may not be installed
        return False


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Random numbers drawn inside do not count."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def try_pipeline(pipeline: Any, samples: Sequence[Sample], start_index: int, key: str,
                 problems: Problems) -> List[Output]:
    """Run the transforms for each frame size; what fails is named by its transform, what comes out is returned."""
    outputs: List[Output] = []
    by_size: Dict[Tuple[int, int], Sample] = {}
    for sample in samples:
        by_size.setdefault((sample.width, sample.height), sample)
    for sample in list(by_size.values())[:SIZES]:
        with same_draws():
            shape = _run(pipeline, sample, start_index, key, problems)
        if shape is not None:
            outputs.append(Output(shape, sample))
    return outputs


def _run(pipeline: Any, sample: Sample, start_index: int, key: str, problems: Problems) -> Optional[Tuple[int, ...]]:
    results: Dict[str, Any] = dict(
        filename=sample.path, frame_dir=sample.path, label=0, start_index=start_index, modality='RGB',
        total_frames=sample.frames, avg_fps=sample.rate, filename_tmpl='{}', offset=0)
    clips, frame = 1, np.zeros((sample.height, sample.width, 3), dtype=np.uint8)
    for i, cfg in enumerate(pipeline):
        where, name = f'{key}.{i}', str(cfg.get('type')) if isinstance(cfg, dict) else type(cfg).__name__
        if name.endswith('Init'):
            continue
        if name.endswith('Decode'):
            if 'frame_inds' not in results:
                return None  # said where the order of transforms is looked at
            frames = np.asarray(results['frame_inds']).size
            if frames > MOST_FRAMES and results.get('num_clips', 1) > 1:
                clips, frames = results['num_clips'], results['clip_len']
                results['num_clips'] = 1
            results.update(imgs=[frame] * frames, original_shape=frame.shape[:2], img_shape=frame.shape[:2])
            continue
        if _crop_does_not_fit(cfg, name, where, results, sample, problems):
            return None
        module = ''
        try:
            transform = TRANSFORMS.build(cfg) if isinstance(cfg, dict) else cfg
            module = type(transform).__module__
            changed = transform(results)
        except Exception as error:  # every transform has errors of its own
            if module.startswith(OURS):
                problems.add(where, f'{name} does not take {sample}: {explained(error)}{_frames_now(results)}')
            else:
                problems.notes.append(f'{where}: {name} could not be tried without a video ({explained(error)[:200]})')
            return None
        if changed is None:
            return None  # the data set would take another sample
        results = changed
    inputs = results.get('inputs')
    if not hasattr(inputs, 'shape'):
        return None
    shape = tuple(inputs.shape)
    return (shape[0] * clips, *shape[1:]) if shape else shape


def _frames_now(results: Dict[str, Any]) -> str:
    size = results.get('img_shape')
    return f' The frames are {size[1]}x{size[0]} there.' if size is not None and len(size) >= 2 else ''


def _crop_does_not_fit(cfg: Any, name: str, key: str, results: Dict[str, Any], sample: Sample,
                       problems: Problems) -> bool:
    """CenterCrop and TenCrop cut nothing or the wrong part of smaller frames without a word; others only assert."""
    argument = 'size' if name == 'RandomCrop' else 'crop_size'
    crop = cfg.get(argument) if isinstance(cfg, dict) else None
    if name not in ('CenterCrop', 'TenCrop', 'RandomCrop', 'ThreeCrop') or 'img_shape' not in results or crop is None:
        return False
    width, height = (crop, crop) if isinstance(crop, int) else tuple(crop)
    rows, columns = results['img_shape'][:2]
    now = f'the frames are {columns}x{rows} there ({sample})'
    if width > columns or height > rows:
        problems.add(f'{key}.{argument}', f'{name} cuts {width}x{height}, and {now}. Use a smaller crop, or a larger '
                     'Resize before it.')
        return True
    if name == 'ThreeCrop' and width != columns and height != rows:
        problems.add(f'{key}.crop_size', f'ThreeCrop({width}x{height}) takes three places along one side, and must be '
                     f'as large as the frames along the other; {now}. Set crop_size={min(rows, columns)}, or Resize '
                     f'the shorter side to {min(width, height)} before it.')
        return True
    return False


def check_outputs(outputs: Sequence[Output], batch_size: Any, volumes: bool, channels: Optional[int], key: str,
                 problems: Problems) -> None:
    """What comes out of a pipeline: one size for a whole batch, and the dimensions and colours that the model takes.

    Args:
        outputs: from :func:`try_pipeline`.
        batch_size: of the loader.
        volumes: whether the model is a Recognizer3D, which takes (views, C, T, H, W).
        channels: values in data_preprocessor.mean, None if there are none.
    """
    if not outputs:
        return
    shape = outputs[0].shape
    if volumes and len(shape) != 5:
        problems.add(key, f'makes {shape} of {outputs[0].sample}, and a Recognizer3D takes (views, channels, frames, '
                     "height, width). End it with dict(type='FormatShape', input_format='NCTHW'), "
                     "dict(type='PackActionInputs').")
        return
    other = next((one for one in outputs if one.shape != shape), None)
    if other is not None and batch_size != 1:
        problems.add(key, f'makes {shape} of {outputs[0].sample}, and {other.shape} of {other.sample}: a batch of '
                     f'{batch_size} cannot be stacked from them. Let it end with one size for all: Resize(scale=(W, '
                     'H), keep_ratio=False), or Resize of the shorter side and a crop.')
    if volumes and channels is not None and shape[1] not in (channels, 0) and channels != 1:
        problems.add(key, f'makes clips of {shape[1]} channels, and model.data_preprocessor.mean has {channels} '
                     'values. Give one value per channel, or take ToGrey out or in.')
