"""EgoMotionCrop: sigma=0 against mmaction2's crops, a naive crop, the normal distribution, and a real video."""
import random
import sys
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.scripts import load_script
from mmaction.datasets.transforms import RandomCrop, RandomResizedCrop
from mmaction.registry import TRANSFORMS
from mmengine.dataset import Compose, worker_init_fn
from torch.utils.data import DataLoader, Dataset

from tconv_mmaction.cli import mim_scripts
from tconv_mmaction.transforms import EgoMotionCrop
from tconv_mmaction.transforms.ego_motion import moving_offsets


def seed_all(seed):
    np.random.seed(seed)
    random.seed(seed)


def coordinate_clip(frames, height=40, width=60, planes=2):
    """Images in which pixel (x, y) holds its own position (and, with a third plane, the frame's index)."""
    y, x = np.mgrid[:height, :width]
    return [np.stack([x, y, np.full_like(x, i)][:planes], axis=-1).astype(np.int32) for i in range(frames)]


def sample(imgs, clip_len=None, num_clips=1, **other):
    return dict(imgs=imgs, img_shape=imgs[0].shape[:2], clip_len=clip_len or len(imgs), num_clips=num_clips,
                modality='RGB', **other)


# -- sigma = 0 is mmaction2's transform ---------------------------------------------------------------------------


