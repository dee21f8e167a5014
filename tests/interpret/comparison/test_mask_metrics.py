"""The paper's metrics on maps and numbers made by hand: known discs, known ratios, Welch's test by its formula."""
import math

import numpy as np
import pytest
import torch
from scipy import stats

from tconv_mmaction.interpret import (
    blob_metrics,
    detect_blobs,
    drop_difference,
    drop_ratio,
    mask_length,
    summarize,
    welch_test,
)


def discs(frames, size=(112, 120)):
    """Maps with discs (x, y, radius) per frame."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing='ij')
    maps = torch.zeros(len(frames), *size)
    for image, frame in zip(maps, frames):
        for cx, cy, r in frame:
            image[(x - cx)**2 + (y - cy)**2 <= r * r] = 3.
    return maps


def test_discs_are_found_where_they_are():
    frames = [[(30, 30, 12)], [], [(30, 40, 8), (90, 60, 15), (60, 95, 6)], [(4, 50, 10)]]
    for blobs, frame in zip(detect_blobs(discs(frames)), frames):
        assert blobs.shape == (len(frame), 3)
        for x, y, r in frame:
            distance = np.hypot(blobs[:, 0] - x, blobs[:, 1] - y)
            assert distance.min() < (0.6 if x > r else 4)  # at the border half of the disc is missing
            if x > r:
                assert blobs[distance.argmin(), 2] == pytest.approx(2 * r, abs=2)


def test_counts_sizes_and_distances():
    metrics = blob_metrics(discs([[(59, 55, 10)], [], [(20, 55, 10), (100, 55, 10)]]))
    assert metrics.counts.tolist() == [1, 0, 2]
    assert metrics.sizes == pytest.approx([20, 20, 20], abs=2)
    # the centre of 112 x 120 pixels is (59.5, 55.5)
    expected = sorted([math.hypot(.5, .5), math.hypot(39.5, .5), math.hypot(40.5, .5)])
    assert sorted(metrics.distances) == pytest.approx(expected, abs=0.6)


def test_the_clips_maximum_scales_and_negative_values_are_nothing():
    maps = discs([[(30, 30, 12)], [(30, 30, 12)], [(30, 30, 12)]])
    maps[1] *= 0.1  # too weak beside frame 0
    maps[2] *= -1
    assert [len(blobs) for blobs in detect_blobs(maps)] == [1, 0, 0]
    assert [len(blobs) for blobs in detect_blobs(1e-6 * maps[1:])] == [1, 0]
    assert [len(blobs) for blobs in detect_blobs(torch.zeros(2, 20, 20))] == [0, 0]
    large = detect_blobs(discs([[(60, 56, 50)]]))[0]  # above the 5000 pixels of OpenCV's default
    assert large.shape == (1, 3) and large[0, 2] == pytest.approx(100, abs=2)
    y, x = torch.meshgrid(torch.arange(112.), torch.arange(120.), indexing='ij')
    gauss = torch.exp(-((x - 50)**2 + (y - 60)**2) / (2 * 12**2))[None]
    assert detect_blobs(gauss)[0][0, :2] == pytest.approx([50, 60], abs=0.5)
    with pytest.raises(ValueError, match='NaN'):
        detect_blobs(torch.full((1, 9, 9), float('nan')))
    with pytest.raises(ValueError, match='one clip'):
        detect_blobs(torch.zeros(1, 1, 9, 9))


def test_mask_length():
    assert mask_length(torch.tensor([[0, .05, .1, .11, 1], [0, 0, 0, 0, 0]], dtype=torch.float64)).tolist() == [2, 0]
    assert mask_length([[0.4, 0.6]], threshold=0.5).tolist() == [1]
    with pytest.raises(ValueError, match=r'\(N, T\)'):
        mask_length([1, 0])


def test_drop_ratio_leaves_out_what_the_paper_leaves_out():
    original = [.9, .9, .9, .8, .5]
    freeze = [.1, .8995, .1, .3, .6]  # drops .8, .0005, .8, .5, -.1
    reverse = [.5, .1, .8999, .7, .1]  # drops .4, .8, .0001, .1, .4
    ratio = drop_ratio(original, freeze, reverse)
    assert ratio.kept.tolist() == [True, False, False, True, False]
    assert ratio.values == pytest.approx([2, 5])
    assert drop_ratio(original, freeze, reverse, min_drop=1e-9).values == pytest.approx([2, .0005 / .8, 8000, 5])
    assert drop_difference(original, freeze, reverse) == pytest.approx([.4, -.7995, .7999, .4, -.5])
    assert drop_difference(original, freeze, reverse) == pytest.approx(
        [(o - f) - (o - r) for o, f, r in zip(original, freeze, reverse)])
    # a drop of 0.001 itself is left out; in float64 the boundary is that of the subtraction
    assert drop_ratio([1.], [0.], [1. - 2**-10], min_drop=2**-10).kept.tolist() == [False]
    with pytest.raises(ValueError, match='one score per clip'):
        drop_ratio([1, 2], [1], [1])


def test_summary():
    summary = summarize([1, 2, 3, 6])
    assert summary == pytest.approx((3, math.sqrt((4 + 1 + 0 + 9) / 4), 4))
    assert summarize([1, 2, 3, 6], ddof=1).std == pytest.approx(math.sqrt(14 / 3))
    assert str(summary) == '3 ± 1.871 (n = 4)'
    assert math.isnan(summarize([]).mean) and math.isnan(summarize([1], ddof=1).std) and summarize([1]).std == 0


def test_welch_by_its_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 30), rng.normal(.8, 3, 50)
    va, vb = a.var(ddof=1) / 30, b.var(ddof=1) / 50
    t = (a.mean() - b.mean()) / math.sqrt(va + vb)
    freedom = (va + vb)**2 / (va**2 / 29 + vb**2 / 49)
    result = welch_test(a, b)
    assert result == pytest.approx((t, 2 * stats.t.sf(abs(t), freedom), freedom))
    with pytest.raises(ValueError, match='first sample has 1 value'):
        welch_test([1.], [1., 2])
    with pytest.raises(ValueError, match='second sample holds NaN'):
        welch_test([1., 2], [1., float('nan')])
