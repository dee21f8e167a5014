"""Clips as film strips: Figure 2 of Maenttaeri, Broome et al. (ACCV 2020) on paper.

Per model a column: the frames, with Grad-CAM over them, and as the temporal mask freezes them; below a bar with a cell
per frame, red where the mask is on (F) and green where it is off, as in the paper (in a red and a green that all eyes
tell apart). Above it the class that is explained, OS, FS, RS and, where the prediction is wrong, CS and the prediction.
"""
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from .figure_files import GREEN, MILLIMETRES, PAGE, VERMILLION, page_figure

LEAST_FRAME, CAPTION, TITLE = 11., 9., 5.  # mm
ON, OFF = VERMILLION, GREEN


class Strip(NamedTuple):
    """What one model makes of a clip of T frames."""
    title: str  # of the model
    frames: np.ndarray  # (T, H, W, 3) uint8, as the network sees them
    class_name: str  # that is explained
    original: float  # OS, the score of that class
    painted: Optional[np.ndarray] = None  # (T, H, W, 3), with Grad-CAM
    layer: str = ''  # of Grad-CAM
    frozen: Optional[np.ndarray] = None  # (T, H, W, 3), as the mask freezes them
    mask: Optional[np.ndarray] = None  # (T,) in [0, 1]
    runs: Sequence[Tuple[int, int]] = ()  # (start, stop) of the frames in the mask
    freeze: Optional[float] = None  # FS
    reverse: Optional[float] = None  # RS
    truth: Optional[str] = None  # the true class, where another one is explained
    correct: Optional[float] = None  # CS, its score
    frame_numbers: Optional[Sequence[int]] = None  # by default counted from 0

    def caption(self) -> str:
        """The lines above the strip."""
        scores = [f'OS {self.original:.2f}']
        scores += [f'{name} {value:.2f}' for name, value in (('FS', self.freeze), ('RS', self.reverse))
                   if value is not None]
        if self.truth is None:
            return f'{self.title}\n“{self.class_name}”: {", ".join(scores)}'
        truth = f'truth “{self.truth}”' + ('' if self.correct is None else f': CS {self.correct:.2f}')
        return f'{self.title}\n“{self.class_name}”: {", ".join(scores)}; {truth}'


def shown_frames(count: int, width: float, least: float = LEAST_FRAME) -> List[int]:
    """Which of ``count`` frames fit into ``width`` mm, evenly from the first to the last.

    >>> shown_frames(30, 90), shown_frames(3, 90)
    ([0, 4, 8, 12, 17, 21, 25, 29], [0, 1, 2])
    """
    most = max(2, int(width // least))
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def draw_film_strips(strips: Sequence[Strip], title: str = '', width: Optional[float] = None) -> Figure:
    """One column per model.

    Args:
        strips: of the same clip.
        title: of the clip.
        width: mm; by default a page.

    Raises:
        ValueError: if there is none.
    """
    if not strips:
        raise ValueError('draw_film_strips needs at least one strip, got none.')
    width = width or PAGE
    column = width / len(strips)
    heights = [_heights(strip, column) for strip in strips]
    figure = page_figure(width, max(sum(rows) for rows in heights) + CAPTION + 4 + (TITLE if title else 0))
    figure.set_layout_engine('none')
    paper = figure.get_figheight() * MILLIMETRES
    head = TITLE / paper if title else 0
    spec = figure.add_gridspec(1 + bool(title), len(strips), height_ratios=[head, 1 - head] if title else None)
    if title:
        figure.text(0.5, 1 - head / 2, title, fontsize=8, ha='center', va='center')
    for number, (strip, rows) in enumerate(zip(strips, heights)):
        _draw_strip(figure.add_subfigure(spec[-1, number]), strip, rows, column, paper * (1 - head))
    return figure


def _rows(strip: Strip) -> List[Tuple[str, np.ndarray]]:
    rows = [('clip', strip.frames)]
    if strip.painted is not None:
        rows.append(('Grad-CAM', strip.painted))
    if strip.frozen is not None:
        rows.append(('frozen', strip.frozen))
    return rows


def _heights(strip: Strip, column: float) -> List[float]:
    """Of the rows of pictures, in mm."""
    shown = len(shown_frames(len(strip.frames), column - 16))
    side = min((column - 16) / shown, 25.)
    return [side * strip.frames.shape[1] / strip.frames.shape[2]] * len(_rows(strip))


def _draw_strip(part: SubFigure, strip: Strip, heights: Sequence[float], column: float, height: float) -> None:
    """Places are set in mm, from the left and from the top."""
    shown = shown_frames(len(strip.frames), column - 16)
    side = min((column - 16) / len(shown), 25.)
    left, numbers = 13., strip.frame_numbers or range(len(strip.frames))

    def place(x: float, y: float, w: float, h: float):
        return part.add_axes((x / column, 1 - (y + h) / height, w / column, h / height))

    part.text(left / column, 1 - 0.5 / height, strip.caption(), fontsize=6.5, va='top')
    y = CAPTION
    for (name, pictures), row in zip(_rows(strip), heights):
        for i, frame in enumerate(shown):
            axes = place(left + i * side, y, side - 0.4, row - 0.4)
            axes.imshow(pictures[frame], aspect='auto', interpolation='nearest')
            axes.set_axis_off()
            if name == 'clip':
                axes.set_title(str(numbers[frame]), fontsize=5.5, pad=1)
        label = name if name != 'Grad-CAM' or not strip.layer else f'{name}\n{_last_part(strip.layer)}'
        part.text((left - 1) / column, 1 - (y + row / 2) / height, label, fontsize=5.5, ha='right', va='center')
        y += row
    if strip.mask is not None:
        axes = place(left, y + 0.3, side * len(shown) - 0.4, 2.6)
        on = np.zeros(len(strip.mask), dtype=bool)
        for start, stop in strip.runs:
            on[start:stop] = True
        for frame, value in enumerate(on):
            axes.add_patch(Rectangle((frame - 0.5, 0), 1, 1, facecolor=ON if value else OFF, edgecolor='white',
                                     linewidth=0.3))
            if value and side * len(shown) / len(on) > 1.6:
                axes.text(frame, 0.45, 'F', fontsize=5, ha='center', va='center', color='white')
        axes.set(xlim=(-0.5, len(on) - 0.5), ylim=(0, 1))
        axes.set_axis_off()
        part.text((left - 1) / column, 1 - (y + 1.6) / height, 'mask', fontsize=5.5, ha='right', va='center')


def _last_part(layer: str) -> str:
    """A layer's name without its path, or what of it fits."""
    parts = layer.split('.')
    return parts[-1] if parts[-1] not in ('conv', 'bn', 'relu', 'activate') or len(parts) == 1 else '.'.join(parts[-2:])
