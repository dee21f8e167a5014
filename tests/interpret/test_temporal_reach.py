"""Steps that no clip makes use of: by the gradient, in the networks of the papers, and out of every number."""
import numpy as np
import pytest
import torch
from mmaction.registry import MODELS
from torch import nn

from tconv_mmaction.interpret import (
    draw_distributions,
    draw_trajectories,
    kernel_sizes,
    load_parameters,
    parameter_statistics,
    save_parameters,
    table_2,
    temporal_parameters,
)
from tconv_mmaction.interpret.parameter_statistics import MODEL_ROW
from tconv_mmaction.interpret.temporal_reach import (
    UnusedMotion,
    dead_slices_of,
    least_clip_length,
    reach_of,
    used_steps,
)
from tconv_mmaction.interpret.trajectories import filter_trajectory, most_moving_filters
from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T


@pytest.fixture(scope='module')
def resnet():
    """3T-ResNet18 as the configs have it, on the meta device."""
    with torch.device('meta'):
        return MODELS.build(dict(
            type='Recognizer3D', cls_head=dict(type='I3DHead', num_classes=3, in_channels=512),
            backbone=dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3),
                          temporal_cfg=dict(type='Conv3T'), conv1_stride_t=2, pool1_stride_t=2, pool1_kernel=(3, 3, 3),
                          temporal_strides=(1, 2, 2, 2))))


@pytest.mark.parametrize('frames, percent, layers', [(8, 43, 11), (16, 35, 7), (30, 19, 3), (33, 0, 0)])
def test_shares_of_the_issue(resnet, frames, percent, layers):
    unused = UnusedMotion(resnet, (3, frames, 112, 112))
    assert round(100 * unused.share) == percent and len(unused.layers) == layers
    # 8 frames: 2 in the first stage, 1 from layer2.0 on, whose first convolution still has a last slice that sees one
    if frames == 8:
        layers = [module for module in resnet.modules() if isinstance(module, Conv3T)]
        assert unused.all_values == 4 * sum((layer.kernel_size[0] - 1) * layer.out_channels for layer in layers)
        assert unused.values == 4 * (3 * 128 + 4 * 256 + 4 * 512)  # one step of the last 3 + 4 + 4 layers
        assert unused.layers[0] == 'backbone.layer2.0.conv2.conv'
    assert least_clip_length(resnet, (3, frames, 112, 112)) == 33
    assert not any('forward' in vars(module) for module in resnet.modules())  # as it was


NETS = [
    (nn.Sequential(Conv3T(1, 2, 3, padding=1), Conv3T(2, 2, (5, 3, 3), padding=(2, 1, 1))), 1),
    (nn.Sequential(Conv3T(1, 2, 3, padding=1), Conv3T(2, 2, (5, 3, 3), padding=(2, 1, 1))), 2),
    (nn.Sequential(Conv3T(1, 2, (7, 3, 3), padding=(3, 1, 1), stride=(4, 1, 1))), 5),
    (nn.Sequential(Conv3T(1, 2, (7, 3, 3), padding=(3, 1, 1), dilation=(2, 1, 1))), 9),
    (nn.Sequential(Conv3T(1, 2, 3, padding='same')), 1),
    (nn.Sequential(Conv3T(1, 2, (3, 3, 3), padding=(1, 1, 1), padding_mode='replicate')), 1),
    (nn.Sequential(Conv3T(1, 2, 3, padding=1, transform='free')), 1),
]


@pytest.mark.parametrize('net, frames', NETS)
def test_unused_steps_are_those_without_a_gradient(net, frames):
    net = net.double()
    torch.manual_seed(frames)
    for module in net:
        for name in TEMPORAL_PARAMETERS if module.transform == 'affine' else ('theta', ):
            with torch.no_grad():
                getattr(module, name).add_(0.2 * torch.rand_like(getattr(module, name)))
    net.zero_grad()
    net(torch.randn(4, 1, frames, 7, 7, dtype=torch.float64)).square().sum().backward()
    used = used_steps(net, (1, frames, 7, 7))
    for name, module in net.named_children():
        gradient = sum(tensor.grad.abs().flatten(1).sum(1) for tensor in module.temporal_tensors())
        assert (gradient > 0).tolist() == used[name].tolist(), (name, gradient)


