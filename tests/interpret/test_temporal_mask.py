"""Temporal masks: golden freeze, reverse and TV; the search where the answer is known; batches against singles."""
import sys

import pytest
import torch
from helpers.paths import golden
from mmaction.registry import MODELS
from torch import nn

from tconv_mmaction.interpret import (
    RecognizerScores,
    find_temporal_mask,
    freeze_frames,
    mask_runs,
    reverse_frames,
    total_variation,
)
from tconv_mmaction.interpret.freeze import reverse_indices
from tconv_mmaction.interpret.temporal_mask import Search, _initial_masks, centred_masks

GOLDEN = golden('temporal_mask_*.npz')
EXACT = dict(rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('name', GOLDEN)
@pytest.mark.parametrize('kind', ['soft', 'hard'])
def test_golden(name, kind):
    arrays = {key: torch.from_numpy(value) for key, value in GOLDEN[name].items()}
    clip, mask = arrays['clip'][None], arrays[kind][None]
    torch.testing.assert_close(freeze_frames(clip, mask)[0], arrays[f'freeze_{kind}'], **EXACT)
    torch.testing.assert_close(reverse_frames(clip, mask)[0], arrays[f'reverse_{kind}'], **EXACT)
    torch.testing.assert_close(total_variation(mask)[0], arrays[f'tv_{kind}'], **EXACT)


def test_the_papers_example():
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0.]])
    clip = torch.arange(1., 17).view(1, 1, 16, 1, 1)
    assert reverse_frames(clip, mask).flatten().tolist() == [1, 2, 3, 8, 7, 6, 5, 4, 9, 10, 11, 12, 13, 15, 14, 16]
    assert freeze_frames(clip, mask).flatten().tolist() == [1, 2, 3, 3, 3, 3, 3, 3, 9, 10, 11, 12, 13, 13, 13, 16]
    assert mask_runs(mask) == [[(3, 8), (13, 15)]]


def naive_reverse(mask, threshold):
    order, t = list(range(len(mask))), 0
    while t < len(mask):
        stop = t
        while stop < len(mask) and mask[stop] > threshold:
            stop += 1
        order[t:stop] = order[t:stop][::-1]
        t = max(stop, t + 1)
    return order


@pytest.mark.parametrize('frames', [1, 2, 3, 7, 16])
def test_reverse_and_runs_equal_loops(frames):
    masks = torch.rand(50, frames)
    masks[0], masks[1] = 0, 1
    for mask, index, runs in zip(masks, reverse_indices(masks, 0.5), mask_runs(masks, 0.5)):
        assert index.tolist() == naive_reverse(mask.tolist(), 0.5)
        on = {t for start, stop in runs for t in range(start, stop)}
        assert on == {t for t in range(frames) if mask[t] > 0.5}
    assert reverse_indices(torch.tensor([[0.1, 0.11, 0.11]], dtype=torch.float64), 0.1).tolist() == [[0, 2, 1]]


