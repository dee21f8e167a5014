"""DecordInit(short_side=...) and DecordDecode(mode='forward'): the frames, boxes and errors of the decoding without."""
import cv2
import decord
import numpy as np
import pytest
from helpers.videos import dataset_cfg, listed, make_videos, smooth_clip, write_avi, write_film
from mmaction.registry import DATASETS, TRANSFORMS
from mmengine.dataset import Compose
from mmengine.fileio import FileClient, LocalBackend

from tconv_mmaction.transforms import UnreadableVideoError
from tconv_mmaction.transforms.decord_video import WIDTHS_NOT_COPIED, reading_order, reduced_shape


def write_moving(path, fourcc, width, height, count):
    """A window that wanders over a smooth random picture."""
    picture = np.random.RandomState(0).randint(0, 256, (12, 12, 3), dtype='uint8')
    picture = cv2.resize(picture, (width + 2 * count, height + count), interpolation=cv2.INTER_CUBIC)
    return write_film(path, [picture[t:t + height, 2 * t:2 * t + width] for t in range(count)], fourcc, 25.)


@pytest.fixture(scope='module')
def moving(tmp_path_factory):
    """MPEG-4, a key frame every 12 frames: 40 of 160x120."""
    return write_moving(tmp_path_factory.mktemp('moving') / 'moving.mp4', 'mp4v', 160, 120, 40)


def every_frame(path):
    """All frames in one go, without a seek."""
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def decoded(path, indices, mode='accurate', **init):
    results = TRANSFORMS.build(dict(type='DecordInit', **init))(dict(filename=str(path)))
    return TRANSFORMS.build(dict(type='DecordDecode', mode=mode))(dict(results, frame_inds=np.array(indices)))


