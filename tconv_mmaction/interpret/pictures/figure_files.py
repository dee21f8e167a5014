"""One way to write figures: PNG, PDF or SVG, at a width in millimetres, whole or not at all.

A figure of this package is laid out at the size at which it is printed, :data:`PAGE` wide, with letters of
:data:`TEXT` points. Another width is laid out anew by the functions that take one; :func:`save_figure` shrinks or
enlarges any other figure, letters down to :data:`LEAST_TEXT` points only, so that they stay legible.

In PDF and SVG letters stay letters (a search finds them, a vector editor changes them), and the same figure gives the
same bytes on another day.
"""
import contextlib
import io
import os
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Union

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text

from ...utils import atomic_write_bytes

FORMATS = ('png', 'pdf', 'svg')
DPI = 150
MILLIMETRES = 25.4  # of an inch
PAGE = 180.  # mm, of two columns; most journals have 170 to 190
SMALLEST, LARGEST = 30., 1000.  # mm
TEXT, SMALL_TEXT, LEAST_TEXT = 7., 6., 5.  # points
# Okabe and Ito's colours, which all eyes tell apart
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = '#0072b2', '#d55e00', '#009e73', '#e69f00', '#56b4e9', '#cc79a7'
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, '#444444')
MARKERS = 'os^Dv<>'  # beside the colours, for print without any
# nothing of the day; letters as letters
SETTINGS = {'svg.fonttype': 'none', 'svg.hashsalt': 'tconv_mmaction', 'pdf.fonttype': 42}
METADATA = dict(png=None, pdf={'CreationDate': None}, svg={'Date': None})


def page_figure(width: Optional[float], height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` mm (width None: a page), laid out by matplotlib's 'constrained'."""
    return Figure(figsize=((width or PAGE) / MILLIMETRES, height / MILLIMETRES), layout='constrained')


def set_letters(figure: Figure, text: float = TEXT, small: float = SMALL_TEXT) -> Figure:
    """Labels and titles of ``text`` points, numbers at the axes of ``small``, in all panels; returns the figure."""
    for axes in figure.axes:
        axes.tick_params(labelsize=small, length=2, width=0.5, pad=2)
        axes.xaxis.get_offset_text().set_fontsize(small)
        axes.yaxis.get_offset_text().set_fontsize(small)
        for label in (axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title, axes._right_title):
            label.set_fontsize(text)
        axes.xaxis.labelpad = axes.yaxis.labelpad = 2
        for spine in axes.spines.values():
            spine.set_linewidth(0.5)
    return figure


def check_figure(format: str = 'png', dpi: float = DPI, width: Optional[float] = None) -> None:
    """ValueError for a format, a resolution or a width that no figure is written with."""
    if format not in FORMATS:
        raise ValueError(f'figures are written as {", ".join(FORMATS)}, got {format!r}.')
    if not 10 <= dpi <= 2400:
        raise ValueError(f'dpi must be 10 to 2400 points per inch, got {dpi}.')
    if width is not None and not SMALLEST <= width <= LARGEST:
        raise ValueError(f'width must be {SMALLEST:.0f} to {LARGEST:.0f} mm, got {width}. A column of a paper has '
                         'about 85, a page 170 to 190.')


def save_figure(figure: Figure, path: Union[str, 'os.PathLike[str]'], dpi: float = DPI,
                width: Optional[float] = None) -> None:
    """Write a figure as PNG, PDF or SVG, by the ending; whole or not at all.

    Args:
        figure: as it is drawn; it is the same afterwards.
        path: ends in .png, .pdf or .svg. Missing folders are made.
        dpi: points per inch, of PNG and of pictures inside the others.
        width: in mm; by default as the figure was laid out.

    Raises:
        ValueError: for another ending, or numbers that make no figure.
    """
    format = Path(path).suffix[1:].lower()
    check_figure(format, dpi, width)
    data = io.BytesIO()
    with contextlib.ExitStack() as stack:
        if width is not None:
            stack.enter_context(_resized(figure, width))
        if format != 'png':  # settings of the process: not touched where they change nothing
            stack.enter_context(matplotlib.rc_context(SETTINGS))
        figure.savefig(data, format=format, dpi=dpi, metadata=METADATA[format])
    atomic_write_bytes(path, data.getvalue())


@contextlib.contextmanager
def _resized(figure: Figure, width: float) -> Iterator[None]:
    """Inside, the figure is so many mm wide, of the same shape, with letters and lines that fit."""
    size = figure.get_size_inches()
    factor = width / MILLIMETRES / size[0]
    if abs(factor - 1) < 0.002:
        yield
        return
    figure.draw_without_rendering()  # numbers at the axes are there from here on
    texts = [(text, text.get_fontsize()) for text in figure.findobj(Text)]
    lines = [(line, line.get_linewidth(), line.get_markersize()) for line in figure.findobj(Line2D)]
    ticks = [(axis, _points(axis)) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    figure.set_size_inches(size * factor)
    for text, points in texts:
        text.set_fontsize(max(points * factor, min(points, LEAST_TEXT)))
    for line, line_width, marker in lines:
        line.set_linewidth(line_width * min(1., factor))
        line.set_markersize(marker * min(1., factor))
    for axis, points in ticks:  # ticks that are made anew
        axis.set_tick_params(labelsize=max(points * factor, min(points, LEAST_TEXT)))
    try:
        yield
    finally:
        figure.set_size_inches(size)
        for axis, points in ticks:
            axis.set_tick_params(labelsize=points)
        for text, points in texts:
            text.set_fontsize(points)
        for line, line_width, marker in lines:
            line.set_linewidth(line_width)
            line.set_markersize(marker)


def _points(axis: Axis) -> float:
    """Size of the letters of the numbers at an axis."""
    return FontProperties(size=axis.get_tick_params().get('labelsize')).get_size_in_points()


class FigureFiles(NamedTuple):
    """How all figures of a run are written.

    >>> FigureFiles('svg', width=84).path('out/field').as_posix()
    'out/field.svg'
    """
    format: str = 'png'
    dpi: float = DPI
    width: Optional[float] = None  # mm; None: as laid out

    def path(self, stem: Union[str, 'os.PathLike[str]']) -> Path:
        """The file of a figure: its name without an ending, and the format's."""
        return Path(stem).with_name(f'{Path(stem).name}.{self.format}')

    def save(self, figure: Figure, stem: Union[str, 'os.PathLike[str]']) -> Path:
        """Write the figure and return its path."""
        path = self.path(stem)
        save_figure(figure, path, self.dpi, self.width)
        return path
