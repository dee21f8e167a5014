"""Conv3THead against its formula, its motion, and in a recognizer: training step, deploy, export, figure."""
import pytest
import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from torch import nn

from tconv_mmaction.heads import Conv3THead
from tconv_mmaction.interpret import draw_trajectories, kernel_sizes, temporal_parameters
from tconv_mmaction.layers import switch_to_deploy


def head(**options):
    made = Conv3THead(num_classes=4, in_channels=3, motion_std=(.3, .3, .1), **options).double().eval()
    nn.init.normal_(made.conv.weight)
    return made


@pytest.mark.parametrize('pool', ['lse', 'max', 'relu'])
def test_scores_by_hand(pool):
    net, x = head(pool=pool), torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    maps = F.conv3d(x, net.conv.kernel(), net.conv.bias, padding=1).flatten(2)  # N, K, THW
    expected = dict(lse=maps.exp().mean(2).log(), max=maps.max(2).values, relu=maps.clamp(min=0).mean(2))[pool]
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x, fcn_test=True).flatten(2), maps)


def test_a_class_of_motion_beats_the_class_of_the_other_direction():
    """Two classes with the same picture: one moves right, a pixel per frame, one left. A mean would see no more."""
    net = Conv3THead(num_classes=2, in_channels=1).eval()
    with torch.no_grad():
        net.conv.weight.zero_()[:, :, 0, 1, 1] = 1
        net.conv.bias.zero_()
        net.conv.translate_x[:, 0], net.conv.translate_x[:, 1] = -1, 1  # half of a kernel of 3 is a pixel
    clip = torch.zeros(2, 1, 5, 7, 7)
    for t in range(5):
        clip[0, 0, t, 3, 1 + t] = clip[1, 0, t, 3, 5 - t] = 4.
    assert net(clip).argmax(1).tolist() == [0, 1]


def recognizer(**options):
    return MODELS.build(dict(
        type='Recognizer3D',
        backbone=dict(type='TemporalResNet3d', depth=18, base_channels=2, temporal_kernels=(3, 3, 3), num_stages=2,
                      spatial_strides=(1, 2), temporal_strides=(1, 1), dilations=(1, 1), out_indices=(1, )),
        cls_head=dict(type='Conv3THead', num_classes=3, in_channels=4, **options),
        data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW')))


def test_in_a_recognizer_it_trains_averages_clips_and_deploys():
    model = recognizer(average_clips='prob')
    data = dict(inputs=[torch.randint(0, 255, (2, 3, 6, 16, 16), dtype=torch.uint8)], data_samples=[
        ActionDataSample().set_gt_label(1)])
    one = [ActionDataSample().set_gt_label(label) for label in (0, 1)]
    batch = model.data_preprocessor(dict(inputs=[clip[None] for clip in data['inputs'][0]], data_samples=one),
                                    training=True)
    loss = model(**batch, mode='loss')['loss_cls']
    loss.backward()
    assert model.cls_head.conv.translate_x.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        before = model.test_step(data)[0].pred_score
        deployed = switch_to_deploy(model)
        assert isinstance(deployed.cls_head.conv, nn.Conv3d)
        torch.testing.assert_close(deployed.test_step(data)[0].pred_score, before)
    torch.testing.assert_close(before.sum(), torch.tensor(1.))


def test_it_exports_and_its_classes_are_drawn_by_name():
    net = head().float()
    x = torch.randn(1, 3, 4, 5, 5)
    with torch.no_grad():
        exported = torch.export.export(net, (x, )).module()
        torch.testing.assert_close(exported(x), net(x))
    figure = draw_trajectories(temporal_parameters(net), kernel_sizes(net), [('conv', 2)], {('conv', 2): 'waving'})
    assert figure.axes[0].get_title(loc='left') == 'waving: zoom'


@pytest.mark.parametrize(('options', 'text'), [
    (dict(kernel_size=4), 'odd'), (dict(kernel_size=(1, 3, 3)), 'kT of at least 3'), (dict(pool='mean'), 'plain mean')])
def test_settings_that_cannot_be(options, text):
    with pytest.raises(ValueError, match=text):
        Conv3THead(2, 3, **options)
    with pytest.raises(ValueError, match=r'\(N, 3, T, H, W\)'):
        head()(torch.zeros(2, 4, 3, 3, 3))
