"""From a config, a checkpoint and a video to what the methods want: a recognizer and normalised clips.

A video goes through the config's own test pipeline and data preprocessor, as in mmaction2's inference. Pipelines that
cut several views (crops, clips) out of a video give one of them, by default the one in the middle.
"""
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmaction.apis import init_recognizer
from mmaction.models.recognizers import Recognizer2D
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from ...utils.config_file import read_config
from ...utils.distinct_names import distinct_names
from .adapters import RecognizerScores
from .targets import class_names, labels_of

__all__ = ['Clip', 'ClipReader', 'class_names', 'load_recognizer']

VIDEO_KEYS = dict(label=-1, start_index=0, modality='RGB')


class Clip(NamedTuple):
    """One view of a video."""
    name: str
    inputs: Tensor  # (1, C, T, H, W) on the model's device, normalised: what the methods take
    frames: np.ndarray  # (T, H, W, 3) uint8 RGB: what the network saw, to look at
    label: Optional[int]  # None where the video has none, or several
    labels: Tuple[int, ...] = ()  # all of them

    @property
    def classes(self) -> Tuple[int, ...]:
        """All labels, also of a clip that was made with ``label`` only."""
        return self.labels or (() if self.label is None else (self.label, ))


def load_recognizer(config: str, checkpoint: str, device: Union[str, torch.device] = 'cpu',
                    options: Optional[Dict] = None) -> nn.Module:
    """A recognizer in eval mode, with its config as ``model.cfg`` and what the checkpoint says of its data set
    (``classes``, if the data set knew them) as ``model.dataset_meta``.

    Raises:
        FileNotFoundError: if the config or the checkpoint file is not there.
        TypeError: if the model is no 2D or 3D recognizer.
        ValueError: if the checkpoint's weights are not those of the model.
    """
    cfg = read_config(config)
    if options:
        cfg.merge_from_dict(options)
    if '://' not in checkpoint and not os.path.isfile(checkpoint):
        raise FileNotFoundError(f'there is no checkpoint {checkpoint}')
    model = init_recognizer(cfg, None, 'cpu')
    RecognizerScores(model)  # says early if it is of another kind
    try:
        stored = load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not hold the weights of the model in {config}: {error}. Give the config '
                         'it was trained with (work_dirs/NAME/NAME.py).') from error
    meta = stored.get('meta') if isinstance(stored, dict) else None
    model.dataset_meta = (meta.get('dataset_meta') if isinstance(meta, dict) else None) or {}
    return model.to(device).eval()


def _pipeline_of(cfg: Config) -> list:
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    pipeline = cfg.get('test_pipeline') or dataset.get('pipeline')
    if not pipeline:
        raise ValueError(f'{cfg.filename} has neither test_pipeline nor test_dataloader.dataset.pipeline.')
    return pipeline


def _segments(pipeline: Optional[Compose]) -> Optional[int]:
    """Frames per view of a 2D recognizer, where the pipeline says it."""
    for transform in getattr(pipeline, 'transforms', []):
        if hasattr(transform, 'num_clips') and hasattr(transform, 'clip_len'):
            return transform.num_clips * transform.clip_len
    return None


def _views(inputs: Tensor, two_dimensional: bool, segments: Optional[int]) -> Tensor:
    """(views, C, T, H, W) of what a pipeline packs: (views, C, T, H, W), or for 2D (views * T, C, H, W)."""
    if not two_dimensional:
        if inputs.dim() != 5:
            raise ValueError(f'the pipeline gives inputs of {tuple(inputs.shape)}; a 3D recognizer takes (views, C, T, '
                             "H, W): FormatShape with input_format='NCTHW'.")
        return inputs
    if inputs.dim() != 4:
        raise ValueError(f'the pipeline gives inputs of {tuple(inputs.shape)}; a 2D recognizer takes (frames, C, H, '
                         "W): FormatShape with input_format='NCHW'.")
    segments = segments or inputs.size(0)
    if inputs.size(0) % segments:
        raise ValueError(f'{inputs.size(0)} frames are no whole number of views of {segments} frames.')
    return inputs.unflatten(0, (-1, segments)).transpose(1, 2)


