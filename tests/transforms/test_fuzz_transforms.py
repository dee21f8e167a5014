"""The transforms on videos of 1 to 500 frames and images of 1 to 2000 pixels a side (hypothesis).

Images are strided views of a few bytes, so a video of 500 frames of 2000x2000 pixels takes no memory. What holds:
indices are frames of the video; a crop lies inside its frame, with the same size in all of them; dtypes stay; what is
drawn is drawn inside its range; reversing twice changes nothing. Arguments and samples for which that cannot be are
refused with a ValueError.
"""
import math

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from tconv_mmaction.transforms import EgoMotionCrop, RandomRateSampleFrames, ReverseFrames, WholeVideoSampleFrames

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 2000) | st.sampled_from([1, 2, 3, 224, 1999, 2000])
DTYPES = st.sampled_from(['uint8', 'int16', 'uint16', 'float16', 'float32', 'float64'])


@st.composite
def samplers(draw):
    """Arguments of RandomRateSampleFrames that its constructor should take."""
    low = draw(st.integers(1, 8))
    return dict(clip_len=draw(st.integers(1, 500)), frame_intervals=(low, low + draw(st.integers(0, 8))),
                test_interval=draw(st.integers(1, 8)), num_clips=draw(st.integers(1, 10)),
                temporal_jitter=draw(st.booleans()), twice_sample=draw(st.booleans()),
                out_of_bound_opt=draw(st.sampled_from(['loop', 'repeat_last'])), test_mode=draw(st.booleans()),
                keep_tail_frames=draw(st.booleans()), target_fps=draw(st.none() | st.integers(1, 60)),
                constant=draw(st.sampled_from(['clip_len', 'duration'])))


@given(samplers(), st.integers(1, 500), st.integers(0, 2), st.none() | st.just(0.) | st.floats(0.5, 240.), SEEDS)
def test_random_rate_stays_in_the_video(arguments, total, start, fps, seed):
    np.random.seed(seed)
    try:
        transform = RandomRateSampleFrames(**arguments)
    except ValueError as error:
        assert 'RandomRateSampleFrames' in str(error)
        return
    video = dict(total_frames=total, start_index=start)
    if fps is not None:
        video['avg_fps'] = fps
    results = transform(video)
    indices, clip_len = results['frame_inds'], results['clip_len']
    assert indices.dtype == np.int32 and indices.min() >= start and indices.max() < start + total
    views = arguments['num_clips'] * (2 if arguments['twice_sample'] and arguments['test_mode'] else 1)
    assert indices.shape == (views * clip_len, )
    low, high = arguments['frame_intervals']
    span = arguments['clip_len'] * arguments['test_interval']
    if arguments['test_mode']:
        assert results['frame_interval'] == arguments['test_interval']
    else:
        assert low <= results['frame_interval'] <= high
    if arguments['constant'] == 'duration' and not arguments['test_mode']:
        assert clip_len == span // results['frame_interval'] >= 1
    else:
        assert clip_len == arguments['clip_len']
    steps = np.diff(indices.reshape(-1, clip_len).astype(int), axis=1)
    if span * high // max(1, arguments['test_interval']) <= total and not (
            arguments['temporal_jitter'] or arguments['target_fps']) and views == 1:
        assert (steps == results['frame_interval']).all()  # the video is long enough: no looping


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 3), st.sampled_from(['repeat', 'duplicate_ends']))
def test_whole_video_covers_the_video(clip_len, total, start, short):
    results = WholeVideoSampleFrames(clip_len, short)(dict(total_frames=total, start_index=start))
    indices = results['frame_inds'].astype(int) - start
    assert results['frame_inds'].dtype == np.int32 and results['num_clips'] == 1
    assert indices.shape == (clip_len, ) and indices.min() >= 0 and indices.max() < total
    assert (np.diff(indices) >= 0).all()
    if clip_len > 1 and (short == 'repeat' or total >= clip_len):
        assert indices[0] == 0 and indices[-1] == total - 1
        exact = np.arange(clip_len) * (total - 1) / (clip_len - 1)
        assert np.abs(indices - exact).max() <= 0.5 + 1e-9
    if total <= clip_len:
        assert set(indices) == set(range(total)) or clip_len == 1 and total > 1  # every frame is in