def orders(count):
    """Sorted, with repeats, backwards, clips that overlap (each backwards, too), sparse, and the last frame alone."""
    rng = np.random.RandomState(0)
    clips = np.concatenate([np.arange(start, start + 9, 2) for start in (0, 3, 5, 4)]) % count
    return dict(sorted=np.arange(count // 4, count, 2), repeats=np.repeat(np.arange(0, count, 3), 2),
                backwards=np.arange(count)[::-1], clips=clips, clips_backwards=clips.reshape(4, 5)[:, ::-1].ravel(),
                random=rng.randint(0, count, 20), sparse=np.linspace(0, count - 1, 4).astype(int),
                last=np.array([count - 1]))


@pytest.mark.parametrize('fourcc, ending', [('mp4v', 'mp4'), ('MJPG', 'avi'), ('FFV1', 'mkv')])
def test_forward_gives_the_frames_of_accurate(tmp_path, fourcc, ending):
    path = write_moving(tmp_path / f'v.{ending}', fourcc, 80, 60, 40)
    expected = every_frame(path)
    assert len(np.unique(expected.reshape(40, -1), axis=0)) == 40  # no two frames are the same
    for name, indices in orders(40).items():
        accurate, forward = (decoded(path, indices, mode)['imgs'] for mode in ('accurate', 'forward'))
        assert np.array_equal(accurate, expected[indices]) and np.array_equal(forward, expected[indices]), name


@pytest.mark.parametrize('name', ['jester_106862.mp4', 'jester_102653.mp4', 'twentybn_sense_test_video.mp4',
                                  'decord_video_90.mov', 'ucf101_v_Basketball_g01_c01.avi',
                                  'mmaction2_tests_part_0.mp4', 'tmbo_video2.webm'])
def test_forward_on_real_clips(shared, name):
    """H.264, MPEG-4 and VP8; 'accurate' takes seconds to go backwards in the longer ones, so only the small ones do."""
    path = shared / 'data/clips' / name
    expected = every_frame(path)
    for order, indices in orders(len(expected)).items():
        assert np.array_equal(decoded(path, indices, 'forward')['imgs'], expected[indices]), order
        if expected.size < 3e6:
            assert np.array_equal(decoded(path, indices)['imgs'], expected[indices]), order


def test_forward_where_seeks_miss(shared):
    """decord 0.6 counts a frame in this file that cannot be decoded, and every seek lands one or more frames off."""
    path = shared / 'data/clips/hmdb51_vtest.avi'
    expected = every_frame(path)
    assert not np.array_equal(decoded(path, [20])['imgs'][0], expected[20])  # what 'accurate' means there
    indices = np.arange(0, 40)[::-1]
    assert np.array_equal(decoded(path, indices, 'forward')['imgs'], expected[indices])
    assert not np.array_equal(decoded(path, indices)['imgs'], expected[indices])


def test_reading_order():
    keys = [0, 12, 24, 36]
    assert reading_order([3, 5, 11], keys) == [3, 5, 11]  # no key frame in between: decord reads on by itself
    assert reading_order([9, 13, 14], keys) == [9, 11, 12, 13, 14]  # 10 and 11 for nothing instead of a seek to 12
    assert reading_order([5, 13], keys) == [5, 13]  # six for nothing are too many
    assert reading_order([6, 13], keys) == [6, 11, 12, 13]
    assert reading_order([11, 12, 23, 24], keys) == [11, 12, 23, 24]  # nothing is left out
    assert reading_order([13], keys) == [13]  # the first one may be far: one seek
    assert reading_order([5, 30], keys) == [5, 30]
    assert reading_order([0, 4, 8], list(range(20))) == [0, 1, 2, 3, 4, 5, 6, 7, 8]  # every frame a key frame
    assert reading_order([0, 8], list(range(20))) == [0, 8]


def test_forward_decodes_each_frame_once(moving, monkeypatch):
    asked, plain = [], decord.VideoReader.get_batch
    monkeypatch.setattr(decord.VideoReader, 'get_batch', lambda self, i: (asked.extend(i), plain(self, i))[1])
    indices = np.concatenate([np.arange(start, start + 16, 2)[::-1] for start in (0, 4, 8)])
    decoded(moving, indices, 'forward')
    assert asked == [0, 2, 4, 6, 8, 10, 11, 12, 14, 16, 18, 20, 22]


def test_frames_that_come_twice_share_no_memory(moving):
    """mmaction2's Flip works in place: what is shared would be flipped twice."""
    imgs = decoded(moving, [3, 3, 5, 3], 'forward')['imgs']
    before = imgs[1].copy()
    imgs[0][:] = 0
    assert np.array_equal(imgs[1], before) and np.array_equal(imgs[3], before)


def test_frames_out_of_range(moving):
    assert np.array_equal(decoded(moving, [-1, 0], 'forward')['imgs'], decoded(moving, [-1, 0])['imgs'])
    for index in (40, -41):
        for mode in ('accurate', 'forward'):
            with pytest.raises(IndexError):
                decoded(moving, [3, index], mode)


def test_wrong_options():
    with pytest.raises(ValueError, match="'accurate', 'efficient' or 'forward', got 'fast'"):
        TRANSFORMS.build(dict(type='DecordDecode', mode='fast'))
    for short_side in (0, -1, 2.5, True, '256'):
        with pytest.raises(ValueError, match='short_side is a whole number of pixels'):
            TRANSFORMS.build(dict(type='DecordInit', short_side=short_side))


def test_the_options_are_printed():
    assert str(TRANSFORMS.build(dict(type='DecordInit'))) == 'DecordInit(io_backend=disk, num_threads=1)'
    assert str(TRANSFORMS.build(dict(type='DecordInit', short_side=256))) == (
        'DecordInit(io_backend=disk, num_threads=1, short_side=256)')
    assert str(TRANSFORMS.build(dict(type='DecordDecode', mode='forward'))) == 'DecordDecode(mode=forward)'


# -- decoding at a reduced size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('height, width', [(60, 80), (90, 51), (67, 67), (101, 180)])
@pytest.mark.parametrize('mode', ['accurate', 'efficient', 'forward'])
def test_reduced_frames(tmp_path, height, width, mode):
    """What Resize makes of the whole frames, in keys and size; and nearly so in pixels, where nothing is fine."""
    write_avi(tmp_path / 'v.avi', smooth_clip(6, height, width))
    resize = TRANSFORMS.build(dict(type='Resize', scale=(-1, 40)))
    reduced, expected = (decoded(tmp_path / 'v.avi', [4, 1, 2, 2], mode, **init) for init in (dict(short_side=40), {}))
    assert expected['img_shape'] == (height, width) and 'video_shape' not in expected
    expected = resize(expected)
    frames = np.stack(reduced['imgs'])
    assert frames.shape[1:3] == reduced['img_shape'] == expected['img_shape'] and min(frames.shape[1:3]) == 40
    assert np.abs(frames.astype(int) - np.stack(expected['imgs'])).max() <= 4
    again = resize(reduced)
    assert np.array_equal(again['imgs'], frames)  # it finds nothing to do
    for key in ('img_shape', 'original_shape', 'keep_ratio'):
        assert again[key] == expected[key], key
    np.testing.assert_allclose(again['scale_factor'], expected['scale_factor'], rtol=1e-6)


def test_reduced_frames_average_what_they_leave_out(tmp_path):
    """Stripes of one pixel: FFmpeg makes them grey, Resize's bilinear rule takes two pixels of ten and leaves some."""
    clip = np.zeros((3, 200, 320, 3), dtype='uint8')
    clip[:, :, ::2] = 255
    write_avi(tmp_path / 'v.avi', clip)
    frame = decoded(tmp_path / 'v.avi', [1], short_side=20)['imgs'][0]
    assert frame.shape == (20, 32, 3) and abs(frame.mean() - 127.5) < 2 and np.abs(frame[:, 1:-1] - 127.5).max() < 4


def test_reduced_forward_is_reduced_accurate(moving):
    for name, indices in orders(40).items():
        accurate, forward = (decoded(moving, indices, mode, short_side=50)['imgs'] for mode in ('accurate', 'forward'))
        assert np.array_equal(accurate, forward) and accurate[0].shape == (50, 67, 3), name


def test_never_enlarged(moving):
    results = decoded(moving, [0, 1], short_side=120)
    assert 'video_shape' not in results and 'scale_factor' not in results and results['img_shape'] == (120, 160)
    assert np.array_equal(results['imgs'], every_frame(moving)[:2])
    assert decoded(moving, [0], short_side=500)['img_shape'] == (120, 160)


def test_reduced_shape():
    assert reduced_shape((360, 480), 256) == (256, 341) and reduced_shape((640, 480), 256) == (341, 256)
    assert reduced_shape((1080, 1920), 256) == (256, 455) and reduced_shape((256, 340), 256) == (256, 340)
    assert reduced_shape((200, 100), 48) == (200, 100) and reduced_shape((100, 200), 48) == (48, 96)


def test_widths_that_decord_cannot_copy(moving):
    """Up to 100 pixels no others fail (how rows are padded may depend on the CPU). The video then keeps its size."""
    failed = []
    for width in range(1, 100):
        try:
            decord.VideoReader(str(moving), num_threads=1, width=width, height=20).get_batch([0])
        except decord.DECORDError as error:
            assert 'from_size == to_size' in str(error)
            failed.append(width)
    assert set(failed) <= set(WIDTHS_NOT_COPIED)
    assert decoded(moving, [0], short_side=54)['img_shape'] == (120, 160)  # would be 72 wide
    assert decoded(moving, [0], short_side=55)['img_shape'] == (55, 73)


@pytest.mark.parametrize('pipeline', [[], [dict(type='Resize', scale=(-1, 60))]])
def test_boxes_fit_the_frames(moving, pipeline):
    """Fractions in, pixels of the frames out."""
    boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0., 0., 1., 1.]])
    steps = Compose([dict(type='DecordDecode'), *pipeline])
    opened = TRANSFORMS.build(dict(type='DecordInit', short_side=60))(dict(filename=str(moving)))
    results = steps(dict(opened, frame_inds=np.arange(3), gt_bboxes=boxes, proposals=boxes[:1]))
    expected = [[8, 12, 40, 54], [0, 0, 80, 60]]  # 80x60
    np.testing.assert_allclose(results['gt_bboxes'], expected, rtol=1e-6)
    np.testing.assert_allclose(results['proposals'], expected[:1], rtol=1e-6)
    assert results['original_shape'] == (120, 160)
    np.testing.assert_allclose(results['scale_factor'], [0.5, 0.5])


