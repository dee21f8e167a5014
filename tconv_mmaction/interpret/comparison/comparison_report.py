"""A comparison of two models in the layout of Maenttaeri et al., ACCV 2020: Tables 2 to 4 and Fig. 4.

Everything is drawn from what :func:`.model_comparison.compare` returns.
"""
import html
from typing import Optional, Sequence, Union

from matplotlib.figure import Figure

from ...utils.markdown import markdown_table
from .method_scores import COLUMNS, MethodScores, score_rows
from .model_comparison import BLOB_MEASURES, MASK_MEASURES, MEASURES

TITLES = dict(blob_count='Blob count', blob_size='Blob size', centre_distance='Centre distance',
              mask_length='Mask length', drop_ratio='Drop ratio', drop_difference='Drop difference')
UNITS = dict(blob_count='blobs per map', blob_size='diameter (px)', centre_distance='px', mask_length='frames',
             drop_ratio='(OS - FS) / (OS - RS)', drop_difference='RS - FS')
COLOURS = ('#e6781e', '#2f6db3')  # orange and blue: told apart by every eye, and in grey


def _number(value: Optional[float]) -> str:
    return '–' if value is None else f'{value:.3g}'


def _cell(text: str) -> str:
    """A name for a cell of a Markdown table: no end of the cell, no line, no HTML."""
    return html.escape(' '.join(str(text).split()), quote=False).replace('\\', '\\\\').replace('|', '\\|')


def _statistic(found: dict) -> str:
    if not found['count']:
        return 'no values'
    return f"{_number(found['mean'])} ± {_number(found['std'])} (n = {found['count']})"


def _statistics(comparison: dict, titles: Sequence[str], names: Sequence[str]) -> str:
    cells = []
    for i, title in enumerate(titles):
        found = [comparison['measures'][name]['models'][i] for name in names]
        cells.append([title, *map(_statistic, found)])
    return markdown_table(['Model', *(TITLES[name] for name in names)], cells)


def _test_cell(test: dict) -> str:
    if 'note' in test:
        return test['note']
    p = f"= {test['p']:.2g}" if test['p'] else '< 1e-300'  # smaller than a float64 can say
    return f"t = {_number(test['t'])}, p {p} (df = {_number(test['degrees_of_freedom'])})"


def score_table(scores: Sequence[MethodScores], titles: Sequence[str]) -> str:
    """Markdown: how good explanations are, a row per model and method."""
    cells = [[_cell(title), *map(_cell, row)] for title, found in zip(titles, scores) for row in score_rows(found)]
    return '\n'.join([
        'Explanations: area under the class score while what a method ranks highest is taken away (deletion, low is '
        'good) or given back (insertion, high is good), means over clips; the gain is insertion minus deletion, with '
        'its 95 % interval over clips.', '', markdown_table(['Model', *COLUMNS], cells)]) + '\n'


def tables(comparison: dict, titles: Sequence[str], class_names: Optional[Sequence[str]] = None,
           target: Union[str, int] = 'prediction') -> str:
    """Markdown with Table 2 (where there are labels), Tables 3 and 4 and the t-tests.

    Args:
        comparison: of :func:`.model_comparison.compare`.
        titles: names of the two models.
        class_names: one per class; 'class 0', ... by default.
        target: whose class the scores are of, for the caption: 'prediction', 'label' or the index of a class.
    """
    lines, titles = [], [_cell(title) for title in titles]
    explained = f'the class of the {target}' if isinstance(target, str) else (
        f'the class {_cell(class_names[target])}' if class_names else f'class {target}')
    silent = [f"For {count} of {comparison['clips']} clips nothing in the layer of {title} speaks for the class: the "
              'maps are nowhere positive and have no blob.'
              for title, count in zip(titles, comparison['silent']) if count]
    if comparison['f1'] is not None:
        found = comparison['f1']
        classes = sorted({int(c) for scores in found for c in scores['classes']})
        cells = []
        for c in classes:
            name = _cell(class_names[c]) if class_names else f'class {c}'
            cells.append([name, *(_number(scores['classes'].get(str(c))) for scores in found)])
        cells.append(['mean F1', *(_number(scores['mean']) for scores in found)])
        cells.append(['accuracy', *(_number(value) for value in comparison['accuracy'])])
        lines += ['Table 2: F1 per class and model, of the view of each clip that was analysed; the classes are those '
                  'that these clips have.', '',
                  markdown_table(['Class', *titles], cells), '']
    per_clip = [f"{title} {maps / comparison['clips']:g}" for title, maps in zip(titles, comparison['maps'])]
    lines += [f"Table 3: Grad-CAM maps of {comparison['clips']} clips, for {explained}. Blobs per map; size (diameter) "
              'and distance from the centre of the frame per blob, in pixels of the input. A map is that of one time '
              f'step of the layer; per clip: {", ".join(per_clip)}.', *silent, '',
              _statistics(comparison, titles, BLOB_MEASURES), '',
              f"Table 4: temporal masks of {comparison['clips']} clips. Mask length in frames; the drop ratio is of "
              'the clips with OS - RS > 0.001 and OS - FS > 0.001.', '',
              _statistics(comparison, titles, MASK_MEASURES), '',
              "Welch's t-test of the difference of the means (unequal variances, two-sided), over one mean per clip; "
              'and over all values as in Tables 3 and 4, which takes the maps and blobs of one clip for independent '
              'and is too sure of itself.', '']
    cells = []
    for name in MEASURES:
        found = comparison['measures'][name]
        cells.append([TITLES[name], _test_cell(found['welch_clips']), _test_cell(found['welch'])])
    lines.append(markdown_table(['Measure', 'over clips', 'over all values'], cells))
    return '\n'.join(lines) + '\n'


def draw_histograms(comparison: dict, titles: Sequence[str]) -> Figure:
    """Fig. 4: normalised histograms, above those of Grad-CAM, below those of the masks; the means as lines."""
    figure = Figure(figsize=(11, 6.2), layout='constrained')
    for axes, name in zip(figure.subplots(2, 3).flat, MEASURES):
        found = comparison['measures'][name]
        edges, outside = found['histogram']['edges'], found['histogram']['outside']
        axes.set(title=TITLES[name], xlabel=UNITS[name], ylabel='share of values')
        if not edges:
            axes.text(0.5, 0.5, 'no values', ha='center', transform=axes.transAxes)
        for title, colour, shares, statistic in zip(titles, COLOURS, found['histogram']['shares'], found['models']):
            if edges and statistic['count']:
                axes.stairs(shares, edges, fill=True, alpha=0.45, color=colour, label=title)
                axes.stairs(shares, edges, color=colour)
                if edges[0] <= statistic['mean'] <= edges[-1]:
                    axes.axvline(statistic['mean'], color=colour, linestyle='--', linewidth=1)
        beyond = [f'{title}: {share:.1%} beyond' for title, share in zip(titles, outside) if share > 1e-9]
        if beyond:
            axes.text(0.98, 0.97, '\n'.join(beyond), ha='right', va='top', fontsize=7, transform=axes.transAxes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=2, frameon=False)
    figure.supxlabel(f"{comparison['clips']} clips; dashed: the mean", fontsize=9)
    return figure