@st.composite
def images(draw, frames):
    """(frames of one size, their shape): read-only strided views of one pixel row, any size at no cost."""
    height, width, dtype = draw(SIDES), draw(SIDES), np.dtype(draw(DTYPES))
    channels = draw(st.sampled_from([None, 1, 2, 3, 4]))
    shape = (height, width) if channels is None else (height, width, channels)
    row = np.arange(2000 * 4).astype(dtype)
    strides = (0, row.itemsize) if channels is None else (0, row.itemsize * channels, row.itemsize)
    return [as_strided(row, shape, strides, writeable=False)] * frames, shape


@st.composite
def crops(draw):
    """Arguments of EgoMotionCrop of both kinds."""
    sigma = draw(st.sampled_from([0, 0.5, 2.0, 50.0, 1e6]) | st.floats(0, 1e3))
    if draw(st.booleans()):
        return dict(crop_size=draw(st.integers(1, 600)), sigma=sigma)
    low = draw(st.floats(0.001, 1))
    ratio = draw(st.floats(0.05, 20))
    return dict(area_range=(low, draw(st.floats(low, 1))), aspect_ratio_range=(ratio, draw(st.floats(ratio, 20))),
                sigma=sigma)


@given(crops(), st.integers(1, 500), st.integers(1, 4), st.data(), SEEDS)
def test_ego_motion_crops_lie_inside(arguments, clip_len, clips, data, seed):
    np.random.seed(seed)
    imgs, shape = data.draw(images(clip_len * clips))
    flow = data.draw(st.booleans()) and (len(shape) == 2 or shape[2] == 1)
    planes = 2 if flow else 1
    sample = dict(imgs=imgs * planes, img_shape=shape[:2], clip_len=clip_len, num_clips=clips,
                  modality='Flow' if flow else 'RGB')
    transform = EgoMotionCrop(**arguments)
    try:
        results = transform(dict(sample))
    except ValueError as error:
        assert 'EgoMotionCrop: images of' in str(error)
        small = min(shape[:2]) < arguments.get('crop_size', 0)
        tiny = 'area_range' in arguments and math.prod(shape[:2]) * arguments['area_range'][0] < 20
        assert small or tiny
        return
    height, width = results['img_shape']
    left, top, right, bottom = (int(v) for v in results['crop_bbox'])
    assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
    assert (height, width) == (bottom - top, right - left)
    assert len(results['imgs']) == clip_len * clips * planes
    assert {img.shape for img in results['imgs']} == {(height, width, *shape[2:])}
    assert {img.dtype for img in results['imgs']} == {imgs[0].dtype}
    assert results['ego_velocity'].shape == (clips, 2) and np.isfinite(results['ego_velocity']).all()
    assert (results['crop_quadruple'] >= 0).all() and (results['crop_quadruple'] <= 1 + 1e-6).all()
    for i, img in enumerate(results['imgs']):  # where the view starts in its frame, from its address
        offset = img.__array_interface__['data'][0] - imgs[0].__array_interface__['data'][0]
        x = offset // imgs[0].strides[1]
        frame, clip = i // planes % clip_len, i // planes // clip_len
        free = left + np.rint(frame * results['ego_velocity'][clip, 0])
        assert x == np.clip(free, 0, shape[1] - width)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 6), st.integers(0, 6), SEEDS)
def test_ego_motion_moves_keypoints_with_the_images(clip_len, side, persons, joints, seed):
    np.random.seed(seed)
    points = np.random.rand(persons, clip_len, joints, 2).astype(np.float32) * side
    results = EgoMotionCrop(crop_size=side, sigma=3.)(
        dict(keypoint=points.copy(), img_shape=(2 * side, 3 * side), clip_len=clip_len))
    moved = points - results['keypoint']
    assert results['keypoint'].shape == points.shape
    if joints:
        steps = np.diff(moved[0, :, 0], axis=0)
        limits = np.array([2 * side, side])
        assert (moved.min((0, 1, 2)) >= -1e-3).all() and (moved.max((0, 1, 2)) <= limits + 1e-3).all()
        assert np.allclose(moved, moved[:1, :, :1], atol=1e-3)  # one box per frame
        assert (steps * np.sign(results['ego_velocity'][0]) >= -1e-3).all()


