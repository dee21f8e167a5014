"""projects/words_filters: frames and crops by hand, fused and unfused networks, a short training, tables and page."""
import importlib
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.norms import randomise
from helpers.paths import ROOT
from helpers.spoken_words import noise_clips, short_lists
from mmengine.registry import init_default_scope
from torch import nn

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.spoken_words import HEIGHT, MARGIN, WIDTH
from tconv_mmaction.cli.study_clips import MEAN, STD
from tconv_mmaction.cli.study_nets import resnet18_to_layer3
from tconv_mmaction.interpret import temporal_layers
from tconv_mmaction.layers import switch_to_deploy

PROJECT = ROOT / 'projects/words_filters'
MODULES = ('words_filters', 'motion_3t', 'nets', 'plan', 'tables', 'views')
WHOLE = [0, 4, 8, 12, 16, 20, 24, 28]  # of the 29 frames: the eight that the other study of the words takes


@pytest.fixture(scope='module')
def project():
    """The modules of the project; their short names are taken away again afterwards."""
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(PROJECT))
    init_default_scope('mmaction')
    found = SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(PROJECT))
    yield found
    for name in MODULES:
        sys.modules.pop(name, None)


def test_frames_by_hand(project):
    views = project.views
    assert views.sampler((4, 4))().tolist() == WHOLE == views.sampler(test=True)().tolist()
    # 15 of 29 frames are spanned at interval 2: 7 before them and 7 after them
    assert views.sampler(test_interval=2, test=True)().tolist() == [7, 9, 11, 13, 15, 17, 19, 21]
    assert views.sampler(test_interval=8, test=True)().tolist() == [0, 8, 16, 24, 24, 24, 24, 24]
    drawn, draw = set(), views.sampler()
    np.random.seed(0)
    for _ in range(100):
        frames = draw()
        drawn.add(frames[1] - frames[0])
        steps = np.diff(frames)
        assert set(steps) <= {steps[0], 0} and frames.max() <= 28 and (steps[0] < 4 or frames[0] == 0)
    assert drawn == {2, 3, 4, 5, 6, 7, 8}


def numbered():
    """A clip of 29 frames: channel 0 the number of the frame, 1 the row, 2 the column, of each pixel."""
    clip = torch.zeros(1, 3, 29, HEIGHT + MARGIN, WIDTH + 2 * MARGIN, dtype=torch.uint8)
    clip[0, 0] = torch.arange(29)[:, None, None]
    clip[0, 1] = torch.arange(HEIGHT + MARGIN)[:, None]
    clip[0, 2] = torch.arange(WIDTH + 2 * MARGIN)
    return clip


def corners(view):
    """``(3, 8)``: frame, top row and left column of a view ``(1, 3, 8, H, W)``, mirrored or not, in uint8 or not."""
    if view.dtype != torch.uint8:
        view = view * torch.tensor(STD).view(1, 3, 1, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1, 1)
    assert view.shape[2:] == (8, HEIGHT, WIDTH)
    return view.double().amin(dim=(0, 3, 4)).round().long()


