"""mmaction2 1.2.0's interfaces for inference, on a video, a folder of frames, and lists of both.

``inference_recognizer`` wants a variable ``test_pipeline`` in the config, which a config need not have, and takes one
video and no folder of frames. ``MMAction2Inferencer`` takes folders only by an option for all of its inputs and only
with names like img_00001.jpg, and draws the first of a list alone. Here

* the pipeline comes from ``test_dataloader`` where there is no ``test_pipeline``;
* a video and a folder each get the decoder they need, whatever the config's data set is made of, and frames may have
  any name that ends in a number;
* all of a list is done and drawn (:mod:`.drawing` has how).
"""
import copy
import functools
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

FRAME = re.compile(r'(.*?)(\d+)(\.(?:jpe?g|png|bmp|webp|tiff?))', re.IGNORECASE)
VIDEO_KEYS = dict(label=-1, start_index=0, modality='RGB')


def frame_folder(folder: Union[str, Path]) -> Dict[str, Any]:
    """What a pipeline with ``RawFrameDecode`` starts from, for a folder of numbered images.

    Raises:
        FileNotFoundError: if there is no image whose name ends in a number.
        ValueError: if images of several series are there, or a number is missing in between.
    """
    series: Dict[Tuple[str, str], List[str]] = {}
    for name in os.listdir(folder):
        match = FRAME.fullmatch(name)
        if match:
            series.setdefault((match[1], match[3]), []).append(match[2])
    if not series:
        raise FileNotFoundError(f'{folder} has no frames: images whose names end in a number, such as img_00001.jpg.')
    if len(series) > 1:
        names = ', '.join(f'{prefix}*{ending}' for prefix, ending in sorted(series))
        raise ValueError(f'{folder} has several series of images ({names}). Keep the frames of one clip in a folder.')
    (prefix, ending), digits = series.popitem()
    numbers = sorted(map(int, digits))
    start, stop = numbers[0], numbers[-1] + 1
    gaps = sorted(set(range(start, stop)) - set(numbers))
    if gaps:
        raise ValueError(f'{folder} has frames {start} to {stop - 1}, and number {gaps[0]} is missing.')
    width = min(map(len, digits))
    padded = all(len(text) == max(width, len(str(int(text)))) for text in digits)
    if not padded or len(digits) != len(numbers):
        raise ValueError(f'the numbers of the frames in {folder} are not written with one number of digits.')
    # braces in a name must survive str.format
    template = '{}{{:0{}}}{}'.format(*(part.replace('{', '{{').replace('}', '}}') if isinstance(part, str) else part
                                       for part in (prefix, width, ending)))
    return dict(frame_dir=str(folder), total_frames=len(numbers), filename_tmpl=template, label=-1,
                start_index=start, modality='RGB')


def _kind(step: Any) -> str:
    return step['type'] if isinstance(step['type'], str) else step['type'].__name__


def _with_decoder(pipeline: List[dict], frames: bool) -> List[dict]:
    """The pipeline for a folder of frames or for a video; one that has the right decoder stays as it is."""
    kinds = [_kind(step) for step in pipeline]
    if not any('Decode' in kind for kind in kinds):
        raise ValueError(f'the test pipeline of the config decodes no files (its data set makes the clips itself): '
                         f'{kinds}. Give a test_pipeline with a decoder.')
    if frames == ('RawFrameDecode' in kinds):
        return pipeline
    steps = [dict(type='RawFrameDecode' if frames else 'DecordDecode') if 'Decode' in kind else step
             for kind, step in zip(kinds, pipeline) if 'Init' not in kind]
    return steps if frames else [dict(type='DecordInit'), *steps]


def _wrap_inference_recognizer(original: Any) -> Any:

    @functools.wraps(original)
    def inference_recognizer(model: Any, video: Any, test_pipeline: Any = None) -> Any:
        if isinstance(video, (list, tuple)):
            return [inference_recognizer(model, each, test_pipeline) for each in video]
        if isinstance(video, dict) or (isinstance(video, str) and video.endswith('.npy')):
            return original(model, video, test_pipeline)
        if not isinstance(video, (str, Path)):
            raise TypeError('inference_recognizer takes a video file, a folder of frames, a dict that the pipeline '
                            f'starts from, or a list of these; got {type(video).__name__}.')
        if not os.path.exists(video):
            raise FileNotFoundError(f'there is no video and no folder of frames {video}')
        frames = os.path.isdir(video)
        if test_pipeline is None:
            from mmengine.dataset import Compose
            from mmengine.registry import init_default_scope
            init_default_scope(model.cfg.get('default_scope', 'mmaction'))
            steps = model.cfg.get('test_pipeline') or model.cfg.test_dataloader.dataset.pipeline
            test_pipeline = Compose(_with_decoder(steps, frames))
        return original(model, frame_folder(video) if frames else dict(filename=str(video), **VIDEO_KEYS),
                        test_pipeline)

    return inference_recognizer


def _wrap_init_pipeline(original: Any) -> Any:

    @functools.wraps(original)
    def _init_pipeline(self: Any, cfg: Any) -> Any:
        cfg = copy.deepcopy(cfg)  # theirs inserts a step into the config's own list
        dataset = cfg.test_dataloader.dataset
        if cfg.get('test_pipeline') and not any('Decode' in _kind(step) for step in dataset.pipeline):
            dataset.pipeline = cfg.test_pipeline  # a data set that makes its clips itself, such as VideoMNIST
        own = original(self, copy.deepcopy(cfg))
        if self.input_format not in ('video', 'rawframes') or self.pack_cfg:
            return own
        pipelines, given = {self.input_format: own}, self.input_format

        def pick(source: Any) -> Any:
            if not isinstance(source, (str, os.PathLike)) or not os.path.exists(source):
                return own(source)  # a URL, or an error that is theirs
            kind = 'rawframes' if os.path.isdir(source) else 'video'
            if kind not in pipelines:
                self.input_format = kind
                try:
                    pipelines[kind] = original(self, copy.deepcopy(cfg))
                finally:
                    self.input_format = given
            if kind == 'video':
                return pipelines[kind](str(source))
            pipelines[kind].transforms[0].input_format = 'dict'  # InferencerPackInput hands it on
            return pipelines[kind](frame_folder(source))

        return pick

    return _init_pipeline


def _visualize(self: Any, inputs: Any, preds: Any, **kwargs: Any) -> Any:
    """In place of MMAction2Inferencer.visualize, which hands on the first prediction only."""
    return self.actionrecog_inferencer.visualize([str(each) if isinstance(each, os.PathLike) else each
                                                  for each in inputs], [pred for pred, in preds['rec']], **kwargs)


def apply() -> Tuple[bool, str]:
    """Repair ``inference_recognizer``, ``ActionRecogInferencer`` and ``MMAction2Inferencer``."""
    from mmaction import apis
    from mmaction.apis import inference
    repaired = _wrap_inference_recognizer(inference.inference_recognizer)
    apis.inference_recognizer = inference.inference_recognizer = repaired
    apis.ActionRecogInferencer._init_pipeline = _wrap_init_pipeline(apis.ActionRecogInferencer._init_pipeline)
    apis.MMAction2Inferencer.visualize = _visualize
    return True, 'inference on videos, folders of frames and lists of them, all of which are drawn'
