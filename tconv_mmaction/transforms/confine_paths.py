"""Refuses to open what lies outside of the data set's folders."""
import os
from typing import Sequence, Union

from mmaction.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from ..utils.confinement import confined, roots_of


@TRANSFORMS.register_module()
class ConfinePaths(BaseTransform):
    """Stops at a sample whose file leads out of ``roots``, symbolic links followed.

    It belongs first in a pipeline, before anything opens the file, and for folders of frames once more right before
    ``RawFrameDecode``, where it looks at each frame. ``CheckSetupHook(confine_paths=True)`` puts it there by itself.

    Required Keys: filename, or frame_dir; with frame_inds also filename_tmpl and modality. Nothing is added.

    Args:
        roots: folder or folders.

    Raises:
        ValueError: if a folder is not there.
        ConfinementError: (a ValueError) naming the path and where it leads.
    """

    def __init__(self, roots: Union[str, Sequence[str]]) -> None:
        self.roots = roots_of(roots, None, None)

    def transform(self, results: dict) -> dict:
        """Look at one sample."""
        if 'filename' not in results and 'frame_dir' not in results:
            raise ValueError(f'ConfinePaths: neither filename nor frame_dir in {sorted(results)}. Put it first in the '
                             'pipeline of a VideoDataset or RawframeDataset.')
        if isinstance(results.get('filename'), str):
            confined(results['filename'], self.roots)
        if 'frame_dir' in results:
            folder = confined(results['frame_dir'], self.roots)
            if 'frame_inds' in results:
                template, offset = results['filename_tmpl'], results.get('offset', 0)
                names = [template.format(axis, number + offset) if results.get('modality') == 'Flow' else
                         template.format(number + offset) for number in sorted(set(map(int, results['frame_inds'])))
                         for axis in ('xy' if results.get('modality') == 'Flow' else 'x')]
                for name in names:
                    confined(os.path.join(folder, name), self.roots)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(roots={list(self.roots)})'