def test_what_is_trained_on_and_tested(project):
    views, clip, seen = project.views, numbered(), {}
    for rate, ego in ((False, False), (True, False), (False, True), (True, True)):
        np.random.seed(5)
        view = views.training_view(clip, rate, ego, torch.Generator().manual_seed(1))
        seen[rate, ego] = corners(view(torch.tensor([0])))
    frames, top, left = seen[False, False].tolist()
    assert frames == WHOLE and top == top[:1] * 8 and left == left[:1] * 8
    assert seen[True, False][0].tolist() != WHOLE and seen[True, False][1:].tolist() == [top, left]
    np.random.seed(5)
    x, y = np.random.normal(0, 2, 2)  # the crop of the first frame is the same; then x goes by v_x, y by v_y
    steps = np.rint(np.arange(8)[:, None] * (x, y)).astype(int)
    drifted = [np.clip(start + steps[:, axis], 0, room).tolist()
               for start, axis, room in ((top[0], 1, MARGIN), (left[0], 0, 2 * MARGIN))]
    assert seen[False, True].tolist() == [WHOLE, *drifted] and drifted != [top, left]
    assert seen[True, True][1:, 0].tolist() == [top[0], left[0]]
    middle = [MARGIN // 2, MARGIN]
    for test in views.TESTS:
        frames, *place = corners(views.test_view(clip, test)).tolist()
        if test == 'drift':
            assert frames == WHOLE and [row[0] for row in place] == middle and place[1] != place[1][:1] * 8
        else:
            assert place == [[start] * 8 for start in middle]
            assert frames == dict(accuracy_reversed=WHOLE[::-1], slow=[*range(7, 22, 2)],
                                  fast=[0, 8, 16, 24, 24, 24, 24, 24]).get(test, WHOLE)


def test_networks(project):
    """Lengths, 8 frames throughout, and what is tested is what was trained."""
    x = torch.randn(2, 3, 8, HEIGHT, WIDTH)
    torch.manual_seed(0)
    for name in ('1135', 'multi2'):
        model = randomise(project.nets.build(name, 10)).eval()
        fused = switch_to_deploy(model)
        lengths = {layer: module.kernel_size[0] for layer, module in fused.named_modules()
                   if isinstance(module, nn.Conv3d) and 'downsample' not in layer}
        assert len(lengths) == 13 and {project.tables.stage_of(layer): n for layer, n in lengths.items()} == dict(
            stem=1, **{'1': 1, '2': 3, '3': 5})
        with torch.no_grad():
            assert model.backbone(x).shape == (2, 64, 8, 2, 4)
            torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


def test_the_best_rate_is_taken(project):
    plan = project.plan
    keys = plan.tuning_keys(['multi2_ego', 'multi2_rate'])
    assert [key['net'] for key in keys] == ['multi2'] * len(plan.LRS)
    runs = [dict(key, accuracy=value) for key, value in zip(keys, (30., 40., 35.))]
    assert plan.chosen_lr(runs, 'multi2_both') == plan.LRS[1] and plan.chosen_lr(runs[:2], 'multi2_both') is None
    assert plan.chosen_lr(runs, '1135') is None and set(plan.LIKE) == set(project.nets.NETS)
    assert all(set(stage.nets) <= set(project.nets.NETS) for stage in plan.STAGES)


def test_a_short_training(project, monkeypatch, tmp_path):
    """A step on noise: the line that is written, the same again, the filters that are kept."""
    study, data = project.words_filters, short_lists(tmp_path)
    clips = noise_clips(data, project.views.TIMELINE)
    monkeypatch.setattr(study, 'decoded', lambda *_: clips)
    key = dict(project.plan.key_of('multi2_both', 1, 0, 0.1), per_class=5, epochs=1)
    run = study.train(key, data, '', keep=tmp_path / 'kernels')
    assert run['fused_differs'] == 0 and run['fused_parameters'] < run['parameters'] and len(run['losses']) == 1
    assert run['accuracy'] == 50. * sum(a == b for a, b in zip(run['labels'], run['predicted']))
    kept = torch.load(tmp_path / 'kernels/multi2_both-1-fold1-seed0.pth', weights_only=True)
    assert list(kept) == list(run['energy']) == list(run['energy_start']) and len(kept) == 8  # layer2 and layer3
    weight = kept['backbone.layer2.0.conv1.conv'].double()  # by eq. 1's sum of squares: share of the middle frame
    assert run['energy']['backbone.layer2.0.conv1.conv'][0] == pytest.approx(
        float(weight[:, :, 1].square().sum() / weight.square().sum()), abs=1e-4)
    assert study.train(key, data, '') == run
    single = study.train(dict(key, net='1135', lr=0.), data, '')  # no step, so nothing is added
    assert single['energy'] == single['energy_start'] and 'energy_change' not in run
    assert all(np.isnan(shares).all() for shares in single['energy_change'].values())


def test_interaction_by_hand(project):
    """Gains 1, 3 of the single filter and 5, 9 of the branches: 5 more on average, 12.706 * 1 to both sides."""
    rows = [dict(model=model, fold=1, seed=seed, **dict.fromkeys(('accuracy', 'slow', 'fast', 'drift'), value))
            for model, values in {'1135': (10., 20.), '1135_both': (11., 23.), 'multi2': (0., 0.),
                                  'multi2_both': (5., 9.)}.items() for seed, value in enumerate(values)]
    row = project.tables.interaction_table(rows).splitlines()[2]
    assert row == '| forwards | 2 | +2.0 | +7.0 | +5.0 ± 12.7 | 0.126 | +1.25 |'
    assert project.tables.interaction_table(rows[:4]) is None and len(pd.DataFrame(rows)) == 8


def test_3t_by_hand(project):
    """Transforms set to known numbers in all layers: their statistics, and the table beside the paper's."""
    model = resnet18_to_layer3((7, 3, 3, 3), dict(type='Conv3T'), 4, 10, 2, 3)
    with torch.no_grad():
        for layer in temporal_layers(model).values():
            layer.scale.fill_(1.02)
            layer.rotate.fill_(-0.01)
            layer.translate_x.fill_(0.005)
            layer.translate_y[0], layer.translate_y[1:] = 0.001, 0.003
    found = project.motion_3t.statistics(model)
    assert len(found) == 14 and found['backbone.layer3.1.conv2.conv'] == [.02, 0, .01, 0, .005, 0, .002, .001]
    runs = [dict(start='scratch', fold=1, seed=seed, accuracy=40. + seed, accuracy_reversed=30., losses=[2., 1.],
                 statistics={layer: [factor * value for value in values] for layer, values in found.items()})
            for seed, factor in enumerate((1, 3))]
    tables = project.tables.motion_tables(runs)
    assert '| r | 20.00 / 0.00 | 29.31 / 38.26 | 13.12 / 19.32 |' in tables['3t-model'].splitlines()
    assert '| layer3.1.conv2 | 40.00 | 20.00 | 10.00 | 4.00 |' in tables['3t-layers'].splitlines()
    assert '| from scratch | 2 | 40.5 ± 0.7 | 30.0 ± 0.0 | 1.00 ± 0.00 |' in tables['3t-accuracy'].splitlines()
    assert project.tables.motion_tables([]) == {}


def test_the_page_is_what_the_committed_runs_give(project, tmp_path):
    runs = read_runs(PROJECT / 'results/runs.jsonl')
    page = tmp_path / 'page.md'
    shutil.copy(project.tables.PAGE, page)
    if (PROJECT / 'results/motion_3t.jsonl').is_file():
        shutil.copy(PROJECT / 'results/motion_3t.jsonl', tmp_path)
    text = project.tables.write_results(runs, tmp_path, page)
    assert text == (PROJECT / 'results/table.md').read_text() == (tmp_path / 'table.md').read_text()
    assert page.read_text() == project.tables.PAGE.read_text()
    for run in runs:
        if not run['tuning']:  # accuracies are those of the predictions; fused networks answer as those with branches
            right = np.mean([a == b for a, b in zip(run['labels'], run['predicted'])])
            assert run['accuracy'] == pytest.approx(100 * right, abs=1e-3) and not run.get('fused_differs')
