"""tools/analysis/temporal_params.py on checkpoints of small LeNets with known parameters."""
import math
import os
import re

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.tiny_project import run_here
from mmaction.registry import MODELS
from mmengine.config import Config

from tconv_mmaction.interpret import load_parameters, parameter_statistics, temporal_layers
from tconv_mmaction.interpret.parameter_statistics import MODEL_ROW
from tconv_mmaction.interpret.temporal_reach import UnusedMotion

TOOL = ROOT / 'tools/analysis/temporal_params.py'
CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
channels = {channels}
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict({cfg}), channels=channels, clip_shape=(12, 12, 12)),
    cls_head=dict(type='I3DHead', num_classes=2, in_channels=84))
'''


@pytest.fixture
def tool():
    return load_script('tools/analysis/temporal_params.py')


def write(folder, name, cfg="type='Conv3T'", channels=(2, 3), scale=1.1, rotate=0.2, prefix=''):
    """A config and a checkpoint; every s and r has the given value, t_x alternates between 0.1 and -0.3."""
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    config.write_text(CONFIG.format(cfg=cfg, channels=channels))
    model = MODELS.build(Config.fromfile(config).model)
    with torch.no_grad():
        for layer in temporal_layers(model).values():
            if layer.transform == 'affine':
                layer.scale.fill_(scale)
                layer.rotate.fill_(rotate)
                layer.translate_x[::2], layer.translate_x[1::2] = 0.1, -0.3
    torch.save({'state_dict': {prefix + key: value for key, value in model.state_dict().items()},
                'meta': {'epoch': 3}}, checkpoint)  # yapf: disable
    return str(config), str(checkpoint), model


def cells(text):
    """{symbol: [cells]} of a markdown table."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line[:1] == '|']
    return {row[0]: row[1:] for row in rows}


def test_one_model_from_the_command_line(tmp_path):
    config, checkpoint, model = write(tmp_path, 'lenet5-3t_a', prefix='module.')
    done = run_here(['python', TOOL, config, checkpoint], tmp_path)
    table = cells(done.stdout)
    assert table['x 1e-3'] == ['lenet5-3t_a']
    assert table['s  μ / σ'] == ['100.00 / 0.00'] and table['r  μ / σ'] == ['200.00 / 0.00']
    assert table['p_x  μ / σ'] == ['200.00 / 100.00'] and table['p_y  μ / σ'] == ['0.00 / 0.00']
    out = tmp_path / 'temporal_params/lenet5-3t_a'
    assert str(out) in done.stdout
    assert sorted(os.listdir(out)) == ['distributions.png', 'lenet5-3t_a.npz', 'statistics.csv', 'table_2.md',
                                       'trajectories_lenet5-3t_a.csv', 'trajectories_lenet5-3t_a.png']
    assert 'lenet5-3t_a: the config does not tell the size of its clips (there is no train_dataloader; ' in done.stdout
    drawn = pd.read_csv(out / 'trajectories_lenet5-3t_a.csv')
    assert drawn['slice'].tolist() == [1, 2, 3, 4, 5] * 5 and drawn['zoom'].max() == 1  # two and three filters
    assert cells((out / 'table_2.md').read_text()) == table
    parameters, sizes = load_parameters(out / 'lenet5-3t_a.npz')
    assert sizes == {'backbone.conv1': (5, 5, 5), 'backbone.conv2': (5, 5, 5)}
    torch.testing.assert_close(parameters['backbone.conv1']['translate_x'],
                               model.backbone.conv1.translate_x.detach(), rtol=0, atol=0)
    csv = pd.read_csv(out / 'statistics.csv').set_index(['model', 'layer'])
    expected = parameter_statistics(model)
    assert list(csv.index) == [('lenet5-3t_a', layer) for layer in expected.index]
    for column in (c for c in expected.columns if c.endswith(('mean', 'std'))):
        np.testing.assert_allclose(csv[column], expected[column].astype(float), rtol=1e-9, atol=1e-12)


def test_side_by_side(tool, tmp_path, capsys):
    first, other = write(tmp_path, 'a'), write(tmp_path, 'b', channels=(4, 5), scale=0.8, rotate=-0.05)
    last = write(tmp_path, 'c', channels=(4, 5), scale=1.)
    out = tmp_path / 'out'
    # the third has no config of its own: it takes that of the second
    assert tool.main([*first[:2], '--compare', *other[:2], last[1], '--out-dir', str(out),
                      '--filters', 'backbone.conv2:1', 'backbone.conv1:0']) == 0
    table = cells(capsys.readouterr().out)
    assert table['x 1e-3'] == ['a a', 'b b', 'b c']
    assert table['s  μ / σ'] == ['100.00 / 0.00', '200.00 / 0.00', '0.00 / 0.00']
    assert table['r  μ / σ'] == ['200.00 / 0.00', '50.00 / 0.00', '200.00 / 0.00']
    assert sorted(p.name for p in out.glob('*.png')) == ['distributions.png', 'trajectories_a_a.png',
                                                         'trajectories_b_b.png', 'trajectories_b_c.png']
    csv = pd.read_csv(out / 'statistics.csv').set_index(['model', 'layer'])
    assert csv.loc[('b b', MODEL_ROW), 'signed_rotate_degrees_mean'] == pytest.approx(-math.degrees(0.05), rel=1e-6)
    assert tool.main([*other[:2], '--compare', last[1], '--out-dir', str(out)]) == 0
    assert cells(capsys.readouterr().out)['x 1e-3'] == ['b', 'c']  # checkpoints of one config
    assert tool.main([*first[:2], '--compare', *other[:2], '--titles', 'x/y', 'x y', '--out-dir', str(out)]) == 0
    assert cells(capsys.readouterr().out)['x 1e-3'] == ['x/y', 'x y']
    assert (out / '1_x_y.npz').exists() and (out / '2_x_y.npz').exists()


def test_cfg_options_and_free_transforms(tool, tmp_path, capsys):
    config, checkpoint, _ = write(tmp_path, 'free', cfg="type='Conv3T', transform='free'")
    assert tool.main([config, checkpoint]) == 0
    assert 'free: free transforms are read as their closest similarity' in capsys.readouterr().out
    affine, affine_checkpoint, _ = write(tmp_path, 'affine', channels=(3, 4))
    small = tmp_path / 'small.py'
    small.write_text(CONFIG.format(cfg="type='Conv3T'", channels=(2, 2)))
    assert tool.main([str(small), affine_checkpoint, '--cfg-options', 'model.backbone.channels=(3,4)']) == 0


@pytest.mark.parametrize('case, message', [
    ('other model', r'is of another model than .*a\.py: it lacks backbone\.conv1\.rotate \(8 such\)'),
    ('3D model', r'3d\.pth is of another model than .*a\.py: backbone\.conv1\.weight: the checkpoint has .*3D kernel'),
    ('other size', r'wide\.pth is of another model.*conv1\.weight: the checkpoint has \(4, .* needs \(2, '),
    ('more layers', r'it has cls_head\.extra\.rotate, which the model has not'),
    ('no 3T', r'the model of .*3d\.py has no Conv3T layer.*temporal_cfg'),
    ('missing file', r'nowhere\.pth'),
    ('nan', r"scale of layer 'backbone.conv2' holds 1 value"),
    ('filter', r"'backbone.conv9' is no Conv3T layer"),
    ('filter text', r"LAYER:CHANNEL, as in backbone.conv1:3, got 'conv'"),
    ('no checkpoint', r'no checkpoint follows the config'),
    ('twice', r'given twice'),
    ('titles', r'2 model\(s\) need as many different names'),
])
def test_errors_say_what_to_do(tool, tmp_path, capsys, case, message):
    config, checkpoint, model = write(tmp_path, 'a')
    plain_config, plain, _ = write(tmp_path, '3d', cfg="type='Conv3d'")
    arguments = {
        '3D model': [config, plain],
        'other size': [config, write(tmp_path, 'wide', channels=(4, 5))[1]],
        'no 3T': [plain_config, plain],
        'missing file': [config, str(tmp_path / 'nowhere.pth')],
        'filter': [config, checkpoint, '--filters', 'backbone.conv9:0'],
        'filter text': [config, checkpoint, '--filters', 'conv'],
        'no checkpoint': [config, checkpoint, '--compare', plain_config],
        'twice': [config, checkpoint, '--compare', checkpoint],
        'titles': [config, checkpoint, '--compare', config, checkpoint, '--titles', 'one'],
    }.get(case, [config, checkpoint])
    if case == 'more layers':
        torch.save({'state_dict': {**model.state_dict(), 'cls_head.extra.rotate': torch.zeros(2)}}, checkpoint)
    if case == 'other model':  # a 2D network: all that it lacks is time
        torch.save({key: value for key, value in model.state_dict().items() if key.endswith(('weight', 'bias'))},
                   checkpoint)
    if case == 'nan':
        model.backbone.conv2.scale.data[0, 1] = float('nan')
        torch.save({'state_dict': model.state_dict()}, checkpoint)
    assert tool.main([*arguments, '--out-dir', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / 'out').exists()


DATA = """
train_dataloader = dict(dataset=dict(pipeline=[dict(type='SampleFrames', clip_len=3), dict(
    type='Resize', scale=(12, 12), keep_ratio=False)]))
"""


def test_steps_that_no_clip_uses_and_figures_for_print(tool, tmp_path, capsys):
    config, checkpoint, _ = write(tmp_path, 'a', scale=1.001, rotate=0.001)
    with open(config, 'a') as file:  # a network that halves 3 frames until one step is left
        file.write(DATA + "model['backbone'] = dict(type='TemporalResNet3d', depth=18, base_channels=2, "
                   "temporal_kernels=(3, 3, 3, 3, 3), temporal_cfg=dict(type='Conv3T'),"
                   "temporal_strides=(1, 2, 2, 2))\n"
                   "model['cls_head']['in_channels'] = 16\n")
    model = MODELS.build(Config.fromfile(config).model)
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    out = tmp_path / 'out'
    assert tool.main([config, checkpoint, '--out-dir', str(out), '--format', 'svg', '--width', '84', '--filters',
                      'backbone.layer4.1.conv2.conv:0']) == 0
    text = capsys.readouterr().out
    unused = UnusedMotion(model, (3, 3, 12, 12))
    assert 0 < unused.values < unused.all_values
    assert f'a: {unused.values // 4} steps x filters are left out: their slices see no frame of clips of 3 frames ('\
        f'{len(unused.layers)} layers).' in text
    assert cells(text)['left out'] == [f'{unused.values // 4} of {unused.all_values // 4}']
    for name in ('distributions', 'trajectories_a'):
        picture = (out / f'{name}.svg').read_text()
        width = float(re.search(r'width="([\d.]+)pt"', picture)[1]) / 72 * 25.4
        assert width == pytest.approx(84, abs=0.02)
    assert 'hardly moves; no frame from slice 3 on</text>' in picture
    assert tool.main([config, checkpoint, '--out-dir', str(out), '--clip-shape', '3', '64', '12', '12']) == 0
    assert 'left out' not in capsys.readouterr().out
    assert tool.main([config, checkpoint, '--out-dir', str(tmp_path / 'no'), '--width', '3']) == 2
    assert '30 to 1000 mm, got 3' in capsys.readouterr().err and not (tmp_path / 'no').exists()
