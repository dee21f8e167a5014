"""Grey videos that decode to exactly the frames that were written."""
import os
from pathlib import Path

import cv2
import decord
import numpy as np


def write_video(path: Path, frames: np.ndarray, fps: float = 30.) -> None:
    """Write ``(T, H, W)`` uint8 frames as grey FFV1; the file appears only when decord reads the same frames from it.

    FFV1 in grey has no colour conversion on the way in, and out of it comes R = G = B = the grey value. Other lossless
    codecs of OpenCV go through YUV and are off by one (HFYU) or more.
    """
    unfinished = path.with_name(f'{path.stem}.part{path.suffix}')  # the ending tells OpenCV the container
    height, width = frames.shape[1:]
    writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'FFV1'), fps, (width, height),
                             False)
    if not writer.isOpened():
        raise RuntimeError(f'OpenCV {cv2.__version__} cannot write FFV1 to {unfinished}. Is the folder writable, and '
                           'was OpenCV built with FFmpeg? The wheels of opencv-python are.')
    for frame in frames:
        writer.write(frame)
    writer.release()
    try:
        reader = decord.VideoReader(str(unfinished))
        decoded = reader.get_batch(range(len(reader))).asnumpy()
    except decord.DECORDError as error:
        raise RuntimeError(f'{unfinished} cannot be read back: {error}. Is the disk full?') from error
    if decoded.shape[:3] != frames.shape or not (decoded == frames[..., None]).all():
        raise RuntimeError(f'{unfinished}, read back with decord, is not what was written ({decoded.shape[:3]} against '
                           f'{frames.shape}). Is the disk full? If not, this build of OpenCV ({cv2.__version__}) does '
                           'not write FFV1 without loss.')
    os.replace(unfinished, path)
