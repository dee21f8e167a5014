"""Two models over the same clips: aggregates by hand, the tool run, killed and resumed, and in two processes."""
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.compared_project import models_of, result, run, run_elsewhere
from helpers.scripts import load_script
from mmaction.registry import MODELS
from scipy import stats
from torch import nn

from tconv_mmaction.interpret import (
    RecognizerScores,
    blob_metrics,
    find_temporal_mask,
    grad_cam,
    upsample_maps,
)
from tconv_mmaction.interpret.access.balanced import balanced_order
from tconv_mmaction.interpret.access.clips import ClipReader, load_recognizer
from tconv_mmaction.interpret.comparison.comparison_csv import rows_of
from tconv_mmaction.interpret.comparison.comparison_log import RowLog, check_run, read_rows, start_run, text_hash
from tconv_mmaction.interpret.comparison.comparison_report import draw_histograms, tables
from tconv_mmaction.interpret.comparison.model_comparison import (
    MEASURES,
    Settings,
    class_f1,
    clip_means,
    compare,
    comparison_layer,
    histogram,
    measure_clips,
    measures,
    open_units,
    work_units,
)


@pytest.fixture
def components(compared, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(compared))
    monkeypatch.setenv('READ_NOTES', str(tmp_path / 'notes'))


# -- by hand -----------------------------------------------------------------------------------------------------------


def row(os_, fs, rs, length, blobs, label=0, prediction=0):
    return dict(label=label, prediction=prediction, target=prediction, original=os_, freeze=fs, reverse=rs,
                mask_length=length, blobs=blobs)


FIRST = [row(.9, .1, .5, 4, [[[10., 3.]], [], [[12., 5.], [20., 4.]]]),
         row(.8, .8, .2, 2, [[], [], [[6., 1.]]], label=1, prediction=1),  # OS - FS = 0: no drop ratio
         row(.7, .1, .1, 6, [[], [], []], label=1, prediction=0)]
SECOND = [row(.9, .5, .1, 8, [[[4., 9.]], [[5., 7.]], [[4., 8.], [3., 9.]]]),
          row(.6, .2, .4, 9, [[[4., 6.]], [], []], label=1, prediction=0),
          row(.5, .3, .4, 7, [[[8., 5.]], [], []], label=1, prediction=1)]


def test_measures_by_hand():
    found = measures(FIRST)
    assert list(found) == list(MEASURES)
    assert found['blob_count'].tolist() == [1, 0, 2, 0, 0, 1, 0, 0, 0]
    assert found['blob_size'].tolist() == [10, 12, 20, 6] and found['centre_distance'].tolist() == [3, 5, 4, 1]
    assert found['mask_length'].tolist() == [4, 2, 6]
    assert found['drop_ratio'] == pytest.approx([.8 / .4, .6 / .6])  # the second clip is left out
    assert found['drop_difference'] == pytest.approx([.4, -.6, 0])
    means = clip_means(FIRST)
    assert means['blob_count'] == pytest.approx([1, 1 / 3, 0])
    np.testing.assert_allclose(means['blob_size'], [14, 6, np.nan])
    np.testing.assert_allclose(means['drop_ratio'], [2, np.nan, 1])
    assert measures([])['blob_size'].shape == (0, ) and clip_means([])['mask_length'].shape == (0, )


