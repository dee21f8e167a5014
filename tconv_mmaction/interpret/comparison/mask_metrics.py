"""What temporal masks say over a data set: mask length, drop ratio, drop difference, and tests between two models.

Maenttaeri et al., ACCV 2020, sec. 4.3 and Table 4. OS, FS and RS are the scores of one class for the clip as it is,
frozen and reversed by its mask (see :mod:`.temporal_mask`).
"""
from typing import NamedTuple

import numpy as np
from scipy import stats

MIN_DROP = 1e-3  # the paper's footnote: a sample with OS-RS or OS-FS up to this is left out of the ratio


def _scores(*columns) -> list:
    columns = [np.asarray(column, dtype=np.float64) for column in columns]
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise ValueError('original, freeze and reverse must be one score per clip each, got shapes '
                         f'{[column.shape for column in columns]}.')
    return columns


def mask_length(mask, threshold: float = 0.1) -> np.ndarray:
    """Number of salient frames of each mask (N, T): entries above the threshold."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f'mask must be (N, T), got {mask.shape}.')
    return (mask > threshold).sum(1)


class DropRatio(NamedTuple):
    """The ratios, and the clips that they are of."""
    values: np.ndarray  # (kept,) (OS - FS) / (OS - RS)
    kept: np.ndarray  # (N,) bool


def drop_ratio(original, freeze, reverse, min_drop: float = MIN_DROP) -> DropRatio:
    """(OS - FS) / (OS - RS) of the clips with OS - RS > min_drop and OS - FS > min_drop; the others are left out.

    Raises:
        ValueError: if the three are not (N,) each.
    """
    original, freeze, reverse = _scores(original, freeze, reverse)
    kept = (original - reverse > min_drop) & (original - freeze > min_drop)
    return DropRatio((original - freeze)[kept] / (original - reverse)[kept], kept)


def drop_difference(original, freeze, reverse) -> np.ndarray:
    """(OS - FS) - (OS - RS) = RS - FS for every clip; no clip is left out."""
    original, freeze, reverse = _scores(original, freeze, reverse)
    return reverse - freeze


class Summary(NamedTuple):
    """Of one sample: mean, standard deviation, number of values."""
    mean: float
    std: float
    count: int

    def __str__(self) -> str:
        return f'{self.mean:.4g} ± {self.std:.4g} (n = {self.count})' if self.count else 'no values (n = 0)'


def summarize(values, ddof: int = 0) -> Summary:
    """Mean and standard deviation; NaN where there are too few values for them.

    Args:
        values: any shape; all of them are one sample.
        ddof: 0 for the deviation of these numbers (the default), 1 for the estimate with n - 1.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    return Summary(float(values.mean()) if values.size else float('nan'),
                   float(values.std(ddof=ddof)) if values.size > ddof else float('nan'), values.size)


class WelchTest(NamedTuple):
    """Of two samples with unequal variances, two-sided."""
    statistic: float
    p_value: float
    degrees_of_freedom: float


def welch_test(first, second) -> WelchTest:
    """Welch's t-test (unequal variances, two-sided) of the means of two samples, scipy's.

    Raises:
        ValueError: if a sample has fewer than two values, or one that is not finite.
    """
    samples = [np.asarray(sample, dtype=np.float64).ravel() for sample in (first, second)]
    for name, sample in zip(('first', 'second'), samples):
        if sample.size < 2:
            raise ValueError(f'the {name} sample has {sample.size} value(s); a variance needs at least two.')
        if not np.isfinite(sample).all():
            raise ValueError(f'the {name} sample holds NaN or infinite values. Leave them out first, and say so.')
    result = stats.ttest_ind(*samples, equal_var=False)
    return WelchTest(float(result.statistic), float(result.pvalue), float(result.df))
