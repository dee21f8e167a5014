"""3D kernels read as 3T kernels: known answers, what cannot be known, errors; the ladder, the null, whole networks."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
from mmaction.registry import MODELS
from torch import nn

from tconv_mmaction.interpret import (
    draw_distributions,
    draw_trajectories,
    fit_kernels,
    fit_temporal_parameters,
    kernel_sizes,
    motion_ladder,
    motion_null,
    parameter_statistics,
    temporal_parameters,
)
from tconv_mmaction.interpret.convert_3d import convert_3d
from tconv_mmaction.interpret.motion_null import NULLS, randomised
from tconv_mmaction.interpret.pictures.ladder import draw_ladder, ladder_table
from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T, switch_to_deploy
from tconv_mmaction.maths.nearest_3t_kernel import still_explained


def moving_layer(inputs=16, outputs=6, size=3, gain=False, dtype=torch.float64, std=(.1, .2, .3, .3)):
    layer = Conv3T(inputs, outputs, size, init='paper', gain=gain).to(dtype)
    with torch.no_grad():
        for name, spread in zip(TEMPORAL_PARAMETERS, std):
            getattr(layer, name).add_(spread * torch.randn_like(getattr(layer, name)))
        if gain:
            layer.gain.copy_(torch.randn_like(layer.gain).sign() * (0.5 + torch.rand_like(layer.gain)))
    return layer


# ------------------------------------------------------------------------------------------------------ known answers

@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_a_deployed_3t_layer_gives_its_parameters_back(dtype, close):
    layer = moving_layer(dtype=dtype)
    found = fit_temporal_parameters(switch_to_deploy(layer).weight)
    for name in TEMPORAL_PARAMETERS:
        torch.testing.assert_close(getattr(found, name), getattr(layer, name).detach(), atol=close, rtol=0)
    torch.testing.assert_close(found.first, layer.weight.detach()[:, :, 0], atol=10 * close, rtol=0)
    assert found.explained.min() > 1 - 1e-6 and (found.gain == 1).all()
    assert (found.baseline < found.explained).all() and found.explained.dtype == dtype


@pytest.mark.parametrize('gain', [False, True])
def test_large_unsteady_motion_of_5x5_filters_is_found(gain):
    torch.manual_seed(0)
    layer = Conv3T(6, 24, 5, gain=gain, gain_std=0.5 if gain else 0.)
    with torch.no_grad():
        for parameter in (layer.rotate, layer.translate_x, layer.translate_y):
            parameter.normal_(0, 0.4)
        layer.scale.normal_(0, 0.13).exp_()
    found = fit_temporal_parameters(layer.kernel().detach(), gain=gain)
    assert (found.explained > 1 - 2e-5).all()  # a third of them had missed with starts of whole motions only


def test_gains_come_back_up_to_their_size():
    layer = moving_layer(gain=True)
    found = fit_temporal_parameters(layer.kernel().detach(), gain=True)
    truth = layer.gain.detach()
    truth = truth / truth.square().mean(0).sqrt()
    truth = truth * truth.gather(0, truth.abs().argmax(0, keepdim=True)).sign()
    torch.testing.assert_close(found.gain, truth, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.translate_x, layer.translate_x.detach(), atol=1e-3, rtol=0)
    rebuilt = moving_layer(gain=True)
    with torch.no_grad():
        rebuilt.weight[:, :, 0] = found.first
        rebuilt.gain.copy_(found.gain)
        for name in TEMPORAL_PARAMETERS:
            getattr(rebuilt, name).copy_(getattr(found, name))
    torch.testing.assert_close(rebuilt.kernel(), layer.kernel(), atol=1e-2, rtol=0)


def blob(centre_x, centre_y, width, angle=0.):
    """A 7x7 picture of an oblong blob; the centre in pixels right and down from the middle, degrees clockwise."""
    y, x = torch.meshgrid(*[torch.arange(-3, 4, dtype=torch.float64)] * 2, indexing='ij')
    a = math.radians(angle)
    u, v = (x - centre_x) * math.cos(a) + (y - centre_y) * math.sin(a), (y - centre_y) * math.cos(a) - (
        x - centre_x) * math.sin(a)
    return torch.exp(-(u / width)**2 - (v / (0.6 * width))**2)


@pytest.mark.parametrize(('frames', 'expected'), [
    ([blob(-1, .5, 2), blob(0, 0, 2), blob(1, -.5, 2)], dict(right=1., down=-.5)),
    ([blob(0, 0, 2, angle) for angle in (-20, 0, 20)], dict(clockwise=20.)),
    ([blob(0, 0, width) for width in (1.5, 1.8, 2.16)], dict(zoom=1.2)),
], ids=['drift', 'rotation', 'zoom'])
def test_drifting_rotating_and_zooming_blobs(frames, expected):
    found = fit_temporal_parameters(torch.stack(frames)[None, None])
    motion = dict(right=-3 * found.translate_x, down=-3 * found.translate_y,  # half a kernel of 7 is 3 pixels
                  clockwise=-torch.rad2deg(found.rotate), zoom=1 / found.scale)
    close = dict(right=.15, down=.15, clockwise=4., zoom=.06)
    still = dict(right=0., down=0., clockwise=0., zoom=1.)
    assert found.explained > 0.98
    for name, value in {**still, **expected}.items():
        np.testing.assert_allclose(motion[name].mean(), value, atol=close[name], err_msg=name)


def test_what_cannot_be_known_has_no_sensitivity():
    y, x = torch.meshgrid(*[torch.arange(-2, 3, dtype=torch.float64)] * 2, indexing='ij')
    disc, stripes = torch.exp(-(x**2 + y**2) / 2), torch.cos(2 * x) + 0 * y
    moved = torch.stack([disc, disc.roll(1, 1)]), torch.stack([stripes, torch.cos(2 * (x - .4))])
    found = fit_temporal_parameters(torch.stack(moved)[:, None] + 0.)
    assert found.sensitivity['rotate'][0, 0] < 0.1 * found.sensitivity['translate_x'][0, 0]  # a disc that turns
    # along its stripes only the zeros show that come in at the border
    assert found.sensitivity['translate_y'][0, 1] < 0.2 * found.sensitivity['translate_x'][0, 1]


def test_still_kernels_and_zeros():
    weight = torch.randn(3, 8, 1, 3, 3).repeat(1, 1, 3, 1, 1)
    weight[2] = 0
    found = fit_temporal_parameters(weight, gain=True)
    assert found.explained.min() > 1 - 1e-5 and found.baseline.min() > 1 - 1e-5
    assert (found.motion_share() < 1e-2).all() and torch.isfinite(found.first).all()


def test_never_below_the_baseline_and_the_same_twice_in_any_chunks():
    weight = torch.randn(9, 5, 3, 3, 3, dtype=torch.float64)
    for gain in (False, True):
        found = fit_temporal_parameters(weight, gain=gain, iterations=8)
        assert (found.explained >= found.baseline - 1e-5).all()
    calls = []
    small = fit_temporal_parameters(weight, gain=True, iterations=8, memory=1 << 20,
                                    progress=lambda *counts: calls.append(counts))
    assert len(calls) > 1 and calls[-1] == (9, 9)
    torch.testing.assert_close(small.explained, found.explained, atol=1e-3, rtol=0)
    again = fit_temporal_parameters(weight, gain=True, iterations=8, memory=1 << 20)
    assert torch.equal(again.first, small.first)


def test_the_middle_slice_as_reference():
    """Slices made backwards by the inverse step: the numbers are those of the steps forward."""
    frames = torch.stack([blob(-1, 0, 2), blob(0, 0, 2), blob(1, 0, 2)])[None, None]
    found = fit_temporal_parameters(frames, reference='middle')
    np.testing.assert_allclose((-3 * found.translate_x)[:, 0], [1, 1], atol=.15)
    assert found.explained > 0.99 and found.first.shape == (1, 1, 7, 7)


@pytest.mark.parametrize(('weight', 'error', 'text'), [
    (torch.zeros(2, 3, 3, 3), ValueError, r'\(O, I, T, H, W\)'),
    (torch.zeros(2, 3, 1, 3, 3), ValueError, 'one slice'),
    (torch.zeros(2, 3, 3, 1, 1), ValueError, 'one pixel per slice'),
    (torch.full((1, 1, 2, 2, 2), math.nan), ValueError, 'diverged'),
    (torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64), TypeError, 'int64'),
    ([[1.]], TypeError, 'list')])
def test_weights_that_are_none(weight, error, text):
    with pytest.raises(error, match=text):
        fit_temporal_parameters(weight)


@pytest.mark.parametrize('options', [dict(starts=0), dict(iterations=-1), dict(ridge=-1.), dict(reference='last')])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        fit_temporal_parameters(torch.randn(1, 1, 3, 3, 3), **options)


# --------------------------------------------------------------------------------------------------- ladder and null

def test_still_shares_against_the_singular_values():
    weight = torch.randn(4, 6, 5, 3, 3, dtype=torch.float64)
    static, gains, vectors = still_explained(weight)
    for k, filter_ in enumerate(weight):
        matrix = filter_.transpose(0, 1).flatten(1)  # T, I P
        singular = np.linalg.svd(matrix.numpy(), compute_uv=False)
        np.testing.assert_allclose(gains[k], singular[0]**2 / (singular**2).sum())
        rest = matrix - matrix.mean(0)
        np.testing.assert_allclose(static[k], 1 - rest.square().sum() / matrix.square().sum())
        np.testing.assert_allclose(vectors[k].square().mean(), 1.)


def test_the_ladder_of_a_3t_kernel_with_gains_ends_at_one():
    ladder = motion_ladder(moving_layer(gain=True).kernel().detach())
    rungs = torch.stack(ladder[:4])
    assert (rungs.diff(dim=0) >= 0).all() and ladder.motion.min() > 1 - 1e-6 and ladder.gains.max() < 0.99


def test_the_null_keeps_the_still_part_and_the_size_of_the_change():
    weight = torch.randn(3, 6, 3, 5, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    static, gains, vectors = still_explained(weight)
    unit = vectors / 3**0.5
    for kind in ('phases', 'inputs'):
        drawn = randomised(weight, kind, generator)
        torch.testing.assert_close(torch.einsum('ot,oithw->oihw', unit, drawn),
                                   torch.einsum('ot,oithw->oihw', unit, weight))
        torch.testing.assert_close(drawn.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
        assert (drawn - weight).abs().max() > 0.1
    drawn = randomised(weight, 'slices', generator)
    for one, other in zip(drawn, weight):
        order = [int((one[:, b, None] == other).all(-1).all(-1).all(0).nonzero()[0]) for b in range(3)]
        assert sorted(order) == [0, 1, 2] and order not in ([0, 1, 2], [2, 1, 0])
    with pytest.raises(ValueError, match="'colours'"):
        randomised(weight, 'colours', generator)


def test_motion_is_told_from_noise():
    quick = dict(starts=3, iterations=8, fits=40)
    kernel = moving_layer(outputs=8, dtype=torch.float32, std=(0, .3, .3, .3)).kernel().detach()
    moving = motion_null(kernel + 0.4 * kernel.std() * torch.randn_like(kernel), kinds=NULLS, **quick)
    assert moving.above.mean() > 0.8 and set(moving.null) == set(NULLS)
    still = torch.randn(8, 16, 1, 3, 3).expand(-1, -1, 3, -1, -1)
    assert not motion_null(still + 0.5 * torch.randn(8, 16, 3, 3, 3), **quick).above.any()
    assert not motion_null(torch.randn(8, 16, 3, 3, 3), **quick).above.any()


# ------------------------------------------------------------------------------------------------------ whole networks

class Net(nn.Module):
    """A 3T layer, a moving and a random 3D convolution, a 2D and a purely temporal kernel."""

    def __init__(self):
        super().__init__()
        self.known = Conv3T(2, 3, 3)
        self.moving = nn.Conv3d(16, 12, 3)
        self.random = nn.Conv3d(16, 4, 3)
        self.flat, self.temporal = nn.Conv3d(4, 4, (1, 3, 3)), nn.Conv3d(4, 4, (3, 1, 1))
        with torch.no_grad():
            kernel = moving_layer(outputs=12, dtype=torch.float32, std=(0, .3, .3, .3)).kernel()
            self.moving.weight.copy_(kernel + 0.3 * torch.randn_like(kernel))


QUICK = dict(starts=4, iterations=10, fits=40)


@pytest.fixture(scope='module')
def fitted():
    torch.manual_seed(0)
    model = Net()
    return model, temporal_parameters(model, fit=True, **QUICK)


def test_temporal_parameters_of_a_network(fitted):
    model, parameters = fitted
    assert list(parameters) == ['known', 'moving', 'random']  # the model's order; flat and temporal have no motion
    assert list(kernel_sizes(model, fit=True)) == list(parameters) and list(kernel_sizes(model)) == ['known']
    assert set(parameters['known']) == set(TEMPORAL_PARAMETERS)
    values = parameters['moving']
    assert values['gain'].shape == (3, 12) and values['scale'].shape == (2, 12)
    assert values['above_null'].float().mean() > 0.8 and not parameters['random']['above_null'].any()
    assert temporal_parameters(model).keys() == {'known'}
    with pytest.raises(TypeError, match='fits'):
        temporal_parameters(model, fits=3)


def test_statistics_and_figures_show_only_what_is_above_the_null(fitted):
    model, parameters = fitted
    table = parameter_statistics(model, parameters=parameters)
    above = int(parameters['moving']['above_null'].sum())
    assert list(table['above_null']) == [3, above, 0, 3 + above]
    assert list(table['transform']) == ['affine', 'fitted', 'fitted', 'mixed']
    chosen = parameters['moving']['above_null']
    expected = (parameters['moving']['scale'][:, chosen].double() - 1).abs().mean()
    np.testing.assert_allclose(table.loc['moving', 'abs_scale_mean'], expected)
    assert pd.isna(table.loc['random', 'abs_scale_mean'])

    figure = draw_distributions({'net': parameters})
    title = figure.axes[0].get_title(loc='left')
    assert f'{above} of 16 filters above the null' in title and '% without motion' in title
    sizes = kernel_sizes(model, fit=True)
    channel = int(chosen.nonzero()[0])
    figure = draw_trajectories(parameters, sizes, [('moving', channel)])
    assert 'without motion' in figure.axes[0].get_title(loc='left')
    with pytest.raises(ValueError, match='not above the null'):
        draw_trajectories(parameters, sizes, [('random', 0)])
    with pytest.raises(ValueError, match='no filter of its 1 layers'):
        draw_distributions({'net': {'random': parameters['random']}})


def test_ladder_table_and_figure():
    kernels = dict(a=torch.randn(3, 4, 3, 3, 3), b=moving_layer(4, 2, dtype=torch.float32).kernel().detach())
    layers = fit_kernels(kernels, starts=2, iterations=3, fits=4)
    ladders = {name: motion_ladder(weight, layers[name].fit, iterations=3) for name, weight in kernels.items()}
    table = ladder_table(ladders, layers)
    assert list(table.index) == ['a', 'b'] and list(table['kernel']) == ['3x3x3'] * 2
    np.testing.assert_allclose(table.loc['a', 'static'], still_explained(kernels['a'])[0].mean())
    axes = draw_ladder(table, 'net').axes[0]
    assert [text.get_text() for text in axes.texts] == [f'{n} of {o} above the null'
                                                        for n, o in zip(table['above'], (3, 2))]
    with pytest.raises(ValueError, match="layer 'bad'"):
        fit_kernels(dict(bad=torch.full((1, 1, 3, 3, 3), math.inf)))


# --------------------------------------------------------------------------------------------------------- conversion

def lenet(conv, **options):
    backbone = dict(type='LeNet5', temporal_cfg=dict(type=conv, **options), channels=(2, 3), clip_shape=(12, 12, 12))
    return MODELS.build(dict(type='Recognizer3D', backbone=backbone, cls_head=dict(
        type='I3DHead', num_classes=2, in_channels=84, dropout_ratio=0.))).eval()


@pytest.mark.parametrize('gain', [False, True])
def test_a_deployed_3t_network_converts_back_to_the_same_answers(gain):
    torch.manual_seed(0)
    source = lenet('Conv3T', gain=gain)
    with torch.no_grad():
        for name in ('conv1', 'conv2'):
            for parameter in TEMPORAL_PARAMETERS[1:]:
                getattr(getattr(source.backbone, name), parameter).normal_(0, .1)
    three_d, target = switch_to_deploy(source), lenet('Conv3T', gain=gain)
    converted = convert_3d(three_d.state_dict(), target, starts=48)  # with the default some filters stop short of 1
    target.load_state_dict(converted.state_dict)
    clip = torch.rand(2, 1, 12, 12, 12)
    torch.testing.assert_close(target.backbone(clip), source.backbone(clip), atol=2e-3, rtol=1e-2)
    assert min(converted.explained.values()) > 0.9999 > max(converted.still.values())


def test_conversion_says_what_does_not_fit():
    state = lenet('Conv3d').state_dict()
    with pytest.raises(ValueError, match='nothing to convert'):
        convert_3d(state, lenet('Conv3d'))
    with pytest.raises(ValueError, match='is missing'):
        convert_3d({}, lenet('Conv3T'))
    with pytest.raises(ValueError, match="'free'"):
        convert_3d(state, lenet('Conv3T', transform='free'))
    wrong = {**state, 'backbone.fc1.weight': torch.zeros(3, 3)}
    with pytest.raises(ValueError, match='fc1.weight'):
        convert_3d(wrong, lenet('Conv3T'), starts=1, iterations=0)
