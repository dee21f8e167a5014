"""The tool that scores explanations, and the study of known answers, on a tiny network."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import moving_square, write_film
from mmaction.registry import MODELS
from mmengine.config import Config

from tconv_mmaction.interpret import areas, explain_clip, explanation_scores, method_curves
from tconv_mmaction.interpret.access.clips import ClipReader, load_recognizer
from tconv_mmaction.interpret.explanation_scores import mean_interval
from tconv_mmaction.interpret.pictures.explanations import draw_curves, draw_frame_importance, draw_maps

CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, channels=(2, 3),
                  clip_shape=(12, 24, 24)),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=84, dropout_ratio=0., init_std=1., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100.] * 3, std=[50.] * 3, format_shape='NCTHW'))
test_pipeline = [
    dict(type='DecordInit'), dict(type='SampleFrames', clip_len=12, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='DecordDecode'), dict(type='Resize', scale=(24, 24), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
'''


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('quality')
    (folder / 'net.py').write_text(CONFIG)
    torch.manual_seed(1)
    model = MODELS.build(Config.fromfile(folder / 'net.py').model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'net.pth')
    for name, start in (('a', 0), ('b', 6)):
        write_film(folder / f'{name}.mp4', moving_square(14, (32, 32), start=start, brightest=31))
    return folder


def test_the_tool_writes_what_the_functions_say(project, tmp_path, capsys):
    tool = load_script('tools/analysis/explanation_quality.py')
    films = [str(project / f'{name}.mp4') for name in 'ab']
    methods = ['saliency', 'grad_cam', 'random', 'centre']
    assert tool.main([str(project / 'net.py'), str(project / 'net.pth'), *films, '--out', str(tmp_path), '--method',
                      *methods, '--target', '1', '--stages', '2', '--perturbation', 'grey']) == 0
    printed = capsys.readouterr().out
    model = load_recognizer(str(project / 'net.py'), str(project / 'net.pth'))
    clips = [ClipReader(model).video(film).inputs for film in films]
    rows = pd.read_csv(tmp_path / 'scores.csv').set_index(['clip', 'method'])
    expected = areas(method_curves(model, clips[1], {'saliency': explain_clip(model, clips[1], 'saliency', 1)}, 1,
                                   perturbation='grey'))['saliency']
    assert rows.loc[('b', 'saliency'), ['deletion', 'insertion']].tolist() == pytest.approx(
        [expected[0][0], expected[1][0]], abs=1e-5)
    stored = json.loads((tmp_path / 'scores.json').read_text())
    assert stored['clips'] == 2 and stored['perturbation'] == 'grey'
    once = explanation_scores(model, clips, methods, 1, perturbation='grey')
    for name, score in once.items():
        found = stored['scores'][name]
        assert [found['auc_deletion'], found['auc_insertion']] == pytest.approx(score[:2], abs=1e-5)
        assert found['interval'] == pytest.approx(list(score.interval), abs=1e-4)
    summary = pd.read_csv(tmp_path / 'summary.csv').set_index('method')
    gain = (rows.insertion - rows.deletion).unstack()
    difference = (gain['saliency'] - gain['random']).to_numpy()
    assert summary.loc['saliency', 'against_random'] == pytest.approx(difference.mean(), abs=1e-5)
    assert summary.loc['saliency', 'against_random_low'] == pytest.approx(mean_interval(difference).low, abs=1e-4)
    checks = pd.read_csv(tmp_path / 'randomization.csv')
    assert set(checks.method) == {'saliency', 'grad_cam'} and sorted(set(checks.stage)) == [0, 1, 2]
    assert (checks[checks.stage == 0]['rank'] > 0.999).all() and 'similarity of the maps' in printed
    assert (tmp_path / 'a.png').is_file() and (tmp_path / 'curves.png').is_file()


def test_figures_show_the_numbers():
    frames = np.zeros((20, 8, 10, 3), dtype=np.uint8)
    maps = dict(bars=np.linspace(-1, 1, 20), map=np.arange(5 * 4 * 5.).reshape(5, 4, 5))
    axes = draw_maps(frames, maps, 'title', dict(bars='0.1, 0.9'), most=10).axes
    grid = np.array(axes).reshape(3, 10)
    assert [axis.get_title() for axis in grid[0]][:2] == ['0', '2'] and grid[0][-1].get_title() == '19'
    heights = [axis.patches[0].get_height() for axis in grid[1]]
    assert heights[0] == 0 and heights[-1] == 1 and 'bars\n0.1, 0.9' == grid[1][0].get_ylabel()
    np.testing.assert_allclose(grid[2][-1].images[0].get_array(), maps['map'][4] / 99)
    rows = dict(one=np.linspace(0, 1, 6), two=np.zeros(6))
    figure = draw_frame_importance(dict(first=rows, second=rows), range(2, 4), columns=2)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), np.stack(list(rows.values())))
    assert figure.axes[1].patches[0].get_x() == 1.5 and figure.axes[1].patches[0].get_width() == 2
    shares, curve = np.linspace(0, 1, 5), np.linspace(1, 0, 5)
    figure = draw_curves(shares, dict(deletion=dict(one=curve), insertion=dict(one=1 - curve)), 'freeze', 'frames')
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), 1 - curve)


def test_the_study_takes_clips_whose_event_is_needed_and_measures_right_frames():
    study = load_script('projects/explanation_quality/known_answers.py')
    video = np.arange(30, dtype=np.uint8)[:, None, None] + np.zeros((1, 28, 28), dtype=np.uint8)
    event, without = study.with_event(video, 'appears')
    assert event[:, 0, 0].tolist() == [*[0] * 5, 5, 6, 7, 8, 9, *[0] * 20] and not without.any()
    event, without = study.with_event(video, 'moves')
    assert event[:, 0, 0].tolist() == [*[5] * 5, 5, 6, 7, 8, 9, *[5] * 20] and set(without[:, 0, 0]) == {5}
    # the table and the page are what the csv says
    tables = study.tables()
    page = (ROOT / 'docs/explanation_quality.md').read_text(encoding='utf-8')
    for name, table in tables.items():
        assert f'<!-- table {name} -->\n\n{table}\n\n<!-- end -->' in page, name
    clips = pd.read_csv(study.RESULTS / 'clips.csv')
    part = clips[(clips.kind == 'appears') & (clips.network == 'LeNet-5-3T') & (clips.method == 'saliency')]
    assert f'| `saliency` | {100 * part.hits.mean():.0f} | {part.roc.mean():.2f} |' in tables['appears']
