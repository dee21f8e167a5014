"""Blobs in Grad-CAM maps: how many spots a network looks at, how large they are, how far from the centre.

Maenttaeri et al., ACCV 2020, sec. 4.3 and Table 3. The paper uses OpenCV's blob detector (``cv2.SimpleBlobDetector``)
and does not print its settings. Ours, in ``detector_parameters``: the maps are scaled to 0..255 by the maximum of the
clip (negative values are 0), so that a weak frame of a clip counts as weak; bright blobs, at thresholds 50, 60, ...,
250; every area from 9 pixels to the whole frame, and no filter on shape (circularity, convexity, inertia): the maps
decide what a blob looks like. Two blobs closer than 10 pixels are one (OpenCV's default).

A map counts once: blobs are looked for in the maps of the layer's own time steps, enlarged to the size of a frame
(:func:`maps_at_frame_size`). Brought to the clip's frames, one map of a layer with T' = 1 would be as many equal ones.
"""
from typing import List, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..grad_cam import normalise_maps, upsample_maps

MIN_AREA = 9  # pixels


def detector_parameters(height: int, width: int) -> 'cv2.SimpleBlobDetector_Params':
    """The settings described above."""
    parameters = cv2.SimpleBlobDetector_Params()
    parameters.filterByColor, parameters.blobColor = True, 255
    parameters.minThreshold, parameters.maxThreshold, parameters.thresholdStep = 50, 256, 10
    parameters.filterByArea, parameters.minArea, parameters.maxArea = True, MIN_AREA, height * width
    parameters.filterByCircularity = parameters.filterByConvexity = parameters.filterByInertia = False
    parameters.minDistBetweenBlobs, parameters.minRepeatability = 10, 2
    return parameters


def maps_at_frame_size(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (N, T', H', W') at the clip's height and width: (N, T', H, W), what :func:`blob_metrics` takes per clip."""
    return upsample_maps(maps, (maps.size(1), height, width))


def detect_blobs(maps: Tensor) -> List[np.ndarray]:
    """Blobs of each map of ONE clip.

    Args:
        maps: (T', H, W), Grad-CAM at the height and width of the clip: sizes are in its pixels.

    Returns:
        T' arrays (blobs, 3): x and y of the centre, diameter; pixels. A map without blobs has (0, 3).

    Raises:
        ValueError: if the maps are not (T, H, W), or hold NaN or infinity.
    """
    if maps.dim() != 3:
        raise ValueError(f'maps must be (T, H, W), one clip, got {tuple(maps.shape)}.')
    if not torch.isfinite(maps).all():
        raise ValueError('the maps hold NaN or infinite values; there are no blobs to find in them.')
    images = (normalise_maps(maps[None].detach().cpu())[0] * 255).round().to(torch.uint8).numpy()
    detector = cv2.SimpleBlobDetector_create(detector_parameters(*images.shape[1:]))
    return [np.array([(*point.pt, point.size) for point in detector.detect(np.ascontiguousarray(image))],
                     dtype=np.float64).reshape(-1, 3) for image in images]


class BlobMetrics(NamedTuple):
    """The three columns of Table 3, before averaging."""
    counts: np.ndarray  # (maps,) blobs per map
    sizes: np.ndarray  # (blobs,) diameter in pixels
    distances: np.ndarray  # (blobs,) from the centre of the frame, pixels


def blob_metrics(maps: Tensor) -> BlobMetrics:
    """Counts, sizes and centre distances of one clip's maps (T', H, W); concatenate them over clips."""
    blobs = detect_blobs(maps)
    centre = np.array([(maps.shape[2] - 1) / 2, (maps.shape[1] - 1) / 2])
    together = np.concatenate(blobs) if blobs else np.zeros((0, 3))
    return BlobMetrics(np.array([len(frame) for frame in blobs]), together[:, 2],
                       np.linalg.norm(together[:, :2] - centre, axis=1))
