"""Reading a 3T network: parameters, statistics and the numbers of the figures, against hand-computed cases."""
import math
import os
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel, MMSeparateDistributedDataParallel
from torch import nn

from tconv_mmaction.interpret import (
    draw_distributions,
    draw_trajectories,
    parameter_statistics,
    table_2,
    temporal_parameters,
)
from tconv_mmaction.interpret.parameter_statistics import MODEL_ROW
from tconv_mmaction.interpret.pictures.temporal_figures import (
    filter_motion,
    filter_trajectory,
    most_moving_filters,
    save_figure,
    shared_limits,
)
from tconv_mmaction.interpret.temporal_parameters import (
    closest_similarity,
    kernel_sizes,
    load_parameters,
    save_parameters,
    temporal_layers,
)
from tconv_mmaction.interpret.trajectories import Motion
from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T
from tconv_mmaction.maths.temporal_transform import affine_matrix, temporal_kernel


def net():
    """conv1: one step, two filters; stage.conv2: two steps, one filter; and a layer without temporal parameters."""
    stage = nn.Sequential()
    stage.add_module('conv2', Conv3T(2, 1, (3, 5, 9)))
    model = nn.Sequential()
    model.add_module('conv1', Conv3T(1, 2, (2, 3, 3)))
    model.add_module('stage', stage)
    model.add_module('plain', nn.Conv3d(1, 1, 1))
    with torch.no_grad():
        model.conv1.scale.copy_(torch.tensor([[1.1, 0.7]]))
        model.conv1.rotate.copy_(torch.tensor([[0.1, -0.3]]))
        model.conv1.translate_x.copy_(torch.tensor([[0.25, -0.75]]))
        stage.conv2.scale.copy_(torch.tensor([[1.25], [0.8]]))
        stage.conv2.rotate.copy_(torch.tensor([[0.], [math.pi / 6]]))
        stage.conv2.translate_x.copy_(torch.tensor([[0.5], [0.]]))
        stage.conv2.translate_y.copy_(torch.tensor([[-1.], [0.25]]))
    return model


@pytest.fixture
def model():
    return net()


def test_temporal_parameters_are_detached_copies(model):
    parameters = temporal_parameters(model)
    assert list(parameters) == ['conv1', 'stage.conv2']
    for values in parameters.values():
        assert list(values) == list(TEMPORAL_PARAMETERS)
        assert not any(value.requires_grad for value in values.values())
    torch.testing.assert_close(parameters['conv1']['scale'], torch.tensor([[1.1, 0.7]]))
    torch.testing.assert_close(parameters['stage.conv2']['translate_y'], torch.tensor([[-1.], [0.25]]))
    model.conv1.scale.data.fill_(9)
    assert parameters['conv1']['scale'][0, 0] == pytest.approx(1.1)  # on the CPU .cpu() alone would be a view


