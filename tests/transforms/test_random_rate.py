"""RandomRateSampleFrames: against SampleFrames index for index, its random numbers, and on a real video."""
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from mmaction.datasets.transforms import SampleFrames
from mmaction.registry import TRANSFORMS
from mmengine.dataset import worker_init_fn
from mmengine.model import stack_batch
from torch.utils.data import DataLoader, Dataset

from tconv_mmaction.transforms import RandomRateSampleFrames
from tconv_mmaction.transforms.worker_rng import WorkerRNG


def video(total_frames, start_index=0, **other):
    return dict(total_frames=total_frames, start_index=start_index, modality='RGB', **other)


def test_interval_is_uniform_over_the_inclusive_range_and_frames_are_that_far_apart():
    transform = RandomRateSampleFrames(clip_len=8, frame_intervals=(1, 4))
    counts = {r: 0 for r in (1, 2, 3, 4)}
    starts = []
    for _ in range(4000):
        results = transform(video(100, start_index=1))
        r = results['frame_interval']
        counts[r] += 1
        np.testing.assert_array_equal(np.diff(results['frame_inds']), r)  # eq. 8
        assert results['frame_inds'][0] >= 1 and results['frame_inds'][-1] <= 100
        assert results['clip_len'] == 8 and results['num_clips'] == 1
        if r == 4:
            starts.append(results['frame_inds'][0])
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.001
    assert min(starts) < 5 and max(starts) > 60  # the start is drawn too


@pytest.mark.parametrize('total', [3, 20, 33, 64, 300])
@pytest.mark.parametrize('options', [
    dict(), dict(num_clips=3), dict(out_of_bound_opt='repeat_last'), dict(keep_tail_frames=True, num_clips=2),
    dict(temporal_jitter=True), dict(target_fps=15),
], ids=str)
def test_training_is_sample_frames_at_the_drawn_interval(total, options):
    transform = RandomRateSampleFrames(16, (1, 4), **options)
    for seed in range(8):
        np.random.seed(seed)
        results = transform(video(total, avg_fps=30.))
        np.random.seed(seed)
        r = np.random.randint(1, 5)
        expected = SampleFrames(16, r, **options)(video(total, avg_fps=30.))
        assert results['frame_interval'] == r
        np.testing.assert_array_equal(results['frame_inds'], expected['frame_inds'])


@pytest.mark.parametrize('total', [1, 7, 32, 63, 64, 65, 250])
@pytest.mark.parametrize('options', [
    dict(), dict(num_clips=3), dict(num_clips=10, out_of_bound_opt='repeat_last'), dict(twice_sample=True, num_clips=2),
    dict(num_clips=2, target_fps=10), dict(num_clips=4, constant='duration'),
], ids=str)
def test_test_mode_is_sample_frames_at_the_test_interval(total, options):
    state = np.random.get_state()[1].copy()
    plain = {key: value for key, value in options.items() if key != 'constant'}
    results = RandomRateSampleFrames(32, test_mode=True, **options)(video(total, 1, avg_fps=30.))
    expected = SampleFrames(32, 2, test_mode=True, **plain)(video(total, 1, avg_fps=30.))
    assert results.keys() == expected.keys()
    for key in results:
        np.testing.assert_array_equal(results[key], expected[key])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # no random number is used


def test_videos_shorter_than_the_span():
    """6 frames at interval 4 from a video of 10: 0, 4, 8 and then past the end."""
    loop = RandomRateSampleFrames(6, (4, 4))(video(10))
    np.testing.assert_array_equal(loop['frame_inds'], [0, 4, 8, 2, 6, 0])
    last = RandomRateSampleFrames(6, (4, 4), out_of_bound_opt='repeat_last')(video(10))
    np.testing.assert_array_equal(last['frame_inds'], [0, 4, 8, 8, 8, 8])
    np.testing.assert_array_equal(RandomRateSampleFrames(4, (2, 2))(video(1, start_index=1))['frame_inds'], [1] * 4)


def test_all_clips_of_a_draw_share_the_interval():
    results = RandomRateSampleFrames(5, num_clips=3)(video(200))
    clips = results['frame_inds'].reshape(3, 5)
    assert (np.diff(clips, axis=1) == results['frame_interval']).all()
    assert (np.diff(clips[:, 0]) > 0).all()


def test_constant_duration():
    """clip_len 12 at test_interval 2 is a span of 24 frames; r = 1, 2, 3, 4, 5 gives 24, 12, 8, 6 and 4 frames."""
    transform = RandomRateSampleFrames(12, (1, 5), constant='duration', num_clips=2)
    seen = {}
    for _ in range(100):
        results = transform(video(90))
        r, length = results['frame_interval'], results['clip_len']
        seen[r] = length
        clips = results['frame_inds'].reshape(2, length)
        assert (np.diff(clips, axis=1) == r).all() and (clips[:, -1] - clips[:, 0] + r <= 24).all()
    assert seen == {1: 24, 2: 12, 3: 8, 4: 6, 5: 4}
    assert transform.clip_len == 12
    # what the docstring says of batches: the shorter clip gets black frames
    batch = stack_batch([torch.ones(1, 3, 12, 4, 4), torch.ones(1, 3, 8, 4, 4)])
    assert batch.shape == (2, 1, 3, 12, 4, 4) and (batch[1, :, :, 8:] == 0).all()


