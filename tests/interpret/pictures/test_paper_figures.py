"""Figures for a paper: how many panels, how wide on paper, what is written in them, and the numbers that they show."""
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import load_script
from matplotlib.colors import to_rgba
from torch import nn

from tconv_mmaction.interpret import field_marginals, kernel_sizes, temporal_parameters
from tconv_mmaction.interpret.pictures.figure_files import FigureFiles
from tconv_mmaction.interpret.pictures.film_strip import OFF, ON, Strip, draw_film_strips, shown_frames
from tconv_mmaction.interpret.pictures.filter_distributions import columns_of, draw_filter_distributions
from tconv_mmaction.interpret.pictures.kernel_slices import draw_kernel_slices, slice_pictures
from tconv_mmaction.interpret.pictures.receptive_fields import draw_receptive_fields
from tconv_mmaction.interpret.trajectories import filter_trajectory
from tconv_mmaction.layers import Conv3T


def svg_of(figure, folder, width=None):
    """(the texts, the width in mm) of a figure as SVG."""
    text = FigureFiles('svg', width=width).save(figure, folder / 'figure').read_text()
    return re.findall(r'>([^<>]+)</text>', text), float(re.search(r'width="([\d.]+)pt"', text)[1]) / 72 * 25.4


def inside(figure):
    """Whether all panels with their letters lie on the paper, within a fifth of a mm."""
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    width, height = figure.get_size_inches() * figure.dpi
    slack = figure.dpi / 25.4 / 5
    return all(b.x0 > -slack and b.y0 > -slack and b.x1 < width + slack and b.y1 < height + slack for b in boxes if b)


# -------------------------------------------------------------------------------------------------- temporal filters

def test_filter_distributions_wrap_to_the_page(tmp_path):
    """17 layers, as 3T-ResNet18 has: 6 to a row on a page, not 3619 pixels of one row."""
    weight = torch.zeros(1, 2, 3, 1, 1)
    weight[0, 0, :, 0, 0] = torch.tensor([-1., 0, 1])
    weight[0, 1, 1] = 1.
    figure = draw_filter_distributions({f'backbone.layer{i}.conv': (i + 1) * weight for i in range(17)})
    *panels, bar = figure.axes
    assert len(panels) == 2 * 17
    tops = sorted({round(axes.get_position().y1, 3) for axes in panels}, reverse=True)
    assert len(tops) == 6 and columns_of(17, 180) == 6
    assert [sum(round(axes.get_position().y1, 3) == top for axes in panels) for top in tops] == [6, 6, 6, 6, 5, 5]
    assert {axes.get_xlabel() for axes in panels} == {'1st differential'}
    assert {axes.get_ylabel() for axes in panels} == {'average', '2nd differential', ''}
    # the centre filter is 1 / sqrt(3) of the average and 2 / sqrt(6) of the 2nd differential, with both signs
    for axes, height in zip((panels[0], panels[6]), (3**-0.5, 2 / 6**0.5)):
        np.testing.assert_allclose(axes.get_lines()[1].get_xydata(), [[0, height], [0, -height]], atol=1e-9)
        # the first differential: sqrt(2) of the weight sqrt(2) + 1, half of it for each sign
        cells = axes.collections[0].get_array().reshape(61, 61)
        assert cells[30, 60] == pytest.approx(2**0.5 / (2**0.5 + 1) / 2) == pytest.approx(cells[30, 0])
    limits = {axes.collections[0].get_clim() for axes in panels}
    assert len(limits) == 1 and bar.get_ylabel() == 'share of the weight in a cell'
    texts, width = svg_of(figure, tmp_path)
    assert width == pytest.approx(180, abs=0.05) and inside(figure)
    assert {'filters of length 1', 'the filter that looks at the middle frame only', 't = 3'} <= set(texts)
    narrow = draw_filter_distributions({f'layer{i}': weight for i in range(17)}, 85)
    assert narrow.get_size_inches()[0] * 25.4 == pytest.approx(85) and columns_of(17, 85) == 3


# -------------------------------------------------------------------------------------------------- receptive fields

