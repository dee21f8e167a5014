"""What is done to the frames of a mask, each against a loop or a case by hand; masks of every perturbation."""
import cv2
import numpy as np
import pytest
import torch

from tconv_mmaction.interpret import PERTURBATIONS, find_disjoint_masks, find_temporal_mask, freeze_frames, perturb
from tconv_mmaction.interpret.perturbations import OF_CELLS, shuffled_order


def clip_of(frames=7, size=(6, 5), count=2):
    return torch.rand(count, 3, frames, *size, dtype=torch.float64)


@pytest.mark.parametrize('name', PERTURBATIONS)
def test_frames_off_the_mask_stay_and_the_mask_has_a_gradient(name):
    clip = clip_of(size=(12, 10))
    mask = torch.zeros(2, 7, dtype=torch.float64)
    mask[0, 2:5], mask[1, 4:6] = 1, 1
    result = perturb(clip, mask, name)
    torch.testing.assert_close(result.transpose(1, 2)[mask == 0], clip.transpose(1, 2)[mask == 0])
    assert (result - clip).transpose(1, 2)[mask == 1].abs().amax() > 0.1
    torch.testing.assert_close(perturb(clip, torch.zeros_like(mask), name), clip)
    soft = (0.4 * mask + 0.2).requires_grad_()
    weights = torch.randn_like(clip)  # one number: gradcheck goes back once per output
    assert torch.autograd.gradcheck(lambda m: (perturb(clip, m, name) * weights).sum(), (soft, ))


def test_slow_shows_the_clip_at_half_speed_from_before_the_run():
    clip, mask = clip_of(8), torch.zeros(2, 8, dtype=torch.float64)
    mask[:, 3:7] = 1
    found = perturb(clip, mask, 'slow')
    for t, time in ((3, 2.5), (4, 3), (5, 3.5), (6, 4), (7, 7)):
        expected = (clip[:, :, int(time)] + clip[:, :, int(np.ceil(time))]) / 2
        torch.testing.assert_close(found[:, :, t], expected)
    mask[:] = 1
    torch.testing.assert_close(perturb(clip, mask, 'slow')[:, :, 6], clip[:, :, 3])  # from the first frame on


def test_shuffle_shows_every_frame_once_and_none_in_its_place():
    clip = torch.arange(10.).view(1, 1, 10, 1, 1)
    full = perturb(clip, torch.ones(1, 10), 'shuffle').flatten()
    assert sorted(full.tolist()) == list(range(10)) and (full != torch.arange(10)).all()
    mask = torch.tensor([[0., 1, 0, 0, 1, 1, 1, 0, 0.5, 0]])
    expected = clip.flatten() + mask[0] * (full - clip.flatten())
    torch.testing.assert_close(perturb(clip, mask, 'shuffle').flatten(), expected)
    for n in range(2, 30):
        assert sorted(shuffled_order(n)) == list(range(n)) and (shuffled_order(n) != range(n)).all()


def test_grey_and_blur_are_the_mean_colour_and_opencvs_gaussian():
    clip, mask = clip_of(4, (16, 24)), torch.tensor([[1., 0, 0.25, 0]] * 2, dtype=torch.float64)
    mean = clip.mean((2, 3, 4))[:, :, None, None]
    grey, blur = perturb(clip, mask, 'grey'), perturb(clip, mask, 'blur')
    torch.testing.assert_close(grey[:, :, 0], mean.expand(-1, -1, 16, 24))
    torch.testing.assert_close(grey[:, :, 2], 0.75 * clip[:, :, 2] + 0.25 * mean)
    expected = cv2.GaussianBlur(clip[1, 2, 0].numpy(), (0, 0), 3.)  # 24 / 8
    np.testing.assert_allclose(blur[1, 2, 0], expected)


def test_still_brings_a_moving_square_back_and_keeps_its_light():
    """A smooth blob moves right by 2 pixels a frame and gets brighter; held still, it gets brighter where it is."""
    y, x = torch.meshgrid(torch.arange(48.), torch.arange(48.), indexing='ij')
    light = torch.linspace(0.8, 1., 5)
    blobs = torch.stack([light[t] * torch.exp(-((x - 18 - 2 * t)**2 + (y - 24)**2) / 60) for t in range(5)])
    clip = blobs[None, None]
    found = perturb(clip, torch.tensor([[0., 1, 1, 1, 0]]), 'still')[0, 0]

    def centre(image):
        return float((image * x).sum() / image.sum())

    assert centre(clip[0, 0, 3]) - centre(clip[0, 0, 0]) == pytest.approx(6, abs=0.01)
    for t in (1, 2, 3):
        assert centre(found[t]) == pytest.approx(18, abs=0.8)
        assert float(found[t].max()) == pytest.approx(float(light[t]), abs=0.05)
    torch.testing.assert_close(found[4], clip[0, 0, 4])