@pytest.mark.parametrize('as_array', [False, True])
@pytest.mark.parametrize('options, theirs', [
    (dict(crop_size=24), RandomCrop(24)),
    (dict(crop_size=40), RandomCrop(40)),
    (dict(area_range=(0.1, 0.9)), RandomResizedCrop((0.1, 0.9))),
    (dict(area_range=[0.3, 1.0], aspect_ratio_range=[0.5, 2.0]), RandomResizedCrop((0.3, 1.0), (0.5, 2.0))),
    (dict(aspect_ratio_range=(1., 1.)), RandomResizedCrop(aspect_ratio_range=(1., 1.))),
    (dict(area_range=(1., 1.), aspect_ratio_range=(3., 3.)), RandomResizedCrop((1., 1.), (3., 3.))),  # its fallback
], ids=str)
def test_sigma_0_is_bit_identical(options, theirs, as_array):
    imgs = [np.random.randint(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(6)]
    imgs = np.stack(imgs) if as_array else imgs
    boxes = np.array([[3., 4., 50., 30.]])
    ours = EgoMotionCrop(sigma=0, **options)
    for seed in range(20):
        inputs = sample(imgs, gt_bboxes=boxes, proposals=boxes + 1,
                        keypoint=np.random.rand(2, 6, 17, 2).astype(np.float16))
        seed_all(seed)
        got = ours(dict(inputs))
        states = np.random.get_state()[1].copy(), np.random.get_state()[2], random.getstate()
        seed_all(seed)
        expected = theirs(dict(inputs))
        assert states[1:] == (np.random.get_state()[2], random.getstate())
        np.testing.assert_array_equal(states[0], np.random.get_state()[1])
        assert got.keys() - expected.keys() == {'ego_velocity'} and expected.keys() <= got.keys()
        for key in expected:
            assert type(got[key]) is type(expected[key])
            np.testing.assert_array_equal(np.asarray(got[key]), np.asarray(expected[key]), strict=True)
        np.testing.assert_array_equal(got['ego_velocity'], np.zeros((1, 2)))


# -- the motion ---------------------------------------------------------------------------------------------------


def naive_positions(start, velocity, frames, room):
    """Eq. 9, frame by frame, rounded to the nearest pixel (Python's round: halves to even) and held at the border."""
    positions = []
    for i in range(frames):
        x, y = start[0] + round(velocity[0] * i), start[1] + round(velocity[1] * i)
        positions.append((min(max(x, 0), room[0]), min(max(y, 0), room[1])))
    return positions


def test_moving_offsets_by_hand():
    velocity = np.array([[1.5, -0.25], [-2., 10.]])
    offsets = moving_offsets((3, 4), velocity, 4, (6, 20))
    expected = [[3, 4], [5, 4], [6, 4], [6, 3], [3, 4], [1, 14], [0, 20], [0, 20]]  # 1.5 -> 2, 4.5 -> 4 (6 is the end)
    np.testing.assert_array_equal(offsets, expected)


@pytest.mark.parametrize('as_array', [False, True])
@pytest.mark.parametrize('options', [dict(crop_size=20), dict(area_range=(0.1, 0.5))], ids=str)
def test_every_frame_is_cropped_where_eq_9_says(options, as_array):
    transform = EgoMotionCrop(sigma=3., **options)
    imgs = coordinate_clip(10, planes=3)
    held = 0
    for _ in range(50):
        results = transform(sample(np.stack(imgs) if as_array else imgs))
        left, top, right, bottom = results['crop_bbox']
        size = (bottom - top, right - left)
        (velocity,) = results['ego_velocity']
        positions = naive_positions((left, top), velocity, 10, (60 - size[1], 40 - size[0]))
        for i, (img, (x, y)) in enumerate(zip(results['imgs'], positions)):
            np.testing.assert_array_equal(img, imgs[i][y:y + size[0], x:x + size[1]])
        assert len(results['imgs']) == 10 and results['img_shape'] == size
        held += positions[-1] in [(0, 0), (0, 40 - size[0]), (60 - size[1], 0), (60 - size[1], 40 - size[0])]
        np.testing.assert_allclose(results['crop_quadruple'],
                                   [left / 60, top / 40, size[1] / 60, size[0] / 40], rtol=1e-6)
    assert 0 < held < 50


def test_each_clip_has_a_velocity_and_starts_at_the_box():
    transform = EgoMotionCrop(crop_size=20, sigma=1.)
    imgs = coordinate_clip(3 * 5)
    results = transform(sample(imgs, clip_len=5, num_clips=3))
    assert results['ego_velocity'].shape == (3, 2) and len(np.unique(results['ego_velocity'])) == 6
    left, top = results['crop_bbox'][:2]
    for clip, velocity in enumerate(results['ego_velocity']):
        positions = naive_positions((left, top), velocity, 5, (40, 20))
        assert positions[0] == (left, top)
        for img, position in zip(results['imgs'][clip * 5:], positions):
            assert tuple(img[0, 0]) == position
    twice = transform(sample(imgs[:12], clip_len=3, num_clips=2))  # twice_sample=True: 2 * num_clips clips
    assert twice['ego_velocity'].shape == (4, 2)


def test_single_clip_without_clip_len():
    results = EgoMotionCrop(crop_size=20)(dict(imgs=coordinate_clip(4)))
    assert results['ego_velocity'].shape == (1, 2) and results['img_shape'] == (20, 20)


def test_grayscale():
    grey = [img[..., 0] for img in coordinate_clip(6)]
    with_axis = [img[..., None] for img in grey]
    outputs = []
    for imgs in (grey, with_axis):
        seed_all(1)
        results = EgoMotionCrop(crop_size=20)(sample(imgs))
        assert results['ego_velocity'].shape == (1, 2)
        outputs.append([img.reshape(20, 20) for img in results['imgs']])
    np.testing.assert_array_equal(outputs[0], outputs[1])
    positions = naive_positions(results['crop_bbox'][:2].tolist(), results['ego_velocity'][0], 6, (40, 20))
    assert [img[0, 0] for img in outputs[0]] == [x for x, _ in positions]


def test_flow_pairs_are_one_frame():
    """As images of two channels (RawFrameDecode) and as grey images x, y, x, y (what Flip calls flow)."""
    pairs = coordinate_clip(2 * 4)
    planes = [plane for img in pairs for plane in (img[..., 0], img[..., 1])]
    results = []
    for imgs in (pairs, planes):
        seed_all(2)
        results.append(EgoMotionCrop(crop_size=20, sigma=1.5)(
            dict(imgs=imgs, img_shape=(40, 60), clip_len=4, num_clips=2, modality='Flow')))
    np.testing.assert_array_equal(results[0]['ego_velocity'], results[1]['ego_velocity'])
    assert len(results[1]['imgs']) == 16 and results[1]['ego_velocity'].shape == (2, 2)
    for i, img in enumerate(results[0]['imgs']):
        np.testing.assert_array_equal(img[..., 0], results[1]['imgs'][2 * i])
        np.testing.assert_array_equal(img[..., 1], results[1]['imgs'][2 * i + 1])
    assert len({tuple(img[0, 0]) for img in results[0]['imgs']}) > 2


def test_keypoints_move_with_the_crop():
    """A keypoint stays on the pixel it marks."""
    imgs = coordinate_clip(6)
    keypoint = np.random.uniform(15, 35, (2, 6, 5, 2))
    results = EgoMotionCrop(crop_size=30, sigma=1.)(sample(imgs, keypoint=keypoint.copy()))
    for t, img in enumerate(results['imgs']):
        for person in range(2):
            for v in range(5):
                x, y = results['keypoint'][person, t, v]
                if 0 <= x < 29 and 0 <= y < 29:
                    np.testing.assert_array_equal(img[int(y), int(x)], keypoint[person, t, v].astype(int))
    only = EgoMotionCrop(crop_size=30)(dict(keypoint=keypoint, img_shape=(40, 60), clip_len=6, num_clips=1))
    assert only['keypoint'].shape == (2, 6, 5, 2) and 'imgs' not in only


# -- the velocities -----------------------------------------------------------------------------------------------


def test_100000_velocities_are_normal():
    velocity = EgoMotionCrop(crop_size=8, sigma=2.).draw_velocity(100_000)
    for component in velocity.T:
        assert scipy.stats.kstest(component / 2., 'norm').pvalue > 0.01
        assert scipy.stats.normaltest(component).pvalue > 0.01
        assert scipy.stats.anderson(component / 2.).statistic < 1.092  # the 1 % level
        assert abs(component.mean()) < 4 * 2 / 100_000**0.5 and abs(component.std() - 2) < 4 * 2 / 200_000**0.5
    assert scipy.stats.pearsonr(*velocity.T).pvalue > 0.01


class Velocities(Dataset):

    def __init__(self):
        self.transform = EgoMotionCrop(crop_size=4)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(dict(imgs=[np.zeros((9, 9))] * 3))['ego_velocity']


def test_velocities_of_workers_differ_between_epochs_and_repeat_with_the_seed():
    def run():
        torch.manual_seed(5)
        loader = DataLoader(Velocities(), num_workers=2,
                            worker_init_fn=partial(worker_init_fn, num_workers=2, rank=0, seed=5))
        return [torch.cat(list(loader)).flatten(1) for _ in range(2)]

    first, second = run()
    assert len(torch.unique(torch.cat([first, second]))) == 32
    assert all(torch.equal(a, b) for a, b in zip(run(), (first, second)))


# -- in mmaction2 -------------------------------------------------------------------------------------------------

PIPELINE = [
    dict(type='DecordInit'),
    dict(type='RandomRateSampleFrames', clip_len=8, frame_intervals=(1, 4), num_clips=2),
    dict(type='DecordDecode'),
    dict(type='EgoMotionCrop', area_range=(0.3, 0.6), sigma=2.0),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs', meta_keys=('img_shape', 'frame_interval', 'ego_velocity', 'crop_bbox')),
]


def test_real_video_through_the_pipeline(shared):
    video = dict(filename=str(shared / 'data/clips/k400_abseiling.mp4'), label=0, start_index=0, modality='RGB')
    packed = Compose([TRANSFORMS.build(cfg) for cfg in PIPELINE])(dict(video))
    assert packed['inputs'].shape == (2, 3, 8, 64, 64) and packed['inputs'].float().std() > 5
    assert packed['data_samples'].ego_velocity.shape == (2, 2) and packed['data_samples'].frame_interval in (1, 2, 3, 4)
    # the same frames without the crop, cropped by hand
    decode = Compose([TRANSFORMS.build(cfg) for cfg in PIPELINE[:3]])(dict(video))
    crop = TRANSFORMS.build(dict(type='EgoMotionCrop', crop_size=112))(dict(decode))
    height, width = decode['imgs'][0].shape[:2]
    left, top = crop['crop_bbox'][:2]
    for clip in range(2):
        positions = naive_positions((left, top), crop['ego_velocity'][clip], 8, (width - 112, height - 112))
        for i, (x, y) in enumerate(positions):
            np.testing.assert_array_equal(crop['imgs'][8 * clip + i],
                                          decode['imgs'][8 * clip + i][y:y + 112, x:x + 112])


def test_mmaction2s_browse_dataset_shows_them(shared, tmp_path, monkeypatch):
    """The pictures that mmaction2's own tool is given are the ones that our transforms make."""
    clip = shared / 'data/clips/jester_102653.mp4'
    (tmp_path / 'list.txt').write_text(f'{clip} 0\n')
    (tmp_path / 'config.py').write_text(
        "default_scope = 'mmaction'\n"
        "custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)\n"
        f"train_dataloader = dict(dataset=dict(type='VideoDataset', ann_file={str(tmp_path / 'list.txt')!r}, "
        f'pipeline={PIPELINE}))\n')
    shown = {}

    def add_datasample(self, name, video, data_sample=None, **unused):
        shown[name] = (video, data_sample)

    monkeypatch.setattr('mmaction.visualization.ActionVisualizer.add_datasample', add_datasample)
    monkeypatch.setattr(sys, 'argv', sys.argv)
    mim_scripts.run_script('visualizations/browse_dataset.py',
                           [str(tmp_path / 'config.py'), str(tmp_path / 'out'), '--mode', 'pipeline'])
    (video, data_sample), = shown.values()
    assert len(video) == 16 and len({frame.shape for frame in video}) == 1 and data_sample is not None
    # four pictures side by side: decoded, cropped, resized, flipped
    assert video[0].shape[1] > 176 + 3 * 64 and video[0].std() > 20


# -- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('options, match', [
    (dict(), 'give either crop_size'),
    (dict(crop_size=8, area_range=(0.1, 1.0)), 'give either crop_size'),
    (dict(crop_size=0), 'positive integer'),
    (dict(crop_size=(8, 8)), 'positive integer'),
    (dict(crop_size=8, sigma=-1), 'sigma must be'),
    (dict(crop_size=8, sigma=float('nan')), 'sigma must be'),
    (dict(crop_size=8, sigma='2'), 'sigma must be'),
    (dict(area_range=(0., 1.)), 'area_range must be'),
    (dict(area_range=(0.5, 0.2)), 'area_range must be'),
    (dict(aspect_ratio_range=(0., 1.)), 'aspect_ratio_range must be'),
    (dict(crop_size=8, lazy=True), 'lazy=True is not possible'),
], ids=str)
def test_wrong_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        EgoMotionCrop(**options)


