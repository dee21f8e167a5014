"""Starts drawn from the motion of clips: what is measured on moving pictures, and what becomes of it in a layer."""
import math

import cv2
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from mmaction.registry import MODELS

from tconv_mmaction.backbones import LeNet5
from tconv_mmaction.backbones.moving_start import layer_ratios, start_moving, velocities
from tconv_mmaction.datasets.clip_motion import clip_motion
from tconv_mmaction.interpret import temporal_parameters


def moved(zoom=1., turn=0., right=0., down=0., frames=6, side=64):
    """A smooth random picture; frame t is it zoomed, turned clockwise (degrees) and shifted by t steps."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (side, side)), (0, 0), 3)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    out, c = [], (side - 1) / 2
    for t in range(frames):
        z, a = zoom**t, math.radians(turn * t)
        m = z * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        shift = np.array([c + right * t, c + down * t]) - m @ [c, c]
        out.append(cv2.warpAffine(picture, np.c_[m, shift], (side, side), borderMode=cv2.BORDER_REFLECT))
    return np.stack(out)


@pytest.mark.parametrize(('motion', 'index', 'expected', 'close'), [
    (dict(right=1.), 2, 1., 0.15), (dict(down=-1.), 3, -1., 0.15),
    (dict(turn=3.), 1, math.radians(3), 0.01), (dict(zoom=1.05), 0, math.log(1.05), 0.01)])
def test_motion_of_moving_pictures(motion, index, expected, close):
    found = np.median(clip_motion(moved(**motion)), axis=0)
    assert found[index] == pytest.approx(expected, abs=close)
    rest = [i for i in range(4) if i != index]
    assert np.abs(found[rest]).max() < 0.1


def test_nothing_to_be_seen_is_no_step():
    assert clip_motion(np.full((4, 16, 16), 7, np.uint8)).shape == (0, 4)
    with pytest.raises(ValueError, match='uint8 of at least 8 x 8'):
        clip_motion(np.zeros((4, 16, 16)))


def test_velocities_in_a_layers_own_frames_and_pixels():
    motion = torch.tensor([[math.log(1.1), 0.1, 2., -1.]])
    # the layer's input has a quarter of the rows and columns and half of the frames: twice the turn, half the pixels
    scale, rotate, x, y = velocities(motion, (2., 4., 4.), (3, 3, 5))
    for found, expected in ((scale, 1.1**-2), (rotate, -0.2), (x, -2 * 2 / 4 / 2), (y, 2 / 4)):
        assert found.item() == pytest.approx(expected)


def test_the_layers_filter_moves_as_the_clip_does():
    net = LeNet5(dict(type='Conv3T'), clip_shape=(16, 28, 28))
    start_moving(net, torch.tensor([[0., 0., 1., 0.]]), (1, 16, 28, 28))
    with torch.no_grad():
        net.conv1.weight.zero_()[:, :, :, 2, 0] = 1
    kernel = net.conv1.kernel()[0, 0, :, 2]  # T, W: a dot that goes a pixel to the right in every frame
    torch.testing.assert_close(kernel, torch.eye(5), atol=1e-5, rtol=0)


def test_one_velocity_for_each_filter_drawn_by_seed():
    motion, net = torch.randn(50, 4) * 0.1, LeNet5(dict(type='Conv3T', gain=True), clip_shape=(16, 28, 28))
    net.train()
    ratios = start_moving(net, motion, (1, 16, 28, 28), seed=3)
    assert ratios == layer_ratios(net, (1, 16, 28, 28)) == {'conv1': (1., 1., 1.), 'conv2': (2., 2., 2.)}
    first = temporal_parameters(net)['conv2']['rotate']
    assert (first == first[:1]).all() and len(first[0].unique()) > 4 and net.training
    start_moving(net, motion, (1, 16, 28, 28), seed=3)
    assert torch.equal(temporal_parameters(net)['conv2']['rotate'], first)
    with pytest.raises(ValueError, match='no Conv3T layer'):
        start_moving(LeNet5(dict(type='Conv3d'), clip_shape=(16, 28, 28)), motion, (1, 16, 28, 28))


@pytest.fixture(scope='module')
def motion_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('motion') / 'motion.npz'
    np.savez(path, motion=np.array([[0., 0.1, 0., 0.]]), clip_shape=np.array([1, 16, 28, 28]))
    return path


def test_init_cfg_and_errors(motion_file, tmp_path):
    net = MODELS.build(dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), clip_shape=(16, 28, 28),
                            init_cfg=dict(type='MotionOfClips', file=str(motion_file))))
    net.init_weights()
    assert net.conv1.rotate.unique().item() == pytest.approx(-0.1)
    assert net.conv2.rotate.unique().item() == pytest.approx(-0.2)
    for file, error in ((tmp_path / 'none.npz', FileNotFoundError), (ROOT / 'setup.py', ValueError)):
        net = MODELS.build(dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'),
                                init_cfg=dict(type='MotionOfClips', file=str(file))))
        with pytest.raises(error, match='tconv motion'):
            net.init_weights()


def test_from_a_config_to_an_inflated_checkpoint(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"""_base_ = '{ROOT}/configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
backbone = dict(type='TemporalResNet3d', depth=18, base_channels=4, in_channels=1, num_stages=1, out_indices=(0, ),
    temporal_kernels=(3, 3), temporal_cfg=dict(type='Conv3T'), spatial_strides=(1, ), temporal_strides=(1, ),
    dilations=(1, ))
model = dict(backbone=dict(_delete_=True, **backbone))
""")
    motion = tmp_path / 'motion.npz'
    load_script('tools/data/clip_motion.py').main([str(config), str(motion), '--clips', '3'])
    with np.load(motion) as saved:
        assert saved['motion'].shape[1] == 4 and tuple(saved['clip_shape']) == (1, 30, 28, 28)
    flat = {'conv1.weight': torch.randn(4, 1, 7, 7), 'layer1.0.conv1.weight': torch.randn(4, 4, 3, 3)}
    torch.save(flat, tmp_path / 'flat.pth')
    load_script('tools/convert/inflate_2d.py').main(
        [str(config), str(tmp_path / 'flat.pth'), str(tmp_path / 'out.pth'), '--motion', str(motion)])
    written = torch.load(tmp_path / 'out.pth')['state_dict']
    assert torch.equal(written['backbone.conv1.conv.weight'][:, :, 0], flat['conv1.weight'])
    assert written['backbone.layer1.1.conv2.conv.translate_x'].abs().max() > 0