def test_comparison_by_hand():
    found = compare(FIRST, SECOND)
    assert found['clips'] == 3
    length = found['measures']['mask_length']
    assert length['models'] == [pytest.approx(dict(mean=4, std=math.sqrt(8 / 3), count=3)),
                                pytest.approx(dict(mean=8, std=math.sqrt(2 / 3), count=3))]
    # Welch: variances with n-1 are 4 and 1, so t = -4 / sqrt(4/3 + 1/3) and df = (5/3)^2 / ((16 + 1) / 9 / 2)
    t, df = -4 / math.sqrt(5 / 3), (5 / 3)**2 / (17 / 18)
    assert length['welch'] == pytest.approx(dict(t=t, p=2 * stats.t.sf(abs(t), df), degrees_of_freedom=df))
    assert length['welch'] == length['welch_clips']
    count = found['measures']['blob_count']
    assert [model['count'] for model in count['models']] == [9, 9]
    assert [model['mean'] for model in count['models']] == pytest.approx([4 / 9, 6 / 9])
    reference = stats.ttest_ind([1, 1 / 3, 0], [4 / 3, 1 / 3, 1 / 3], equal_var=False)
    assert count['welch_clips']['t'] == pytest.approx(reference.statistic)
    assert count['welch_clips']['p'] == pytest.approx(reference.pvalue)
    size = found['measures']['blob_size']['models']
    assert size[0] == pytest.approx(dict(mean=12, std=math.sqrt((4 + 0 + 64 + 36) / 4), count=4))
    # labels 0 1 1; predictions 0 1 0 and 0 0 1: both find class 0 with TP 1, FP 1 and class 1 with TP 1, FN 1
    for f1, accuracy in zip(found['f1'], found['accuracy']):
        assert f1 == dict(classes=pytest.approx({'0': 2 / 3, '1': 2 / 3}), mean=pytest.approx(2 / 3))
        assert accuracy == pytest.approx(2 / 3)
    json.dumps(found, allow_nan=False)
    with pytest.raises(ValueError, match='got 3 and 2'):
        compare(FIRST, SECOND[:2])


def test_f1_is_over_the_same_classes_for_both_models():
    """The second model also predicts class 2, which no clip has: a miss of class 1, and no class of its own."""
    first = [row(.9, .1, .5, 4, [[]], label, prediction) for label, prediction in ((0, 0), (1, 1), (1, 0), (1, 1))]
    second = [row(.9, .1, .5, 4, [[]], label, prediction) for label, prediction in ((0, 0), (1, 2), (1, 1), (1, 1))]
    found = compare(first, second)
    assert [list(scores['classes']) for scores in found['f1']] == [['0', '1'], ['0', '1']]
    # first: class 0 TP 1, FP 1; class 1 TP 2, FN 1. second: class 0 TP 1; class 1 TP 2, FN 1
    assert [scores['classes'] for scores in found['f1']] == [
        pytest.approx({'0': 2 / 3, '1': 4 / 5}), pytest.approx({'0': 1, '1': 4 / 5})]
    assert [scores['mean'] for scores in found['f1']] == pytest.approx([(2 / 3 + 4 / 5) / 2, .9])
    text = tables(found, ['a', 'b'])
    assert '| class 1 | 0.8 | 0.8 |' in text and 'class 2' not in text


def test_copies_of_a_map_are_no_clips_and_the_test_over_clips_is_first():
    """Two clips of one map each: two values, not sixteen, whatever the frames; and what is said about p."""
    def clip(size, distance):
        return row(.9, .1, .5, 4, [[[size, distance]]])

    first, second = [clip(10., 3.), clip(11., 5.)], [clip(20., 4.), clip(24., 8.)]
    found = compare(first, second)
    size = found['measures']['blob_size']
    assert [model['count'] for model in size['models']] == [2, 2] and found['maps'] == [2, 2]
    reference = stats.ttest_ind([10, 11], [20, 24], equal_var=False)
    assert size['welch']['p'] == size['welch_clips']['p'] == pytest.approx(reference.pvalue)
    copies = compare([dict(r, blobs=r['blobs'] * 8) for r in first], [dict(r, blobs=r['blobs'] * 8) for r in second])
    assert copies['measures']['blob_size']['welch']['p'] < 1e-8  # what sixteen copies would have said
    assert copies['measures']['blob_size']['welch_clips']['p'] == pytest.approx(reference.pvalue)
    assert list(size).index('welch_clips') < list(size).index('welch')
    assert '| Measure | over clips | over all values |' in tables(found, ['a', 'b'])