class Draws(Dataset):
    """Item i is a draw of both kinds of random numbers of a worker."""

    def __init__(self):
        self.transform = RandomRateSampleFrames(4, (1, 1000))
        self.other = WorkerRNG('another transform')

    def __len__(self):
        return 24

    def __getitem__(self, index):
        worker = torch.utils.data.get_worker_info()
        results = self.transform(video(8000))
        return (0 if worker is None else worker.id, results['frame_interval'],
                self.other.get().randint(1, 1001))


def epochs(seed, rank=0, num_workers=2, persistent=False, count=2):
    """Per epoch the draws of every worker, through a loader as mmengine's Runner builds it."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    loader = DataLoader(Draws(), batch_size=4, num_workers=num_workers,
                        persistent_workers=persistent and num_workers > 0,
                        worker_init_fn=partial(worker_init_fn, num_workers=num_workers, rank=rank, seed=seed)
                        if num_workers else None)
    result = []
    for _ in range(count):
        draws = {}
        for workers, intervals, others in loader:
            for worker, interval, other in zip(workers.tolist(), intervals.tolist(), others.tolist()):
                draws.setdefault(worker, []).append((interval, other))
        result.append(draws)
    return result


@pytest.mark.parametrize('persistent', [False, True])
def test_draws_differ_across_workers_epochs_and_ranks_and_repeat_with_the_seed(persistent):
    run = epochs(7, persistent=persistent)
    assert run == epochs(7, persistent=persistent)
    sequences = [tuple(draws[worker]) for draws in run for worker in (0, 1)]
    sequences += [tuple(draws[worker]) for draws in epochs(7, rank=1, persistent=persistent) for worker in (0, 1)]
    sequences += [tuple(draws[worker]) for draws in epochs(8, persistent=persistent) for worker in (0, 1)]
    assert len(set(sequences)) == len(sequences) == 12
    assert all(len(sequence) == 12 for sequence in sequences)
    pairs = np.array([pair for sequence in sequences for pair in sequence])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.25  # another transform draws other numbers
    assert (pairs[:, 0] != pairs[:, 1]).mean() > 0.95


def test_main_process_draws_from_numpys_generator():
    assert epochs(7, num_workers=0) == epochs(7, num_workers=0) != epochs(8, num_workers=0)
    np.random.seed(3)
    expected = np.random.randint(1, 5, size=20)
    np.random.seed(3)
    transform = RandomRateSampleFrames(4)
    np.testing.assert_array_equal([transform.draw_interval() for _ in range(20)], expected)


def test_real_video_through_the_pipeline(shared):
    """The frames that come out are the frames of the file at the reported interval."""
    decord = pytest.importorskip('decord')
    path = shared / 'data/clips/jester_102653.mp4'
    pipeline = [
        dict(type='DecordInit'),
        dict(type='RandomRateSampleFrames', clip_len=8, frame_intervals=(1, 4)),
        dict(type='DecordDecode'),
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs', meta_keys=('frame_interval', 'frame_inds')),
    ]
    transforms = [TRANSFORMS.build(cfg) for cfg in pipeline]
    reader = decord.VideoReader(str(path))
    frames = reader.get_batch(range(len(reader))).asnumpy()
    seen = set()
    for _ in range(12):
        results = dict(filename=str(path), label=0, start_index=0, modality='RGB')
        for transform in transforms:
            results = transform(results)
        r = results['data_samples'].frame_interval
        seen.add(r)
        indices = results['data_samples'].frame_inds
        np.testing.assert_array_equal(np.diff(indices) % len(frames), r % len(frames))
        expected = torch.from_numpy(frames[indices]).permute(3, 0, 1, 2)[None]
        assert torch.equal(results['inputs'], expected)
    assert len(seen) >= 3


@pytest.mark.parametrize('options, match', [
    (dict(frame_intervals=(0, 4)), 'frame_intervals must be a positive integer'),
    (dict(frame_intervals=(3, 2)), 'smallest, largest'),
    (dict(frame_intervals=(1, 2, 3)), 'two integers'),
    (dict(frame_intervals=4), 'two integers'),
    (dict(frame_intervals=(1, 2.5)), 'two integers'),
    (dict(clip_len=0), 'clip_len must be a positive integer'),
    (dict(test_interval=0), 'test_interval must be a positive integer'),
    (dict(num_clips=1.5), 'num_clips must be a positive integer'),
    (dict(out_of_bound_opt='mirror'), "'loop' or 'repeat_last'"),
    (dict(constant='speed'), "'clip_len' or 'duration'"),
    (dict(clip_len=1, frame_intervals=(1, 4), constant='duration'), 'longer than the span'),
], ids=str)
def test_mistakes(options, match):
    with pytest.raises(ValueError, match=match):
        RandomRateSampleFrames(**{**dict(clip_len=8), **options})


def test_arguments_of_sample_frames_and_repr():
    with pytest.raises(TypeError, match='frame_interval'):  # not swallowed by SampleFrames' **kwargs
        TRANSFORMS.build(dict(type='RandomRateSampleFrames', clip_len=8, frame_interval=2))
    text = repr(TRANSFORMS.build(dict(type='RandomRateSampleFrames', clip_len=8, frame_intervals=[2, 3])))
    assert 'frame_intervals=(2, 3)' in text and "constant='clip_len'" in text
