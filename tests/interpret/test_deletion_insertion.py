"""Deletion and insertion against curves by hand and loops; scores and intervals against numbers by hand."""
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tconv_mmaction.interpret import (
    against,
    areas,
    deletion_insertion,
    explanation_scores,
    method_curves,
    method_maps,
    perturb,
    summarize_scores,
)
from tconv_mmaction.interpret.deletion_insertion import ranked
from tconv_mmaction.interpret.explanation_scores import mean_interval
from tconv_mmaction.interpret.methods import METHODS, register_method


class Bright(nn.Module):
    """Score of class 1: the mean brightness of some frames."""

    def __init__(self, frames):
        super().__init__()
        self.frames = list(frames)

    def forward(self, clip):
        p = clip.mean((1, 3, 4))[:, self.frames].mean(1)
        return torch.stack([1 - p, p], 1)


def test_frozen_frames_by_hand():
    """Frames 2 and 3 of 6 light up; the freeze holds the dark frame before them, so both must go."""
    clip = torch.zeros(3, 1, 6, 2, 2, dtype=torch.float64)
    clip[:, :, 2:4] = 1
    maps = torch.tensor([[0., 0.2, 1, 0.9, 0.1, 0.3], [1, 0.9, 0, 0.1, 0.8, 0.7], [0, 0, 0.5, 1, 0, 0]]).double()
    found = deletion_insertion(Bright([2, 3]), clip, maps, 1)
    # 2, 3, ...: frame 2 shows frame 1, 3 itself; then both are dark
    assert found.deletion[0].tolist() == [1, 0.5, 0, 0, 0, 0, 0]
    # 0, 1, 4, 5 do no harm; frozen frame 3 shows frame 2, so the score falls with the last
    assert found.deletion[1].tolist() == [1, 1, 1, 1, 1, 1, 0]
    # 3 first: it shows frame 2, which is as bright
    assert found.deletion[2].tolist() == [1, 1, 0, 0, 0, 0, 0]
    # given back: with 2 alone, frame 3 holds it; with 3 alone half
    assert found.insertion[0].tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert found.insertion[2].tolist() == [0, 0.5, 1, 1, 1, 1, 1]
    assert found.auc_deletion.tolist() == pytest.approx([1 / 6, 5.5 / 6, 1.5 / 6])
    assert found.auc_insertion[2] == pytest.approx((0.25 + 0.75 + 4) / 6) and found.target.tolist() == [1, 1, 1]


