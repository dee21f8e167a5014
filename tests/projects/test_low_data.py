"""projects/low_data: fast LeNet5, nets, videos, plan and tables, against PyTorch, the Runner and hand counts."""
import importlib
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.datasets import VideoMNIST

PROJECT = ROOT / 'projects/low_data'
MODULES = ('low_data', 'fast_lenet5', 'nets', 'study', 'tables', 'videos')


@pytest.fixture
def project(monkeypatch):
    """The modules of the project; their short names are taken away again afterwards."""
    for name in MODULES:
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(PROJECT))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name, None)


def moved(model):
    """Generic temporal parameters, so that the kernel is no stack of equal slices."""
    for name, parameter in model.named_parameters():
        if name.endswith(('scale', 'rotate', 'translate_x', 'translate_y')):
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


# ---- the fast network

@pytest.mark.parametrize('kind, start', [('3D', 'conv3d'), ('3T', 'paper'), ('R(2+1)D', 'he')])
@pytest.mark.parametrize('channels', [(6, 16), (3, 2)])
def test_fast_network_is_the_network(project, kind, start, channels, monkeypatch):
    """Scores and all gradients in float64, where rounding cannot hide a mistake."""
    model = moved(project.nets.build(kind, channels, start)).double()
    videos = torch.randint(0, 256, (2, 30, 28, 28), dtype=torch.uint8)
    results = []
    for scores in (model.cls_head(model.backbone(videos[:, None].double() / 255)), None):
        if scores is None:
            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, 'float', torch.Tensor.double)
                scores = project.fast_lenet5.scores(model, videos)
        model.zero_grad()
        (scores * torch.arange(20).reshape(2, 10)).sum().backward()
        results.append([scores.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, plain in zip(results[1], results[0]):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9 * plain.abs().max().item())


@pytest.mark.parametrize('frames', [30, 28, 6, 2])
def test_first_block_for_other_lengths(project, frames):
    conv = torch.nn.Conv3d(1, 3, 5, padding=2).double()
    x = torch.randn(2, frames, 8, 6, dtype=torch.double)
    expected = F.max_pool3d(conv(x[:, None]).relu(), 2)
    torch.testing.assert_close(project.fast_lenet5.first_block(conv, x), expected, rtol=1e-10, atol=1e-12)


def test_equal_values_send_the_gradient_to_the_first(project):
    x = torch.tensor([[1., 1.], [2., 3.], [5., 4.]], requires_grad=True)
    y = project.fast_lenet5.PairMax.apply(x, 1)
    y.backward(torch.tensor([1., 10., 100.]))
    assert y.tolist() == [1., 3., 5.] and x.grad.tolist() == [[1., 0.], [0., 10.], [100., 0.]]


def test_first_block_names_what_it_cannot_do(project):
    first_block = project.fast_lenet5.first_block
    with pytest.raises(ValueError, match=r'even sizes, got \(T, H, W\) = \(5, 8, 8\)'):
        first_block(torch.nn.Conv3d(1, 2, 5, padding=2), torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match='one channel, kernel_size 5 and padding 2, got Conv3d'):
        first_block(torch.nn.Conv3d(1, 2, 3, padding=1), torch.zeros(1, 6, 8, 8))


class Losses(Hook):
    """The weights that a Runner starts from, and the loss of every step."""

    def before_train(self, runner):
        self.start, self.values = {k: v.clone() for k, v in runner.model.state_dict().items()}, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss'].item())


@pytest.mark.parametrize('kind, start', [('3D', 'conv3d'), ('3T', 'paper')])
def test_losses_are_those_of_the_runner(project, tmp_path, kind, start):
    """The committed config trained by MMEngine: the loss of every step, with all videos in each batch."""
    config = Config.fromfile(next(project.nets.CONFIGS.glob(f'lenet5-{kind.lower()}_*.py')))
    config.train_dataloader.update(num_workers=0, persistent_workers=False)
    config.train_dataloader.dataset.update(videos_per_class=2, subset_seed=7)
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        config[key] = None
    config.update(work_dir=str(tmp_path), custom_hooks=[], experiment_name=f'low-data-{kind}',
                  default_hooks=dict(checkpoint=None, logger=None))
    runner = Runner.from_cfg(config)
    hook = Losses()
    runner.register_hook(hook)
    runner.train()

    model = project.nets.build(kind, (6, 16), start)
    model.load_state_dict(hook.start)
    clips, labels = project.videos.videos('digits', 'train', 2, 7, None, str(tmp_path / 'videos'))
    ours = project.low_data.train_steps(model, clips, labels, 'adam', 1e-3, 4, torch.Generator())
    assert [len(epoch) for epoch in ours] == [1] * 4
    np.testing.assert_allclose(np.ravel(ours), hook.values, rtol=2e-3)


def test_the_authors_optimizer_by_hand(project):
    """Raw pixels, momentum 0.9, batches of 10 with one video per class: two steps of plain arithmetic."""
    torch.manual_seed(0)
    model = project.nets.build('3D', (2, 2), 'normal')
    clips, labels = torch.randint(0, 256, (10, 30, 28, 28), dtype=torch.uint8), torch.arange(10)
    reference = project.nets.build('3D', (2, 2), 'normal')
    reference.load_state_dict(model.state_dict())
    project.low_data.train_steps(model, clips, labels, 'sgd', 5e-8, 2, torch.Generator().manual_seed(0))
    speed = [torch.zeros_like(p) for p in reference.parameters()]
    for _ in range(2):  # all ten videos are in every batch
        loss = F.cross_entropy(reference.cls_head(reference.backbone(clips[:, None].float())), labels)
        grads = torch.autograd.grad(loss, list(reference.parameters()))
        for v, p, g in zip(speed, reference.parameters(), grads):
            v.mul_(0.9).add_(g)
            p.data.sub_(5e-8 * v)
    for ours, plain in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


# ---- the networks

@pytest.mark.parametrize('kind, counts', [('3D', (263_906, 375_668, 496_430)), ('3T', (254_058, 348_612, 444_966))])
def test_counts_are_the_paper_s(project, kind, counts):
    assert tuple(project.nets.parameters_of(kind, c) for c in ((6, 16), (12, 22), (18, 28))) == counts


def test_nets_of_equal_size(project):
    """Nearest by brute force over what the networks themselves say, around the choice."""
    nets, study = project.nets, project.study
    for ours, other in ((study.EQUAL_3D, study.OLD_3T), (study.EQUAL_3T, study.OLD_3D)):
        target = nets.parameters_of(other.kind, other.channels)
        count = sum(p.numel() for p in nets.build(ours.kind, ours.channels, ours.start).parameters())
        assert count == nets.parameters_of(ours.kind, ours.channels) and abs(count - target) / target < 0.001
        assert abs(count - target) == min(abs(nets.parameters_of(ours.kind, (a, b)) - target)
                                          for a in range(1, 33) for b in range(1, 33))


def test_middle_channels_keep_the_count(project):
    """R(2+1)D's rule: at most as many weights as the 3D convolution, and with one channel more it would be more."""
    for inputs, outputs in ((1, 6), (6, 16)):
        conv = project.nets.R2Plus1dConv(inputs, outputs, 5)
        middle, weights = conv.spatial.out_channels, conv.spatial.weight.numel() + conv.temporal.weight.numel()
        assert weights <= 125 * inputs * outputs < weights + weights // middle


def test_starts_have_the_stated_statistics(project):
    build = project.nets.build
    torch.manual_seed(0)
    for kind in ('3D', '3T'):
        for start, factor in (('conv3d', 1), ('he', 5**0.5)):
            conv = build(kind, (6, 16), start).backbone.conv2
            bound = 750**-0.5  # 6 channels, 125 taps
            assert 0.95 * factor * bound < conv.weight.abs().max() <= factor * bound
            assert conv.weight.std().item() == pytest.approx(factor * bound / 3**0.5, rel=0.1)
            assert conv.bias.abs().max() <= bound
    conv = build('3D', (6, 16), 'normal').backbone.conv2
    assert conv.weight.std().item() == pytest.approx(1, abs=0.05) and conv.bias.abs().max() > 1
    conv = build('3T', (6, 16), 'paper').backbone.conv2
    assert conv.weight.std().item() == pytest.approx(1, abs=0.05) and (conv.scale == 1).all() and not conv.rotate.any()
    conv = build('3T', (6, 600), 'he+motion').backbone.conv2
    for name, std in (('translate_x', .5), ('translate_y', .5), ('rotate', .3)):
        value = getattr(conv, name)
        assert (value == value[0]).all() and value[0].std().item() == pytest.approx(std, rel=0.1)  # one velocity
    assert conv.scale[0].log().std().item() == pytest.approx(0.1, rel=0.1) and (conv.scale == conv.scale[0]).all()
    with pytest.raises(ValueError, match='"paper" and .* for 3T only'):
        build('3D', (6, 16), 'paper')


# ---- the videos

def test_videos_of_a_repeat(project, tmp_path):
    videos = project.videos.videos
    for _ in range(2):  # drawn, then read from the file
        videos.cache_clear()
        clips, labels = videos('digits', 'train', 2, 3, None, str(tmp_path))
        data = VideoMNIST([], videos_per_class=2, subset_seed=3)
        assert labels.tolist() == [data.get_data_info(i)['label'] for i in range(20)]
        assert np.array_equal(clips[11].numpy(), data.frames(11)) and clips.shape == (20, 30, 28, 28)
    assert [path.name for path in tmp_path.iterdir()] == ['digits_train_2_3.npz']
    smaller, _ = videos('digits', 'train', 1, 3, None, str(tmp_path))
    kept = {clip.numpy().tobytes() for clip in clips}
    assert all(clip.numpy().tobytes() in kept for clip in smaller)
    other, _ = videos('digits', 'train', 1, 4, None, str(tmp_path))
    assert not torch.equal(other, smaller)


def test_the_authors_two_slips(project):
    ours, labels = project.videos.draw_set('digits', 'train', 2, 0, None)
    theirs, same = project.videos.draw_set('authors', 'train', 2, 0, None)
    assert (labels == same).all()
    for our, their, label in zip(ours, theirs, labels):
        if label == 2:
            assert not their[-1].any() and our[-1].any() and (our[:-1] == their[:-1]).all()
        elif label != 5:
            assert (our == their).all()
    # a square in the middle instead of a digit: its centre goes around a circle by 12 radians per frame, -32.45 degrees
    square = np.zeros((28, 28), np.uint8)
    square[12:16, 12:16] = 255
    rows, columns = np.mgrid[:28, :28] - 13.5
    frames = project.videos.authors_video(square, 5, 30, np.random.default_rng(0)).astype(float)
    path = np.array([complex((frame * columns).sum(), (frame * rows).sum()) / frame.sum() for frame in frames])
    assert abs(path).std() < 0.1 and 4 <= abs(path).mean() < 12.1
    turns = np.rad2deg(np.angle(path[1:] / path[:-1]))
    assert abs(abs(turns) - 32.45).max() < 1 and abs(turns.std()) < 1


def test_motion_alone(project):
    """As many of each motion, dealt to the digits at random: a digit says nothing."""
    _, motions = project.videos.draw_set('motion', 'train', 20, 0, None)
    _, digits = project.videos.draw_set('digits', 'train', 20, 0, None)
    assert np.bincount(motions).tolist() == [20] * 10
    table = np.histogram2d(digits, motions, bins=10)[0]
    assert table.max() < 10 and (np.diag(table) < 8).all()
    clips, labels = project.videos.draw_set('motion', 'test', 1, 4, None)
    assert (project.videos.draw_set('motion', 'test', 1, 4, None)[0] == clips).all()
    with pytest.raises(ValueError, match="digits, authors, motion, got 'sound'"):
        project.videos.draw_set('sound', 'train', 1, 0, None)


# ---- the plan

def fake_run(project, part, net, start, lr, row, repeat, val):
    return dict(project.study.key_of(part, net, start, lr, row, repeat), val=val, test=val / 2, parameters=7)


def test_settings_are_chosen_on_their_own_repeats(project):
    study = project.study
    part = study.PARTS['tuned']
    net = part.nets[2]
    assert study.candidates(part, net) == [(start, lr) for start in ('conv3d+motion', 'he+motion')
                                           for lr in (1e-3, 2e-3, 4e-3)]
    assert len({len(study.candidates(part, other)) for other in part.nets}) == 1  # the same budget for all
    runs = [fake_run(project, part, net, start, lr, row, repeat, 50 + 10 * (start == 'he+motion') - abs(lr - 2e-3))
            for start, lr in study.candidates(part, net) for row in part.tune_rows for repeat in part.tune_repeats]
    assert study.chosen(runs, part, net) == ('he+motion', 2e-3)
    assert study.chosen(runs, study.PARTS['motion'], net) == ('he+motion', 2e-3)  # part (d) takes the choice of (c)
    assert study.chosen(runs[1:], part, net) is None  # one try is missing
    with pytest.raises(ValueError, match="part 'tuned' is not tuned yet"):
        study.keys_of(runs, study.PARTS['motion'], [5], [0])
    assert study.chosen([], study.PARTS['authors'], study.PARTS['authors'].nets[0]) == ('normal', 5e-8)
    assert all(repeat >= 1000 for repeat in study.TUNING)


def test_transforms_at_a_rate_of_their_own(project):
    """Adam's first step is the learning rate, whatever the gradient: that shows which parameter has which."""
    torch.manual_seed(0)
    model = project.nets.build('3T', (2, 2), 'he+motion')
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    clips, labels = torch.randint(0, 256, (10, 30, 28, 28), dtype=torch.uint8), torch.arange(10)
    project.low_data.train_steps(model, clips, labels, 'adam, transforms x3', 1e-4, 1, torch.Generator().manual_seed(0))
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
    rates = {name: round(1e4 * step, 2) for name, step in moved.items()}
    assert set(rates.values()) == {1., 3.}
    assert {name for name, rate in rates.items() if rate == 3} == {
        f'backbone.conv{i}.{name}' for i in (1, 2) for name in ('scale', 'rotate', 'translate_x', 'translate_y')}
    with pytest.raises(ValueError, match="must be 'adam', 'adam, transforms xN' or 'sgd', got 'lion'"):
        project.low_data.train_steps(model, clips, labels, 'lion', 1e-4, 1, torch.Generator())
    parts = project.study.PARTS
    keys = project.study.keys_of([], parts['transforms'], [5], [0])
    assert [key['optimizer'] for key in keys[:3]] == ['adam', 'adam, transforms x3', 'adam, transforms x10']
    assert keys[0] == project.study.key_of(parts['motion'], parts['motion'].nets[1], 'he', 2e-3, 5, 0)


def test_every_stage_can_be_reached(project):
    study = project.study
    for stage in study.STAGES:
        part = study.PARTS[stage.part]
        assert set(stage.rows) <= set(part.rows) and max(stage.repeats, default=0) < 1000
        assert stage.tune == bool(not stage.rows) and (not stage.tune or part.tune_lrs)
    keys = study.keys_of([], study.PARTS['authors'], (1, 2), range(2))
    assert [(key['net'], key['per_class'], key['repeat']) for key in keys] == [
        (net, row, repeat) for repeat in (0, 1) for row in (1, 2) for net in ('3D', '3T', '3D')]


# ---- tables

def test_table_by_hand(project):
    study, tables = project.study, project.tables
    part = study.PARTS['authors']
    values = {'3D': {(1, 0): 40., (1, 1): 55., (1, 2): 58., (1, 3): 0., (2, 0): 10.},
              '3T': {(1, 3): 1., (1, 2): 70., (1, 0): 50., (1, 1): 60., (1, 9): 0., (2, 0): 12.}}
    runs = [fake_run(project, part, net, net.start, net.lr, row, repeat, val)
            for net in part.nets[:2] for (row, repeat), val in values[net.kind].items()]
    runs.append(dict(runs[0], repeat=1000, val=99.))  # a tuning repeat is not reported
    lines = tables.part_table(runs, part, 'val', published=True).splitlines()
    assert lines[2] == '| 1 | 4–5 | 38.2 ± 26.7 | 36.2 ± 33.3 |  | 39.7 | 46.8 | +7.0 ± 7.9 (0.125) |  |'
    assert lines[3] == '| 2 | 1 | 10.0 | 12.0 |  | 52.7 | 59.6 | +2.0 |  |' and len(lines) == 4
    assert '| 1 | 4–5 | 19.1 ± 13.3 | 18.1 ± 16.7 |  | +3.5 ± 4.0 (0.125) |  |' in tables.part_table(runs, part)
    assert tables.part_table(runs, study.PARTS['tuned']) is None
    first = tables.make_figure(runs).axes[0]
    assert any(line.get_ydata().tolist() == list(study.AUTHORS['3D'][:6]) for line in first.get_lines()
               if len(line.get_ydata()) == 6)


def test_the_page_is_what_the_committed_runs_give(project, tmp_path):
    """--table-only on a copy: table.md and docs/low_data.md come out as they are committed."""
    runs = read_runs(PROJECT / 'results/runs.jsonl')
    page = tmp_path / 'page.md'
    (tmp_path / 'images').mkdir()
    shutil.copy(project.tables.PAGE, page)
    text = project.tables.write_results(runs, tmp_path, page)
    assert text == (PROJECT / 'results/table.md').read_text() == (tmp_path / 'table.md').read_text()
    assert page.read_text() == project.tables.PAGE.read_text()


# ---- the command

def test_the_command_resumes(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(project.low_data, 'EVAL_VIDEOS_PER_CLASS', 1)
    part = project.study.PARTS['unequal']
    monkeypatch.setitem(project.study.PARTS, 'unequal', project.study.dataclasses.replace(part, epochs=1))
    words = ['--out', str(tmp_path), '--cache', str(tmp_path / 'cache'), '--digits', 'sklearn', '--quick']
    assert project.low_data.main(words) == 0
    runs = read_runs(tmp_path / 'runs.jsonl')
    assert [(run['net'], run['repeat'], run['parameters']) for run in runs] == [
        ('3D', 0, 263_906), ('3T', 0, 254_058), ('3D', 1, 263_906), ('3T', 1, 254_058)]
    (tmp_path / 'runs.jsonl').write_text(''.join(json.dumps(run) + '\n' for run in runs[:3]))
    assert project.low_data.main(words) == 0
    again = read_runs(tmp_path / 'runs.jsonl')
    assert [run['train_loss'] for run in again] == [run['train_loss'] for run in runs]  # the same run, to the digit
    assert '3 of 4 runs are there' in capsys.readouterr().out and (tmp_path / 'figure.png').is_file()
    with pytest.raises(SystemExit):
        project.low_data.main(['--repeats', '1'])
    assert project.low_data.main(['--out', str(tmp_path / 'new'), '--data-root', str(tmp_path / 'nowhere')]) == 2
    assert '--digits sklearn needs none' in capsys.readouterr().err
    assert project.low_data.main(['--out', str(tmp_path / 'new'), '--table-only']) == 2
