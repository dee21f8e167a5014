"""Effective receptive fields of several models, as in Fig. 4 of Kobayashi and Ye (WACV 2024).

(a) the field over X-Y and over X-T, each divided by its maximum; (b) the distributions along time in one plot, with
their standard deviations in frames.
"""
from typing import Dict, Optional

from matplotlib.figure import Figure

from ..receptive_field import FieldMarginals
from .figure_files import CYCLE, MARKERS, PAGE, page_figure, set_letters


def draw_receptive_fields(fields: Dict[str, FieldMarginals], width: Optional[float] = None) -> Figure:
    """One column of maps per model, and all curves below.

    Args:
        fields: ``{title: field_marginals(field)}``.
        width: mm; by default a page.

    Raises:
        ValueError: if there is none.
    """
    if not fields:
        raise ValueError('draw_receptive_fields needs the field of at least one model, got none.')
    width = width or PAGE
    side = min((width - 22) / len(fields), 52.)
    curve = min(max(0.3 * width, 38.), 60.)
    figure = page_figure(width, 2 * (side + 8) + curve + 8)
    spec = figure.add_gridspec(3, len(fields), height_ratios=(side + 8, side + 8, curve))
    maps, image = [], None
    for column, (title, field) in enumerate(fields.items()):
        for row, (values, up) in enumerate(((field.xy, 'y (pixels)'), (field.xt, 'frame, from 0'))):
            axes = figure.add_subplot(spec[row, column])
            image = axes.imshow((values / values.max()).numpy(), vmin=0, vmax=1, cmap='viridis',
                                interpolation='nearest', aspect='equal' if row == 0 else 'auto')
            axes.set_xlabel('x (pixels)')
            if column == 0:
                axes.set_ylabel(up)
            axes.locator_params(nbins=4, integer=True)
            maps.append(axes)
        maps[-2].set_title(title)
    figure.colorbar(image, ax=maps, fraction=0.04, pad=0.01, aspect=30).set_label('share of the maximum')
    axes = figure.add_subplot(spec[2, :])
    for number, (title, field) in enumerate(fields.items()):
        axes.plot(range(len(field.time)), 100 * field.time.numpy(), color=CYCLE[number % len(CYCLE)], linewidth=1,
                  marker=MARKERS[number % len(MARKERS)], markersize=2.5, label=f'{title} (σ = {field.std:.2f} frames)')
    axes.set(xlabel='frame of the clip, from 0', ylabel='share of the field (%)', ylim=(0, None))
    axes.locator_params(axis='x', integer=True)
    axes.legend(fontsize=6.5, frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    return set_letters(figure)
