"""Statistics of repeated runs: means, paired differences with 95 % intervals, corrected tests, and tables in pages.

Runs are rows of a table (:func:`.run_log.as_table`). Two networks are compared over the runs that both have, paired by
what they share (fold, seed, repeat, ...): the spread of the differences is usually much smaller than that of the runs.
"""
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..utils.atomic import atomic_write_text


def mean_std(values: Sequence[float], digits: int = 1) -> str:
    """``'52.3 ± 4.1'``, mean and sample standard deviation; of one value only itself, of none ''."""
    values = np.asarray(list(values), float)
    if not len(values):
        return ''
    mean = f'{values.mean():.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {values.std(ddof=1):.{digits}f}'


class Paired(NamedTuple):
    """The second network minus the first, over ``n`` pairs of runs.

    ``half_width``: of Student's 95 % interval of the mean difference, NaN for one pair. ``wins``: pairs in which the
    second is ahead. ``t_p``: two-sided paired t test; ``wilcoxon_p``: signed-rank test, exact where SciPy can.
    """
    n: int
    first: float
    second: float
    difference: float
    half_width: float
    wins: int
    t_p: float
    wilcoxon_p: float

    def text(self, digits: int = 1) -> str:
        """``'-3.3 ± 1.9'``."""
        if self.n < 2:
            return f'{self.difference:+.{digits}f}'
        return f'{self.difference:+.{digits}f} ± {self.half_width:.{digits}f}'


def paired(first: pd.Series, second: pd.Series) -> Optional[Paired]:
    """Compare two series of results, matched by their index; None if they have no entry in common.

    >>> paired(pd.Series({'a': 1., 'b': 2., 'c': 3.}), pd.Series({'b': 4., 'a': 2.})).difference.item()
    1.5

    Raises:
        ValueError: if an index has an entry twice, which leaves open what its partner is.
    """
    for series in (first, second):
        if series.index.has_duplicates:
            raise ValueError(f'{series.index[series.index.duplicated()][0]!r} is there twice; pairs need one result '
                             'for each combination of fold, seed and repeat.')
    both = pd.concat([first, second], axis=1, join='inner').dropna().to_numpy(float)
    if not len(both):
        return None
    difference, n = both[:, 1] - both[:, 0], len(both)
    if n < 2:
        half, t_p, wilcoxon_p = math.nan, math.nan, math.nan
    elif not difference.any():  # SciPy has no test of only zeros
        half, t_p, wilcoxon_p = 0., 1., 1.
    else:
        half = float(stats.t.ppf(.975, n - 1) * stats.sem(difference))
        t_p = float(stats.ttest_rel(both[:, 1], both[:, 0]).pvalue) if half else 0.  # all alike: beyond any doubt
        wilcoxon_p = signed_rank_p(difference)
    return Paired(n, both[:, 0].mean(), both[:, 1].mean(), difference.mean(), half, int((difference > 0).sum()), t_p,
                  wilcoxon_p)


def signed_rank_p(difference: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact with ties, too, up to 13 differences that are not 0.

    As ``scipy.stats.wilcoxon``, which ranks anew for every one of the 2^n choices of signs where there are ties, and so
    takes a second for each line of a table.
    """
    moved = difference[difference != 0]
    if not 2 <= len(moved) <= 13:
        return float(stats.wilcoxon(difference).pvalue)
    ranks = stats.rankdata(np.abs(moved))
    return float(stats.permutation_test((moved, ), lambda signed, axis: ((signed > 0) * ranks).sum(axis),
                                        permutation_type='samples', vectorized=True).pvalue)


def holm(p_values: Sequence[float]) -> List[float]:
    """Holm's step-down correction: controls the chance of one false alarm in the family, whatever its dependence.

    >>> [round(p, 3) for p in holm([0.03, 0.01, 0.5, 0.02])]
    [0.06, 0.04, 0.5, 0.06]
    """
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, float)[order]), 1)
    return corrected.tolist()


class Slope(NamedTuple):
    """Of a straight line, with the ends of its 95 % interval."""
    slope: float
    low: float
    high: float


def block_slope(x: np.ndarray, y: np.ndarray, blocks: int = 30) -> Slope:
    """The slope of ``y`` over ``x``, both ``(samples,)``, from the means of equal parts.

    Consecutive samples of a running process depend on each other, which the interval from single samples would not
    know of.

    Args:
        blocks: how many parts; fewer than half of the samples.

    Raises:
        ValueError: if there are fewer than six samples.

    >>> line = block_slope(np.arange(60.), 2 * np.arange(60.))
    >>> round(line.slope, 6)
    2.0
    """
    blocks = min(blocks, len(x) // 2)
    if blocks < 3:
        raise ValueError(f'{len(x)} samples after the warm-up are too few for a slope with an interval: wait for six, '
                         'or give a shorter --warm-up.')
    x, y = (np.array([part.mean() for part in np.array_split(values, blocks)]) for values in (x, y))
    if np.ptp(y) == 0:  # linregress has no error for that
        return Slope(0., 0., 0.)
    fit = stats.linregress(x, y)
    half = stats.t.ppf(0.975, blocks - 2) * fit.stderr
    return Slope(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def p_text(p: float) -> str:
    """``'0.034'``, ``'2e-05'``, '' for NaN."""
    return '' if math.isnan(p) else f'{p:.3f}' if p >= 0.001 else f'{p:.0e}'


def fill_page(page: str, tables: Dict[str, str]) -> str:
    """A page whose blocks ``<!-- table NAME -->`` ... ``<!-- end -->`` hold these tables.

    >>> print(fill_page('<!-- table a -->\\nold\\n<!-- end -->', {'a': '| 1 |'}))
    <!-- table a -->
    <BLANKLINE>
    | 1 |
    <BLANKLINE>
    <!-- end -->

    Raises:
        ValueError: if the page asks for a table that is not there.
    """
    def replace(match: 're.Match') -> str:
        if match[1] not in tables:
            raise ValueError(f'the page asks for the table {match[1]!r}; there are {sorted(tables)}.')
        return f'<!-- table {match[1]} -->\n\n{tables[match[1]]}\n\n<!-- end -->'

    return re.sub(r'<!-- table (\S+) -->\n.*?<!-- end -->', replace, page, flags=re.DOTALL)


def fill_file(path: Path, tables: Dict[str, str]) -> None:
    """:func:`fill_page` for a file, which may ask for tables of what has not been run yet: it says so then."""
    page = path.read_text(encoding='utf-8')
    asked = re.findall(r'<!-- table (\S+) -->', page)
    atomic_write_text(path, fill_page(page, {**dict.fromkeys(asked, 'No runs yet.'), **tables}))