ODD = (st.integers(-2, 3) | st.floats() | st.none() | st.text(max_size=3) | st.booleans()
       | st.lists(st.integers(-1, 5) | st.floats(), max_size=3))


@given(st.sampled_from([RandomRateSampleFrames, WholeVideoSampleFrames, EgoMotionCrop, ReverseFrames]), st.data())
@example(EgoMotionCrop, dict(area_range=(0.5, 1), aspect_ratio_range=(1, math.inf)))
def test_wrong_arguments_are_named(cls, data):
    """A transform whose repr works, or a ValueError or TypeError."""
    if isinstance(data, dict):
        arguments = data
    else:
        names = [name for name in cls.__init__.__code__.co_varnames[1:cls.__init__.__code__.co_argcount]]
        arguments = data.draw(st.dictionaries(st.sampled_from(names), ODD, max_size=4))
    try:
        transform = cls(**arguments)
    except (ValueError, TypeError) as error:
        assert str(error)
        return
    assert cls.__name__ in repr(transform)
    if cls is EgoMotionCrop:
        np.random.seed(0)
        results = transform(dict(imgs=[np.zeros((400, 400, 3), np.uint8)] * 2))
        assert min(results['img_shape']) >= 1 and np.isfinite(results['crop_quadruple']).all()
    elif cls is not ReverseFrames:
        indices = transform(dict(total_frames=9, start_index=0))['frame_inds']
        assert indices.min() >= 0 and indices.max() < 9


@given(st.integers(1, 500), st.integers(1, 10), st.booleans(), st.booleans(), st.booleans())
def test_reverse_is_its_own_inverse(clip_len, num_clips, with_imgs, flat, twice_sample):
    """Every clip is reversed in its place, also the clips that twice_sample adds without counting them."""
    clips = num_clips * (1 + twice_sample)
    indices = np.arange(clips * clip_len, dtype=np.int32).reshape((-1, ) if flat else (clips, clip_len))
    sample = dict(frame_inds=indices, num_clips=num_clips, clip_len=clip_len)
    if with_imgs:
        sample['imgs'] = list(range(clips * clip_len))
    reverse = ReverseFrames()
    once = reverse(dict(sample))
    want = indices.reshape(clips, clip_len)[:, ::-1]
    assert np.array_equal(once['frame_inds'].reshape(clips, clip_len), want)
    assert once['frame_inds'].shape == indices.shape and once['frame_inds'].dtype == np.int32
    if with_imgs:
        assert once['imgs'] == want.ravel().tolist()
    twice = reverse(dict(once))
    assert (twice['frame_inds'] == indices).all() and twice.get('imgs') == sample.get('imgs')
    still = ReverseFrames(enabled=False)(dict(sample))
    assert still == sample


@given(st.integers(0, 20), st.integers(0, 6), st.none() | st.integers(0, 20), st.integers(0, 20) | st.none())
def test_reverse_names_what_does_not_fit(frames, num_clips, clip_len, images_there):
    sample = dict(frame_inds=np.arange(frames), num_clips=num_clips)
    if clip_len is not None:
        sample['clip_len'] = clip_len
    if images_there is not None:
        sample['imgs'] = list(range(images_there))
    try:
        results = ReverseFrames()(sample)
    except ValueError as error:
        assert 'ReverseFrames' in str(error)
    else:
        assert sorted(results['frame_inds']) == list(range(frames))


@given(samplers(), st.integers(1, 300), SEEDS)
def test_samplers_and_reverse_together(arguments, total, seed):
    """What the sampler gives, ReverseFrames takes: clip by clip backwards."""
    assume(arguments['clip_len'] <= 60)
    np.random.seed(seed)
    try:
        sampled = RandomRateSampleFrames(**arguments)(dict(total_frames=total, start_index=0))
    except ValueError:
        return
    reversed_ = ReverseFrames()(dict(sampled))['frame_inds']
    shape = (-1, sampled['clip_len'])
    assert (reversed_.reshape(shape) == sampled['frame_inds'].reshape(shape)[:, ::-1]).all()