def test_receptive_fields_of_several_models_in_one_plot(tmp_path):
    fields = {}
    for title, shares in (('orig', [0., 1, 2, 1, 0]), ('ours', [1., 1, 1, 1, 1])):
        field = torch.tensor(shares, dtype=torch.float64)[:, None, None] * torch.ones(5, 4, 6, dtype=torch.float64)
        fields[title] = field_marginals(field)
    figure = draw_receptive_fields(fields)
    *maps, curves = [axes for axes in figure.axes if axes.get_ylabel() != 'share of the maximum']
    assert len(maps) == 4 and [axes.get_title() for axes in maps] == ['orig', '', 'ours', '']
    assert [axes.images[0].get_array().shape for axes in maps] == [(4, 6), (5, 6)] * 2
    assert all(axes.images[0].get_clim() == (0, 1) and axes.images[0].get_array().max() == 1 for axes in maps)
    first, second = curves.get_lines()
    np.testing.assert_allclose(first.get_ydata(), [0, 25, 50, 25, 0])
    np.testing.assert_allclose(second.get_ydata(), [20] * 5)
    assert first.get_color() != second.get_color() and first.get_marker() != second.get_marker()
    texts, width = svg_of(figure, tmp_path, 84)
    # variances 1/2 and (1 + 4) * 2 / 5 = 2
    assert {'orig (σ = 0.71 frames)', 'ours (σ = 1.41 frames)', 'frame of the clip, from 0', 'x (pixels)'} <= set(texts)
    assert width == pytest.approx(84, abs=0.05) and inside(figure)
    with pytest.raises(ValueError, match='at least one model'):
        draw_receptive_fields({})


# ------------------------------------------------------------------------------------------------------------ kernels

def test_slices_by_hand():
    kernel = torch.tensor([[[[1., -2]], [[0, 4]]], [[[3., 2]], [[0, 4]]]])  # two inputs, two slices of 1 x 2
    np.testing.assert_allclose(slice_pictures(kernel), [[[0.5, 0]], [[0, 1]]])  # means 2, 0; 0, 4 by 4
    colours = slice_pictures(torch.tensor([1., 0, -2])[:, None, None, None])
    np.testing.assert_allclose(colours, [[[[0.75, 0.5, 0]]]])


def test_kernels_slice_by_slice_with_their_motion(tmp_path):
    layer = Conv3T(3, 4, (3, 5, 5))
    with torch.no_grad():
        layer.translate_x[:, 1] = 0.5  # one pixel to the left per step
    model = nn.Sequential(layer)
    values, size = temporal_parameters(model)['0'], kernel_sizes(model)['0']
    weight = layer.kernel().detach()
    paths = {channel: filter_trajectory(values, channel, size) for channel in (1, 2)}
    figure = draw_kernel_slices(weight, [1, 2], '0', paths)
    panels = np.array(figure.axes).reshape(2, 6)
    assert [axes.get_title() for axes in panels[0]] == ['slice 1', 'slice 2', 'slice 3', 'zoom', 'clockwise (degrees)',
                                                       'path (pixels)']
    for number in range(3):
        np.testing.assert_allclose(panels[1, number].images[0].get_array(), slice_pictures(weight[2])[number])
    np.testing.assert_allclose(panels[0, 5].get_lines()[2].get_xydata(), [[0, 0], [-1, 0], [-2, 0]], atol=1e-6)
    np.testing.assert_allclose(panels[0, 3].get_lines()[1].get_xdata(), [1, 2, 3])
    assert panels[0, 3].get_ylim() == (0.95, 1.05) and panels[0, 4].get_ylim() == (-5, 5)
    assert panels[0, 5].get_xlim() == pytest.approx((-2.2, 2.2)) and not panels[0, 5].texts
    texts, width = svg_of(figure, tmp_path)
    assert width == pytest.approx(180, abs=0.05) and inside(figure)
    assert {'channel 1', 'channel 2', 'hardly moves'} <= set(texts)
    assert any('colours about grey' in text for text in texts)
    plain = draw_kernel_slices(weight.mean(1, keepdim=True), [0], 'conv', width=84)
    assert len(plain.axes) == 3 and plain.get_size_inches()[0] * 25.4 == pytest.approx(84) and inside(plain)
    with pytest.raises(ValueError, match=r'channel 4 of a layer with 4 output channels \(0 to 3\)'):
        draw_kernel_slices(weight, [4], '0')


