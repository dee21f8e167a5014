"""mmaction2 1.2.0's visualizer: what it draws on a video, and what it writes.

It looks for labels under the names of the old data samples (``gt_labels``, ``pred_labels``) and so draws none, or fails
on one that has the old name alone. VisualizationHook (``--show-dir`` of test.py) turns the axes of a clip as if it had
neither clips nor frames, and fails. Videos and GIFs need moviepy < 2, and TensorBoard gets nothing without it. Here

* labels and scores are drawn, whichever of the two names a sample has;
* the hook draws the first clip of a sample, for 2D and 3D recognizers;
* OpenCV writes the videos (:mod:`tconv_mmaction.utils.browser_video`) and Pillow the GIFs, also TensorBoard's.
"""
import functools
import io
import os
from typing import Any, Sequence, Tuple

import numpy as np


def _wrap_add_datasample(original: Any) -> Any:

    @functools.wraps(original)
    def add_datasample(self: Any, name: str, video: Any, data_sample: Any = None, *args: Any, **kwargs: Any) -> Any:
        if data_sample is not None:
            data_sample = with_old_names(data_sample)
        return original(self, name, video, data_sample, *args, **kwargs)

    return add_datasample


def with_old_names(sample: Any) -> Any:
    """A copy of a data sample with the four names that ActionVisualizer looks for, as far as it has their content."""
    from mmengine.structures import LabelData
    sample = sample.clone()
    if 'gt_label' in sample and 'gt_labels' not in sample:
        sample.set_field(LabelData(item=sample.gt_label.reshape(-1)), 'gt_labels')
    elif 'gt_labels' in sample and 'gt_label' not in sample:
        sample.set_field(sample.gt_labels.item, 'gt_label')
    if 'pred_label' in sample and 'pred_labels' not in sample:
        scores = dict(score=sample.pred_score) if 'pred_score' in sample else {}
        sample.set_field(LabelData(item=sample.pred_label.reshape(-1), **scores), 'pred_labels')
    return sample


def write_gif(path: Any, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write RGB frames (H, W, 3), uint8, as a GIF that repeats; ``path`` is a name or an open file."""
    from PIL import Image
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    # one palette for all, and as many frames in the file as there are: Pillow would merge equal ones
    images[0].save(path, format='GIF', save_all=True, append_images=images[1:], duration=max(round(1000 / fps), 10),
                   loop=0, optimize=False)


def _wrap_add_video(original: Any) -> Any:

    @functools.wraps(original)
    def add_video(self: Any, name: str, frames: Any, step: int = 0, fps: int = 4, out_type: str = 'img',
                  **kwargs: Any) -> None:
        if out_type not in ('video', 'gif'):
            return original(self, name, frames, step=step, fps=fps, out_type=out_type, **kwargs)
        self._init_env()
        path = os.path.join(self._save_dir, os.path.splitext(name)[0])
        rgb = [frame[..., ::-1] for frame in frames]  # the visualizer's frames are BGR, as it reads them
        if out_type == 'gif':
            write_gif(f'{path}.gif', rgb, fps)
        else:
            from ..utils.browser_video import write_video
            write_video(f'{path}.mp4', rgb, fps)

    return add_video


def _tensorboard_video(self: Any, name: str, frames: np.ndarray, step: int = 0, fps: int = 4, **kwargs: Any) -> None:
    """Record the frames (T, H, W, 3) of a video as an animation in TensorBoard's image tab."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    file = io.BytesIO()
    write_gif(file, frames, fps)
    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    writer = self.experiment._get_file_writer()
    writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


def frames_of(clip: Any) -> np.ndarray:
    """The first clip of a sample of a data loader, as the visualizer takes it: (T, H, W, 3), uint8.

    Args:
        clip: ``(M, 3, T, H, W)`` of a 3D recognizer, M clips or crops; or ``(M T, 3, H, W)`` of a 2D one, all frames.

    Raises:
        ValueError: for another shape, or without three channels (flow, poses).
    """
    if clip.ndim not in (4, 5) or clip.shape[1] != 3:
        raise ValueError(f'a sample of shape {tuple(clip.shape)} cannot be drawn: VisualizationHook draws frames of '
                         'three channels, (clips, 3, T, H, W) or (frames, 3, H, W). Switch it off (enable=False).')
    frames = clip[0].permute(1, 2, 3, 0) if clip.ndim == 5 else clip.permute(0, 2, 3, 1)
    return frames.cpu().numpy().astype(np.uint8)


def _draw_samples(self: Any, batch_idx: int, data_batch: dict, data_samples: Sequence[Any], step: int = 0) -> None:
    """In place of VisualizationHook's own: every ``interval``-th sample of all, named by its file or its number."""
    if not self.enable:
        return
    # the last batch may be smaller than those before it
    self._batch_size = len(data_samples) if batch_idx == 0 else self._batch_size
    start = batch_idx * self._batch_size
    for index, (clip, sample) in enumerate(zip(data_batch['inputs'], data_samples), start):
        if index % self.interval:
            continue
        source = sample.get('filename') or sample.get('frame_dir') or str(index)
        name = os.path.basename(str(source))
        draw = {key: value for key, value in self.draw_args.items() if key != 'show'}
        if self.out_dir is not None:
            draw['out_path'] = os.path.join(self.out_dir, f'{name}_{step}')
        self._visualizer.add_datasample(name, video=frames_of(clip), data_sample=sample, step=step,
                                        show_frames=self.show, **draw)


def apply() -> Tuple[bool, str]:
    """Repair ActionVisualizer, its backends and VisualizationHook."""
    from mmaction.engine.hooks import VisualizationHook
    from mmaction.visualization import ActionVisualizer, LocalVisBackend, TensorboardVisBackend
    ActionVisualizer.add_datasample = _wrap_add_datasample(ActionVisualizer.add_datasample)
    LocalVisBackend.add_video = _wrap_add_video(LocalVisBackend.add_video)
    TensorboardVisBackend.add_video = _tensorboard_video
    VisualizationHook._draw_samples = _draw_samples
    return True, 'labels are drawn; videos and GIFs without moviepy; VisualizationHook draws clips'
