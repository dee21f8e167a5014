"""Decode every video once per training: its few small frames are kept in memory."""
from typing import List

from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform, Compose


@TRANSFORMS.register_module()
class KeepFrames(BaseTransform):
    """Run ``transforms``, nothing of which may be random, on a video the first time it comes; later take its result.

    For lists of some tens of videos, with ``num_workers=0`` or persistent workers. The images are copied each time,
    since transforms after this one may change them in place.

    Required Keys: filename. Added Keys: those that ``transforms`` add.
    """

    def __init__(self, transforms: List[dict]) -> None:
        self.compose, self.kept = Compose(transforms), {}

    def transform(self, results: dict) -> dict:
        """Results of one video."""
        name = results['filename']
        if name not in self.kept:
            self.kept[name] = self.compose(dict(results))
        kept = self.kept[name]
        return {**kept, **results, 'imgs': [image.copy() for image in kept['imgs']]}