def test_maps_that_are_nowhere_positive_are_said():
    silent = [dict(row(.9, .1, .5, 4, [[], []]), silent=True), dict(row(.8, .1, .5, 4, [[[5., 3.]], []]), silent=False)]
    loud = [dict(row(.9, .1, .5, 4, [[[5., 3.]]]), silent=False)] * 2
    found = compare(silent, loud)
    assert found['silent'] == [1, 0] and found['maps'] == [4, 2]
    text = tables(found, ['I3D', 'C-LSTM'], ['sit', 'stand'], 1)
    assert 'For 1 of 2 clips nothing in the layer of I3D speaks for the class' in text
    assert 'of C-LSTM speaks' not in text and 'for the class stand' in text and 'per clip: I3D 2, C-LSTM 1.' in text


def test_no_test_is_made_up():
    same = [row(.9, .1, .5, 4, [[[10., 3.]]], label=None)] * 2
    found = compare(same, same)
    assert 'no variance' in found['measures']['mask_length']['welch']['note']
    assert found['f1'] is None and found['accuracy'] is None
    single = compare(FIRST[:1], SECOND[:1])['measures']['drop_ratio']
    assert single['welch'] == dict(note='1 and 1 value(s): a variance needs at least two')
    assert single['models'][0]['count'] == 1
    nothing = compare([row(.5, .5, .5, 0, [[]])] * 2, [row(.5, .5, .5, 0, [[]])] * 2)
    assert nothing['measures']['drop_ratio']['models'][0] == dict(mean=None, std=None, count=0)
    assert nothing['measures']['blob_size']['histogram']['edges'] == []
    json.dumps(nothing, allow_nan=False)
    empty = tables(nothing, ['a', 'b'])
    assert 'Table 2' not in tables(found, ['a', 'b']) and '| no values |' in empty and 'nan' not in empty
    assert '± –' not in empty
    draw_histograms(nothing, ['a', 'b'])
    assert class_f1([]) == {}


def test_histograms_are_normalised():
    found = histogram('mask_length', [np.array([1., 1., 2., 4.]), np.array([3.])])
    assert found['edges'] == [.5, 1.5, 2.5, 3.5, 4.5]
    assert found['shares'] == [[.5, .25, 0, .25], [0, 0, 1, 0]] and found['outside'] == [0, 0]
    values = np.concatenate([np.linspace(0, 2, 99), [1000.]])
    found = histogram('drop_ratio', [values, values[:10]])
    assert found['edges'][-1] < 3 and sum(found['shares'][1]) == pytest.approx(1)
    assert 0 < found['outside'][0] < .07 and sum(found['shares'][0]) + found['outside'][0] == pytest.approx(1)
    many = histogram('blob_count', [np.arange(200.), np.arange(200.)])
    assert len(many['edges']) <= 61 and sum(many['shares'][0]) == pytest.approx(1)


def test_tables_have_the_papers_layout():
    text = tables(compare(FIRST, SECOND), ['I3D', 'C-LSTM'], ['sit', 'stand'])
    assert '| Class | I3D | C-LSTM |' in text and '| sit | 0.667 | 0.667 |' in text
    assert '| Model | Blob count | Blob size | Centre distance |' in text
    assert '| Model | Mask length | Drop ratio | Drop difference |' in text
    assert '| I3D | 4 ± 1.63 (n = 3) | 1.5 ± 0.5 (n = 2) | -0.0667 ± 0.411 (n = 3) |' in text
    found = compare(FIRST, SECOND)
    found['measures']['mask_length']['welch']['p'] = 0.  # underflow is no certainty
    assert 'p < 1e-300 (df' in tables(found, ['I3D', 'C-LSTM'])
    figure = draw_histograms(compare(FIRST, SECOND), ['I3D', 'C-LSTM'])
    assert [axes.get_title() for axes in figure.axes] == [
        'Blob count', 'Blob size', 'Centre distance', 'Mask length', 'Drop ratio', 'Drop difference']


# -- models ------------------------------------------------------------------------------------------------------------


def build(compared, name):
    return load_recognizer(str(compared / f'{name}.py'), str(compared / f'{name}.pth'))