class Separate(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = net()


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('wrap', [
    nn.DataParallel, nn.parallel.DistributedDataParallel, MMDistributedDataParallel, torch.compile,
    lambda m: ExponentialMovingAverage(m), lambda m: torch.compile(MMDistributedDataParallel(m))],
    ids=['DP', 'DDP', 'MMDDP', 'compile', 'EMA', 'compile(MMDDP)'])  # yapf: disable
def test_wrappers_do_not_show_in_names(model, wrap, process_group):
    plain = temporal_parameters(model)
    wrapped = temporal_parameters(wrap(model))
    assert list(wrapped) == list(plain)
    for layer, values in plain.items():
        for name, value in values.items():
            torch.testing.assert_close(wrapped[layer][name], value, rtol=0, atol=0)


def test_wrapped_parts_do_not_show_in_names(process_group):
    model = MMSeparateDistributedDataParallel(Separate())
    assert list(temporal_parameters(model)) == ['backbone.conv1', 'backbone.stage.conv2']


def test_one_layer_shared_kt_1_and_no_layer(model):
    assert list(temporal_layers(model.conv1)) == ['']
    assert list(temporal_layers(nn.ModuleList([model.conv1, model.conv1]))) == ['0']
    assert temporal_parameters(nn.Conv3d(1, 1, 1)) == {}
    single = Conv3T(1, 3, (1, 3, 3))
    assert {name: tuple(v.shape) for name, v in temporal_parameters(single)[''].items()} == {
        name: (0, 3) for name in TEMPORAL_PARAMETERS}
    for empty in (single, nn.Conv3d(1, 1, 1), nn.DataParallel(nn.Conv3d(1, 1, 1))):
        with pytest.raises(ValueError, match=r'^Conv3[dT] has no Conv3T layer with kT > 1.*temporal_cfg.*deploy'):
            parameter_statistics(empty)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_nan_names_layer_and_parameter(model, bad):
    model.stage.conv2.rotate.data[1, 0] = bad
    for read in (temporal_parameters, parameter_statistics):
        with pytest.raises(ValueError, match=rf"rotate of layer 'stage.conv2' .* at \(1, 0\).*: {bad}.*diverged"):
            read(model)


def test_statistics_by_hand(model):
    """Every number below is worked out from the parameters of `net` on paper."""
    table = parameter_statistics(model)
    assert list(table.index) == ['conv1', 'stage.conv2', MODEL_ROW]
    assert list(table['values']) == [2, 2, 4] and list(table['filters']) == [2, 1, 3]
    assert list(table['steps'][:2]) == [1, 2] and table['steps'].isna().iloc[2]
    assert set(table['transform']) == {'affine'} and set(table['residual_mean']) == {0.}

    def row(layer, *columns):
        return [float(table.loc[layer, column]) for column in columns]

    four = ['abs_{}_mean', 'abs_{}_std', 'signed_{}_mean', 'signed_{}_std']
    expected = {
        # |s-1| = 0.1, 0.3 and s-1 = 0.1, -0.3
        ('conv1', 'scale'): (0.2, 0.1, -0.1, 0.2),
        ('conv1', 'rotate'): (0.2, 0.1, -0.1, 0.2),
        ('conv1', 'rotate_degrees'): tuple(v * 180 / math.pi for v in (0.2, 0.1, -0.1, 0.2)),
        ('conv1', 'translate_x'): (0.5, 0.25, -0.25, 0.5),
        ('conv1', 'translate_y'): (0, 0, 0, 0),
        ('conv1', 'shift_x_pixels'): (0.5, 0.25, -0.25, 0.5),  # (3-1)/2 = 1 pixel per unit
        ('stage.conv2', 'scale'): (0.225, 0.025, 0.025, 0.225),
        ('stage.conv2', 'rotate_degrees'): (15, 15, 15, 15),
        ('stage.conv2', 'translate_y'): (0.625, 0.375, -0.375, 0.625),
        ('stage.conv2', 'shift_x_pixels'): (1, 1, 1, 1),  # width 9: 4 pixels per unit
        ('stage.conv2', 'shift_y_pixels'): (1.25, 0.75, -0.75, 1.25),  # height 5: 2 pixels per unit
        # the model pools the four values: p_x = 0.25, -0.75, 0.5, 0
        (MODEL_ROW, 'translate_x'): (0.375, math.sqrt(0.3125 / 4), 0., math.sqrt(0.875 / 4)),
        (MODEL_ROW, 'scale'): (0.2125, np.std([0.1, 0.3, 0.25, 0.2]), -0.0375, np.std([0.1, -0.3, 0.25, -0.2])),
    }
    for (layer, quantity), values in expected.items():
        found = row(layer, *(f.format(quantity) for f in four))
        assert found == pytest.approx(values, rel=1e-6, abs=1e-7), (layer, quantity)

    sample = parameter_statistics(model, ddof=1)
    assert sample.loc['conv1', 'abs_scale_std'] == pytest.approx(0.1 * math.sqrt(2))
    assert sample.loc['conv1', 'abs_scale_mean'] == pytest.approx(0.2)
    assert all(pd.api.types.is_float_dtype(table[c]) for c in table.columns if c.endswith(('mean', 'std')))


def test_layer_without_steps_counts_for_nothing(model):
    alone = parameter_statistics(model)
    model.add_module('single', Conv3T(1, 5, (1, 3, 3)))
    table = parameter_statistics(model)
    assert table.loc['single', 'values'] == 0 and math.isnan(table.loc['single', 'abs_scale_mean'])
    columns = [c for c in table.columns if c.startswith(('abs', 'signed'))]
    pd.testing.assert_series_equal(table.loc[MODEL_ROW, columns], alone.loc[MODEL_ROW, columns])


def test_table_2(model):
    model.conv1.rotate.data.mul_(2)
    text = table_2({'3T': parameter_statistics(model), 'again': parameter_statistics(model)}, row='conv1')
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.split('\n')]
    assert lines[0] == ['x 1e-3', '3T', 'again'] and set(lines[1]) == {'---'}
    assert lines[2] == ['s  μ / σ', '200.00 / 100.00', '200.00 / 100.00']
    assert lines[3] == ['r  μ / σ', '400.00 / 200.00', '400.00 / 200.00']
    assert lines[4][1] == '500.00 / 250.00' and lines[5][1] == '0.00 / 0.00'
    assert len(lines) == 6
    assert '| 212.50 / 73.95' in table_2({'3T': parameter_statistics(model)})  # the whole model by default
    with pytest.raises(KeyError, match="3T has no layer 'conv9'; it has .*'conv1'"):
        table_2({'3T': parameter_statistics(model)}, row='conv9')