def _displayed(view: Tensor, bgr: bool) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB of one raw view (C, T, H, W); grey and other channel counts as grey."""
    images = view.permute(1, 2, 3, 0).cpu().numpy()
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        images = ((images - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    if images.shape[-1] != 3:
        return np.repeat(images.mean(-1, keepdims=True).round().astype(np.uint8), 3, axis=-1)
    return np.ascontiguousarray(images[..., ::-1] if bgr else images)


class ClipReader:
    """Reads clips for one model.

    Args:
        model: from :func:`load_recognizer`.
        view: which of several views, counted from 0; by default the one in the middle.
    """

    def __init__(self, model: nn.Module, view: Optional[int] = None) -> None:
        self.model = model
        self.view = view
        self._pipeline: Optional[Compose] = None
        self._datasets: Dict[str, object] = {}

    def video(self, path: str) -> Clip:
        """One view of a video file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file cannot be decoded, or the pipeline is none for files.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f'there is no video {path}')
        if self._pipeline is None:
            pipeline = Compose(_pipeline_of(self.model.cfg))
            if not any('Decode' in type(transform).__name__ for transform in pipeline.transforms):
                raise ValueError(f"the test pipeline of {self.model.cfg.filename} decodes no files (its data set makes "
                                 'the clips itself). Take clips from there: --dataset test.')
            self._pipeline = pipeline
        try:
            data = self._pipeline(dict(filename=str(path), **VIDEO_KEYS))
        except Exception as error:  # decoders and transforms have errors of their own, down to bare RuntimeErrors
            raise ValueError(f'the test pipeline cannot read {path}: {type(error).__name__}: {error}') from error
        if data is None:
            raise ValueError(f'the test pipeline drops {path}.')
        return self._clip(os.path.splitext(os.path.basename(path))[0], data, (), _segments(self._pipeline))

    def dataset(self, split: str) -> object:
        """The data set of ``{split}_dataloader`` in the config."""
        if split not in self._datasets:
            loader = self.model.cfg.get(f'{split}_dataloader')
            if not loader:
                raise ValueError(f'{self.model.cfg.filename} has no {split}_dataloader.')
            self._datasets[split] = DATASETS.build(loader['dataset'])
        return self._datasets[split]

    def sample(self, split: str, index: int) -> Clip:
        """One view of a data set's entry, with its label."""
        dataset = self.dataset(split)
        data = dataset[index]
        labels = labels_of(getattr(data['data_samples'], 'gt_label', None), self.model.cls_head.num_classes)
        return self._clip(f'{split}_{index:05d}', data, labels, _segments(getattr(dataset, 'pipeline', None)))

    def labels(self, split: str) -> List[Tuple[int, ...]]:
        """The classes of every entry of a data set, from its list: no clip is read. () where it does not say."""
        dataset = self.dataset(split)
        info = getattr(dataset, 'get_data_info', None)
        if info is None:
            return [()] * len(dataset)
        classes = self.model.cls_head.num_classes
        return [labels_of(info(i).get('label'), classes) for i in range(len(dataset))]

    def file_names(self, split: str) -> List[str]:
        """Of every entry of a data set the name that tells its file from the others; 'clip 3' where it has none."""
        dataset = self.dataset(split)
        info = getattr(dataset, 'get_data_info', lambda i: {})
        entries = [info(i) for i in range(len(dataset))]
        return distinct_names([str(entry.get('filename') or entry.get('frame_dir') or f'clip {i}')
                               for i, entry in enumerate(entries)], suffix=False)

    def class_names(self, path: Optional[str] = None, split: Optional[str] = None) -> List[str]:
        """Names of the model's classes: of a file with one per line, else of the data set that clips are taken of,
        else of the checkpoint, else 'class 0', 'class 1', ...

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it has another number of lines or is no UTF-8 text.
        """
        known = getattr(self.dataset(split), 'metainfo', {}).get('classes') if split and path is None else None
        known = known or getattr(self.model, 'dataset_meta', {}).get('classes')
        return class_names(path, self.model.cls_head.num_classes, known)

    def _clip(self, name: str, data: dict, labels: Sequence[int], segments: Optional[int]) -> Clip:
        preprocessor = self.model.data_preprocessor
        two_dimensional = isinstance(self.model, Recognizer2D)
        raw = data['inputs']
        if not isinstance(raw, Tensor):
            raise ValueError(f'{name}: inputs of several modalities ({type(raw).__name__}) have no single clip.')
        batch = preprocessor(pseudo_collate([data]), training=False)
        raw_views = _views(raw, two_dimensional, segments)
        views = _views(batch['inputs'][0], two_dimensional, segments)
        index = len(views) // 2 if self.view is None else self.view
        if not 0 <= index < len(views):
            raise ValueError(f'{name} has {len(views)} view(s) (0 to {len(views) - 1}), there is no view {index}.')
        frames = _displayed(raw_views[index], getattr(preprocessor, 'to_rgb', False))
        device = next(self.model.parameters()).device
        return Clip(name, views[index:index + 1].to(device), frames, labels[0] if len(labels) == 1 else None,
                    tuple(labels))