def test_rows_are_what_the_methods_give(compared, components):
    model = build(compared, 'lenet')
    clips = torch.cat([ClipReader(model).sample('test', i).inputs for i in (0, 1, 2)])
    layer = comparison_layer(model, clips[:1])
    assert layer == 'backbone.conv2'
    settings = Settings(target='label', iterations=8)
    rows = measure_clips(model, clips, [0, 1, 0], layer, settings)
    json.dumps(rows, allow_nan=False)
    for i, found in enumerate(rows):
        mask = find_temporal_mask(model, clips[i:i + 1], i % 2, iterations=8)
        np.testing.assert_allclose(found['mask'], mask.mask[0], atol=1e-4)
        assert [found['original'], found['freeze'], found['reverse']] == pytest.approx(
            [float(mask.original), float(mask.freeze), float(mask.reverse)], abs=1e-4)
        assert found['mask_length'] == (mask.mask > .1).sum()
        maps = grad_cam(model, clips[i:i + 1], i % 2, layer)  # two time steps
        blobs = blob_metrics(upsample_maps(maps, (2, 32, 32))[0])
        assert [len(frame) for frame in found['blobs']] == blobs.counts.tolist()
        np.testing.assert_allclose(measures([found])['blob_size'], blobs.sizes, atol=1e-2)
        np.testing.assert_allclose(measures([found])['centre_distance'], blobs.distances, atol=1e-2)
        assert found['size'] == [12, 32, 32] and found['target'] == i % 2 and len(found['blobs']) == 2
        assert found['prediction'] == int(RecognizerScores(model)(clips[i:i + 1]).argmax())
    predicted = measure_clips(model, clips, [None] * 3, layer, Settings(iterations=1))
    assert [r['target'] for r in predicted] == [r['prediction'] for r in rows]
    with pytest.raises(ValueError, match=r'clip\(s\) \[1\] have none'):
        measure_clips(model, clips, [0, None, 1], layer, settings)
    with pytest.raises(ValueError, match="got 'best'"):
        measure_clips(model, clips, [0, 1, 0], layer, Settings(target='best'))


