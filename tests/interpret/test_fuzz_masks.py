"""Freeze and reverse on drawn clips and masks (hypothesis), against loops over frames and against algebra.

What holds: a zero mask is the identity; both operators are linear in the clip and stay inside its range of values;
with a mask of 0 and 1, freezing twice is freezing once and reversing twice is the clip itself; the mirror order is a
permutation that is its own inverse; NaN in clip or mask comes out as NaN.
"""
import math

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tconv_mmaction.interpret import freeze_frames, reverse_frames
from tconv_mmaction.interpret.freeze import mask_runs, reverse_indices
from tconv_mmaction.interpret.temporal_mask import centred_masks, total_variation

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])
UNIT = st.floats(0, 1) | st.sampled_from([0., 0.1, 0.5, 1.])
THRESHOLDS = st.sampled_from([0., 0.1, 0.5, 0.9])


@st.composite
def clips(draw, hard=False, frames=(0, 40), dtype=None):
    """(clip (N, C, T, H, W), mask (N, T))."""
    n, frames = draw(st.integers(1, 3)), draw(st.integers(*frames))
    shape = (n, draw(st.integers(1, 2)), frames, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dtype = dtype or draw(DTYPES)
    largest = 6e4 if dtype is torch.float16 else 1e6
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    clip = ((2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * largest).to(dtype)
    elements = st.sampled_from([0., 1.]) if hard else UNIT
    mask = torch.from_numpy(draw(hnp.arrays(np.float64, (n, frames), elements=elements)))
    return clip, mask


def tolerance(clip):
    eps = torch.finfo(clip.dtype).eps
    return dict(rtol=0, atol=8 * eps * max(1., clip.abs().max().item() if clip.numel() else 1.) * max(1, clip.size(2)))


@given(clips())
def test_freeze_is_the_recurrence(case):
    clip, mask = case
    got = freeze_frames(clip, mask)
    weights = mask.to(clip).double()  # the mask is rounded to the clip's precision first
    want = clip.double().clone()
    for t in range(1, clip.size(2)):
        m = weights[:, t, None, None, None]
        want[:, :, t] = (1 - m) * want[:, :, t] + m * want[:, :, t - 1]
    assert got.dtype is clip.dtype
    torch.testing.assert_close(got.double(), want, **tolerance(clip))


@given(clips(dtype=torch.float64), clips(dtype=torch.float64), st.floats(-10, 10), st.floats(-10, 10),
       st.sampled_from([freeze_frames, reverse_frames]))
def test_operators_are_linear_in_the_clip(case, other, a, b, operator):
    clip, mask = case
    second = other[0].flatten()[:1].expand_as(clip) * torch.arange(clip.size(2))[:, None, None] if other[
        0].numel() else clip.flip(2)
    mixed = operator(a * clip + b * second, mask)
    parts = a * operator(clip, mask) + b * operator(second, mask)
    torch.testing.assert_close(mixed, parts, rtol=1e-9, atol=1e-4)  # of values up to 4e8


@given(clips(), THRESHOLDS)
def test_zero_mask_is_the_identity_and_values_stay_in_range(case, threshold):
    clip, mask = case
    assert torch.equal(freeze_frames(clip, torch.zeros_like(mask)), clip)
    assert torch.equal(reverse_frames(clip, torch.zeros_like(mask), threshold), clip)
    if not clip.size(2):
        return
    slack = tolerance(clip)['atol']
    low, high = clip.amin(2, keepdim=True) - slack, clip.amax(2, keepdim=True) + slack
    for result in (freeze_frames(clip, mask), reverse_frames(clip, mask, threshold)):
        assert torch.isfinite(result).all() and (result >= low).all() and (result <= high).all()
    assert torch.equal(freeze_frames(clip, mask)[:, :, 0], clip[:, :, 0])  # there is no frame before the first


@given(clips(hard=True), THRESHOLDS)
def test_hard_masks_freeze_once_and_reverse_twice(case, threshold):
    clip, mask = case
    frozen = freeze_frames(clip, mask)
    assert torch.equal(freeze_frames(frozen, mask), frozen)
    for i, t in (mask == 1).nonzero().tolist():
        if t:
            assert torch.equal(frozen[i, :, t], frozen[i, :, t - 1])
    turned = reverse_frames(clip, mask, threshold)
    assert torch.equal(reverse_frames(turned, mask, threshold), clip)
    whole = torch.ones_like(mask)
    assert torch.equal(reverse_frames(clip, whole, threshold), clip.flip(2))
    for i, runs in enumerate(mask_runs(mask, threshold)):
        want = clip[i].clone()
        for start, stop in runs:
            want[:, start:stop] = clip[i, :, start:stop].flip(1)
        assert torch.equal(turned[i], want)


@given(clips(dtype=torch.float64), THRESHOLDS)
def test_soft_reverse_swaps_pairs_from_the_outside(case, threshold):
    clip, mask = case
    want = clip.clone()
    for i, row in enumerate(mask.tolist()):
        t = 0
        while t < len(row):
            if row[t] <= threshold:
                t += 1
                continue
            stop = t
            while stop < len(row) and row[stop] > threshold:
                stop += 1
            for k in range((stop - t) // 2):
                a, b, m = t + k, stop - 1 - k, row[t + k]
                want[i, :, a] = (1 - m) * clip[i, :, a] + m * clip[i, :, b]
                want[i, :, b] = (1 - m) * clip[i, :, b] + m * clip[i, :, a]
            t = stop
    torch.testing.assert_close(reverse_frames(clip, mask, threshold), want, rtol=0, atol=1e-8)


@given(clips(dtype=torch.float32), st.floats(-1, 2))
def test_mirror_order_and_runs(case, threshold):
    mask = case[1]
    order = reverse_indices(mask, threshold)
    t = torch.arange(mask.size(1)).expand_as(order)
    assert torch.equal(order.sort(1).values, t) and torch.equal(order.gather(1, order), t)
    runs = mask_runs(mask, threshold)
    inside = torch.zeros_like(mask, dtype=torch.bool)
    for i, row in enumerate(runs):
        assert all(0 <= a < b <= mask.size(1) for a, b in row)
        assert all(one[1] < two[0] for one, two in zip(row, row[1:]))
        for a, b in row:
            inside[i, a:b] = True
    assert torch.equal(inside, mask > threshold)


@given(clips(frames=(2, 30)), st.sampled_from([math.nan, math.nan, math.inf, -math.inf]), st.booleans(),
       st.integers(0, 10**6))
@example((torch.rand(1, 1, 5, 1, 1), torch.zeros(1, 5)), math.nan, True, 2)  # reverse_frames took it for a frame off
def test_nan_in_nan_out(case, value, in_mask, place):
    """One NaN in the clip or in the mask is seen in the result, by both operators; other clips of the batch are not."""
    clip, mask = (part.clone() for part in case)
    n, frames = mask.shape
    where = place // frames % n, max(1, place % frames)
    clean = [freeze_frames(clip, mask), reverse_frames(clip, mask)]
    if in_mask:
        mask[where] = value
    else:
        clip[where[0], 0, where[1]] = value
    for before, result in zip(clean, (freeze_frames(clip, mask), reverse_frames(clip, mask))):
        others = [i for i in range(n) if i != where[0]]
        assert torch.equal(result[others], before[others])
        if math.isnan(value):
            hidden = not in_mask and mask[where] == 1  # a frame that the mask replaces is not in the result
            assert torch.isnan(result[where[0]]).any() or hidden


@given(clips(hard=True, dtype=torch.float64), st.floats(1, 6))
def test_total_variation(case, beta):
    mask = case[1] * 0.7
    got = total_variation(mask, beta)
    for row, value in zip(mask.tolist(), got.tolist()):
        want = 0.
        for t in range(1, len(row) - 1):
            want += abs(row[t] - row[t - 1])**beta + abs(row[t] - row[t + 1])**beta
        assert math.isclose(value, want, rel_tol=1e-9, abs_tol=1e-12)


@given(st.integers(2, 300))
def test_centred_masks_grow_to_the_full_one(frames):
    masks = centred_masks(frames)
    assert masks.shape[1] == frames and set(masks.flatten().tolist()) <= {0., 1.}
    lengths = masks.sum(1)
    assert lengths[-1] == frames and (lengths.diff() > 0).all() and 1 <= lengths[0] <= 2
    assert torch.equal(masks, masks.flip(1))


@given(st.lists(st.integers(0, 4), max_size=6), st.lists(st.integers(0, 4), max_size=3),
       st.sampled_from([torch.float32, torch.uint8, torch.int64]), st.sampled_from([freeze_frames, reverse_frames]))
def test_wrong_shapes_are_named(clip_shape, mask_shape, dtype, operator):
    clip, mask = torch.zeros(clip_shape, dtype=dtype), torch.zeros(mask_shape)
    try:
        result = operator(clip, mask)
    except (ValueError, TypeError) as error:
        assert 'clip' in str(error)
    else:
        assert result.shape == clip.shape and len(clip_shape) == 5
