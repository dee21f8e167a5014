"""Video-MNIST: the motions against hand-computed tables, the drawing against exact cases and SciPy, the splits,
standard pipelines, idx files, and the lossless video files against the dataset."""
import gzip
import struct

import cv2
import decord
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from helpers.scripts import load_script
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, pseudo_collate
from scipy import ndimage
from sklearn.datasets import load_digits

from tconv_mmaction.datasets import VideoMNIST
from tconv_mmaction.datasets.digit_images import read_idx, sklearn_digits
from tconv_mmaction.datasets.digit_motions import bounce, digit_motion, draw

CONFIG = next((ROOT / 'configs/recognition/lenet5').glob('lenet5-3t_*.py'))
PIPELINE = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
FROM_FILES = [
    dict(type='DecordInit'), dict(type='SampleFrames', clip_len=30, frame_interval=1, num_clips=1),
    dict(type='DecordDecode'), *PIPELINE]
SPEED_1 = [*range(0, 14), *range(11, -14, -2), -10, -7, -4]
SPEED_2 = [0, 2, 4, 6, 8, 10, 12, 13, 10, 7, 4, 1, -2, -5, -8, -11, -13, -9, -5, -1, 3, 7, 11, 13, 8, 3, -2, -7, -12,
           -13]


def motions(digit, draws=200, num_frames=30):
    return [digit_motion(digit, num_frames, np.random.default_rng(i)) for i in range(draws)]


def center_of_mass(frame):
    """(x, y) from the centre of the frame."""
    y, x = ndimage.center_of_mass(frame.astype(float))
    return x - (frame.shape[1] - 1) / 2, y - (frame.shape[0] - 1) / 2


def still(**changed):
    row = dict(side=28., turn=0., right=0., down=0.)
    return np.array([list({**row, **changed}.values())])


# ---- motions

@pytest.mark.parametrize('speed, path', [(1, SPEED_1), (2, SPEED_2)])
@pytest.mark.parametrize('direction', [1, -1])
def test_bounce_by_hand(speed, path, direction):
    np.testing.assert_array_equal(bounce(30, speed, direction), direction * np.array(path))


@pytest.mark.parametrize('digit, column, turn', [(0, 2, 0), (1, 3, 0), (7, 2, -12)])
def test_bouncing_digits(digit, column, turn):
    expected = {tuple(sign * np.array(path)) for path in (SPEED_1, SPEED_2) for sign in (1, -1)}
    assert {tuple(m[:, column]) for m in motions(digit)} == expected
    for m in motions(digit, 5):
        np.testing.assert_array_equal(m[:, 0], 28)
        np.testing.assert_array_equal(m[:, 1], turn * np.arange(30))
        np.testing.assert_array_equal(m[:, 5 - column], 0)


@pytest.mark.parametrize('digit, side, turn', [
    (2, [28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 28,
         28], [0] * 30),
    (3, [28] * 30, range(0, 360, 12)),
    (4, [28] * 30, range(0, -360, -12)),
    (6, [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56,
         58], range(0, 360, 12)),
    (8, [28] * 30, [0, 24, 48, 72, 96, 120, 144, 168, 192, 216, 240, 264, 288, 312, 336, 360,
                    336, 312, 288, 264, 240, 216, 192, 168, 144, 120, 96, 72, 48, 24])])
def test_motions_without_chance(digit, side, turn):
    for m in motions(digit, 3):
        np.testing.assert_array_equal(m, np.stack([side, turn, [0] * 30, [0] * 30], axis=1))


def test_circle():
    radii, directions = set(), set()
    for m in motions(5):
        x, y = m[:, 2], m[:, 3]
        radius = np.hypot(x, y)
        np.testing.assert_allclose(radius, radius[0], rtol=1e-12)
        step = np.rad2deg(np.diff(np.unwrap(np.arctan2(y, x))))
        np.testing.assert_allclose(step, step[0], atol=1e-9)
        assert x[0] == radius[0]
        radii.add(round(radius[0], 9))
        directions.add(round(step[0], 9))
        np.testing.assert_array_equal(m[:, :2], [[28, 0]] * 30)
    assert radii == set(range(4, 13)) and directions == {-12, 12}


