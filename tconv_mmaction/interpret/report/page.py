"""The report page: analyses of clips as one HTML file that opens from the disk and loads nothing.

Everything is inside: pictures as data URIs, numbers as JSON (``#report-data``), style and script from
``template.html``. Its content security policy forbids the browser any request, whatever a file name or a label
holds. Texts from outside are escaped where they are put into HTML, and the JSON cannot end its script element.
"""
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..comparison.mask_metrics import MIN_DROP
from ..comparison.method_scores import COLUMNS, MethodScores, score_rows
from ..grad_cam import nothing_text
from .channel_cards import channel_cards, motion_numbers, pixels_class
from .clip_analysis import ClipAnalysis
from .html_text import escaped, script_json

TOP_CLASSES = 5


class ModelInfo(NamedTuple):
    """A model as the page names it."""
    title: str
    config: str
    checkpoint: str
    classes: List[str]
    scores: Optional[MethodScores] = None  # how good explanations of this model are, by method


class ClipReport(NamedTuple):
    """A clip with one entry per model: what it found, or why it could not."""
    name: str
    analyses: List[Union[ClipAnalysis, str]]
    explained: str = ''  # which class, and why this one: a sentence


def analysis_numbers(analysis: Union[ClipAnalysis, str]) -> Dict:
    """What the page's JSON holds of one model on one clip."""
    if isinstance(analysis, str):
        return dict(error=analysis)
    return dict(
        target=analysis.target, label=analysis.label, scores=analysis.scores.tolist(), layer=analysis.layer,
        attention=analysis.attention.tolist(), mask=analysis.mask.tolist(), runs=[list(run) for run in analysis.runs],
        original=analysis.original, freeze=analysis.freeze, reverse=analysis.reverse, iterations=analysis.iterations,
        silent=analysis.silent, notes=analysis.notes, channels=[
            dict(layer=channel.layer, channel=channel.channel, activation=channel.activation, frame=channel.frame,
                 **motion_numbers(channel)) for channel in analysis.channels])


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
        remarks = [word for word, said in (('explained', i == analysis.target), ('true', i == analysis.label))
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


def _folds(clip: ClipReport, models: Sequence[ModelInfo]) -> str:
    """The channels of each model, folded: sixteen cards would push what is beside or below them off the screen."""
    folds = []
    for number, (model, analysis) in enumerate(zip(models, clip.analyses)):
        if isinstance(analysis, str) or not analysis.channels:
            continue
        layers = ' and '.join(dict.fromkeys(escaped(channel.layer) for channel in analysis.channels))
        whose = f'{escaped(model.title)}: ' if len(models) > 1 else ''
        folds.append(f'<details class="fold" data-channels="{number}"><summary>{whose}{len(analysis.channels)} '
                     f'channels of {layers}</summary>{channel_cards(analysis)}</details>')
    return ''.join(folds)


def _warning(text: str) -> str:
    return f'<p class="warning" role="note">{escaped(text)}</p>'


def _panel(number: int, model: ModelInfo, analysis: Union[ClipAnalysis, str], position: float, name: str,
           several: bool) -> str:
    heading = f'<h3>{escaped(model.title)}</h3>' if several else ''
    if isinstance(analysis, str):
        return f'<div class="panel">{heading}{_warning(f"Skipped: {analysis}")}</div>'
    pixels = pixels_class(analysis)
    current = math.floor(position * (len(analysis.frames) - 1) + 0.5)
    title = model.classes[analysis.target]
    nothing = nothing_text(analysis.layer, f'“{title}”')
    caption = nothing if analysis.silent else f'Grad-CAM of “{title}”, layer {analysis.layer}'
    notes = [f'Grad-CAM is nowhere positive: {nothing}.', *analysis.notes] if analysis.silent else analysis.notes
    views = ''.join(
        f'<figure><img class="{css}{" pixels" if pixels else ""}" src="{images[current]}" alt="{alt} {current}">'
        f'<figcaption>{text}</figcaption></figure>' for css, images, alt, text in (
            ('view-frame', analysis.frames, 'Frame', 'what the network sees'),
            ('view-painted', analysis.painted, 'Grad-CAM on frame', escaped(caption))))
    return (f'<div class="panel" data-model="{number}">{heading}{"".join(map(_warning, notes))}'
            f'<div class="overview"><div class="views">{views}<p class="readout soft"></p></div>'
            f'<div class="numbers">{_class_scores(analysis, model.classes)}{_freeze_scores(analysis, model.classes)}'
            f'</div></div>{_strip(analysis, current, pixels, name)}</div>')


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
    explained = f'<p class="soft">{escaped(clip.explained)}</p>' if clip.explained else ''
    return (f'<section class="card" id="clip-{number}" data-clip="{number}" aria-labelledby="clip-{number}-name">'
            f'<h2 id="clip-{number}-name">{name}</h2>{explained}{controls}<div class="panels">{panels}</div>'
            f'{_folds(clip, models)}</section>')


def _method_scores(models: Sequence[ModelInfo]) -> str:
    """A folded table per model that has scores."""
    tables = []
    for model in models:
        if model.scores:
            head = ''.join(f'<th scope="col">{escaped(name)}</th>' for name in COLUMNS)
            rows = ''.join(f'<tr><th scope="row">{escaped(name)}</th><td>{"</td><td>".join(cells)}</td></tr>'
                           for name, *cells in score_rows(model.scores))
            tables.append(f'<div class="wide" tabindex="0"><table class="explains"><caption>{escaped(model.title)}'
                          f'</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')
    if not tables:
        return ''
    return ('<section class="card"><details class="fold" id="method-scores" open><summary>How good are the '
            'explanations?</summary><p class="soft">Area under the class score while what a method ranks highest is '
            'taken away (deletion, low is good) or given back (insertion, high is good), the mean over clips; the gain '
            'is insertion minus deletion, with its 95 % interval over clips. Methods called “random” '
            'and “centre” know nothing of the network.</p>'
            f'<div class="wides">{"".join(tables)}</div></details></section>')


def _header(title: str, models: Sequence[ModelInfo], clips: Sequence[ClipReport]) -> str:
    listed = ''.join(f'<li><strong>{escaped(model.title)}</strong> <span class="soft">{escaped(model.config)}, '
                     f'{escaped(model.checkpoint)}</span></li>' for model in models)
    odd = [(i, clip) for i, clip in enumerate(clips) if any(isinstance(found, str) for found in clip.analyses)]
    skipped = ''
    if odd:
        links = ', '.join(f'<a href="#clip-{i}">{escaped(clip.name)}</a>' for i, clip in odd)
        skipped = (f'<div class="warning" role="note">{len(odd)} of {len(clips)} clip(s) could not be analysed by '
                   f'every model; the reason is given there: {links}.</div>')
    return f'<header><h1>{escaped(title)}</h1><ul class="plain">{listed}</ul>{skipped}</header>{_method_scores(models)}'


def _model_numbers(model: ModelInfo) -> Dict:
    scores = {name: score._asdict() for name, score in (model.scores or {}).items()}
    return {**model._asdict(), 'scores': scores or None}


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
        title=title, fps=fps, models=[_model_numbers(model) for model in models],
        clips=[dict(name=clip.name, explained=clip.explained, models=[analysis_numbers(found) for found in
                                                                      clip.analyses]) for clip in clips])
    sections = '\n'.join(_section(i, clip, models) for i, clip in enumerate(clips))
    parts = dict(TITLE=escaped(title), HEADER=_header(title, models, clips), CLIPS=sections, DATA=script_json(data))
    template = (Path(__file__).parent / 'template.html').read_text(encoding='utf-8')
    # one pass: what was put in is not searched for placeholders again
    return re.sub(r'\{\{([A-Z]+)\}\}', lambda match: parts[match.group(1)], template)
