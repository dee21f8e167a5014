"""Libraries that single scripts of mmaction2 import and that need not be installed: seaborn, and moviepy below 2.

``analyze_logs.py`` takes of seaborn a style of figures, which matplotlib brings itself, and ``vis_cam.py`` of moviepy a
writer of videos, which is here. For the time of such a script a stand-in of that much answers to the name; a library
that is installed and has what the script imports is left alone.
"""
import contextlib
import importlib
import sys
import types
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

import numpy as np

_NEEDED = {'analyze_logs.py': 'seaborn', 'vis_cam.py': 'moviepy.editor'}


def _seaborn() -> Dict[str, types.ModuleType]:
    module = types.ModuleType('seaborn')

    def set_style(style: str) -> None:
        """matplotlib's own copy of a style of seaborn's: darkgrid, whitegrid, dark, white or ticks."""
        import matplotlib.pyplot as plt
        name = f'seaborn-v0_8-{style}'
        if name not in plt.style.available:
            raise ValueError(f'there is no style {style!r}: darkgrid, whitegrid, dark, white and ticks are known')
        plt.style.use(name)

    module.set_style = set_style
    return {'seaborn': module}


class ImageSequenceClip:
    """What mmaction2's scripts use of moviepy's class of this name: RGB frames (H, W, 3), written as video or GIF."""

    def __init__(self, frames: Sequence[np.ndarray], fps: float) -> None:
        self.frames, self.fps = frames, fps

    def write_videofile(self, filename: str, **options: Any) -> None:
        from ..utils.browser_video import write_video
        write_video(filename, self.frames, self.fps)

    def write_gif(self, filename: str, **options: Any) -> None:
        from .drawing import write_gif
        write_gif(filename, self.frames, self.fps)


def _moviepy() -> Dict[str, types.ModuleType]:
    package, editor = types.ModuleType('moviepy'), types.ModuleType('moviepy.editor')
    editor.ImageSequenceClip, package.editor, package.__path__ = ImageSequenceClip, editor, []
    return {'moviepy': package, 'moviepy.editor': editor}


@contextlib.contextmanager
def available(script: Any) -> Iterator[None]:
    """Inside, what that script of mmaction2 imports can be imported."""
    name = _NEEDED.get(Path(script).name)
    stand_ins: Dict[str, types.ModuleType] = {}
    if name is not None:
        try:
            importlib.import_module(name)
        except ImportError:
            stand_ins = _seaborn() if name == 'seaborn' else _moviepy()
    before = {key: sys.modules[key] for key in stand_ins if key in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for key in stand_ins:
            del sys.modules[key]
        sys.modules.update(before)