def test_random_walk():
    drawn = np.stack(motions(9))
    np.testing.assert_array_equal(drawn[:, 0], [[28, 0, 0, 0]] * 200)
    steps = np.diff(drawn, axis=1).reshape(-1, 4)
    np.testing.assert_array_equal(steps[:, 0], 0)
    values, counts = np.unique(steps[:, 1:], axis=0, return_counts=True)
    assert {tuple(v) for v in values} == {(a, x, y) for a in (-12, 0, 12) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    # 5800 steps in 27 equal bins: 214.8 each, standard deviation 14.4
    assert abs(counts - 5800 / 27).max() < 5 * 14.4


def test_other_lengths():
    assert motions(2, 1, 34)[0][:, 0].tolist() == motions(2, 1)[0][:, 0].tolist() + [28] * 4
    assert motions(2, 1, 5)[0][:, 0].tolist() == [28, 26, 24, 22, 20]
    assert motions(8, 1, 6)[0][:, 1].tolist() == [0, 24, 48, 72, 48, 24]
    for digit in range(10):
        assert motions(digit, 1, 1)[0].shape == (1, 4)
    with pytest.raises(ValueError, match='each digit from 0 to 9, got 10'):
        motions(10, 1)


# ---- drawing

def test_whole_pixels_and_quarter_turns_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(draw(image, still())[0], image)
    right_down = draw(image, still(right=5, down=-3))[0]
    np.testing.assert_array_equal(right_down[:25, 5:], image[3:, :23])
    assert not right_down[25:].any() and not right_down[:, :5].any()
    np.testing.assert_array_equal(draw(image, still(turn=90))[0], np.rot90(image, -1))  # -1 is clockwise in NumPy
    np.testing.assert_array_equal(draw(image, still(turn=-90))[0], np.rot90(image, 1))


def test_drawing_equals_scipy():
    """SciPy takes the way back, from frame to image, with linear splines in float64."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    padded = np.pad(image.astype(float), 1)  # SciPy's constant mode does not fade out over the border pixel
    tolerance = 0.51 if int(cv2.__version__.split('.')[0]) >= 5 else 10  # OpenCV 4 rounds positions to 1/32 pixel
    for _ in range(20):
        side, turn, right, down = rng.uniform((28, -180, -9, -9), (58, 180, 9, 9))
        cos, sin = np.cos(np.deg2rad(turn)) * 28 / side, np.sin(np.deg2rad(turn)) * 28 / side
        back = np.array([[cos, -sin], [sin, cos]])  # of (row, column)
        offset = 14.5 - back @ (13.5 + down, 13.5 + right)
        expected = ndimage.affine_transform(padded, back, offset, output_shape=(28, 28), order=1)
        frame = draw(image, still(side=side, turn=turn, right=right, down=down))[0]
        np.testing.assert_allclose(frame, expected, atol=tolerance)


def test_digit_2_has_the_right_size_in_every_frame():
    frames = draw(np.full((28, 28), 255, np.uint8), motions(2, 1)[0])
    for frame, side in zip(frames, [*range(28, 0, -2), *range(2, 29, 2), 28, 28]):
        edge = (28 - side) // 2
        np.testing.assert_array_equal(frame, np.pad(np.full((side, side), 255), edge))


def test_small_digits_are_averages_not_samples():
    image = np.zeros((28, 28), np.uint8)
    image[::2, ::2] = 200  # a quarter of the pixels: every area has the mean 50
    np.testing.assert_array_equal(draw(image, still(side=2))[0][13:15, 13:15], 50)
    quadrants = np.kron([[40, 80], [120, 160]], np.ones((14, 14))).astype(np.uint8)
    np.testing.assert_array_equal(draw(quadrants, still(side=2))[0][13:15, 13:15], [[40, 80], [120, 160]])
    # one pixel in the middle of four
    np.testing.assert_array_equal(draw(np.full((28, 28), 240, np.uint8), still(side=1))[0],
                                  np.pad(np.full((2, 2), 60), 13))


def test_digit_6_grows_and_turns():
    square = draw(np.full((28, 28), 255, np.uint8), motions(6, 1)[0])
    area = square.sum((1, 2)) / 255
    sides = np.array([1, *range(2, 19, 2)])  # a turned square of 18 is still inside the frame
    np.testing.assert_allclose(area[:len(sides)], sides**2, rtol=0.04)
    assert (square[-1] == 255).all()
    image = np.zeros((28, 28), np.uint8)
    image[12:16, 20:24] = 255  # 8 pixels to the right of the centre
    for t, frame in enumerate(draw(image, motions(6, 1)[0])):
        if 5 <= t <= 17:
            x, y = center_of_mass(frame)
            np.testing.assert_allclose(np.hypot(x, y), 8 * 2 * t / 28, atol=0.15)
            assert abs((np.rad2deg(np.arctan2(y, x)) - 12 * t + 180) % 360 - 180) < 3


@pytest.mark.parametrize('digit', [0, 1, 5])
def test_where_a_blob_is(digit):
    image = np.zeros((28, 28), np.uint8)
    image[13:15, 13:15] = 255
    for m in motions(digit, 8):
        seen = np.array([center_of_mass(frame) for frame in draw(image, m)])
        np.testing.assert_allclose(seen, m[:, 2:], atol=0.02 if digit == 5 else 1e-12)


@pytest.mark.parametrize('digit, expected', [
    (3, 12. * np.arange(30)), (4, -12. * np.arange(30)), (8, 24. * np.r_[0:16, 14:0:-1])])
def test_at_which_angle_a_blob_is(digit, expected):
    """Clockwise on the screen: from the right (0 degrees) to the bottom (90)."""
    image = np.zeros((28, 28), np.uint8)
    image[12:16, 20:24] = 255
    seen = np.array([center_of_mass(frame) for frame in draw(image, motions(digit, 1)[0])])
    angle = np.rad2deg(np.arctan2(seen[:, 1], seen[:, 0]))
    np.testing.assert_allclose((angle - expected + 180) % 360 - 180, 0, atol=1)
    np.testing.assert_allclose(np.hypot(*seen.T), 8, atol=0.1)


def test_other_sizes_scale_the_scene():
    image = np.zeros((28, 28), np.uint8)
    image[12:16, 12:16] = 255
    m = motions(0, 1)[0][:6]
    large, small = draw(image, m, 56), draw(image, m, 14)
    assert large.shape == (6, 56, 56) and small.shape == (6, 14, 14)
    for frame, tiny, right in zip(large, small, m[:, 2]):
        np.testing.assert_allclose(center_of_mass(frame), (2 * right, 0), atol=1e-9)
        np.testing.assert_allclose(center_of_mass(tiny), (right / 2, 0), atol=0.02)


# ---- splits and subsets

def test_sklearn_splits_share_no_image():
    original = {image.tobytes(): label for image, label in zip(*sum_of_splits())}
    assert len(original) == 1797
    assert [len(sklearn_digits(split)[1]) for split in ('train', 'val', 'test')] == [1197, 300, 300]
    for split in ('val', 'test'):
        assert np.bincount(sklearn_digits(split)[1]).tolist() == [30] * 10
    everything = load_digits()
    # PyTorch's bicubic has the same coefficient (-0.75) and half-pixel centres
    large = F.interpolate(torch.from_numpy(everything.images)[:, None] * 255 / 16, (28, 28), mode='bicubic')
    large = large[:, 0].clamp(0, 255).numpy()
    images, labels = sum_of_splits()
    remaining = list(range(1797))
    for image, label in zip(images[::60], labels[::60]):
        distance = abs(large - image).max(axis=(1, 2))
        assert distance.min() < 0.51 and everything.target[distance.argmin()] == label
        remaining.remove(distance.argmin())


def sum_of_splits():
    parts = [sklearn_digits(split) for split in ('train', 'val', 'test')]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def test_a_video_depends_on_seed_and_index_only():
    dataset = DATASETS.build(dict(type='VideoMNIST', pipeline=PIPELINE, split='val'))
    expected = np.stack([dataset.frames(i) for i in range(60)])
    again = VideoMNIST(PIPELINE, 'val')
    backwards = np.stack([again.frames(i) for i in reversed(range(60))])[::-1]
    np.testing.assert_array_equal(backwards, expected)
    order = torch.randperm(60).tolist()
    loader = torch.utils.data.DataLoader(dataset, 10, sampler=order, num_workers=2, collate_fn=pseudo_collate)
    seen = torch.cat([torch.stack(batch['inputs']) for batch in loader])
    np.testing.assert_array_equal(seen[:, 0, 0].numpy(), expected[order])

    chance = [i for i in range(60) if dataset.get_data_info(i)['label'] in (5, 9)]
    other_seed = VideoMNIST(PIPELINE, 'val', seed=1)
    assert sum((dataset.motion(i) != other_seed.motion(i)).any() for i in chance) > len(chance) / 2
    subset = VideoMNIST(PIPELINE, 'val', videos_per_class=3, subset_seed=7)
    for i in range(30):
        np.testing.assert_array_equal(subset.frames(i), dataset.frames(subset.get_data_info(i)['source_index']))


def test_balanced_subsets():
    def chosen(**kwargs):
        dataset = VideoMNIST([], lazy_init=True, **kwargs)
        return [(info['source_index'], info['label']) for info in map(dataset.get_data_info, range(len(dataset)))]

    three, ten = chosen(videos_per_class=3), chosen(videos_per_class=10)
    assert np.bincount([label for _, label in ten]).tolist() == [10] * 10
    assert len(three) == 30 and set(three) < set(ten) and three == sorted(three)
    assert chosen(videos_per_class=3) == three != chosen(videos_per_class=3, subset_seed=1)
    labels = sklearn_digits('train')[1]
    assert all(labels[i] == label for i, label in ten)


def test_mmengine_wrappers():
    dataset = VideoMNIST(PIPELINE, indices=[5, 3])
    assert [dataset.get_data_info(i)['source_index'] for i in range(len(dataset))] == [5, 3]
    assert dataset.get_cat_ids(1) == [sklearn_digits('train')[1][3]]
    assert dataset.metainfo['classes'] == tuple('0123456789') and len(dataset.metainfo['motions']) == 10
    assert len(ClassBalancedDataset(VideoMNIST(PIPELINE, 'val'), oversample_thr=0.01)) == 300


# ---- standard pipelines

def test_pipeline_and_preprocessor_give_the_frames():
    dataset = VideoMNIST(PIPELINE, test_mode=True)
    samples = [dataset[i] for i in (0, 1)]
    frames = np.stack([dataset.frames(i) for i in (0, 1)])
    assert samples[0]['inputs'].dtype == torch.uint8 and samples[0]['inputs'].shape == (1, 1, 30, 28, 28)
    assert [int(s['data_samples'].gt_label) for s in samples] == sklearn_digits('train')[1][:2].tolist()
    assert samples[1]['data_samples'].video_id == 'train_00001' and samples[1]['data_samples'].img_shape == (28, 28)
    model = MODELS.build(Config.fromfile(CONFIG).model)
    data = model.data_preprocessor(pseudo_collate(samples))
    assert data['inputs'].shape == (2, 1, 1, 30, 28, 28)
    np.testing.assert_allclose(data['inputs'][:, 0, 0].numpy(), frames / 255, rtol=1e-6)
    scores = model.test_step(pseudo_collate(samples))[0].pred_score
    torch.testing.assert_close(scores.sum(), torch.tensor(1.))


def test_spatial_transforms_of_mmaction_work_before_formatting():
    dataset = VideoMNIST([dict(type='Flip', flip_ratio=1), *PIPELINE])
    np.testing.assert_array_equal(dataset[3]['inputs'][0, 0].numpy(), dataset.frames(3)[:, :, ::-1])


# ---- bad input

@pytest.mark.parametrize('kwargs, message', [
    (dict(split='training'), r"split must be one of 'train', 'val', 'test', got 'training'"),
    (dict(videos_per_class=0), 'videos_per_class must be a whole number of at least 1, got 0'),
    (dict(num_frames=0), 'num_frames must be a whole number of at least 1, got 0'),
    (dict(size=28.), r'size must be a whole number of at least 1, got 28\.0'),
    (dict(seed=-1), 'seed must be a whole number of at least 0, got -1'),
    (dict(split='val', videos_per_class=31),
     "class 0 has 30 videos in split 'val' of the digits from scikit-learn, fewer than videos_per_class=31")])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VideoMNIST([], **kwargs)


def write_idx(path, array, compress=False):
    header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data, 1) if compress else data)
    return data


@pytest.fixture
def test_set(tmp_path):
    """A test set of 40 images, in which image i has the value i everywhere and the label i % 10."""
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 28, 28))
    write_idx(tmp_path / 't10k-images-idx3-ubyte', images)
    write_idx(tmp_path / 't10k-labels-idx1-ubyte.gz', (np.arange(40) % 10).astype(np.uint8), compress=True)
    return tmp_path


def test_idx_files_plain_and_compressed(test_set):
    dataset = VideoMNIST(PIPELINE, 'test', str(test_set), test_mode=True)
    assert len(dataset) == 40
    np.testing.assert_array_equal(dataset.images[:, 5, 7], np.arange(40))
    assert [dataset.get_data_info(i)['label'] for i in range(12)] == [*range(10), 0, 1]
    assert len(VideoMNIST([], 'test', str(test_set), videos_per_class=4)) == 40
    with pytest.raises(ValueError, match="class 0 has 4 videos .*, fewer than videos_per_class=5"):
        VideoMNIST([], 'test', str(test_set), videos_per_class=5)


def test_train_and_val_part_at_50000(tmp_path):
    numbers = np.arange(50_007, dtype='>u4')
    images = np.zeros((50_007, 28, 28), np.uint8)
    images[:, 0, :4] = numbers.view(np.uint8).reshape(-1, 4)
    write_idx(tmp_path / 'train-images-idx3-ubyte.gz', images, compress=True)
    write_idx(tmp_path / 'train-labels-idx1-ubyte', (np.arange(50_007) % 10).astype(np.uint8))
    for split, expected in dict(train=np.arange(50_000), val=np.arange(50_000, 50_007)).items():
        dataset = VideoMNIST([], split, str(tmp_path))
        stored = np.ascontiguousarray(dataset.images[:, 0, :4]).view('>u4')[:, 0]
        np.testing.assert_array_equal(stored, expected)
        assert dataset.get_data_info(len(dataset) - 1)['label'] == expected[-1] % 10


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_root='.*nowhere' is no folder\. .* or data_root=None for"):
        VideoMNIST([], data_root=str(tmp_path / 'nowhere'))
    with pytest.raises(FileNotFoundError, match=r"data_root='' is no folder"):
        VideoMNIST([], data_root='')
    with pytest.raises(FileNotFoundError, match='has neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz'):
        VideoMNIST([], data_root=str(tmp_path))


def test_damaged_files(test_set):
    images, labels = test_set / 't10k-images-idx3-ubyte', test_set / 't10k-labels-idx1-ubyte.gz'
    whole, packed = images.read_bytes(), labels.read_bytes()

    def error(match):
        with pytest.raises(ValueError, match=match):
            VideoMNIST([], 'test', str(test_set))

    images.write_bytes(whole[:-100])
    error(r't10k-images-idx3-ubyte is truncated: its header promises 31360 bytes of data \(\(40, 28, 28\)\), and it '
          'has 31260')
    images.write_bytes(whole[:10])
    error('truncated: 10 bytes, and the header of an idx file of 3 dimension')
    images.write_bytes(whole + b'1')
    error('31361 bytes of data, more than the 31360')
    images.write_bytes(gzip.decompress(packed).ljust(40))
    error('starts with the number 2049, and an idx file of uint8 with 3 dimension.* with 2051')
    images.write_bytes(gzip.compress(whole)[:-40])
    error('t10k-images-idx3-ubyte is truncated or damaged: ')
    write_idx(images, np.zeros((40, 8, 8), np.uint8))
    error('images of 8x8 pixels, and MNIST has 28x28')
    write_idx(images, np.zeros((39, 28, 28), np.uint8))
    error('holds 39 images and .* 40 labels')
    images.write_bytes(whole)
    labels.write_bytes(packed[:-4])
    error('labels-idx1-ubyte.gz is truncated or damaged')
    write_idx(labels, np.full(40, 11, np.uint8))
    error('holds the label 11, and digits are 0 to 9')
    for name in ('images-idx3-ubyte', 'labels-idx1-ubyte'):
        write_idx(test_set / f'train-{name}', read_idx(images, 3) if 'images' in name else np.zeros(40, np.uint8))
    with pytest.raises(ValueError, match="40 images; the first 50000 are split 'train'"):
        VideoMNIST([], 'val', str(test_set))


def test_real_mnist(shared):
    root = str(shared / 'data/mnist')
    first = dict(train=[5, 0, 4, 1, 9, 2, 1, 3, 1, 4], test=[7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    images = []
    for split, count in dict(train=50_000, val=10_000, test=10_000).items():
        dataset = VideoMNIST(PIPELINE, split, root, videos_per_class=None)
        assert len(dataset) == count
        if split in first:
            assert [dataset.get_data_info(i)['label'] for i in range(10)] == first[split]
        assert dataset[17]['inputs'].shape == (1, 1, 30, 28, 28)
        images.append(dataset.images)
    # the mean and spread that everybody normalises MNIST's 60000 training images with
    train = np.concatenate(images[:2])
    assert round(train.mean() / 255, 4) == 0.1307 and round(float(train.std(dtype=np.float64)) / 255, 4) == 0.3081
    assert len(VideoMNIST([], 'train', root, videos_per_class=100)) == 1000


# ---- video files

@pytest.fixture(scope='module')
def tool():
    return load_script('tools/data/video_mnist.py')


def test_files_are_the_dataset(tool, tmp_path, capsys):
    out = tmp_path / 'a folder'
    assert tool.main([str(out), '--split', 'test', 'train', '--videos-per-class', '2', '--seed', '3']) == 0
    assert '20/20' in capsys.readouterr().out
    for split in ('test', 'train'):
        dataset = VideoMNIST(PIPELINE, split, videos_per_class=2, seed=3)
        lines = (out / f'{split}.txt').read_text().splitlines()
        assert len(lines) == 20 and sorted(p.name for p in (out / split).iterdir()) == [
            line.split()[0].split('/')[1] for line in lines]
        for i, line in enumerate(lines):
            name, label = line.split()
            decoded = decord.VideoReader(str(out / name))[:].asnumpy()
            assert decoded.shape == (30, 28, 28, 3) and int(label) == dataset.get_data_info(i)['label']
            np.testing.assert_array_equal(decoded, np.repeat(dataset.frames(i)[..., None], 3, axis=-1))


def test_video_dataset_reads_and_trains_on_the_files(tool, tmp_path):
    assert tool.main([str(tmp_path), '--split', 'train', '--videos-per-class', '1']) == 0
    drawn = VideoMNIST(PIPELINE, videos_per_class=1)
    stored = DATASETS.build(dict(
        type='VideoDataset', ann_file=str(tmp_path / 'train.txt'), data_prefix=dict(video=str(tmp_path)),
        pipeline=FROM_FILES))
    assert len(stored) == 10
    batch = [stored[i] for i in range(10)]
    for i, sample in enumerate(batch):
        assert sample['inputs'].shape == (1, 3, 30, 28, 28)
        assert (sample['inputs'] == drawn[i]['inputs']).all()  # one channel against three
        assert sample['data_samples'].gt_label == drawn[i]['data_samples'].gt_label
    config = Config.fromfile(CONFIG).model
    config.backbone.in_channels = 3
    model = MODELS.build(config)
    losses = model(**model.data_preprocessor(pseudo_collate(batch), training=True), mode='loss')
    losses['loss_cls'].backward()
    assert losses['loss_cls'].isfinite() and model.backbone.conv1.rotate.grad.abs().sum() > 0


def test_an_interrupted_run_goes_on(tool, tmp_path, monkeypatch, capsys):
    command = [str(tmp_path / 'a'), '--split', 'val', '--videos-per-class', '1']
    write, calls = tool.write_video, []

    def killed_at_the_fifth(path, frames):
        calls.append(path)
        if len(calls) == 5:
            path.with_name(f'{path.stem}.part.mkv').write_bytes(b'half a video')
            raise KeyboardInterrupt
        write(path, frames)

    monkeypatch.setattr(tool, 'write_video', killed_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        tool.main(command)
    assert not (tmp_path / 'a/val.txt').exists()
    monkeypatch.setattr(tool, 'write_video', write)
    assert tool.main(command) == 0
    assert '10 videos, 4 of them from an earlier run' in capsys.readouterr().out
    assert tool.main([str(tmp_path / 'b'), *command[1:]]) == 0
    files = {p.relative_to(tmp_path / 'b') for p in (tmp_path / 'b').rglob('*') if p.is_file()}
    assert files == {p.relative_to(tmp_path / 'a') for p in (tmp_path / 'a').rglob('*') if p.is_file()}
    for name in files:
        if name.suffix == '.mkv':  # Matroska files carry a random id, so the frames are compared
            a, b = (decord.VideoReader(str(tmp_path / x / name))[:].asnumpy() for x in 'ab')
            np.testing.assert_array_equal(a, b)
        else:
            assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_tool_errors(tool, tmp_path, capsys):
    def error(*arguments):
        assert tool.main([str(tmp_path / 'out'), *arguments]) == 2
        return capsys.readouterr().err

    small = ['--split', 'val', '--videos-per-class', '1']
    assert tool.main([str(tmp_path / 'out'), *small]) == 0
    assert "'seed': 0" in (message := error(*small, '--seed', '5')) and "'seed': 5" in message
    assert 'class 0 has 30 videos' in error('--split', 'test', '--videos-per-class', '31')
    assert 'is no folder' in error('--data-root', str(tmp_path / 'nowhere'))
    (tmp_path / 'out/test').mkdir()
    (tmp_path / 'out/test/holiday.mp4').write_bytes(b'')
    assert 'test is not empty, and without test.json' in error('--split', 'test')
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path / 'out'), '--size', '27'])
    assert '--size 27 is odd' in capsys.readouterr().err
    # what the file would lose is noticed: OpenCV drops the last column of an odd width
    with pytest.raises(RuntimeError, match=r'is not what was written \(\(4, 28, 26\) against \(4, 28, 27\)\)'):
        tool.write_video(tmp_path / 'odd.mkv', np.ones((4, 28, 27), np.uint8))
    assert not (tmp_path / 'odd.mkv').exists()
    with pytest.raises(RuntimeError, match='cannot write FFV1 to .* Is the folder writable'):
        tool.write_video(tmp_path / 'nowhere/a.mkv', np.ones((4, 28, 28), np.uint8))
