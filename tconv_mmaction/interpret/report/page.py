"""The report page: analyses of clips as one HTML file that opens from the disk and loads nothing.

Everything is inside: pictures as data URIs, numbers as JSON (``#report-data``), style and script from
``template.html``. Its content security policy forbids the browser any request, whatever a file name or a label
holds. Texts from outside are escaped where they are put into HTML, and the JSON cannot end its script element.
"""
import html
import json
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

from ..comparison.mask_metrics import MIN_DROP
from ..trajectories import LEAST, motion_text
from .clip_analysis import LOSSLESS_PIXELS, ChannelReport, ClipAnalysis

TOP_CLASSES = 5
START, END = '#1f5fd0', '#d55e00'  # with different shapes, too


class ModelInfo(NamedTuple):
    """A model as the page names it."""
    title: str
    config: str
    checkpoint: str
    classes: List[str]


class ClipReport(NamedTuple):
    """A clip with one entry per model: what it found, or why it could not."""
    name: str
    analyses: List[Union[ClipAnalysis, str]]


def escaped(text: object) -> str:
    """For HTML text and double-quoted attributes. Surrogates of undecodable file names become '?'."""
    return html.escape(str(text).encode('utf-8', 'replace').decode('utf-8'))


def script_json(data: object) -> str:
    """JSON that cannot end or open an element when it stands inside <script>; NaN and infinity are null."""
    def finite(value):
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    text = json.dumps(finite(data), allow_nan=False)  # ASCII only
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _motion_numbers(channel: ChannelReport) -> Dict:
    path = channel.trajectory
    motion = {} if path is None else dict(zoom=path.zoom.tolist(), clockwise=path.clockwise.tolist(),
                                          path=path.path.tolist())
    return {**motion, 'fitted': channel.note} if channel.note else motion


def analysis_numbers(analysis: Union[ClipAnalysis, str]) -> Dict:
    """What the page's JSON holds of one model on one clip."""
    if isinstance(analysis, str):
        return dict(error=analysis)
    return dict(
        target=analysis.target, label=analysis.label, scores=analysis.scores.tolist(), layer=analysis.layer,
        attention=analysis.attention.tolist(), mask=analysis.mask.tolist(), runs=[list(run) for run in analysis.runs],
        original=analysis.original, freeze=analysis.freeze, reverse=analysis.reverse, iterations=analysis.iterations,
        notes=analysis.notes, channels=[
            dict(layer=channel.layer, channel=channel.channel, activation=channel.activation, frame=channel.frame,
                 **_motion_numbers(channel)) for channel in analysis.channels])


def _bars(caption: str, rows: Sequence[Tuple[str, float, bool]]) -> str:
    """A table of (name as HTML, share in [0, 1], emphasis) with a bar per row."""
    lines = [f'<tr{" class=target" if strong else ""}><th scope="row">{name}</th><td><span class="bar"><i style="width:'
             f'{100 * min(max(value, 0), 1):.1f}%"></i></span></td><td class="number">{value:.3f}</td></tr>'
             for name, value, strong in rows]
    return f'<table><caption>{caption}</caption><tbody>{"".join(lines)}</tbody></table>'


def _class_scores(analysis: ClipAnalysis, classes: Sequence[str]) -> str:
    order = np.argsort(-analysis.scores, kind='stable')[:TOP_CLASSES].tolist()
    order += [i for i in dict.fromkeys((analysis.target, analysis.label)) if i is not None and i not in order
              and i < len(classes)]
    rows = []
    for i in order:
        remarks = [word for word, said in (('explained', i == analysis.target), ('label', i == analysis.label))
                   if said]
        name = escaped(classes[i]) + (f' <span class="soft">({", ".join(remarks)})</span>' if remarks else '')
        rows.append((name, float(analysis.scores[i]), i == analysis.target))
    return _bars('Class scores', rows)