def test_keypoints_are_refused(moving):
    opened = TRANSFORMS.build(dict(type='DecordInit', short_side=60))(dict(filename=str(moving)))
    decode = TRANSFORMS.build(dict(type='DecordDecode'))
    with pytest.raises(ValueError, match='moving.mp4 has keypoints, in pixels of its 160x120, .* leave short_side out'):
        decode(dict(opened, frame_inds=np.arange(3), keypoint=np.zeros((1, 3, 17, 2))))
    opened = TRANSFORMS.build(dict(type='DecordInit', short_side=120))(dict(filename=str(moving)))
    decode(dict(opened, frame_inds=np.arange(3), keypoint=np.zeros((1, 3, 17, 2))))  # these have their size


class CountingBackend(LocalBackend):
    fetched = []

    def get(self, filepath):
        self.fetched.append(filepath)
        return super().get(filepath)


def test_bytes_of_another_backend(moving):
    FileClient.register_backend('counting', CountingBackend, force=True)
    for init, calls in ((dict(short_side=60), 1), ({}, 1)):
        CountingBackend.fetched.clear()
        indices = np.array([7, 3, 30, 3])
        other = decoded(moving, indices, 'forward', io_backend='counting', **init)
        assert np.array_equal(other['imgs'], decoded(moving, indices, **init)['imgs'])
        assert CountingBackend.fetched == [str(moving)] * calls  # fetched once, also where it is opened twice