def test_channels_that_hardly_move_do_not_fill_the_axes():
    layer = Conv3T(3, 4, (3, 5, 5))
    with torch.no_grad():
        layer.scale[:, 0] = 1.001
    values, size = temporal_parameters(nn.Sequential(layer))['0'], (3, 5, 5)
    tool = load_script('tools/analysis/saliency.py')
    clip = SimpleNamespace(frames=np.zeros((3, 6, 8, 3), dtype=np.uint8), name='clip')
    figure = tool.draw_channels(clip, '0', [0], torch.rand(1, 3, 6, 8), torch.rand(1, 3, 3, 6, 8),
                                [filter_trajectory(values, 0, size)])
    zoom, turn, path = figure.axes[3:]
    assert zoom.get_ylim() == (0.95, 1.05) and turn.get_ylim() == (-5, 5) and path.get_ylim() == (0.5, -0.5)
    np.testing.assert_allclose(zoom.get_lines()[1].get_xydata(), [[1, 1], [2, 1 / 1.001], [3, 1.001**-2]], rtol=1e-6)
    assert [text.get_text() for text in zoom.texts] == ['hardly moves']


# -------------------------------------------------------------------------------------------------------- film strips

def strip(title='I3D', frames=12, **values):
    film = np.zeros((frames, 6, 8, 3), dtype=np.uint8)
    film[..., 0] = np.arange(frames)[:, None, None]
    settings = dict(class_name='wave', original=0.912, painted=film + 1, layer='backbone.layer4.1.conv2.conv',
                    frozen=film, mask=np.linspace(0, 1, frames), runs=[(5, 8)], freeze=0.4, reverse=0.85)
    return Strip(title, film, **{**settings, **values})


def test_which_frames_are_shown():
    assert shown_frames(30, 5 * 11) == [0, 7, 14, 22, 29] and shown_frames(4, 180) == [0, 1, 2, 3]
    assert shown_frames(9, 1) == [0, 8]  # the ends at least


def test_two_models_side_by_side(tmp_path):
    figure = draw_film_strips([strip(), strip('C-LSTM', truth='clap', correct=0.05)], 'a video')
    left, right = figure.subfigs
    assert left.bbox.x1 == pytest.approx(right.bbox.x0) == pytest.approx(figure.bbox.width / 2)
    assert strip().caption() == 'I3D\n“wave”: OS 0.91, FS 0.40, RS 0.85'
    assert right.texts[0].get_text() == 'C-LSTM\n“wave”: OS 0.91, FS 0.40, RS 0.85; truth “clap”: CS 0.05'
    for part in (left, right):
        *pictures, bar = part.axes
        shown = shown_frames(12, 90 - 16)
        assert len(pictures) == 3 * len(shown) and len(shown) == 6
        assert [axes.get_title() for axes in pictures[:6]] == ['0', '2', '4', '7', '9', '11']
        assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in pictures] == [
            *shown, *(i + 1 for i in shown), *shown]
        colours = [patch.get_facecolor() for patch in bar.patches]
        assert colours == [to_rgba(ON if 5 <= i < 8 else OFF) for i in range(12)]
        assert [text.get_text() for text in bar.texts] == ['F'] * 3
        assert [text.get_text() for text in part.texts[1:]] == ['clip', 'Grad-CAM\nconv2.conv', 'frozen', 'mask']
    texts, width = svg_of(figure, tmp_path)
    assert width == pytest.approx(180, abs=0.05) and 'a video' in texts and inside(figure)
    red, green = (np.array(to_rgba(colour)[:3]) for colour in (ON, OFF))
    assert red[0] > 2 * red[2] and green[1] > 2 * green[0]  # red and green as in the paper
    assert abs(red @ (0.2126, 0.7152, 0.0722) - green @ (0.2126, 0.7152, 0.0722)) > 0.03  # and not equally bright


def test_one_model_in_a_column_and_numbers_of_the_video():
    figure = draw_film_strips([strip(frames=3, painted=None, layer='', frame_numbers=[4, 8, 12], mask=None, frozen=None,
                                     freeze=None, reverse=None)], width=84)
    part, = figure.subfigs
    assert len(part.axes) == 3 and [axes.get_title() for axes in part.axes] == ['4', '8', '12']
    assert part.texts[0].get_text() == 'I3D\n“wave”: OS 0.91' and inside(figure)
    assert figure.get_size_inches()[0] * 25.4 == pytest.approx(84)
    with pytest.raises(ValueError, match='at least one strip'):
        draw_film_strips([])