def _frames(run: Tuple[int, int]) -> str:
    start, stop = run
    return str(start) if stop - start == 1 else f'{start}–{stop - 1}'


def _freeze_scores(analysis: ClipAnalysis, classes: Sequence[str]) -> str:
    name = escaped(classes[analysis.target])
    rows = [('OS, as it is', analysis.original, False), ('FS, frozen', analysis.freeze, False),
            ('RS, reversed', analysis.reverse, False)]
    length = sum(stop - start for start, stop in analysis.runs)
    if length:
        text = (f'The mask holds {length} of {len(analysis.mask)} frames: {", ".join(map(_frames, analysis.runs))}. '
                f'Frozen there, the score goes from {analysis.original:.3f} to {analysis.freeze:.3f}; played backwards '
                f'there, to {analysis.reverse:.3f}.')
        if analysis.original - analysis.freeze <= MIN_DROP:
            text += ' Freezing does not lower the score, so this mask says nothing about what the class needs.'
    else:
        text = 'The mask is empty: no short run of frames takes the score away when it is frozen.'
    return _bars(f'Score of “{name}” under the temporal mask', rows) + f'<p class="soft">{text}</p>'


def _strip(analysis: ClipAnalysis, current: int, pixels: str, name: str) -> str:
    frozen = {t for start, stop in analysis.runs for t in range(start, stop)}
    columns = []
    for t, (plain, painted, value) in enumerate(zip(analysis.frames, analysis.painted, analysis.mask.tolist())):
        state = 'in the mask' if t in frozen else 'not in the mask'
        columns.append(
            f'<li><button type="button" tabindex="-1"{" aria-current=true" if t == current else ""} '
            f'title="frame {t}, mask {value:.2f}">'
            f'<img{pixels} src="{plain}" alt="Frame {t}"><img{pixels} src="{painted}" alt="Grad-CAM on frame {t}">'
            f'<span class="cell{" frozen" if t in frozen else ""}" role="img" aria-label="mask {value:.2f}, {state}">'
            + (f'<i style="height:{100 * value:.0f}%"></i>' if value >= 0.02 else '')
            + f'</span><span class="count">{t}</span></button></li>')
    return ('<h4>Frames, Grad-CAM and temporal mask</h4>'
            f'<ol class="strip" style="--frames:{len(columns)}" tabindex="0" '
            f'aria-label="Frames of {name} with Grad-CAM and mask, scrolls sideways">{"".join(columns)}</ol>')


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


def _channels(analysis: ClipAnalysis, pixels: str) -> str:
    parts = []
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


def _warning(text: str) -> str:
    return f'<p class="warning" role="note">{escaped(text)}</p>'


def _panel(number: int, model: ModelInfo, analysis: Union[ClipAnalysis, str], position: float, name: str,
           several: bool) -> str:
    heading = f'<h3>{escaped(model.title)}</h3>' if several else ''
    if isinstance(analysis, str):
        return f'<div class="panel">{heading}{_warning(f"Skipped: {analysis}")}</div>'
    pixels = ' class="pixels"' if analysis.size[0] * analysis.size[1] <= LOSSLESS_PIXELS else ''
    current = math.floor(position * (len(analysis.frames) - 1) + 0.5)
    views = ''.join(
        f'<figure><img class="{css}{" pixels" if pixels else ""}" src="{images[current]}" alt="{alt} {current}">'
        f'<figcaption>{caption}</figcaption></figure>' for css, images, alt, caption in (
            ('view-frame', analysis.frames, 'Frame', 'what the network sees'),
            ('view-painted', analysis.painted, 'Grad-CAM on frame',
             f'Grad-CAM of “{escaped(model.classes[analysis.target])}”, layer {escaped(analysis.layer)}')))
    return (f'<div class="panel" data-model="{number}">{heading}{"".join(map(_warning, analysis.notes))}'
            f'<div class="overview"><div class="views">{views}<p class="readout soft"></p></div>'
            f'<div class="numbers">{_class_scores(analysis, model.classes)}{_freeze_scores(analysis, model.classes)}'
            f'</div></div>{_strip(analysis, current, pixels, name)}{_channels(analysis, pixels)}</div>')


