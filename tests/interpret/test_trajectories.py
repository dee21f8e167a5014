"""What hardly moves is said to, is drawn on axes that do not magnify it, and comes after what moves."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tconv_mmaction.interpret import draw_distributions, draw_trajectories, kernel_sizes, temporal_parameters
from tconv_mmaction.interpret.access.clips import Clip
from tconv_mmaction.interpret.class_channels import ClassChannels, draw_class_channels, first_those_that_move
from tconv_mmaction.interpret.report.channel_cards import _channel
from tconv_mmaction.interpret.report.clip_analysis import ChannelReport, analyse_clip
from tconv_mmaction.interpret.trajectories import (
    LEAST,
    Motion,
    filter_trajectory,
    motion_text,
    moving_filters,
    trajectory_table,
)
from tconv_mmaction.layers import Conv3T


@pytest.fixture(scope='module')
def layer():
    """Filter 0 drifts by rounding, filter 1 turns by 3 + 3 degrees, filter 2 zooms by 1 / 0.9, 3 is the identity."""
    layer = Conv3T(1, 4, (3, 5, 5))
    with torch.no_grad():
        layer.scale[:, 0] = 1.0005
        layer.rotate[:, 0] = 1e-4
        layer.translate_x[:, 0] = 0.05  # 0.1 pixels of a 5x5 kernel per step
        layer.rotate[:, 1] = -np.radians(3)
        layer.scale[0, 2] = 0.9
    return layer


@pytest.fixture(scope='module')
def values(layer):
    return temporal_parameters(layer)['']


def test_what_hardly_moves(values):
    trajectories = [filter_trajectory(values, channel, (3, 5, 5)) for channel in range(4)]
    assert [t.hardly_moves() for t in trajectories] == [True, False, False, True]
    assert trajectories[0].reach() == pytest.approx((1 - 1 / 1.0005**2, np.degrees(2e-4), 0.2), rel=1e-3)
    assert trajectories[1].reach().degrees == pytest.approx(6, rel=1e-5)
    assert not trajectories[0].hardly_moves(Motion(0, 0, 0)) and trajectories[3].hardly_moves(Motion(0, 0, 0))
    assert moving_filters(values, (3, 5, 5)).tolist() == [False, True, True, False]
    assert motion_text(trajectories[0]) == (
        'over its 3 slices the content hardly moves: never more than 0.1 % of zoom, 0.011° and 0.2 pixels of the '
        'kernel')
    assert 'the content is zoomed by 1.00, turned by 6° clockwise and' in motion_text(trajectories[1])
    assert 'zoomed by 1.11, turned by 0°' in motion_text(trajectories[2])


def test_axes_do_not_magnify_rounding(layer, values):
    figure = draw_trajectories({'': values}, kernel_sizes(layer), [('', 0), ('', 3)])
    panels = np.array(figure.axes).reshape(2, 3)
    for row in panels:
        assert row[0].get_ylim() == (0.95, 1.05) and row[1].get_ylim() == (-5, 5)
        assert row[2].get_xlim() == (-0.5, 0.5) and row[2].get_ylim() == (0.5, -0.5)
        assert row[0].get_title('left').endswith('zoom\nhardly moves')
    figure.draw_without_rendering()
    assert not any(axis.get_offset_text().get_text() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis))
    narrow = draw_trajectories({'': values}, kernel_sizes(layer), [('', 0)], least=Motion(0, 0, 0))
    low, high = narrow.axes[0].get_ylim()
    assert 1 - low < 0.0015 and high - 1 < 0.001  # asked otherwise: 1.0005 squared fills the panel
    wide = draw_trajectories({'': values}, kernel_sizes(layer), [('', 1), ('', 2)]).axes
    assert wide[1].get_ylim() == pytest.approx((-5, 6.48))
    assert wide[0].get_ylim() == pytest.approx((0.95, 1.12), abs=1e-3)
    still = draw_distributions({'still': temporal_parameters(Conv3T(1, 2, 3))})
    assert [axes.get_xlim() for axes in still.axes[:3]] == [(0.95, 1.05), (-5, 5), (-0.5, 0.5)]


def test_slices_count_from_1(values):
    table = trajectory_table({('a', 2): filter_trajectory(values, 2, (3, 5, 5))})
    assert list(table.columns) == ['layer', 'channel', 'slice', 'zoom', 'clockwise', 'right', 'down']
    pd.testing.assert_series_equal(table['zoom'], pd.Series([1, 1 / 0.9, 1 / 0.9], name='zoom'), rtol=1e-6)
    assert table['slice'].tolist() == [1, 2, 3]


def test_channels_that_move_come_first_on_request(layer, values):
    found = ClassChannels(2, {'': np.array([4., 1., 2., 3.])}, {'': np.zeros(4)})
    assert found.ranked('').tolist() == [0, 3, 2, 1]
    assert first_those_that_move(found.ranked(''), values, (3, 5, 5)).tolist() == [2, 1, 0, 3]
    model = nn.Sequential(layer)
    named = ClassChannels(2, {'0': found.mean['']}, {'0': np.zeros(4)})
    plain, moving = (draw_class_channels(model, named, 'wave', top=2, moving_first=first) for first in (False, True))
    texts = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in (plain, moving)]
    assert texts == [['channel 0 (hardly moves)', 'channel 3 (hardly moves)'], ['channel 2', 'channel 1']]
    # the bars keep the ranking: the first two are coloured, or the third and the fourth
    colours = [[bar.get_facecolor() for bar in figure.axes[0].patches] for figure in (plain, moving)]
    assert colours[0][:2] == [colours[1][2], colours[1][3]] and colours[0][2] == colours[1][0]
    assert plain.axes[1].get_ylim() == (0.95, 1.05)


def test_the_report_says_so(values):
    report = ChannelReport('conv', 0, 1., 0, '', '', filter_trajectory(values, 0, (3, 5, 5)))
    assert 'Over its 3 slices the content hardly moves: never more than 0.1 % of zoom' in _channel(report, LEAST, '')


class Net(nn.Module):
    """Four channels, of which the last moves; their means make the scores."""

    def __init__(self):
        super().__init__()
        self.conv = Conv3T(3, 4, (3, 5, 5), padding=(1, 2, 2))
        with torch.no_grad():
            self.conv.rotate[:, 3] = 0.3

    def forward(self, clip):
        return self.conv(clip).relu().mean((2, 3, 4)).softmax(1)


def test_the_report_shows_what_moves_first_on_request():
    torch.manual_seed(0)
    clip = Clip('a', torch.rand(1, 3, 4, 8, 8), np.zeros((4, 8, 8, 3), dtype=np.uint8), None)
    model = Net()
    settings = dict(layer='conv', channel_layers=['conv'], channels=2, iterations=1)
    plain = analyse_clip(model, clip, **settings).channels
    moving = analyse_clip(model, clip, moving_first=True, **settings).channels
    means = model.conv(clip.inputs).detach().relu().mean((2, 3, 4))[0]
    order = torch.argsort(-means).tolist()
    assert [channel.channel for channel in plain] == order[:2]
    assert [channel.channel for channel in moving] == [3, *[k for k in order if k != 3]][:2]
    assert moving[0].activation == pytest.approx(float(means[3]), rel=1e-5)
    assert [channel.trajectory.hardly_moves() for channel in moving] == [False, True]
