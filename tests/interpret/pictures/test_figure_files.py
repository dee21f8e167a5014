"""Figures as files: sizes in mm, letters that stay letters, the same bytes twice, and what is refused."""
import re
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure

from tconv_mmaction.interpret import save_figure
from tconv_mmaction.interpret.pictures.figure_files import FigureFiles, page_figure, set_letters

MM = 25.4


def drawn(width=None):
    figure = page_figure(width, 60)
    axes = figure.subplots()
    axes.plot([0, 1], [2, 3], linewidth=2, marker='o', markersize=4)
    axes.set_xlabel('frame of the clip', fontsize=8)
    axes.set_title('share (%)', fontsize=9)
    return figure


def size_of(path):
    """(width, height) in mm of a PDF or an SVG, in pixels of a PNG."""
    data = path.read_bytes()
    if path.suffix == '.png':
        return struct.unpack('>II', data[16:24])
    if path.suffix == '.svg':
        return tuple(float(x) / 72 * MM for x in re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', data).groups())
    box = re.search(rb'/MediaBox ?\[ ?0 0 ([\d.]+) ([\d.]+) ?\]', data)
    return tuple(float(x) / 72 * MM for x in box.groups())


def letters(svg):
    return {float(points) for points in re.findall(r'font-size: ([\d.]+)px', svg)}


@pytest.mark.parametrize('width, height', [(None, 60), (84, 28), (240, 80)])
def test_size_on_paper(tmp_path, width, height):
    for format in ('png', 'pdf', 'svg'):
        figure = drawn()
        path = FigureFiles(format, 200, width).save(figure, tmp_path / 'sub' / 'a.b')
        assert path == tmp_path / 'sub' / f'a.b.{format}'
        size = np.array([width or 180, height])
        expected = np.floor(size / MM * 200 + 1e-6) if format == 'png' else size
        assert size_of(path) == pytest.approx(expected, abs=1 if format == 'png' else 0.02)
        assert figure.get_size_inches() * MM == pytest.approx([180, 60])  # as it was


def test_letters_stay_legible_and_come_back(tmp_path):
    figure = drawn()
    axes, = figure.axes
    save_figure(figure, tmp_path / 'a.svg', width=60)  # a third: 8 points would be 2.7
    text = (tmp_path / 'a.svg').read_text()
    assert 'frame of the clip</text>' in text and 'share (%)</text>' in text
    assert letters(text) == {5.}
    assert (axes.xaxis.label.get_fontsize(), axes.title.get_fontsize()) == (8, 9)
    line, = axes.get_lines()
    assert (line.get_linewidth(), line.get_markersize()) == (2, 4)
    save_figure(figure, tmp_path / 'b.svg', width=360)
    assert {16., 18.} <= letters((tmp_path / 'b.svg').read_text())


@pytest.mark.parametrize('format', ['pdf', 'svg', 'png'])
def test_the_same_bytes_twice_and_text_in_pdf(tmp_path, format):
    first, second = (FigureFiles(format).save(drawn(), tmp_path / name).read_bytes() for name in 'ab')
    assert first == second
    assert format != 'pdf' or b'/Type3' not in first  # TrueType: journals refuse Type 3


def test_set_letters():
    figure = Figure()
    axes = figure.subplots()
    axes.set_title('x', loc='left', fontsize=20)
    set_letters(figure)
    figure.draw_without_rendering()
    assert {label.get_fontsize() for label in axes.get_xticklabels()} == {6} and axes._left_title.get_fontsize() == 7


@pytest.mark.parametrize('wrong, message', [
    (dict(path='a.jpg'), "png, pdf, svg, got 'jpg'"), (dict(path='a'), "got ''"), (dict(dpi=5), '10 to 2400.*got 5'),
    (dict(width=5), '30 to 1000 mm, got 5.*column'), (dict(width=2000), 'got 2000')])
def test_what_is_refused(tmp_path, wrong, message):
    arguments = {'path': 'a.png', **wrong}
    with pytest.raises(ValueError, match=message):
        save_figure(drawn(), tmp_path / arguments.pop('path'), **arguments)
    assert not list(tmp_path.iterdir())