def _section(number: int, clip: ClipReport, models: Sequence[ModelInfo]) -> str:
    name = escaped(clip.name)
    done = [analysis for analysis in clip.analyses if not isinstance(analysis, str)]
    controls, position = '', 0.
    if done:
        counts = [len(analysis.frames) for analysis in done]
        last = max(counts) - 1
        # the page opens where the first model looks most
        start = round(int(done[0].attention.argmax()) * last / max(counts[0] - 1, 1))
        position = start / max(last, 1)
        different = '' if len(set(counts)) == 1 else (
            f'<p class="soft">The models see {", ".join(map(str, counts))} frames: the slider moves each to the same '
            'share of its clip.</p>')
        controls = (
            f'<div class="controls"><button type="button" class="play">Play</button><input type="range" min="0" max="'
            f'{last}" step="1" value="{start}" aria-label="Frame of {name}" aria-valuetext="frame {start} of 0–{last}">'
            f'<output>frame {start} of 0–{last}</output></div>{different}')
    panels = ''.join(_panel(i, model, analysis, position, name, len(models) > 1)
                     for i, (model, analysis) in enumerate(zip(models, clip.analyses)))
    return (f'<section class="card" id="clip-{number}" data-clip="{number}" aria-labelledby="clip-{number}-name">'
            f'<h2 id="clip-{number}-name">{name}</h2>{controls}<div class="panels">{panels}</div></section>')


def _header(title: str, models: Sequence[ModelInfo], clips: Sequence[ClipReport]) -> str:
    listed = ''.join(f'<li><strong>{escaped(model.title)}</strong> <span class="soft">{escaped(model.config)}, '
                     f'{escaped(model.checkpoint)}</span></li>' for model in models)
    odd = [(i, clip) for i, clip in enumerate(clips) if any(isinstance(found, str) for found in clip.analyses)]
    skipped = ''
    if odd:
        links = ', '.join(f'<a href="#clip-{i}">{escaped(clip.name)}</a>' for i, clip in odd)
        skipped = (f'<div class="warning" role="note">{len(odd)} of {len(clips)} clip(s) could not be analysed by '
                   f'every model; the reason is given there: {links}.</div>')
    return f'<header><h1>{escaped(title)}</h1><ul class="plain">{listed}</ul>{skipped}</header>'


def render_report(title: str, models: Sequence[ModelInfo], clips: Sequence[ClipReport], fps: float = 8.) -> str:
    """The page.

    Args:
        title: of the page.
        models: one or several, side by side.
        clips: each with as many analyses as there are models.
        fps: frames per second when it plays.

    Raises:
        ValueError: if a clip has another number of analyses, or fps is not positive.
    """
    for clip in clips:
        if len(clip.analyses) != len(models):
            raise ValueError(f'{clip.name} has {len(clip.analyses)} analyses for {len(models)} model(s).')
    if not fps > 0:
        raise ValueError(f'fps must be positive, got {fps}.')
    data = dict(
        title=title, fps=fps, models=[model._asdict() for model in models],
        clips=[dict(name=clip.name, models=[analysis_numbers(found) for found in clip.analyses]) for clip in clips])
    sections = '\n'.join(_section(i, clip, models) for i, clip in enumerate(clips))
    parts = dict(TITLE=escaped(title), HEADER=_header(title, models, clips), CLIPS=sections, DATA=script_json(data))
    template = (Path(__file__).parent / 'template.html').read_text(encoding='utf-8')
    # one pass: what was put in is not searched for placeholders again
    return re.sub(r'\{\{([A-Z]+)\}\}', lambda match: parts[match.group(1)], template)