def test_closest_similarity_inverts_eq_3_and_is_the_closest():
    generator = torch.Generator().manual_seed(0)
    s = torch.rand(50, generator=generator, dtype=torch.float64) + 0.3
    r = (torch.rand(50, generator=generator, dtype=torch.float64) - 0.5) * 6
    tx, ty = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    values, residual = closest_similarity(affine_matrix(s, r, tx, ty))
    for name, expected in zip(TEMPORAL_PARAMETERS, (s, r, tx, ty)):
        torch.testing.assert_close(values[name], expected, rtol=1e-12, atol=1e-12)
    assert residual.max() < 1e-12
    # shear: A = [[1, k], [0, 1]] is k/2 of rotation and k/2 of what no similarity has
    k = 0.2
    values, residual = closest_similarity(torch.tensor([[1, k, 0], [0, 1, 0]], dtype=torch.float64))
    assert values['scale'].item() == pytest.approx(math.sqrt(1 + k * k / 4))
    assert values['rotate'].item() == pytest.approx(math.atan2(-k / 2, 1))
    assert residual.item() == pytest.approx(k / math.sqrt(2))
    # closest: no perturbation of the four numbers comes nearer to a random matrix
    theta = torch.randn(20, 2, 3, generator=generator, dtype=torch.float64)
    values, residual = closest_similarity(theta)
    best = [values[name] for name in TEMPORAL_PARAMETERS]
    torch.testing.assert_close((theta - affine_matrix(*best)).flatten(1).norm(dim=1), residual)
    for i in range(4):
        for change in (-1e-3, 1e-3):
            moved = [value + change * (i == j) for j, value in enumerate(best)]
            assert ((theta - affine_matrix(*moved)).flatten(1).norm(dim=1) > residual).all()


def test_free_layers_are_read_as_similarities_and_say_so(model):
    free = Conv3T(1, 2, (2, 3, 3), transform='free')
    with torch.no_grad():
        affine = (getattr(model.conv1, name) for name in TEMPORAL_PARAMETERS)
        free.theta.copy_(affine_matrix(*affine))
        free.theta[0, 0, :, :2] += torch.tensor([[0.1, 0.], [0., -0.1]])  # unequal zoom: |D| = 0.1 * sqrt(2)
    values = temporal_parameters(free)['']
    assert list(values) == [*TEMPORAL_PARAMETERS, 'residual', 'theta']
    for name in TEMPORAL_PARAMETERS:
        torch.testing.assert_close(values[name][0, 1], getattr(model.conv1, name)[0, 1].detach())
    for name in ('scale', 'rotate'):
        torch.testing.assert_close(values[name][0, 0], getattr(model.conv1, name)[0, 0].detach())
    torch.testing.assert_close(values['residual'], torch.tensor([[0.1 * 2**0.5, 0.]]), rtol=1e-5, atol=1e-6)
    both = parameter_statistics(nn.ModuleList([free, model]))
    assert list(both['transform']) == ['free', 'affine', 'affine', 'mixed']
    assert both['residual_mean'].tolist() == pytest.approx([0.1 / 2**0.5, 0, 0, 0.1 * 2**0.5 / 6])
    with torch.no_grad():
        free.theta[0, 1, :, :2] = torch.tensor([[1., 0.], [0., -1.]])
    with pytest.raises(ValueError, match=r"theta of layer '' at \(0, 1\).*mirroring"):
        temporal_parameters(free)
    free.theta.data[0, 0, 0, 2] = float('nan')
    with pytest.raises(ValueError, match="theta of layer '' holds 1 value"):
        temporal_parameters(free)


