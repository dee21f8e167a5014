"""The cards of single channels: the frame, the saliency, and the motion of the filter as three small plots."""
from typing import Dict, Sequence, Tuple

import numpy as np

from ..trajectories import LEAST, motion_text
from .clip_analysis import LOSSLESS_PIXELS, ChannelReport, ClipAnalysis
from .html_text import escaped

START, END = '#1f5fd0', '#d55e00'  # with different shapes, too


def motion_numbers(channel: ChannelReport) -> Dict:
    """What the page's JSON holds of a channel's motion."""
    path = channel.trajectory
    motion = {} if path is None else dict(zoom=path.zoom.tolist(), clockwise=path.clockwise.tolist(),
                                          path=path.path.tolist())
    return {**motion, 'fitted': channel.note} if channel.note else motion


def pixels_class(analysis: ClipAnalysis) -> str:
    """The class of tiny pictures, which are enlarged without smearing."""
    return ' class="pixels"' if analysis.size[0] * analysis.size[1] <= LOSSLESS_PIXELS else ''


def _svg(label: str, content: str, side: Tuple[int, int] = (100, 80)) -> str:
    return (f'<svg viewBox="0 0 {side[0]} {side[1]}" role="img" aria-label="{escaped(label)}" font-size="10" '
            f'fill="#5a6473" font-family="system-ui, sans-serif">{content}</svg>')


def _trace(points: Sequence[Tuple[float, float]]) -> str:
    """A line from a blue ring (first slice) to an orange square (last slice)."""
    line = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    (x0, y0), (x1, y1) = points[0], points[-1]
    return (f'<polyline points="{line}" fill="none" stroke="#5a6473" stroke-width="1.5"/>'
            f'<rect x="{x1 - 3:.1f}" y="{y1 - 3:.1f}" width="6" height="6" fill="{END}"/>'
            f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="3.5" fill="#fff" stroke="{START}" stroke-width="2"/>')


def _curve(values: np.ndarray, still: float, reach: float, title: str, unit: str) -> str:
    """Values over the slices, ``still`` (no change) in the middle, ``reach`` away from it the borders."""
    steps = max(len(values) - 1, 1)
    points = [(8 + 84 * i / steps, 40 - 28 * (value - still) / reach) for i, value in enumerate(values.tolist())]
    text = (f'<line x1="4" x2="96" y1="40" y2="40" stroke="#c3cad4" stroke-dasharray="3 3"/>'
            f'<text x="2" y="9">{still + reach:.3g}{unit}</text><text x="2" y="79">{still - reach:.3g}{unit}</text>')
    label = f'{title} over the slices: ' + ', '.join(f'{value:.3g}{unit}' for value in values)
    return _svg(label, text + _trace(points))


def _path(path: np.ndarray, reach: float) -> str:
    points = [(50 + 28 * x / reach, 40 + 28 * y / reach) for x, y in path.tolist()]
    text = ('<path d="M18 40H82M50 8V72" stroke="#c3cad4" stroke-dasharray="3 3" fill="none"/>'
            f'<text x="2" y="79">±{reach:.2g} px</text>')
    label = 'path over the slices, pixels right and down: ' + '; '.join(f'{x:.2g}, {y:.2g}' for x, y in path)
    return _svg(label, text + _trace(points))


def _reach(values: Sequence[np.ndarray], least: float) -> float:
    return max([float(np.abs(value).max()) for value in values] + [least])


def _channel(channel: ChannelReport, limits: Tuple[float, float, float], pixels: str) -> str:
    path, note = channel.trajectory, f' The fit {escaped(channel.note)}.' if channel.note else ''
    if path is None:
        unused = ' No slice of its kernel after the first sees a frame of this clip, so its transforms do nothing.'
        return _channel_pictures(channel, pixels, note or unused, '')
    moves = motion_text(path)
    moves = f'{moves[0].upper()}{moves[1:]}.'
    plots = ((_curve(path.zoom, 1, limits[0], 'Zoom', ''), 'zoom'),
             (_curve(path.clockwise, 0, limits[1], 'Clockwise rotation', '°'), 'turn'),
             (_path(path.path, limits[2]), 'path'))
    drawn = ''.join(f'<figure>{svg}<figcaption>{title}</figcaption></figure>' for svg, title in plots)
    return _channel_pictures(channel, pixels, f'{note} {moves}', f'<div class="plots">{drawn}</div>')


def _channel_pictures(channel: ChannelReport, pixels: str, text: str, plots: str) -> str:
    frame, number = channel.frame, channel.channel
    return (
        f'<div class="channel"><div class="pair">'
        f'<figure><img{pixels} src="{channel.picture}" alt="Frame {frame}">'
        f'<figcaption>frame {frame}</figcaption></figure>'
        f'<figure><img{pixels} src="{channel.saliency}" alt="Saliency of channel {number} on frame {frame}">'
        f'<figcaption>saliency</figcaption></figure></div>'
        f'<p class="soft"><strong>Channel {number}</strong>, activation {channel.activation:.3g}.{text}</p>'
        f'{plots}</div>')


def channel_cards(analysis: ClipAnalysis) -> str:
    """A heading and a card per channel, for each layer; '' for a network without 3T layers."""
    pixels, parts = pixels_class(analysis), []
    for layer in dict.fromkeys(channel.layer for channel in analysis.channels):
        found = [channel for channel in analysis.channels if channel.layer == layer]
        paths = [channel.trajectory for channel in found if channel.trajectory is not None]
        kind = 'layer' if any(channel.note for channel in found) else '3T layer'
        # the same scales for the channels of a layer, and no magnified rounding errors
        limits = (_reach([path.zoom - 1 for path in paths], LEAST.zoom),
                  _reach([path.clockwise for path in paths], LEAST.degrees),
                  _reach([path.path for path in paths], LEAST.pixels))
        parts.append(f'<h4>Most active channels of the {kind} {escaped(layer)}</h4><div class="channels">'
                     f'{"".join(_channel(channel, limits, pixels) for channel in found)}</div>')
    return ''.join(parts)