def test_a_plain_kernel_is_read_up_to_its_first_dead_slice():
    net = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, (5, 3, 3), padding=(1, 1, 1)))
    # of 3 frames each slice of the first sees one; the second takes one step, over frames -1 to 3
    assert {name: used.tolist() for name, used in used_steps(net, (1, 3, 5, 5)).items()} == {
        '0': [True, True], '1': [False] * 4}
    assert dead_slices_of(net, (1, 3, 5, 5)) == {'1': (5, [0, 4])}
    assert reach_of(net, (1, 3, 5, 5)) == {'0': [], '1': [0, 4]}
    shared = nn.Conv3d(1, 1, 3, padding=1)
    assert reach_of(nn.Sequential(shared, nn.AvgPool3d((3, 1, 1)), shared), (1, 3, 5, 5)) == {'0': []}


class Deep(nn.Module):
    """A second layer with one step: of its two transforms the first is used."""

    def __init__(self):
        super().__init__()
        self.first = Conv3T(1, 2, 3, padding=1)
        self.last = Conv3T(2, 3, 3, padding=1)
        with torch.no_grad():
            self.first.scale.fill_(1.2)
            self.last.scale[0], self.last.scale[1] = 0.9, 5.  # 5: where it started, or by weight decay; no gradient
            self.last.rotate[1] = 1.

    def forward(self, clip):
        return self.last(self.first(clip).mean(2, keepdim=True))


def test_out_of_every_number(tmp_path):
    model = Deep()
    before = parameter_statistics(model)
    assert 'left_out' not in before and before.loc[MODEL_ROW, 'values'] == 10
    parameters = temporal_parameters(model, clip_shape=(1, 4, 6, 6))
    table = parameter_statistics(model, parameters=parameters)
    assert table['left_out'].tolist() == [0, 3, 3] and table['values'].tolist() == [4, 3, 7]
    assert table.loc['last', 'abs_scale_mean'] == pytest.approx(0.1, abs=1e-6)
    assert table.loc[MODEL_ROW, 'abs_scale_mean'] == pytest.approx((4 * 0.2 + 3 * 0.1) / 7, abs=1e-6)
    assert table.loc[MODEL_ROW, 'abs_rotate_mean'] == 0
    assert before.loc[MODEL_ROW, 'abs_rotate_mean'] == pytest.approx(0.3)
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in table_2({'3T': table}).split('\n')]
    assert lines[-1] == ['left out', '3 of 10'] and lines[2] == ['s  μ / σ', '157.14 / 49.49']

    trajectory = filter_trajectory(parameters['last'], 1, (3, 3, 3))
    np.testing.assert_allclose(trajectory.zoom, [1, 1 / 0.9], rtol=1e-6)
    sizes = kernel_sizes(model)
    figure = draw_trajectories(parameters, sizes, [('last', 1)])
    assert 'no frame from slice 3 on' in figure.axes[0].get_title('left') and figure.axes[0].get_xlim()[1] > 3
    title = draw_distributions({'3T': parameters}).axes[0].get_title('left')
    assert title == '3T  (7 values; 3 left out: their slices see no frame)'
    assert [layer for layer, _ in most_moving_filters(parameters, 2)] == ['first', 'first']  # else the scale of 5

    save_parameters(tmp_path / 'p.npz', model, parameters)
    again, _ = load_parameters(tmp_path / 'p.npz')
    assert again['last']['used'].tolist() == [True, False] and again['last']['scale'][1, 0] == 5  # all are there


def test_a_layer_that_is_not_used_at_all_is_refused():
    model = nn.Sequential(Conv3T(1, 2, 3, padding=1, stride=(2, 1, 1), dilation=(2, 1, 1)))
    parameters = temporal_parameters(model, clip_shape=(1, 4, 5, 5))  # the one step is over frames -1, 1 and 3
    assert parameters['0']['used'].tolist() == [True, True]
    parameters['0']['used'] = torch.tensor([False, False])
    with pytest.raises(ValueError, match="no slice of layer '0' after its first sees a frame.*longer clips"):
        draw_trajectories(parameters, kernel_sizes(model), [('0', 0)])
    with pytest.raises(ValueError, match='none with slices that see a frame'):
        draw_trajectories(parameters, kernel_sizes(model))
    with pytest.raises(ValueError, match='no step of its kernels is used'):
        draw_distributions({'a': parameters})