def test_npz_round_trip_without_pickle(model, tmp_path):
    model.add_module('free', Conv3T(1, 2, (3, 3, 3), transform='free').bfloat16())
    path = tmp_path / 'sub/parameters.npz'
    save_parameters(path, model)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file['conv1.scale'], model.conv1.scale.detach().numpy())
        np.testing.assert_array_equal(file['stage.conv2.kernel_size'], [3, 5, 9])
        assert file['free.theta'].dtype == np.float32 and file['free.theta'].shape == (2, 2, 2, 3)
    parameters, sizes = load_parameters(path)
    assert sizes == kernel_sizes(model) == {'conv1': (2, 3, 3), 'stage.conv2': (3, 5, 9), 'free': (3, 3, 3)}
    for layer, values in temporal_parameters(model).items():
        for name, value in values.items():
            torch.testing.assert_close(parameters[layer][name], value, check_dtype=False, rtol=0, atol=0)
    save_parameters(path, model.conv1)
    assert list(load_parameters(path)[0]) == ['']


def test_trajectory_by_hand(model):
    zoom, clockwise, path = filter_trajectory(temporal_parameters(model)['stage.conv2'], 0, (3, 5, 9))
    np.testing.assert_allclose(zoom, [1, 1 / 1.25, 1], rtol=1e-6)  # 1/1.25 * 1/0.8
    np.testing.assert_allclose(clockwise, [0, 0, -30], rtol=1e-6, atol=1e-6)
    # step 1 moves the content by -t = (-0.5, 1); step 2 turns it by -30 degrees, zooms by 1.25 and moves by (0, -0.25)
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    second = np.array([1.25 * (-0.5 * c + 1 * s), 1.25 * (0.5 * s + 1 * c) - 0.25])
    np.testing.assert_allclose(path, [[0, 0], [-0.5 * 4, 1 * 2], second * [4, 2]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('transform', ['affine', 'free'])
def test_trajectory_is_what_the_kernel_does(transform):
    """A smooth blob in the first slice of a large kernel goes along the path, grows by the zoom and turns."""
    size, steps = 41, 3
    y, x = torch.meshgrid(torch.arange(size) - 20., torch.arange(size) - 20., indexing='ij')
    blob = torch.exp(-x.double()**2 / 18 - y.double()**2 / 8)[None, None]  # wider than high
    layer = Conv3T(1, 1, (steps + 1, size, size), transform=transform).double()
    numbers = [torch.tensor(v, dtype=torch.float64)[:, None] for v in (
        [1.1, 0.8, 1.], [0.2, -0.1, 0.3], [0.2, -0.1, 0.15], [-0.1, 0.2, 0.1])]
    with torch.no_grad():
        if transform == 'free':
            layer.theta.copy_(affine_matrix(*numbers))
        else:
            for name, value in zip(TEMPORAL_PARAMETERS, numbers):
                getattr(layer, name).copy_(value)
    slices = temporal_kernel(blob, layer.matrices().detach())[0, 0]  # kT, kH, kW
    zoom, clockwise, path = filter_trajectory(temporal_parameters(layer)[''], 0, layer.kernel_size)
    mass = slices.sum((1, 2))
    cx, cy = (slices * x).sum((1, 2)) / mass, (slices * y).sum((1, 2)) / mass
    np.testing.assert_allclose(torch.stack([cx, cy], 1).numpy(), path, atol=0.02)  # pixels
    np.testing.assert_allclose((mass / mass[0]).sqrt().numpy(), zoom, rtol=0.01)  # area goes with the zoom squared
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    xx, yy, xy = ((slices * a * b).sum((1, 2)) / mass for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    angle = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)  # of the long axis; y points down: clockwise
    np.testing.assert_allclose(angle.numpy(), clockwise, atol=1)


def test_trajectory_errors(model):
    parameters = temporal_parameters(model)
    with pytest.raises(IndexError, match='channel 2 of a layer with 2 output channels'):
        filter_trajectory(parameters['conv1'], 2, (2, 3, 3))
    with pytest.raises(ValueError, match=r'kernel_size=\(3, 3, 3\) does not fit .* kT must be 2'):
        filter_trajectory(parameters['conv1'], 0, (3, 3, 3))
    parameters['conv1']['scale'][0, 1] = 0
    with pytest.raises(ValueError, match='channel 1: a transform of scale 0'):
        filter_trajectory(parameters['conv1'], 1, (2, 3, 3))


def test_filter_motion_is_the_rms_displacement(model):
    parameters = temporal_parameters(model)
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)
    y, x = torch.meshgrid((grid[1:] + grid[:-1]) / 2, (grid[1:] + grid[:-1]) / 2, indexing='ij')
    points = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)  # P, 3
    for layer, conv in temporal_layers(model).items():
        moved = torch.einsum('boij,pj->bopi', conv.matrices().detach().double(), points)
        expected = (moved - points[:, :2]).square().sum(-1).mean(-1).sqrt().sum(0)
        torch.testing.assert_close(filter_motion(parameters[layer]), expected, rtol=1e-4, atol=0)
    motions = {(layer, c): float(m) for layer in parameters for c, m in enumerate(filter_motion(parameters[layer]))}
    assert most_moving_filters(parameters, 2) == sorted(motions, key=motions.get)[::-1][:2]
    assert len(most_moving_filters(parameters, 100)) == 3
    with pytest.raises(ValueError, match='count must be at least 1'):
        most_moving_filters(parameters, 0)


