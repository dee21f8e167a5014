"""PyAVVideo: the frames, counts and time stamps of ffmpeg and ffprobe, on videos of every odd kind and on real ones."""
import io
import subprocess

import numpy as np
import pytest
from helpers.ffmpeg_videos import CUT, KINDS, ffmpeg_frames, make, needs_ffmpeg, probed_times
from mmaction.registry import TRANSFORMS
from mmengine.dataset import Compose

from tconv_mmaction.transforms import UnreadableVideoError
from tconv_mmaction.utils import pyav_video
from tconv_mmaction.utils.pyav_video import PyAVVideo, UndecodableFrameError
from tconv_mmaction.utils.sequential_frames import read_through

pytest.importorskip('av', reason='needs PyAV (pip install av), an optional decoder')

# what has to be counted by decoding: packets that are no frame, no time stamps, or no key frame first
DECODED = {'alpha_png.mov', 'odd_size.avi', 'mpeg4_b_frames.avi', 'mpeg1.mpg', 'mpeg2.ts', 'h264.ts',
           'vp8_alt_ref.webm', 'no_key_frame_first.ts', 'no_key_frame_first.mkv', 'no_key_frame_first.avi'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    needs_ffmpeg()
    return tmp_path_factory.mktemp('videos')


def random_access(video, frames, rng, rounds=4):
    """Single frames, backwards, repeated ones and a clip: each has to be the frame of that number."""
    count = len(frames)
    for _ in range(rounds):
        start = int(rng.integers(0, count))
        for wanted in ([start], sorted(rng.integers(0, count, 4)), [count - 1, 0, start, start],
                       range(start, min(start + 5, count)), [-1]):
            assert np.array_equal(video.get_batch(wanted), frames[list(wanted)]), list(wanted)


@pytest.mark.parametrize('name', [*KINDS, *CUT])
def test_frames_counts_and_times_are_those_of_ffmpeg(folder, name):
    path = make(folder, name)
    frames, times = ffmpeg_frames(path), probed_times(path)
    assert len(frames) >= 20 and np.abs(np.diff(frames.astype(int), axis=0)).max((1, 2, 3)).min() > 0  # all differ
    video = PyAVVideo(str(path))
    assert len(video) == len(frames) == len(times) and video.index.decoded == (name in DECODED)
    random_access(video, frames, np.random.default_rng(0))
    assert np.array_equal(np.stack(list(video.all_frames())), frames)
    random_access(video, frames, np.random.default_rng(1), 1)  # after the file was read to its end
    stamps = video.get_frame_timestamp(range(len(frames)))
    known = ~np.isnan(times)
    assert known.sum() >= len(times) - 1  # in some AVI and MPEG-1 files ffprobe has no time for the last frame
    if name != 'no_key_frame_first.avi':  # its packets have no time stamps, and the first frames are guessed
        np.testing.assert_allclose(stamps[known], times[known], atol=1e-6)
        assert (np.diff(stamps) > 0).all()
    if 'variable' in name:
        np.testing.assert_allclose(np.diff(stamps)[:6] * 25, [1, 1, 3, 1, 1, 3], atol=0.01)
    assert video.get_key_indices()


CLIPS = ['decord_flipping_a_pancake.mkv', 'decord_video_90.mov', 'hmdb51_vtest.avi', 'jester_102653.mp4',
         'jester_106862.mp4', 'jester_106937.mp4', 'jester_113877.mp4', 'jester_120331.mp4', 'k400_abseiling.mp4',
         'mmaction2_demo.mp4', 'mmaction2_tests_part_0.mp4', 'mmaction2_tests_test.avi', 'tmbo_video2.webm',
         'torchcodec_av1_video.mkv', 'torchcodec_h265_video.mp4', 'twentybn_sense_test_video.mp4',
         'ucf101_v_Basketball_g01_c01.avi', 'ucf11_v_biking_01_01.mpg']


@pytest.mark.slow
@pytest.mark.parametrize('name', CLIPS)
def test_real_clips(shared, name):
    """Every clip that is there, also those where decord's seeks or counts are wrong, or that it does not open."""
    needs_ffmpeg()
    path = shared / 'data/clips' / name
    frames = ffmpeg_frames(path)
    video = PyAVVideo(str(path))
    assert len(video) == len(frames)
    random_access(video, frames, np.random.default_rng(0), 1)


def test_a_few_real_clips(shared):
    """Where decord is wrong: a count, seeks, AV1."""
    needs_ffmpeg()
    for name, count in (('hmdb51_vtest.avi', 48), ('twentybn_sense_test_video.mp4', 13)):
        path = shared / 'data/clips' / name
        frames, video = ffmpeg_frames(path), PyAVVideo(str(path))
        assert len(video) == len(frames) == count
        random_access(video, frames, np.random.default_rng(0), 1)


def test_a_damaged_file(shared):
    """Its packets promise 50 frames, and 49 decode: said when the last one is asked for, and right from then on."""
    needs_ffmpeg()
    path = shared / 'data/clips/decord_corrupted.mp4'
    video = PyAVVideo(str(path))
    assert len(video) == 50
    with pytest.raises(UndecodableFrameError, match='frame 49 does not decode: 49 frames do'):
        video.get_batch([3, 49])
    assert len(video) == 49
    with pytest.raises(UnreadableVideoError, match=r'decord_corrupted.mp4 cannot be read: .*frame 49 does not decode'):
        TRANSFORMS.build(dict(type='DecordDecode'))(TRANSFORMS.build(dict(type='DecordInit', decoder='pyav'))(dict(
            filename=str(path))) | dict(frame_inds=np.array([49])))


def test_one_key_of_a_config_chooses_it(folder):
    """A pipeline with decoder='pyav', on a file whose edit list decord does not know."""
    path = make(folder, 'edit_list.mp4')
    frames = ffmpeg_frames(path)

    def decoded(**init):
        pipeline = Compose([dict(type='DecordInit', **init), dict(type='WholeVideoSampleFrames', clip_len=5),
                            dict(type='DecordDecode')])
        return pipeline(dict(filename=str(path), start_index=0))

    results = decoded(decoder='pyav')
    indices = np.round(np.linspace(0, len(frames) - 1, 5)).astype(int)
    assert results['total_frames'] == 25 and results['frame_inds'].tolist() == indices.tolist()
    assert np.array_equal(results['imgs'], frames[indices]) and results['avg_fps'] == 25
    assert results['img_shape'] == (64, 96)
    assert decoded()['total_frames'] == 28  # decord shows what the list cuts off
    assert np.array_equal(decoded(decoder='pyav', io_backend='local', num_threads=2)['imgs'], results['imgs'])


def test_auto_takes_it_where_decord_fails(folder, shared, tmp_path):
    plain = make(folder, 'plain.mp4')
    opener = TRANSFORMS.build(dict(type='DecordInit', decoder='auto'))
    assert type(opener(dict(filename=str(plain)))['video_reader']).__module__ == 'decord.video_reader'
    av1 = opener(dict(filename=str(shared / 'data/clips/torchcodec_av1_video.mkv')))
    assert isinstance(av1['video_reader'], PyAVVideo) and av1['total_frames'] == 125
    (tmp_path / 'text.mp4').write_text('404 not found')
    for name, message in (('text.mp4', 'the file holds text'), ('gone.mp4', 'there is no such file')):
        with pytest.raises(UnreadableVideoError, match=message):
            opener(dict(filename=str(tmp_path / name)))
        with pytest.raises(UnreadableVideoError, match=message):
            TRANSFORMS.build(dict(type='DecordInit', decoder='pyav'))(dict(filename=str(tmp_path / name)))


def test_a_count_that_is_known_saves_the_counting(folder, monkeypatch):
    path = make(folder, 'mpeg4_b_frames.avi')
    frames = ffmpeg_frames(path)
    monkeypatch.setattr(PyAVVideo, '_by_decoding', lambda self: pytest.fail('it was decoded to be counted'))
    results = TRANSFORMS.build(dict(type='DecordInit', decoder='pyav'))(dict(filename=str(path), counted_frames=40))
    assert results['total_frames'] == 40
    assert np.array_equal(results['video_reader'].get_batch([0, 7, 3]), frames[[0, 7, 3]])


def test_content_in_memory_and_reading_through(folder):
    path = make(folder, 'rotated_90.mp4')
    frames = ffmpeg_frames(path)
    assert frames.shape[1:3] == (96, 64)  # 96x64 on its side
    video = PyAVVideo(io.BytesIO(path.read_bytes()))
    assert np.array_equal(video.get_batch([5, 30]), frames[[5, 30]]) and video.get_batch([]).shape == (0, 96, 64, 3)
    through = read_through(str(path), 'pyav')
    assert (through.frames, through.shape, through.fps) == (40, (96, 64), 25)
    assert np.array_equal(np.concatenate(list(through.chunks)), frames)


def test_mistakes(folder, monkeypatch, tmp_path):
    path = make(folder, 'plain.mp4')
    with pytest.raises(IndexError, match='frames 0 to 40 of a video of 40'):
        PyAVVideo(str(path)).get_batch([0, 40])
    subprocess.run(['ffmpeg', '-v', 'error', '-f', 'lavfi', '-i', 'sine=duration=0.2', str(tmp_path / 'sound.wav')],
                   check=True)
    with pytest.raises(ValueError, match='the file has no video stream'):
        PyAVVideo(str(tmp_path / 'sound.wav'))
    with pytest.raises(ValueError, match=r"decoder of DecordInit is one of .*, got 'opencv'"):
        TRANSFORMS.build(dict(type='DecordInit', decoder='opencv'))
    with pytest.raises(ValueError, match='short_side=20 makes frames smaller while decord decodes'):
        TRANSFORMS.build(dict(type='DecordInit', decoder='pyav', short_side=20))
    results = TRANSFORMS.build(dict(type='DecordInit', decoder='pyav'))(dict(filename=str(path)))
    with pytest.raises(ValueError, match="mode='efficient' gives key frames"):
        TRANSFORMS.build(dict(type='DecordDecode', mode='efficient'))(dict(results, frame_inds=np.arange(3)))


def test_without_pyav_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'av', None)
    with pytest.raises(ModuleNotFoundError, match='needs PyAV, which is not installed: install it with: pip'):
        pyav_video.load_av()
