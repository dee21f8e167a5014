"""tools/analysis/fit.py, the --fit of its neighbours and tools/convert/fit_3t.py on small LeNets."""
import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from mmaction.registry import MODELS
from mmengine.config import Config

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.interpret import class_channels as methods
from tconv_mmaction.interpret import load_parameters, temporal_parameters
from tconv_mmaction.interpret.access.clips import Clip
from tconv_mmaction.interpret.report import ClipReport, ModelInfo, analyse_clip, render_report
from tconv_mmaction.layers import Conv3T, switch_to_deploy

CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='{conv}'), channels=(2, 3), clip_shape=(12, 12, 12)),
    cls_head=dict(type='I3DHead', num_classes=2, in_channels=84, dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW'))
test_pipeline = []
'''


def tool(path):
    spec = importlib.util.spec_from_file_location(path.replace('/', '_'), ROOT / f'tools/{path}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def files(tmp_path):
    """(3T config, 3D config, checkpoint of the deployed 3T network, the network)."""
    configs = []
    for conv in ('Conv3T', 'Conv3d'):
        configs.append(tmp_path / f'{conv}.py')
        configs[-1].write_text(CONFIG.format(conv=conv))
    model = MODELS.build(Config.fromfile(configs[0]).model).eval()
    with torch.no_grad():
        for layer in (model.backbone.conv1, model.backbone.conv2):
            layer.rotate.fill_(0.1)
            layer.translate_x.fill_(0.2)
    torch.save(dict(state_dict=switch_to_deploy(model).state_dict()), tmp_path / '3d.pth')
    return str(configs[0]), str(configs[1]), str(tmp_path / '3d.pth'), model


FAST = ['--fits', '4', '--starts', '2', '--iterations', '4']


def test_fit_writes_ladder_and_parameters_and_draws_no_motion_below_the_null(files, tmp_path, capsys):
    _, config, checkpoint, _ = files
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'trajectories.png').write_bytes(b'of an earlier run')
    assert tool('analysis/fit')([config, checkpoint, '--out', str(out), *FAST]) == 0
    table = pd.read_csv(out / 'ladder.csv', index_col='layer')
    assert list(table.index) == ['backbone.conv1', 'backbone.conv2'] and list(table['above']) == [0, 0]
    assert (table[['static', 'gains', 'motion', 'free']].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    assert 'no motion to draw' in capsys.readouterr().out and not (out / 'trajectories.png').exists()
    parameters, sizes = load_parameters(out / 'parameters.npz')
    assert sizes['backbone.conv2'] == (5, 5, 5) and parameters['backbone.conv2']['gain'].shape == (5, 3)

    out = tmp_path / 'plain'
    assert tool('analysis/fit')([checkpoint, '--out', str(out), '--layers', 'backbone.conv1', *FAST]) == 0
    again = pd.read_csv(out / 'ladder.csv', index_col='layer')
    np.testing.assert_allclose(again.loc['backbone.conv1', 'motion'], table.loc['backbone.conv1', 'motion'], rtol=1e-4)


def test_fit_says_what_is_wrong(files, tmp_path, capsys):
    config_3t, config, checkpoint, model = files
    main = tool('analysis/fit')
    assert main([config, checkpoint, '--out', str(tmp_path / 'o'), '--layers', 'backbone.conv9']) == 2
    assert 'backbone.conv1' in capsys.readouterr().err
    torch.save(dict(state_dict=model.state_dict()), tmp_path / '3t.pth')
    assert main([config_3t, str(tmp_path / '3t.pth'), '--out', str(tmp_path / 'o')]) == 2
    assert 'temporal_params.py' in capsys.readouterr().err
    assert main([config, checkpoint, 'more.pth', '--out', str(tmp_path / 'o')]) == 2


def test_conversion_gives_the_3t_network_back(files, tmp_path, capsys):
    config, _, checkpoint, model = files
    tool('convert/fit_3t')([config, checkpoint, str(tmp_path / '3t.pth')])
    assert 'conv2: 100.0 % of the squared weight' in capsys.readouterr().out
    saved = torch.load(tmp_path / '3t.pth', weights_only=True)
    again = MODELS.build(Config.fromfile(config).model)
    again.load_state_dict(saved['state_dict'])
    assert isinstance(again.backbone.conv2, Conv3T) and saved['meta']['explained']['backbone.conv1'] > 0.999
    for name, values in temporal_parameters(model).items():
        for key, value in values.items():
            torch.testing.assert_close(getattr(again.get_submodule(name), key), value, atol=5e-3, rtol=0)


def quick_fit(monkeypatch):
    """The tools fit with few draws and steps."""
    def fitted(model, clip_shape=None):
        return temporal_parameters(model, fit=True, fits=4, starts=2, iterations=4, clip_shape=clip_shape)
    monkeypatch.setattr(clip_tool, 'fitted_parameters', fitted)


def test_params_of_a_3d_network(files, tmp_path, capsys, monkeypatch):
    _, config, checkpoint, _ = files
    quick_fit(monkeypatch)
    main = tool('analysis/temporal_params')
    assert main([config, checkpoint, '--out-dir', str(tmp_path / 'out')]) == 2
    assert '--fit' in capsys.readouterr().err
    assert main([config, checkpoint, '--out-dir', str(tmp_path / 'out'), '--fit']) == 0
    assert 'no filter is left whose motion means anything' in capsys.readouterr().out
    table = pd.read_csv(tmp_path / 'out/statistics.csv', index_col=['model', 'layer'])
    assert list(table['above_null']) == [0, 0, 0] and table['abs_scale_mean'].isna().all()
    assert not list((tmp_path / 'out').glob('*.png'))


def test_report_and_class_channels_take_fitted_layers(files, monkeypatch):
    """A channel above the null has its path and what it explains, one that is not has the words alone."""
    _, config, checkpoint, _ = files
    model = MODELS.build(Config.fromfile(config).model).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    parameters = temporal_parameters(model, fit=True, fits=4, starts=2, iterations=4)
    parameters['backbone.conv2']['above_null'][:] = torch.tensor([True, False, True])
    clip = torch.rand(1, 1, 12, 12, 12)
    found = methods.by_class([('a', methods.channel_contributions(model, clip, 0, fit=True))])
    table = methods.channel_table(model, found, parameters=parameters).set_index(['layer', 'channel'])
    assert pd.isna(table.loc[('backbone.conv2', 1), 'zoom']) and not pd.isna(table.loc[('backbone.conv2', 0), 'zoom'])
    np.testing.assert_allclose(table.loc[('backbone.conv2', 1), 'explained'],
                               parameters['backbone.conv2']['explained'][1], rtol=1e-6)
    figure = methods.draw_class_channels(model, found['a'], 'a', layers=['backbone.conv2'], parameters=parameters)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sum('not above the null' in text for text in legend) == 1 and all('% without motion' in t for t in legend)

    frames = np.zeros((12, 12, 12, 3), np.uint8)
    shown = Clip(**{name: dict(name='clip', inputs=clip, frames=frames).get(name) for name in Clip._fields})
    analysis = analyse_clip(model, shown, iterations=2, layer='backbone.conv2', parameters=parameters)
    drawn = {channel.channel: channel.trajectory for channel in analysis.channels if channel.layer == 'backbone.conv2'}
    assert drawn[1] is None and drawn[0] is not None
    page = render_report('t', [ModelInfo('m', 'c', 'k', ['x', 'y'])], [ClipReport('clip', [analysis])], 8.)
    assert 'not above the null, motion not drawn' in page and 'Most active channels of the layer backbone.conv2' in page
