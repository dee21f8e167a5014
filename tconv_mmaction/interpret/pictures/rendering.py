"""Pictures of clips: overlays, strips, timelines, and the files they go to (PNG, GIF, MP4 by OpenCV).

Images are (H, W, 3) and clips (T, H, W, 3), uint8 RGB. Files appear under their name when they are whole.
"""
import os
import uuid
from pathlib import Path
from typing import Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from ...utils import atomic_write_bytes

PathLike = Union[str, 'os.PathLike[str]']
ON, OFF, PAPER = (230, 120, 20), (190, 190, 190), (255, 255, 255)  # orange and grey differ for every eye
VIDEO_ENDINGS = ('.mp4', '.gif')


def overlay(frames: np.ndarray, maps: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """Maps (T, H, W) in [0, 1] over frames: colour and opacity follow the map, 0 leaves the frame as it is."""
    if frames.shape[:3] != maps.shape:
        raise ValueError(f'maps {maps.shape} do not fit frames {frames.shape}.')
    out = np.empty_like(frames)
    for image, frame, map_ in zip(out, frames, np.clip(maps, 0, 1)):
        colours = cv2.applyColorMap((map_ * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        alpha = strength * map_[..., None]
        image[:] = ((1 - alpha) * frame + alpha * colours).round()
    return out


def heat(maps: np.ndarray) -> np.ndarray:
    """Maps (T, H, W) as grey images, the largest value of the clip white."""
    peak = float(maps.max())
    grey = np.clip(maps / peak if peak > 0 else maps, 0, 1)
    return np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def strip(rows: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """One image: a row per clip, a column per frame. All clips have the same shape."""
    count, height, width = rows[0].shape[:3]
    image = np.full((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 3), PAPER, dtype=np.uint8)
    for r, frames in enumerate(rows):
        for t, frame in enumerate(frames):
            image[r * (height + gap):r * (height + gap) + height, t * (width + gap):t * (width + gap) + width] = frame
    return image


def beside(clips: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Clips of the same shape, side by side, as one clip."""
    spacer = np.full((*clips[0].shape[:2], gap, 3), PAPER, dtype=np.uint8)
    parts = [part for clip in clips for part in (clip, spacer)][:-1]
    return np.concatenate(parts, axis=2)


def with_timeline(frames: np.ndarray, mask: Sequence[float], height: int = 12) -> np.ndarray:
    """The clip with a bar below: a cell per mask entry, grey (0) to orange (1); the current frame has a black mark."""
    count, _, width = frames.shape[:3]
    edges = np.linspace(0, width, len(mask) + 1).round().astype(int)
    bar = np.empty((height, width, 3), dtype=np.uint8)
    for value, start, stop in zip(mask, edges[:-1], edges[1:]):
        bar[:, start:stop] = np.add(np.multiply(OFF, 1 - value), np.multiply(ON, value)).round()
    out = np.empty((count, frames.shape[1] + height, width, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        marked = bar.copy()
        marked[:height // 3, edges[t]:max(edges[t] + 1, edges[t + 1])] = 0
        out[t] = np.concatenate([frame, marked])
    return out


def write_image(path: PathLike, image: np.ndarray) -> None:
    """An RGB image as PNG."""
    done, data = cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise RuntimeError(f'OpenCV {cv2.__version__} cannot encode an image of {image.shape} as PNG.')
    atomic_write_bytes(path, data.tobytes())


def write_clip(path: PathLike, frames: np.ndarray, fps: float = 8., min_size: Optional[int] = 160) -> None:
    """An RGB clip as ``.mp4`` (MPEG-4) or ``.gif``, by the ending.

    Args:
        fps: frames per second.
        min_size: smaller clips are enlarged by a whole number until their shorter side has as many pixels.

    Raises:
        ValueError: for another ending.
        RuntimeError: if OpenCV cannot write it.
    """
    path = Path(path)
    if path.suffix.lower() not in VIDEO_ENDINGS:
        raise ValueError(f'clips are written as {" or ".join(VIDEO_ENDINGS)}, got {path}.')
    factor = max(1, -(-min_size // min(frames.shape[1:3]))) if min_size else 1
    images = [np.ascontiguousarray(image[..., ::-1]) for image in frames.repeat(factor, 1).repeat(factor, 2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}')  # the ending tells the format
    try:
        write = _write_gif if path.suffix.lower() == '.gif' else _write_mp4
        if not write(unfinished, images, fps):
            raise RuntimeError(f'OpenCV {cv2.__version__} cannot write {path}. Is the folder writable, and was OpenCV '
                               'built with FFmpeg and GIF (4.12 or newer)? The wheels of opencv-python are.')
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_gif(path: Path, images, fps: float) -> bool:
    if not hasattr(cv2, 'imwriteanimation'):
        return False
    animation = cv2.Animation()
    animation.frames, animation.loop_count = images, 0
    animation.durations = np.full(len(images), round(1000 / fps), dtype=np.int32)
    return cv2.imwriteanimation(str(path), animation)


def _write_mp4(path: Path, images, fps: float) -> bool:
    height, width = (n + n % 2 for n in images[0].shape[:2])  # the codec wants even sides
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), fps, (width, height))
    if not writer.isOpened():
        return False
    for image in images:
        pad: Tuple[int, int] = (height - image.shape[0], width - image.shape[1])
        writer.write(cv2.copyMakeBorder(image, 0, pad[0], 0, pad[1], cv2.BORDER_REPLICATE))
    writer.release()
    return True