@pytest.mark.parametrize('name', OF_CELLS)
def test_cells_are_perturbed_each_for_itself(name):
    clip = clip_of(5, (8, 8))
    cells = (torch.rand(2, 5, 2, 4) > 0.5).double()
    found = perturb(clip, cells, name)
    full = cells.repeat_interleave(4, 2).repeat_interleave(2, 3)
    for y, x in ((0, 0), (3, 7), (7, 2)):  # a pixel is a clip of its own
        if name == 'freeze':
            expected = freeze_frames(clip[..., y:y + 1, x:x + 1], full[..., y, x])
        else:
            whole = perturb(clip, torch.ones(2, 5), name)
            expected = torch.where(full[:, None, :, y:y + 1, x:x + 1] > 0, whole[..., y:y + 1, x:x + 1],
                                   clip[..., y:y + 1, x:x + 1])
        torch.testing.assert_close(found[..., y:y + 1, x:x + 1], expected)


def test_mistakes_are_named():
    clip = clip_of()
    with pytest.raises(ValueError, match="no perturbation 'melt'; there is 'freeze', 'reverse'"):
        perturb(clip, torch.zeros(2, 7), 'melt')
    with pytest.raises(ValueError, match="no perturbation 'slow' of single cells; there is 'freeze', 'blur', 'grey'"):
        perturb(clip, torch.zeros(2, 7, 2, 2), 'slow')
    with pytest.raises(ValueError, match=r'mask must be \(N, T\) = \(2, 7\)'):
        perturb(clip, torch.zeros(2, 6), 'grey')


# ---------------------------------------------------------------------------------------- masks of perturbations

def direction_score(clip):
    """Class 1: in how many of the steps into frames 4 to 8 something moves right."""
    columns = torch.arange(clip.size(4), dtype=clip.dtype)
    position = (clip.mean((1, 3)) * columns).sum(2) / clip.mean((1, 3)).sum(2).clamp(min=1e-6)  # N, T
    p = torch.sigmoid(6 * (position.diff(dim=1)[:, 3:8] - 0.5)).mean(1)
    return torch.stack([1 - p, p], 1)


@pytest.mark.parametrize('name, harm', [('freeze', True), ('grey', True), ('slow', True), ('shuffle', True),
                                        ('blur', False)])
def test_a_network_that_needs_motion_minds_what_takes_it_away(name, harm):
    clip = torch.zeros(1, 1, 12, 4, 16, dtype=torch.float64)
    for t in range(12):
        clip[:, :, t, :, t:t + 3] = 1
    found = find_temporal_mask(direction_score, clip, 1, lambda2=0., perturbation=name, iterations=150)
    drop = float(found.original - found.freeze)
    assert (drop > 0.3) == harm, drop
    with pytest.raises(ValueError, match="cannot be searched by gradient descent with 'reverse'"):
        find_temporal_mask(direction_score, clip, 1, perturbation='reverse')
    if harm:
        outside = [t for t in range(12) if found.mask[0, t] > 0.5 and not 3 <= t <= 8]
        assert not outside, found.mask


def both(clip):
    """Class 1 needs frames 1-2 AND 9-10 to be bright."""
    bright = clip.mean((1, 3, 4))
    p = torch.minimum(bright[:, 1:3].mean(1), bright[:, 9:11].mean(1))
    return torch.stack([1 - p, p], 1)


def test_disjoint_masks_find_both_events_that_are_needed():
    clip = torch.zeros(1, 1, 12, 2, 2, dtype=torch.float64)
    clip[:, :, [1, 2, 9, 10]] = 1
    one = find_temporal_mask(both, clip, 1, lambda2=0.)
    assert len(one.runs[0]) == 1  # one of them takes the class away
    found = find_disjoint_masks(both, clip, 1, count=4, lambda2=0.)
    assert sorted(run for mask in found for run in mask.runs[0]) == [(1, 3), (9, 11)]  # and no third one
    assert torch.equal(found[0].mask, one.mask)
    closed = find_temporal_mask(both, clip, 1, lambda2=0., allowed=1 - (one.mask > 0.1).double())
    torch.testing.assert_close(found[1].mask, closed.mask)
    with pytest.raises(ValueError, match='one clip'):
        find_disjoint_masks(both, clip.repeat(2, 1, 1, 1, 1))
    with pytest.raises(ValueError, match='share in'):
        find_disjoint_masks(both, clip, share=0.)
