"""Temporal filters of all layers as distributions, wrapped to the width of a page.

Kobayashi and Ye (WACV 2024), Fig. 1 and Fig. B: per layer the primary temporal filters on the plane of average and 1st
differential, and below on that of 1st and 2nd; both signs, weighted by the singular values. All panels have one scale
of colours.
"""
from typing import Dict, List, Optional, Tuple

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from ..temporal_filters import density, filter_distribution
from .figure_files import PAGE, VERMILLION, page_figure, set_letters

# (axes of the density, name in files, label across, label up)
PLANES = (((1, 0), 'average', '1st differential', 'average'),
          ((1, 2), 'differential_2', '1st differential', '2nd differential'))
LEAST_PANEL = 27.  # mm
FAINTEST = 1e-5  # of the largest share: what is less has the darkest colour


def filter_densities(kernels: Dict[str, Tensor]) -> Dict[str, Tuple[List[np.ndarray], np.ndarray, np.ndarray]]:
    """{layer: (the density on each plane of :data:`PLANES`, the edges of its cells, the middle frame's filter)}."""
    found = {}
    for name, weight in kernels.items():
        distribution = filter_distribution(weight)
        planes = [density(distribution, plane) for plane, *_ in PLANES]
        found[name] = [cells for cells, _ in planes], planes[0][1], distribution.centre.numpy()
    return found


def columns_of(layers: int, width: float) -> int:
    """How many layers stand beside each other on a page of ``width`` mm: rows as full as they can be.

    >>> columns_of(17, 180), columns_of(17, 85), columns_of(2, 180)
    (6, 3, 2)
    """
    most = max(1, int(width // LEAST_PANEL))
    rows = -(-layers // most)
    return -(-layers // rows)


def draw_filter_distributions(kernels: Dict[str, Tensor], width: Optional[float] = None) -> Figure:
    """Two panels per layer, layers side by side and wrapped.

    Args:
        kernels: {layer: (O, I, t, h, w)} of ``temporal_kernels``.
        width: mm; by default a page.
    """
    width = width or PAGE
    found = filter_densities(kernels)
    columns = columns_of(len(found), width)
    blocks = -(-len(found) // columns)
    panel = min((width - 16) / columns, 55.)
    figure = page_figure(width, 2 * blocks * (panel + 3) + 5 * blocks + 12)
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    filled = np.concatenate([cells[cells > 0] for planes, _, _ in found.values() for cells in planes])
    norm = LogNorm(max(filled.min(), FAINTEST * filled.max()), filled.max() * (1 + 1e-6)) if filled.size else None
    angle, mesh = np.linspace(0, 2 * np.pi, 181), None
    for number, (name, (planes, edges, centre)) in enumerate(found.items()):
        block, column = divmod(number, columns)
        for row, (plane, _, across, up) in enumerate(PLANES):
            axes = grid[2 * block + row, column]
            if norm is not None:
                mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(planes[row], 0), norm=norm, cmap='viridis',
                                       rasterized=True)
            axes.plot(np.cos(angle), np.sin(angle), color='0.6', linewidth=0.5, label='filters of length 1')
            middle = centre[list(plane)]
            axes.plot(*np.stack([middle, -middle]).T, '^', color=VERMILLION, markeredgecolor='white',
                      markeredgewidth=0.4, markersize=5, label='the filter that looks at the middle frame only')
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect='equal', xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            if row == 0:
                axes.set_title(f'{_short(name, int(panel / 1.25))}\nt = {kernels[name].size(2)}')
            axes.set_xlabel(across)
            if column == 0:
                axes.set_ylabel(up)
            else:
                axes.set_yticklabels(())
    for axes in grid.ravel():
        if not axes.lines:
            axes.remove()
    if mesh is not None:
        figure.colorbar(mesh, ax=figure.axes, fraction=0.03, pad=0.01, aspect=40,
                        extend='min').set_label('share of the weight in a cell')
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=2, fontsize=6,
                  frameon=False)
    return set_letters(figure, text=6, small=5.5)


def _short(name: str, letters: int) -> str:
    """The end of a name; what tells layers apart is there."""
    return name if len(name) <= letters else '…' + name[1 - letters:].lstrip('.')