def test_distributions_draw_the_numbers_on_the_same_axes(model):
    still = nn.ModuleList([Conv3T(1, 2, 3)])
    figure = draw_distributions({'a': temporal_parameters(model), 'b': temporal_parameters(still)})
    panels = np.array(figure.axes).reshape(2, 3)
    for column in range(3):
        assert panels[0, column].get_xlim() == panels[1, column].get_xlim()
        assert panels[0, column].get_ylim() == panels[1, column].get_ylim()
    assert panels[0, 0].get_xlim() == pytest.approx((1 - 0.315, 1 + 0.315))  # |s-1| <= 0.3, 5 % margin
    assert panels[0, 1].get_xlim() == pytest.approx((-31.5, 31.5))
    for row, count in zip(panels, (4, 4)):
        assert f'({count} values)' in row[0].get_title('left')
        for axes in row[:2]:
            assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)
    # scale 0.7, 0.8, 1.1, 1.25: four bars of a quarter
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in panels[0, 0].patches if bar.get_height() > 0]
    assert len(bars) == 4 and all(low <= s <= high for (low, high), s in zip(bars, (0.7, 0.8, 1.1, 1.25)))
    points = panels[0, 2].collections[0].get_offsets()
    np.testing.assert_allclose(points, [[-0.25, 0], [0.75, 0], [-0.5, 1], [0, -0.25]], atol=1e-7)
    bottom, top = panels[0, 2].get_ylim()
    assert bottom > top  # y points down


