"""Colour frames to grey ones, for networks with one input channel."""
import cv2
from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform


@TRANSFORMS.register_module()
class ToGrey(BaseTransform):
    """Frames ``(H, W, 3)`` RGB to ``(H, W, 1)``: 0.299 R + 0.587 G + 0.114 B, rounded. Grey frames stay as they are.

    Required Keys: imgs. Modified Keys: imgs.

    Raises:
        ValueError: for frames of another number of channels.
    """

    def transform(self, results: dict) -> dict:
        for image in results['imgs']:
            if image.ndim != 3 or image.shape[2] not in (1, 3):
                raise ValueError(f'ToGrey takes frames (H, W, 3) or (H, W, 1), got {image.shape}. It belongs between '
                                 'the decoder and FormatShape.')
        results['imgs'] = [image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
                           for image in results['imgs']]
        return results

    def __repr__(self) -> str:
        return 'ToGrey()'
