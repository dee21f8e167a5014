"""WholeVideoSampleFrames and ReverseFrames: pinned indices, properties for all lengths, and decoded frames."""
import numpy as np
import pytest
from mmaction.registry import TRANSFORMS
from mmcv.transforms import Compose

from tconv_mmaction.transforms import ReverseFrames, WholeVideoSampleFrames
from tconv_mmaction.transforms.whole_video import whole_video_indices


def indices(total, start=0, **kwargs):
    return WholeVideoSampleFrames(**kwargs)(dict(total_frames=total, start_index=start))['frame_inds'].tolist()


@pytest.mark.parametrize('total, expected', [
    (20, [0] * 5 + list(range(20)) + [19] * 5),
    (29, [*range(29), 28]),  # one frame short: the last is duplicated
    (30, list(range(30))),
    # 7 of 37 frames are dropped: 3, 8, 13, 18, 23, 28, 33, every fifth
    (37, [0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21, 22, 24, 25, 26, 27, 29, 30, 31, 32, 34, 35,
          36]),
    (100, [0, 3, 7, 10, 14, 17, 20, 24, 27, 31, 34, 38, 41, 44, 48, 51, 55, 58, 61, 65, 68, 72, 75, 79, 82, 85, 89, 92,
           96, 99])])
def test_the_3t_papers_thirty_frames(total, expected):
    assert indices(total, clip_len=30, short='duplicate_ends') == expected


@pytest.mark.parametrize('total, clip_len, expected', [
    (1, 4, [0, 0, 0, 0]), (2, 4, [0, 0, 1, 1]), (3, 6, [0, 0, 1, 1, 2, 2]), (3, 5, [0, 1, 1, 2, 2]),
    (4, 4, [0, 1, 2, 3]), (7, 4, [0, 2, 4, 6]), (6, 4, [0, 2, 3, 5]), (9, 1, [4]),
    (40, 16, [0, 3, 5, 8, 10, 13, 16, 18, 21, 23, 26, 29, 31, 34, 36, 39])])
def test_pinned_indices(total, clip_len, expected):
    assert indices(total, clip_len=clip_len) == expected


@pytest.mark.parametrize('short', ['repeat', 'duplicate_ends'])
@pytest.mark.parametrize('clip_len', [2, 16, 30, 32])
def test_every_length_is_covered_evenly_from_end_to_end(short, clip_len):
    for total in range(1, 200):
        chosen = whole_video_indices(total, clip_len, short)
        assert len(chosen) == clip_len and chosen[-1] == total - 1 and (chosen[0] == 0)
        gaps = np.diff(chosen)
        if total >= clip_len:
            assert gaps.max() - gaps.min() <= 1 and gaps.min() >= 1
        elif short == 'duplicate_ends':
            counts = np.bincount(chosen)
            assert (counts[1:-1] == 1).all() and (total == 1 or 0 <= counts[-1] - counts[0] <= 1)
        else:
            counts = np.bincount(chosen, minlength=total)
            assert counts.min() >= 1 and counts[1:-1].max(initial=1) - counts[1:-1].min(initial=clip_len) <= 1


def test_training_and_test_take_the_same_frames_after_the_start_index():
    sampler = TRANSFORMS.build(dict(type='WholeVideoSampleFrames', clip_len=16))
    first, second = (sampler(dict(total_frames=50, start_index=1)) for _ in range(2))
    assert first['frame_inds'].tolist() == second['frame_inds'].tolist() == indices(50, start=1, clip_len=16)
    assert first['frame_inds'][[0, -1]].tolist() == [1, 50] and first['frame_inds'].dtype == np.int32
    assert (first['clip_len'], first['num_clips']) == (16, 1)


def test_reverse_before_decoding():
    results = dict(frame_inds=np.array([3, 4, 5, 7, 8, 9]), num_clips=2)
    assert ReverseFrames()(dict(results))['frame_inds'].tolist() == [5, 4, 3, 9, 8, 7]
    assert ReverseFrames(enabled=False)(dict(results))['frame_inds'].tolist() == [3, 4, 5, 7, 8, 9]
    twice = ReverseFrames()(ReverseFrames()(dict(results)))
    assert twice['frame_inds'].tolist() == [3, 4, 5, 7, 8, 9]


def test_reverse_of_a_real_video_before_or_after_decoding(shared):
    video = next(p for p in sorted((shared / 'data/jhmdb/videos').rglob('*.avi')))
    head = [dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=16)]
    decode, reverse = dict(type='DecordDecode'), dict(type='ReverseFrames')
    tail = [dict(type='Resize', scale=(32, 32), keep_ratio=False), dict(type='FormatShape', input_format='NCTHW')]

    def clip(*middle):
        return Compose([*head, *middle, *tail])(dict(filename=str(video), start_index=0))['imgs']

    forwards = clip(decode)
    assert not np.array_equal(forwards, forwards[:, :, ::-1])
    np.testing.assert_array_equal(clip(reverse, decode), forwards[:, :, ::-1])
    np.testing.assert_array_equal(clip(decode, reverse), forwards[:, :, ::-1])


def test_errors():
    with pytest.raises(ValueError, match='clip_len must be a positive integer, got 0'):
        WholeVideoSampleFrames(0)
    with pytest.raises(ValueError, match="'repeat' or 'duplicate_ends', got 'loop'"):
        WholeVideoSampleFrames(16, short='loop')
    with pytest.raises(ValueError, match='broken.mp4 has 0 frames'):
        WholeVideoSampleFrames(16)(dict(total_frames=0, filename='broken.mp4'))
    with pytest.raises(ValueError, match='5 frames do not divide into 2 clips'):
        ReverseFrames()(dict(frame_inds=np.arange(5), num_clips=2))
    with pytest.raises(ValueError, match='between decoding and FormatShape'):
        ReverseFrames()(dict(frame_inds=np.arange(4), num_clips=1, imgs=np.zeros((1, 3, 4, 8, 8))))