def test_distributions_say_what_is_outside_and_refuse_nothing(model):
    parameters = temporal_parameters(model)
    figure = draw_distributions({'a': parameters}, limits={'scale': (0.9, 1.15)})
    assert [text.get_text() for text in figure.axes[0].texts] == ['3 outside']
    assert not figure.axes[1].texts
    still = {'still': temporal_parameters(Conv3T(1, 1, 3))}
    assert shared_limits(still) == {'scale': (0.95, 1.05), 'rotate': (-5, 5), 'translate': (-0.5, 0.5)}
    assert shared_limits(still, Motion(0, 0, 0), 0)['scale'] == (0.99, 1.01)  # as narrow as asked for
    with pytest.raises(ValueError, match='at least one model'):
        draw_distributions({})
    with pytest.raises(ValueError, match='b has no temporal parameters'):
        draw_distributions({'b': temporal_parameters(Conv3T(1, 1, (1, 3, 3)))})


def test_distributions_of_a_large_model_share_their_colours():
    models = {}
    for title, spread in (('wide', 0.2), ('narrow', 0.05)):
        layer = Conv3T(1, 2000, 3)
        for name in TEMPORAL_PARAMETERS[2:]:
            nn.init.normal_(getattr(layer, name), std=spread)
        models[title] = temporal_parameters(layer)
    figure = draw_distributions(models)
    meshes = [axes.collections[0] for axes in figure.axes if axes.get_title() != 'x' and axes.collections
              and axes.get_ylabel().startswith('down')]
    assert len(meshes) == 2 and meshes[0].get_clim() == meshes[1].get_clim()
    for mesh in meshes:
        assert mesh.get_array().sum() == pytest.approx(100)
    # more of the narrow model is in the cell of no motion: row 20, column 20 of 41
    centre = [mesh.get_array().reshape(41, 41)[20, 20] for mesh in meshes]
    assert centre[1] > 5 * centre[0]


def test_trajectories_draw_path_from_blue_to_red(model):
    parameters, sizes = temporal_parameters(model), kernel_sizes(model)
    figure = draw_trajectories(parameters, sizes, [('stage.conv2', 0), ('conv1', 1)])
    panels = np.array(figure.axes).reshape(2, 3)
    trajectory = filter_trajectory(parameters['stage.conv2'], 0, (3, 5, 9))
    assert panels[0, 0].get_title('left') == 'stage.conv2, channel 0: zoom'
    _, line, start, end = panels[0, 0].get_lines()
    np.testing.assert_allclose(line.get_xydata(), np.stack([[1, 2, 3], trajectory.zoom], 1))
    _, line, _, _ = panels[0, 1].get_lines()
    np.testing.assert_allclose(line.get_ydata(), trajectory.clockwise)
    *_, line, start, end = panels[0, 2].get_lines()
    np.testing.assert_allclose(line.get_xydata(), trajectory.path)
    np.testing.assert_allclose(start.get_xydata(), trajectory.path[:1])
    np.testing.assert_allclose(end.get_xydata(), trajectory.path[-1:])
    red, _, blue = (int(to_hex(start.get_color())[i:i + 2], 16) for i in (1, 3, 5))
    assert blue > 2 * red
    red, _, blue = (int(to_hex(end.get_color())[i:i + 2], 16) for i in (1, 3, 5))
    assert red > 2 * blue
    for column in range(3):
        assert panels[0, column].get_xlim() == panels[1, column].get_xlim()
        assert panels[0, column].get_ylim() == panels[1, column].get_ylim()
    assert len(draw_trajectories(parameters, sizes, 2).axes) == 6
    with pytest.raises(ValueError, match=r"'plain' is no Conv3T layer.*\['conv1', 'stage.conv2'\]"):
        draw_trajectories(parameters, sizes, [('plain', 0)])
    with pytest.raises(ValueError, match='no filter to draw'):
        draw_trajectories({}, {})


def test_figures_are_written_from_a_thread_without_pyplot(model, tmp_path):
    parameters = temporal_parameters(model)
    errors = []

    def work():
        try:
            save_figure(draw_distributions({'a': parameters}), tmp_path / 'd.png')
            save_figure(draw_trajectories(parameters, kernel_sizes(model)), tmp_path / 't.png')
        except Exception as error:  # noqa: BLE001  shown below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert sorted(os.listdir(tmp_path)) == ['d.png', 't.png']
    for name in ('d.png', 't.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