@pytest.mark.parametrize('change, match', [
    (dict(lazy=dict(crop_bbox=None)), 'Put Fuse before it'),
    (dict(gt_bboxes=np.zeros((1, 4))), 'gt_bboxes'),
    (dict(imgs=[]), 'empty'),
    (dict(imgs=None), 'nothing to crop'),
    (dict(imgs=coordinate_clip(5)), 'do not divide into clips'),
    (dict(clip_len=None, num_clips=2), 'no clip_len'),
    (dict(clip_len=dict(RGB=4)), 'do not divide into clips'),
    (dict(imgs=coordinate_clip(4, 16, 60), img_shape=(16, 60)), 'Put a Resize before it'),
    (dict(keypoint=np.zeros((1, 3, 17, 2))), '3 frames'),
], ids=lambda value: '' if isinstance(value, dict) else value)
def test_wrong_results(change, match):
    results = {**sample(coordinate_clip(4)), **change}
    with pytest.raises(ValueError, match=match):
        EgoMotionCrop(crop_size=20)({key: value for key, value in results.items() if value is not None})


def test_repr():
    assert repr(EgoMotionCrop(crop_size=8, sigma=1)) == 'EgoMotionCrop(crop_size=8, sigma=1)'
    assert 'area_range=(0.2, 1.0)' in repr(EgoMotionCrop(area_range=(0.2, 1.0)))


def test_figure_of_a_real_clip(shared, tmp_path):
    """tools/analysis/show_augmentations.py: the boxes it draws are where its crops are from."""
    tool = load_script('tools/analysis/show_augmentations.py')
    clip = str(shared / 'data/clips/jester_102653.mp4')
    rows = tool.make_rows(clip, 4, [1, 4], 2, 3., 64)
    assert [np.unique(np.diff(row.frame_inds)).tolist() for row in rows] == [[2], [1], [4], [2], [2]]
    whole, seen = rows[-2:]
    for image, crop, (x, y, w, h) in zip(whole.images, seen.images, whole.boxes):
        np.testing.assert_array_equal(image[y:y + h, x:x + w], crop)
    np.testing.assert_array_equal(seen.images[0], rows[0].images[0])
    tool.main([clip, '--out', str(tmp_path / 'figure.png'), '--clip-len', '3'])
    assert (tmp_path / 'figure.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(FileNotFoundError, match='no video'):
        tool.main(['nothing.mp4', '--out', str(tmp_path / 'other.png')])