def test_freeze_equals_the_triangular_matrix_and_gradients_are_exact():
    clip = torch.rand(2, 3, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    expected = torch.empty_like(clip)
    for n in range(2):
        for i in range(5):
            weights = [(1 - mask[n, j] if j else 1.) * torch.prod(mask[n, j + 1:i + 1]) for j in range(i + 1)]
            expected[n, :, i] = sum(weights[j] * clip[n, :, j] for j in range(i + 1)).detach()
    torch.testing.assert_close(freeze_frames(clip, mask), expected, **EXACT)
    assert torch.autograd.gradcheck(freeze_frames, (clip, mask))
    strided = clip.detach().transpose(3, 4)
    assert torch.autograd.gradcheck(lambda m: freeze_frames(strided, m), (mask,))
    assert torch.autograd.gradcheck(reverse_frames, (clip, mask))
    freeze_frames(clip, mask).sum().backward()
    assert mask.grad[:, 0].tolist() == [0, 0]  # there is nothing before the first frame
    assert freeze_frames(torch.rand(1, 3, 1, 2, 2), torch.ones(1, 1)).shape == (1, 3, 1, 2, 2)
    assert freeze_frames(torch.rand(0, 3, 4, 2, 2), torch.ones(0, 4)).shape == (0, 3, 4, 2, 2)


def test_total_variation_by_hand():
    assert total_variation(torch.tensor([[0., 1, 0, 0], [1., 0, 0, 0], [0., 0, 1, 1]])).tolist() == [3, 1, 2]
    assert total_variation(torch.tensor([[0., 1]])).tolist() == [0]  # no frame has both neighbours
    assert total_variation(torch.tensor([[0., .5, 0]]), beta=2).tolist() == [.5]


def test_centred_masks():
    assert centred_masks(5).tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert centred_masks(4).tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize('clips, chunk_size', [(1, 8), (1, 1), (5, 8), (5, 2), (3, 3)])
def test_the_first_mask_that_is_enough_without_trying_the_larger_ones(clips, chunk_size):
    """Against the search over all; the drops do not grow with the mask, and one full freeze raises the score."""
    torch.manual_seed(clips)
    frames, keep = 12, 0.9
    table = torch.rand(clips, frames // 2, dtype=torch.float64)  # the score of each clip under each mask
    table[0, -1] = 2.  # its score rises
    original = torch.full((clips, ), 1., dtype=torch.float64)
    tried = []

    def score(clip):  # a clip's first frame says which it is, the frozen frames how many there are
        assert len(clip) <= chunk_size
        which = clip[:, 0, 0, 0, 0].long()
        moving = (clip[:, 0, 1:] != clip[:, 0, :-1]).flatten(1).sum(1) + 1
        size = (frames - moving).tolist()
        masks = [int(centred.index(s)) for s in size]
        tried.extend(zip(which.tolist(), masks))
        p = table[which, masks]
        return torch.stack([1 - p, p], 1)

    clip = torch.arange(frames, dtype=torch.float64).expand(clips, 1, frames)[..., None, None].clone() * 100
    clip[:, 0, 0, 0, 0] = torch.arange(clips)
    candidates = centred_masks(frames, clip)
    # the mask's first frame is frozen to the one before, except in the full mask, which has none before
    centred = [int(mask.sum()) - int(mask[0]) for mask in candidates]
    found = _initial_masks(score, clip, torch.ones(clips, dtype=torch.long), original, keep, chunk_size,
                           Search.anywhere(clip))
    for n in range(clips):
        drops = original[n] - table[n]
        enough = [m for m in range(len(candidates)) if drops[m] >= keep * drops[-1]] or [len(candidates) - 1]
        best = min(enough[0], len(candidates) - 1)
        assert found[n].tolist() == candidates[best].tolist(), n
    assert len(tried) == len(set(tried))  # nothing twice
    assert {(n, len(candidates) - 1) for n in range(clips)} <= set(tried)
    if chunk_size <= clips:  # one mask at a time: none beyond the one that was enough
        for n in range(clips):
            ours = sorted(m for clip_, m in tried if clip_ == n and m < len(candidates) - 1)
            index = candidates.tolist().index(found[n].tolist())
            assert ours == list(range(min(index, len(candidates) - 2) + 1)) or index == len(candidates) - 1


def event_score(events):
    """Score of class 1: the mean over the event's frames of how bright they are."""
    def score(clip):
        brightness = clip.mean((1, 3, 4))
        p = torch.stack([row[list(events)].mean() for row in brightness])
        return torch.stack([1 - p, p], 1)
    return score


def event_clip(*events, frames=16):
    clip = torch.zeros(len(events), 3, frames, 4, 4, dtype=torch.float64)
    for row, event in zip(clip, events):
        row[:, list(event)] = 1
    return clip


@pytest.mark.parametrize('event', [range(5, 10), [3, 4, 5, 10, 11], [15]])
def test_without_total_variation_the_mask_is_exactly_the_event(event):
    found = find_temporal_mask(event_score(event), event_clip(event), 'prediction', lambda2=0.)
    assert found.target.tolist() == [1] and found.original.tolist() == [1] and found.freeze[0] < 0.01
    assert [t for start, stop in found.runs[0] for t in range(start, stop)] == list(event)
    assert found.mask[0, list(event)].min() > 0.97


def test_the_papers_settings_find_the_event_with_the_shoulders_of_eq_1():
    event = range(5, 10)
    found = find_temporal_mask(event_score(event), event_clip(event), 1)
    assert mask_runs(found.mask, 0.6) == [[(5, 10)]]
    assert found.runs[0][0][0] >= 3 and found.runs[0][0][1] <= 12 and len(found.runs[0]) == 1
    assert found.freeze[0] < 0.01
    # reversing the run in place leaves its frames bright where the mask is 0 or 1
    assert found.reverse[0] > 0.7
    # the full freeze takes all away, and the smallest centred mask with 90 % of that is frames 5 to 10
    assert found.initial[0].nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 10]
    # without early stop: the minimum of 0.04 (u^3 + v^3 + w^3) + 0.01 (u + u + v) with u + v + w = 1, by hand
    shoulders = find_temporal_mask(event_score(event), event_clip(event), 1, iterations=600, tolerance=0.).mask[0]
    expected = torch.tensor([0.197, 0.546, 1, 1, 1, 1, 1, 0.546, 0.197], dtype=torch.float64)
    torch.testing.assert_close(shoulders[3:12], expected, rtol=0, atol=0.01)


class TinyNet(nn.Module):
    """Softmax scores that depend on the order of frames; with dropout and batch norm, which a search must not touch."""

    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv3d(3, 6, (3, 3, 3), padding=(1, 0, 0))
        self.norm = nn.BatchNorm3d(6)
        self.fc = nn.Linear(6 * 8, classes)
        self.dropout = nn.Dropout(0.5)
        nn.init.normal_(self.fc.weight, std=1.)
        nn.init.normal_(self.norm.running_mean, std=0.1)

    def forward(self, clip):
        x = self.norm(self.conv(clip)).relu().mean((3, 4))
        return self.fc(self.dropout(x.flatten(1))).softmax(1)


def test_batches_equal_single_clips():
    net = TinyNet()
    clip = torch.randn(5, 3, 8, 6, 6)
    # float32 only for the first 60 steps: where a search has converged, Adam's steps amplify the network's rounding
    for dtype, iterations in ((torch.float64, 300), (torch.float32, 60)):
        settings = dict(iterations=iterations)
        net, clip = net.to(dtype), clip.to(dtype)
        batch = find_temporal_mask(net, clip, chunk_size=3, **settings)
        if dtype == torch.float64:
            assert len(set(batch.iterations.tolist())) > 1 and batch.iterations.min() < 300  # clips do stop one by one
        for i in range(5):
            single = find_temporal_mask(net, clip[i:i + 1], **settings)
            torch.testing.assert_close(single.mask[0], batch.mask[i], rtol=0, atol=1e-5)
            for one, many in ((single.original, batch.original), (single.freeze, batch.freeze),
                              (single.reverse, batch.reverse)):
                torch.testing.assert_close(one[0], many[i], rtol=0, atol=1e-5)
            assert single.runs[0] == batch.runs[i] and single.target[0] == batch.target[i]
        again = find_temporal_mask(net, clip, chunk_size=3, **settings)
        assert torch.equal(again.mask, batch.mask)


def test_the_model_comes_back_as_it_was_also_after_an_error():
    net = TinyNet()
    net.conv.weight.requires_grad_(False)
    net.norm.eval()
    flags = [p.requires_grad for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    find_temporal_mask(net, torch.randn(2, 3, 8, 6, 6), iterations=3)
    with pytest.raises(RuntimeError):
        find_temporal_mask(net, torch.randn(2, 3, 9, 6, 6), iterations=3)  # the linear layer wants 8 frames
    assert [p.requires_grad for p in net.parameters()] == flags and [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_search_equals_torch_adam_step_by_step():
    net, clip = TinyNet().double().eval(), torch.randn(1, 3, 8, 6, 6, dtype=torch.float64)
    found = find_temporal_mask(net, clip, 2, iterations=40, tolerance=0.)
    logits = (found.initial * 10 - 5).requires_grad_()
    adam, losses = torch.optim.Adam([logits], lr=0.2), []
    for _ in range(40):
        mask = torch.sigmoid(logits)
        frames = [clip[:, :, 0]]
        for t in range(1, 8):
            frames.append((1 - mask[0, t]) * clip[:, :, t] + mask[0, t] * frames[-1])
        tv = sum((mask[0, t] - mask[0, t + d]).abs()**3 for t in range(1, 7) for d in (-1, 1))
        loss = 0.01 * mask.sum() + 0.02 * tv + net(torch.stack(frames, 2))[0, 2]
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    torch.testing.assert_close(found.mask, torch.sigmoid(logits).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.losses[0], torch.stack(losses), rtol=1e-9, atol=1e-9)


def test_one_forward_and_backward_per_iteration():
    calls = []

    def score(clip):
        calls.append((len(clip), torch.is_grad_enabled()))
        return event_score(range(5, 10))(clip)

    find_temporal_mask(score, event_clip(range(5, 10)), 1, iterations=300, tolerance=0., chunk_size=4)
    assert sum(grad for _, grad in calls) == 300
    without = [count for count, grad in calls if not grad]
    assert sum(without) <= 16 / 2 + 3 and max(without) <= 4  # the clip, 8 centred masks, FS and RS; in chunks


def test_early_stop_fills_the_rest_of_the_curve_with_nan():
    found = find_temporal_mask(event_score(range(5, 10)), event_clip(range(5, 10), []), [1, 0])
    for losses, steps in zip(found.losses, found.iterations.tolist()):
        assert torch.isfinite(losses[:steps]).all() and torch.isnan(losses[steps:]).all()
        if steps < 300:
            assert (losses[steps - 1] - losses[steps - 2]).abs() < 1e-5


@pytest.mark.parametrize('output', ['probabilities', 'logits'])
def test_recognizers_2d_and_3d(output):
    head = dict(num_classes=5, average_clips='prob')
    backbone = dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, clip_shape=(12, 16, 16))
    three = MODELS.build(dict(
        type='Recognizer3D', backbone=backbone,
        cls_head=dict(type='I3DHead', in_channels=84, dropout_ratio=0., init_std=0.5, **head),
        test_cfg=dict(max_testing_views=2)))
    two = MODELS.build(dict(
        type='Recognizer2D', backbone=dict(type='MobileNetV2', widen_factor=0.1, pretrained=None),
        cls_head=dict(type='TSNHead', in_channels=1280, init_std=0.5, **head)))
    clip = torch.randn(3, 3, 12, 16, 16)
    for model in (three.eval(), two.eval()):
        model.init_weights()
        scores = RecognizerScores(model, output)(clip)
        for i, one in enumerate(clip):  # mmaction2's own prediction of the same clip
            inputs = (one.transpose(0, 1) if model is two else one[None])[None]
            features, arguments = model.extract_feat(inputs, test_mode=True)
            expected = model.cls_head(features, **arguments)[0]
            torch.testing.assert_close(scores[i], expected.softmax(0) if output == 'probabilities' else expected,
                                       rtol=1e-4, atol=1e-5)
    assert three.test_cfg['max_testing_views'] == 2
    found = find_temporal_mask(three, clip[:2], iterations=3)
    torch.testing.assert_close(found.original, RecognizerScores(three)(clip[:2]).max(1).values)


def test_mistakes_are_named():
    clip = torch.rand(2, 3, 6, 4, 4)
    with pytest.raises(ValueError, match=r'mask must be \(N, T\) = \(2, 6\)'):
        freeze_frames(clip, torch.zeros(2, 5))
    with pytest.raises(TypeError, match='uint8'):
        freeze_frames(clip.byte(), torch.zeros(2, 6))
    with pytest.raises(ValueError, match='softmax scores, not logits'):
        find_temporal_mask(lambda x: x.mean((2, 3, 4)) * 100, clip)
    with pytest.raises(ValueError, match='softmax scores, not logits'):
        find_temporal_mask(lambda x: x.mean((2, 3, 4)) * float('nan'), clip)
    with pytest.raises(ValueError, match='at least 2'):
        find_temporal_mask(lambda x: x, clip[:, :, :1])
    with pytest.raises(ValueError, match=r'scores \(N, K\) with N = 2'):
        find_temporal_mask(lambda x: x.mean(), clip)
    with pytest.raises(ValueError, match='outside the 3 classes'):
        find_temporal_mask(lambda x: x.mean((2, 3, 4)), clip, 3)
    with pytest.raises(ValueError, match="'prediction', got 'best'"):
        find_temporal_mask(lambda x: x.mean((2, 3, 4)), clip, 'best')
    with pytest.raises(TypeError, match='neither a Recognizer3D nor a Recognizer2D'):
        RecognizerScores(nn.Linear(2, 2))
    empty = find_temporal_mask(lambda x: x.mean((2, 3, 4)), clip[:0])
    assert empty.mask.shape == (0, 6) and empty.runs == []


@pytest.mark.gpu
def test_cuda_equals_cpu():
    for arrays in GOLDEN.values():
        clip, mask = (torch.from_numpy(arrays[key])[None].cuda() for key in ('clip', 'soft'))
        torch.testing.assert_close(freeze_frames(clip, mask)[0].cpu(), torch.from_numpy(arrays['freeze_soft']), **EXACT)
        expected = torch.from_numpy(arrays['reverse_soft'])
        torch.testing.assert_close(reverse_frames(clip, mask)[0].cpu(), expected, **EXACT)
    net, clip = TinyNet().double(), torch.randn(3, 3, 8, 6, 6, dtype=torch.float64)
    on_cpu = find_temporal_mask(net, clip, chunk_size=2)
    on_cuda = find_temporal_mask(net.cuda(), clip.cuda(), chunk_size=2)
    torch.testing.assert_close(on_cuda.mask.cpu(), on_cpu.mask, rtol=0, atol=1e-5)
    assert on_cuda.runs == on_cpu.runs and on_cuda.mask.is_cuda


def test_news_of_what_has_converged_may_come_late(monkeypatch):
    """On a GPU a converged clip stays in the batch until the host has heard of it; nothing else may differ."""
    scale = torch.tensor([1., 4., 0.02]).double()

    def score_fn(clip):  # of each clip by itself: what moves in it
        moving = (clip[:, :, 1:] - clip[:, :, :-1]).abs().mean((1, 2, 3, 4))
        return torch.stack([moving, 0.5 * moving], 1).softmax(1)

    clip = torch.randn(3, 1, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clip = clip * scale[:, None, None, None, None]
    settings = dict(target=0, iterations=60, tolerance=1e-3)
    want = find_temporal_mask(score_fn, clip, **settings)
    assert want.iterations.min() < 60  # some stop early
    flags = sys.modules['tconv_mmaction.interpret.temporal_mask']._Flags
    asked = []
    monkeypatch.setattr(flags, 'arrived', lambda self: asked.append(1) or len(asked) % 4 == 0)
    got = find_temporal_mask(score_fn, clip, **settings)
    for name in ('mask', 'losses', 'iterations', 'freeze', 'reverse'):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-9, atol=1e-9, equal_nan=True)
