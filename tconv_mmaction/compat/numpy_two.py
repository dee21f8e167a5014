"""What numpy 2 broke in mmaction2 1.2.0: names that it removed, and numbers that no longer fit their type.

The removed names (``np.Inf``, ``np.trapz``, ``np.in1d``) are given to the modules that use them, not to numpy itself:
other libraries ask numpy which release it is by looking for such names.

ColorJitter adds a hue in uint8. numpy 2 refuses a negative one (OverflowError), and with any numpy a positive one that
leaves 0..255 wraps around there before it is taken modulo 180, OpenCV's full circle, so it comes out as another colour.
"""
import importlib
import types
from typing import Any, Tuple

import numpy as np

_OLD_NAMES = {
    'Inf': lambda: np.inf,
    'trapz': lambda: np.trapezoid,
    'in1d': lambda: lambda ar1, ar2, **kwargs: np.isin(np.ravel(ar1), ar2, **kwargs),
}
_MODULES = ('datasets.transforms.pose_transforms', 'evaluation.functional.accuracy',
            'evaluation.metrics.multimodal_metric', 'utils.misc')


def with_old_names() -> Any:
    """A module that is numpy, and has the removed names besides.

    >>> with_old_names().Inf, with_old_names().in1d([[1, 2], [3, 4]], [3]).tolist()
    (inf, [False, False, True, False])
    """
    old = types.ModuleType('numpy')
    old.__dict__.update(vars(np))
    old.__getattr__ = lambda name: getattr(np, name)  # what numpy itself imports on demand
    for name, make in _OLD_NAMES.items():
        if not hasattr(np, name):
            setattr(old, name, make())
    return old


def adjust_hue(img: np.ndarray, factor: float) -> np.ndarray:
    """Turn the hue of an RGB image (H, W, 3) in [0, 255] by ``int(255 factor)`` of OpenCV's 180 steps; float32."""
    import cv2
    hsv = cv2.cvtColor(np.clip(img, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(factor * 255)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


def _hue_is_right(adjust: Any) -> bool:
    violet = np.array([[[90, 0, 180]]], np.float32)  # hue 135 of 180
    try:
        return all(np.array_equal(adjust(violet, factor), adjust_hue(violet, factor)) for factor in (-0.1, 0.5))
    except OverflowError:
        return False


def apply() -> Tuple[bool, str]:
    """Give mmaction2's modules the names that are gone, and repair ColorJitter's hue."""
    from mmaction.datasets.transforms import ColorJitter
    done = []
    if not all(hasattr(np, name) for name in _OLD_NAMES):
        old = with_old_names()
        for name in _MODULES:
            importlib.import_module(f'mmaction.{name}').np = old
        done.append(f'mmaction2 has the names that numpy {np.__version__} removed')
    if not _hue_is_right(ColorJitter.adjust_hue):
        ColorJitter.adjust_hue = staticmethod(adjust_hue)
        done.append('ColorJitter turns the hue without leaving uint8')
    return bool(done), '; '.join(done) or f'mmaction2 and numpy {np.__version__} fit'