def test_rotated_and_real_clips(shared):
    for name, shape, smaller in (('decord_video_90.mov', (568, 320), (284, 160)),
                                 ('k400_abseiling.mp4', (256, 454), (160, 284))):
        path = shared / 'data/clips' / name
        whole, reduced = (decoded(path, [0, 1, 2], **init) for init in ({}, dict(short_side=160)))
        assert reduced['original_shape'] == shape == whole['img_shape'] and reduced['img_shape'] == smaller
        averaged = np.stack([cv2.resize(img, smaller[::-1], interpolation=cv2.INTER_AREA) for img in whole['imgs']])
        assert np.abs(np.stack(reduced['imgs']).astype(int) - averaged).mean() < 4


# -- damaged files ----------------------------------------------------------------------------------------------------


OPTIONS = [dict(type='DecordInit', short_side=17), dict(type='DecordDecode', mode='forward')]


@pytest.mark.parametrize('data, kind', [(None, 'missing'), (b'', 'empty'), (b'<html>\n', 'text'),
                                        (bytes(range(256)) * 9, 'damaged')])
def test_unreadable_files_are_named(tmp_path, data, kind):
    path = tmp_path / 'bad.mp4'
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UnreadableVideoError, match='bad.mp4 cannot be read') as caught:
        TRANSFORMS.build(OPTIONS[0])(dict(filename=str(path)))
    assert caught.value.kind == kind


def test_a_cut_off_avi_gives_the_frames_that_are_there(tmp_path):
    clip, path = smooth_clip(40, 64, 80), tmp_path / 'cut.avi'
    write_avi(path, clip)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    opened = TRANSFORMS.build(OPTIONS[0])(dict(filename=str(path)))
    indices = np.arange(opened['total_frames'] - 1)[::-1]
    frames = TRANSFORMS.build(OPTIONS[1])(dict(opened, frame_inds=indices))['imgs']
    small = np.stack([cv2.resize(frame, (21, 17), interpolation=cv2.INTER_AREA) for frame in clip[indices]])
    assert len(frames) > 15 and np.abs(np.stack(frames).astype(int) - small).mean() < 3


def test_a_width_that_cannot_be_copied_is_named_in_forward_too(tmp_path):
    write_avi(tmp_path / 'w48.avi', smooth_clip(3, 32, 48))
    with pytest.raises(UnreadableVideoError, match='w48.avi cannot be read: .*width'):
        decoded(tmp_path / 'w48.avi', [0, 2], 'forward', short_side=100)


def test_frames_that_cannot_be_decoded(shared):
    path = shared / 'data/clips/decord_corrupted.mp4'
    for init in ({}, dict(short_side=100)):
        with pytest.raises(UnreadableVideoError, match='corrupted.mp4 cannot be read: .*frames 30 to 45 of the'):
            decoded(path, np.arange(30, 46), 'forward', **init)
    indices = [9, 3, 12]
    assert np.array_equal(decoded(path, indices, 'forward')['imgs'], decoded(path, indices)['imgs'])


def test_the_data_set_replaces_and_lists(tmp_path):
    folder = tmp_path / 'v'
    names = make_videos(folder, 38, [b'text', b''])
    steps = [OPTIONS[0], dict(type='SampleFrames', clip_len=4, frame_interval=1), OPTIONS[1],
             dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
    data = DATASETS.build(dataset_cfg(folder, pipeline=steps))
    for index, name in enumerate(names):
        inputs = data[index]['inputs']
        assert inputs.shape == (1, 3, 4, 17, 17) and (inputs == inputs.flatten()[0]).all()
        if name.startswith('v'):
            assert int(inputs.flatten()[0]) == int(name[1:4])
    assert sorted(entry['kind'] for entry in listed(folder / 'bad.jsonl')) == ['empty', 'text']