def test_the_last_cell_of_a_clstm(compared, components):
    """Its map is that of the sequence h before BatchNorm and pooling, taken with autograd by hand."""
    model = build(compared, 'clstm')
    clip = ClipReader(model).sample('test', 1).inputs
    assert comparison_layer(model, clip) == 'backbone.cells.1'
    backbone = model.backbone
    maps = grad_cam(model, clip, 1, 'backbone.cells.1')
    with torch.no_grad():
        first = backbone.cells[0](clip)[0]
        hidden = torch.stack([backbone.pool(backbone.norms[0](h)) for h in first.unbind(2)], 2)
    sequence = backbone.cells[1](hidden)[0].detach().requires_grad_()
    features = torch.stack([backbone.pool(backbone.norms[0](h)) for h in sequence.unbind(2)], 2)
    gradient, = torch.autograd.grad(model.cls_head(features)[0, 1], sequence)
    by_hand = (gradient.mean((3, 4), keepdim=True) * sequence).sum(1)
    assert maps.shape == (1, 12, 16, 16)
    torch.testing.assert_close(maps, by_hand.detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(KeyError, match=r'Close to it: backbone\.cells\.1'):
        comparison_layer(model, clip, 'cells.1')


@pytest.mark.parametrize('backbone,expected', [
    (dict(type='InceptionI3d', temporal_strides=(1, 1, 2)), 'backbone.Mixed_5c'),
    (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')), 'backbone.inception5b'),
    (dict(type='R2Plus1d18'), 'backbone.layer4'),
    (dict(type='TemporalResNet3d', depth=18, pretrained=None, temporal_cfg=dict(type='Conv3T')), 'backbone.layer4')])
def test_the_documented_layers(backbone, expected):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = MODELS.build(backbone)

        def forward(self, x):
            return self.backbone(x).mean((2, 3, 4))

    assert comparison_layer(Net().eval(), torch.randn(1, 3, 24, 96, 96)) == expected  # two steps are left at the end


# -- log ---------------------------------------------------------------------------------------------------------------


def test_log_survives_half_a_line(tmp_path):
    log = RowLog(tmp_path, 1)
    log.append([dict(model=0, index=3, value=.1)])
    with open(log.path, 'a') as file:
        file.write('{"model": 0, "index": 4, "val')  # cut off
    rows, broken = read_rows(tmp_path)
    assert rows == {(0, 3): dict(model=0, index=3, value=.1)} and broken == 1
    RowLog(tmp_path, 1).append([dict(model=0, index=4, value=.2)])
    RowLog(tmp_path, 0).append([dict(model=1, index=4, value=.3)])
    rows, broken = read_rows(tmp_path)
    assert sorted(rows) == [(0, 3), (0, 4), (1, 4)] and rows[0, 4]['value'] == .2 and broken == 1
    with pytest.raises(ValueError, match="needs 'model' and 'index'"):
        log.append([dict(index=1)])
    with pytest.raises(ValueError):  # no NaN in JSON
        log.append([dict(model=0, index=1, value=float('nan'))])


def test_another_run_is_refused(tmp_path):
    fingerprint = {'checkpoint': 'a' * 64, 'setting iterations': 300}
    assert check_run(tmp_path, fingerprint) is False
    start_run(tmp_path, fingerprint)
    assert check_run(tmp_path, dict(fingerprint)) is True
    with pytest.raises(ValueError, match=r'checkpoint: aaaaaaaaaaaa\.\.\. then, bbbbbbbbbbbb\.\.\. now'):
        check_run(tmp_path, {**fingerprint, 'checkpoint': 'b' * 64})
    assert text_hash(dict(a=1, b=(2, ))) == text_hash(dict(b=[2], a=1)) != text_hash(dict(a=1, b=[3]))


def test_dealing():
    units = work_units(range(10), 4)
    assert [list(unit) for unit in units] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    everything = open_units(units, {})
    assert len(everything) == 6
    dealt = [open_units(units, {}, rank=rank, world_size=2) for rank in (0, 1)]
    assert dealt[0] == [(0, units[0]), (1, units[0]), (0, units[2]), (1, units[2])]
    assert sorted(map(str, dealt[0] + dealt[1])) == sorted(map(str, everything))
    done = {(model, index): {} for model, index in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]}
    assert open_units(units[:1], done) == [(1, units[0])]  # of a unit that is done in part, all is made again
    with pytest.raises(ValueError, match='chunk_size must be at least 1'):
        work_units(range(3), 0)
    assert work_units([5, 2, 7], 2) == [[5, 2], [7]]  # of a sample


# -- the tool ----------------------------------------------------------------------------------------------------------


def test_the_tool(compared_once, compared, components):
    out, done = compared_once
    assert done.returncode == 1, done.stderr  # clip 6 was skipped
    assert done.stderr.count('skipped film6') == 4 and 'cannot decode frame 3' in done.stderr  # at once and at the end
    assert 'about 0:00:00 left' in done.stdout and '[20/20]' in done.stdout
    table = pd.read_csv(out / 'samples.csv')
    assert len(table) == 18 and set(table['model']) == {'LeNet-3T', 'C-LSTM'} and table['used'].all()
    assert sorted(set(table['index'])) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    model = build(compared, 'clstm')
    clip = ClipReader(model).sample('test', 9).inputs
    mine = table[(table['model'] == 'C-LSTM') & (table['index'] == 9)].iloc[0]
    mask = find_temporal_mask(model, clip, iterations=12)
    assert [mine['OS'], mine['FS'], mine['RS']] == pytest.approx(
        [float(mask.original), float(mask.freeze), float(mask.reverse)], abs=1e-4)
    assert mine['video'] == 'film9' and mine['label'] == 1 and mine['target'] == mine['prediction']
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['clips'] == 9 and [s['index'] for s in summary['skipped']] == [6, 6]
    assert [m['layer'] for m in summary['models']] == ['backbone.conv2', 'backbone.cells.1']
    for i, title in enumerate(('LeNet-3T', 'C-LSTM')):
        rows = table[table['model'] == title]
        for name in ('mask_length', 'drop_difference', 'drop_ratio'):
            values = rows[name].dropna()
            statistic = summary['measures'][name]['models'][i]
            assert statistic['count'] == len(values)
            if len(values):
                assert statistic['mean'] == pytest.approx(values.mean())
                assert statistic['std'] == pytest.approx(values.std(ddof=0))
        # conv2 has two time steps for the twelve frames, the last cell twelve: maps are counted, not copies of them
        assert summary['measures']['blob_count']['models'][i]['count'] == 9 * (2, 12)[i] == summary['maps'][i]
        assert summary['measures']['blob_count']['models'][i]['mean'] == pytest.approx(rows['blob_count'].mean())
    welch = stats.ttest_ind(*(table[table['model'] == title]['drop_difference'] for title in ('LeNet-3T', 'C-LSTM')),
                            equal_var=False)
    assert summary['measures']['drop_difference']['welch']['p'] == pytest.approx(welch.pvalue)
    assert '1 of 10 clips were skipped' in (out / 'tables.md').read_text()
    assert (out / 'histograms.png').read_bytes()[:4] == b'\x89PNG'


def test_the_tables_again_from_the_csv_files(compared_once, tmp_path):
    """To the letter, without models and rows; a blob of another run is refused."""
    tool = load_script('tools/analysis/compare_models.py')
    for name in ('samples.csv', 'blobs.csv', 'summary.json'):
        assert tool.main(['--out', str(tmp_path), '--table-only']) == 2
        (tmp_path / name).write_bytes((compared_once[0] / name).read_bytes())
    assert tool.main(['--out', str(tmp_path), '--table-only']) == 0
    assert (tmp_path / 'tables.md').read_bytes() == (compared_once[0] / 'tables.md').read_bytes()
    assert (tmp_path / 'histograms.png').is_file()
    samples, blobs = (pd.read_csv(tmp_path / name) for name in ('samples.csv', 'blobs.csv'))
    for number, title in enumerate(('LeNet-3T', 'C-LSTM')):
        raw = [row for (model, _), row in sorted(read_rows(compared_once[0])[0].items())
               if model == number and 'error' not in row]
        assert [row['blobs'] for row in rows_of(samples, blobs, title)] == [row['blobs'] for row in raw]
    with pytest.raises(ValueError, match='not of the same run'):
        rows_of(samples.assign(maps=0), blobs, 'C-LSTM')


def test_killed_and_resumed(compared_once, compared, tmp_path):
    out = tmp_path / 'out'
    killed = run_elsewhere(compared, out, KILL_AT='b5')
    assert killed.returncode == -9 and not (out / 'samples.csv').exists()
    first = Path(f'{out}.notes').read_text().split()
    assert 'b5' in first and 'a8' not in first
    rows = read_rows(out)[0]
    assert set(rows) == {(model, index) for model in (0, 1) for index in range(4)} | {(0, 4), (0, 5)}
    Path(f'{out}.notes').write_text('b5\n')  # does not kill again
    resumed = run(compared, out)
    assert resumed.returncode == 1 and '10 of 20 rows are there' in resumed.stdout, resumed.stderr
    assert result(out) == result(compared_once[0])
    again = Path(f'{out}.notes').read_text().split()[2:]  # after the note above and the clip that shows the layer
    assert {note for note in again if note not in ('a0', 'b0')} == {
        'b4', 'b5', *(f'{tag}{index}' for tag in 'ab' for index in (6, 7, 8, 9))}
    third = run(compared, out)  # all is there: the tables are made again from the rows
    assert '20 of 20 rows are there' in third.stdout and result(out) == result(compared_once[0])


def test_two_processes(compared_once, compared, tmp_path):
    out = tmp_path / 'out'
    done = run_elsewhere(compared, out, processes=2)
    assert done.returncode == 1, done.stderr[-3000:]  # torchrun's, for 1 of its processes
    assert result(out) == result(compared_once[0])
    shares = [read_rows_of(out, rank) for rank in (0, 1)]
    assert shares == [{0, 1, 4, 5, 8, 9}, {2, 3, 6, 7}]
    assert '(2 in all)' in done.stdout and done.stdout.count('written to') == 1


def read_rows_of(out, rank):
    return {json.loads(line)['index'] for line in (out / f'rows/rank{rank}.jsonl').read_text().splitlines()}


def test_other_settings_are_refused_and_fewer_clips_are_enough(compared_once, compared, tmp_path):
    out = compared_once[0]
    refused = run(compared, out, '--lambda1', '0.5')
    assert refused.returncode == 2 and 'setting lambda1: 0.01 then, 0.5 now' in refused.stderr
    assert 'choose another --out' in refused.stderr and 'Traceback' not in refused.stderr
    state = torch.load(compared / 'clstm.pth')
    state['state_dict']['cls_head.fc_cls.bias'] += .1
    torch.save(state, tmp_path / 'other.pth')
    refused = run(compared, out, models=[*models_of(compared)[:3], tmp_path / 'other.pth'])
    assert refused.returncode == 2 and "model 2's checkpoint: " in refused.stderr
    copy = tmp_path / 'out'
    (copy / 'rows').mkdir(parents=True)
    for name in ('run.json', 'rows/rank0.jsonl'):
        (copy / name).write_bytes((out / name).read_bytes())
    for i, insertion in enumerate((.6, .3)):
        found = {'grad_cam': [.2, insertion, [.3, .5]], 'random': [.5, .5, None]}
        (tmp_path / f'{i}.json').write_text(json.dumps(found))
    fewer = run(compared, copy, '--max-samples', '4', '--sample-seed', '1', '--target', 'class 1', '--scores',
                tmp_path / '0.json', tmp_path / '1.json')
    assert fewer.returncode == 2 and "setting target: 'prediction' then, 1 now" in fewer.stderr  # by its name
    fewer = run(compared, copy, '--max-samples', '4', '--sample-seed', '1', '--scores', tmp_path / '0.json',
                tmp_path / '1.json')
    labels = [(index % 2, ) for index in range(10)]
    drawn = sorted(balanced_order(labels, seed=1)[:4])
    summary = json.loads((copy / 'summary.json').read_text())
    assert fewer.returncode == 0 and summary['clips'] == 4 and summary['sample'] == drawn
    assert sorted(index % 2 for index in drawn) == [0, 0, 1, 1] and 6 not in drawn  # two of each class
    text = (copy / 'tables.md').read_text()
    assert '4 of 10 clips: as many of each class as can be, drawn with seed 1' in text
    assert '| LeNet-3T | grad_cam | 0.200 | 0.600 | 0.400 | 0.300 to 0.500 |' in text
    assert '| C-LSTM | random | 0.500 | 0.500 | 0.000 | – |' in text and summary['explanations'][1]['grad_cam'] == dict(
        auc_deletion=.2, auc_insertion=.3, interval=[.3, .5])
    assert Path(f'{copy}.notes').read_text().split() == ['a0', 'b0'] * 2  # nothing but the clip that shows the layer


def test_mistakes_are_one_line(compared, tmp_path):
    models = models_of(compared)
    shorter = (compared / 'lenet.py').read_text().replace('test_mode=True', 'test_mode=True, indices=4')
    (tmp_path / 'shorter.py').write_text(shorter)
    for arguments, message in (
            ((*models, '--layer1', 'conv2'), 'Close to it: backbone.conv2'),
            ((*models, '--max-samples', 0), '--max-samples must be at least 1'),
            ((*models, '--chunk-size', 0), 'chunk_size must be at least 1'),
            ((*models, '--names', 'a', 'a'), 'two different names'),
            ((*models, '--target', 'wave'), "'wave' is no class: neither a name, nor an index"),
            ((models[0], models[3], *models[2:]), 'does not hold the weights'),
            ((models[0], compared / 'no.pth', *models[2:]), 'there is no checkpoint'),
            ((tmp_path / 'shorter.py', models[1], *models[2:]), '4 and 10 clips')):
        done = run(compared, tmp_path / 'out', *arguments[4:], models=arguments[:4])
        assert done.returncode == 2 and message in done.stderr
        assert re.fullmatch(r'error: .*\n', done.stderr, re.DOTALL) and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()
