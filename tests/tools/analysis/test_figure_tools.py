"""The tools that draw for a paper, from the command line: kernels, receptive fields, filters and film strips."""
import re

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.scripts import load_script
from helpers.videos import moving_square, write_film
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tconv_mmaction.interpret import effective_receptive_field, field_marginals

CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='{conv}'), in_channels=3, channels=(3, 4),
                  clip_shape=(12, 16, 16)),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=84, dropout_ratio=0., init_std=0.3, average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100., 110., 120.], std=[50., 55., 60.],
                           format_shape='NCTHW'))
test_pipeline = [
    dict(type='DecordInit'), dict(type='SampleFrames', clip_len=12, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='DecordDecode'), dict(type='Resize', scale=(16, 16), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
test_dataloader = dict(batch_size=1, dataset=dict(
    type='VideoDataset', ann_file=r'{folder}/list.txt', data_prefix=dict(video=r'{folder}'), pipeline=test_pipeline,
    test_mode=True))
'''


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('figures')
    init_default_scope('mmaction')
    for name, conv in (('t', 'Conv3T'), ('d', 'Conv3d')):
        (folder / f'{name}.py').write_text(CONFIG.format(conv=conv, folder=folder.as_posix()))
        torch.manual_seed(1)
        model = MODELS.build(Config.fromfile(folder / f'{name}.py').model)
        model.init_weights()
        if conv == 'Conv3T':
            with torch.no_grad():
                model.backbone.conv1.scale[:, 1] = 0.8
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    write_film(folder / 'a.mp4', moving_square(14, (48, 64), brightest=200))
    (folder / 'list.txt').write_text('a.mp4 2\n')
    (folder / 'classes.txt').write_text('wave\npoint\nclap\n')
    return folder


def run(name, *arguments):
    return load_script(f'tools/analysis/{name}.py').main([str(argument) for argument in arguments])


def models(project, *names):
    return [project / f'{name}.{ending}' for name in names for ending in ('py', 'pth')]


def width_of(path):
    return float(re.search(r'width="([\d.]+)pt"', path.read_text())[1]) / 72 * 25.4


def test_kernels(project, tmp_path, capsys):
    assert run('kernel_slices', *models(project, 't'), '--out', tmp_path, '--count', 2, '--format', 'svg', '--width',
               84) == 0
    assert width_of(tmp_path / 'kernels.svg') == pytest.approx(84, abs=0.05)
    stored = np.load(tmp_path / 'kernels.npz')
    assert stored['kernels'].shape == (3, 3, 5, 5, 5) and stored['layer'] == 'backbone.conv1'
    assert stored['channels'].tolist()[0] == 1  # the one that moves
    table = pd.read_csv(tmp_path / 'kernels.csv')
    zoom = table[table.channel == 1].sort_values('slice')['zoom']
    np.testing.assert_allclose(zoom, 1.25**np.arange(5), rtol=1e-5)
    assert run('kernel_slices', *models(project, 'd'), '--out', tmp_path / 'd', '--filters', 2, 0) == 0
    assert np.load(tmp_path / 'd/kernels.npz')['channels'].tolist() == [2, 0]
    assert not (tmp_path / 'd/kernels.csv').exists()  # no motion to write
    for wrong, message in ((('--layer', 'conv1'), 'Close to it: backbone.conv1'), (('--filters', 3), r'2\), got 3'),
                           (('--count', 0), 'at least 1 filter')):
        capsys.readouterr()
        assert run('kernel_slices', *models(project, 't'), '--out', tmp_path / 'no', *wrong) == 2
        assert re.search(message, capsys.readouterr().err) and not (tmp_path / 'no').exists()


def test_receptive_fields_of_two_models_at_the_configs_clips(project, tmp_path, capsys):
    assert run('receptive_field', *models(project, 't'), '--compare', *models(project, 'd'), '--titles', '3T', '3D net',
               '--out', tmp_path, '--repeats', 2, '--format', 'svg') == 0
    assert '3T: clips (3, 12, 16, 16), standard deviation' in capsys.readouterr().out
    curves, stds = pd.read_csv(tmp_path / 'time.csv'), pd.read_csv(tmp_path / 'std.csv').set_index('model')
    for name, title, file in (('t', '3T', 'field_3T'), ('d', '3D net', 'field_3D_net')):
        model = MODELS.build(Config.fromfile(project / f'{name}.py').model)
        model.load_state_dict(torch.load(project / f'{name}.pth')['state_dict'])
        field = effective_receptive_field(model, (3, 12, 16, 16), 2)
        found = field_marginals(field)
        np.testing.assert_allclose(curves[curves.model == title]['share'], found.time, rtol=1e-6)
        assert stds.loc[title, 'std_frames'] == pytest.approx(found.std)
        np.testing.assert_allclose(np.load(tmp_path / f'{file}.npz')['field'], field, rtol=1e-6)
    assert (tmp_path / 'field.svg').read_text().count('frames)</text>') == 2
    assert run('receptive_field', *models(project, 't'), '--out', tmp_path, '--cfg-options', 'test_dataloader=1') == 2
    assert 'Give --shape C T H W' in capsys.readouterr().err


def test_distributions_of_filters(project, tmp_path):
    assert run('temporal_filters', *models(project, 't'), '--out', tmp_path, '--format', 'pdf', '--width', 84) == 0
    assert (tmp_path / 'distributions.pdf').read_bytes().startswith(b'%PDF')
    cells = np.load(tmp_path / 'distributions.npz')
    assert {name.rpartition('/')[2] for name in cells} == {'average', 'differential_2', 'edges', 'centre'}
    assert cells['backbone.conv2/average'].sum() == pytest.approx(1)


def test_film_strips_of_two_models(project, tmp_path):
    assert run('film_strips', *models(project, 't'), '--dataset', 'test', '--compare', *models(project, 'd'),
               '--titles', '3T', '3D', '--target', 1, '--classes', project / 'classes.txt', '--iterations', 3, '--out',
               tmp_path, '--format', 'svg', '--width', 174) == 0
    table = pd.read_csv(tmp_path / 'strips.csv')
    assert table['model'].tolist() == ['3T', '3D'] and set(table['class_name']) == {'point'} == set(table['class_name'])
    assert set(table['truth']) == {'clap'} and table['CS'].between(0, 1).all()
    name, = (path.stem for path in tmp_path.glob('*.svg'))
    assert width_of(tmp_path / f'{name}.svg') == pytest.approx(174, abs=0.05)
    text = (tmp_path / f'{name}.svg').read_text()
    row = table.iloc[0]
    assert f'“point”: OS {row.OS:.2f}, FS {row.FS:.2f}, RS {row.RS:.2f}; truth “clap”: CS {row.CS:.2f}</text>' in text
    numbers = np.load(tmp_path / f'{name}.npz')
    assert numbers['3T/mask'].shape == (12, ) and numbers['3D/scores'].sum() == pytest.approx(1)
    assert numbers['3T/scores'][2] == pytest.approx(row.CS, abs=1e-6)