@pytest.mark.parametrize('perturbation', ['freeze', 'blur', 'grey'])
@pytest.mark.parametrize('unit', ['frames', 'cells'])
def test_equals_a_loop(perturbation, unit):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten(), nn.Linear(12, 4),
                        nn.Softmax(1)).double()
    clip = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64)
    cells = (2, 2, 2)
    maps = torch.rand(2, 4) if unit == 'frames' else torch.rand(2, *cells)
    values = maps.flatten(1)
    if unit == 'cells':  # one value per cell: the map at the clip's size has that mean in it, up to the smoothing
        maps = maps.repeat_interleave(2, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = deletion_insertion(net, clip, maps.double(), [3, 0], perturbation, unit, cells, steps=4, chunk_size=3)
    count = values.size(1)
    for n, target in enumerate((3, 0)):
        order = values[n].argsort(descending=True)
        for i, taken in enumerate(range(0, count + 1, count // 4)):
            mask = torch.zeros(count)
            mask[order[:taken]] = 1
            for curve, gone in ((found.deletion, mask), (found.insertion, 1 - mask)):
                gone = gone[None] if unit == 'frames' else gone.view(1, *cells).repeat_interleave(2, 1)
                expected = net(perturb(clip[n:n + 1], gone.double(), perturbation))[0, target]
                torch.testing.assert_close(curve[n, i], expected.detach())


def test_places_and_ties():
    values = torch.tensor([[3., 1, 2, 1, 1]])
    places = ranked(values, [0])[0].tolist()
    assert places[0] == 0 and places[2] == 1 and sorted(places) == [0, 1, 2, 3, 4]
    draws = {tuple(ranked(torch.zeros(1, 5), [seed])[0].tolist()) for seed in range(20)}
    assert len(draws) > 10  # equals are drawn, not taken from the left
    assert torch.equal(ranked(values.repeat(2, 1), [4, 3])[1:], ranked(values, [3]))


def test_mistakes_are_named():
    clip = torch.rand(1, 1, 4, 6, 6)
    for arguments, message in ((dict(maps=torch.rand(2, 4)), r'1 clip\(s\) need as many maps, got 2'),
                               (dict(maps=torch.full((1, 4), float('nan'))), 'NaN or infinite'),
                               (dict(maps=torch.rand(1, 5)), r'a map must be \(N, 4\)'),
                               (dict(maps=torch.rand(1, 4), steps=5), r'steps must be 1 to 4 \(frames\)'),
                               (dict(maps=torch.rand(1, 4), unit='pixels'), "unit must be one of"),
                               (dict(maps=torch.rand(1, 4), unit='cells', perturbation='still'), 'single cells')):
        with pytest.raises(ValueError, match=message):
            deletion_insertion(Bright([1]), clip, target=1, **arguments)


@pytest.fixture
def knowing():
    """Methods that know the answer, its opposite, and nothing."""
    def of(frames, sign):
        def run(model, clip, target, layer):
            values = clip.new_zeros(len(clip), clip.size(2))
            values[:, frames] = sign
            return values
        return run

    register_method('right', 'knows it')(of([2, 3], 1.))
    register_method('wrong', 'believes the opposite')(of([2, 3], -1.))
    yield
    del METHODS['right'], METHODS['wrong']


def test_scores_of_methods_that_know_and_do_not(knowing):
    torch.manual_seed(0)
    clips = 0.1 * torch.rand(6, 1, 8, 3, 3)
    clips[:, :, 2:4] += 0.5 + 0.4 * torch.rand(6, 1, 1, 1, 1)
    names = ['right', 'wrong', 'centre', 'random']
    maps = method_maps(Bright([2, 3]), clips, names, 1)
    assert len(maps['random']) == 8
    aucs = areas(method_curves(Bright([2, 3]), clips, maps, 1, perturbation='grey'))
    draws = [deletion_insertion(Bright([2, 3]), clips, draw, 1, 'grey').auc_deletion for draw in maps['random']]
    np.testing.assert_allclose(aucs['random'][0], torch.stack(draws).mean(0), rtol=1e-5)
    scores = summarize_scores(aucs)
    assert scores['right'].auc_deletion < scores['random'].auc_deletion < scores['wrong'].auc_deletion
    assert scores['right'].auc_insertion > scores['random'].auc_insertion > scores['wrong'].auc_insertion
    compared = against(aucs)
    assert list(compared) == ['right', 'wrong', 'centre'] and compared['right'].clips == 6
    assert compared['right'].interval.low > 0 > compared['wrong'].interval.high
    assert against(aucs, 'centre')['right'].difference > 0
    # one call of the same, also for a list of clips, and with a class per clip
    once = explanation_scores(Bright([2, 3]), list(clips.split(1)), names, [1] * 6, perturbation='grey')
    assert once['right'].auc_deletion == pytest.approx(scores['right'].auc_deletion)
    assert once['right'].interval.low == pytest.approx(scores['right'].interval.low)
    with pytest.raises(ValueError, match='one class or one per clip'):
        explanation_scores(Bright([2, 3]), clips, names, [1, 1])
    with pytest.raises(KeyError, match="'random' was not measured"):
        against({'right': aucs['right']})


def test_intervals_are_students():
    values = np.array([0.1, 0.4, 0.2, 0.5])
    expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert np.isnan(mean_interval([1.])).all()
    score = summarize_scores(dict(m=(values, values + 0.25)))['m']
    assert score.auc_deletion == pytest.approx(0.3) and score.interval == pytest.approx((0.25, 0.25))
