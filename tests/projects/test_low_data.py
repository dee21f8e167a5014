"""projects/low_data/low_data.py and its fast LeNet5: against PyTorch's layers, MMEngine's Runner and tests by hand."""
import importlib
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from scipy import stats

from tconv_mmaction.datasets import VideoMNIST

PROJECT = ROOT / 'projects/low_data'


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT))
    yield importlib.import_module('low_data')
    for name in ('low_data', 'fast_lenet5'):
        sys.modules.pop(name, None)


@pytest.fixture
def fast(study):
    return importlib.import_module('fast_lenet5')


def moved(model):
    """Generic temporal parameters, so that the kernel is no stack of equal slices."""
    for name, parameter in model.named_parameters():
        if name.endswith(('scale', 'rotate', 'translate_x', 'translate_y')):
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


# ---- the fast network

@pytest.mark.parametrize('kind', ['3D', '3T'])
@pytest.mark.parametrize('channels', [(6, 16), (3, 2)])
def test_fast_network_is_the_network(study, fast, kind, channels):
    """Scores and all gradients in float64, where rounding cannot hide a mistake."""
    model = moved(study.build(study.Net(kind, channels))).double()
    videos = torch.randint(0, 256, (2, 30, 28, 28), dtype=torch.uint8)
    results = []
    for scores in (model.cls_head(model.backbone(videos[:, None].double() / 255)), None):
        if scores is None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.Tensor, 'float', torch.Tensor.double)
                scores = fast.scores(model, videos)
        model.zero_grad()
        (scores * torch.arange(20).reshape(2, 10)).sum().backward()
        results.append([scores.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, plain in zip(results[1], results[0]):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9 * plain.abs().max().item())


@pytest.mark.parametrize('frames', [30, 28, 6, 2])
def test_first_block_for_other_lengths(fast, frames):
    conv = torch.nn.Conv3d(1, 3, 5, padding=2).double()
    x = torch.randn(2, frames, 8, 6, dtype=torch.double)
    expected = F.max_pool3d(conv(x[:, None]).relu(), 2)
    torch.testing.assert_close(fast.first_block(conv, x), expected, rtol=1e-10, atol=1e-12)


def test_equal_values_send_the_gradient_to_the_first(fast):
    x = torch.tensor([[1., 1.], [2., 3.], [5., 4.]], requires_grad=True)
    y = fast.PairMax.apply(x, 1)
    y.backward(torch.tensor([1., 10., 100.]))
    assert y.tolist() == [1., 3., 5.] and x.grad.tolist() == [[1., 0.], [0., 10.], [100., 0.]]


def test_first_block_names_what_it_cannot_do(fast):
    with pytest.raises(ValueError, match=r'even sizes, got \(T, H, W\) = \(5, 8, 8\)'):
        fast.first_block(torch.nn.Conv3d(1, 2, 5, padding=2), torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match='one channel, kernel_size 5 and padding 2, got Conv3d'):
        fast.first_block(torch.nn.Conv3d(1, 2, 3, padding=1), torch.zeros(1, 6, 8, 8))


class Losses(Hook):
    """The weights that a Runner starts from, and the loss of every step."""

    def before_train(self, runner):
        self.start, self.values = {k: v.clone() for k, v in runner.model.state_dict().items()}, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss'].item())


@pytest.mark.parametrize('kind', ['3D', '3T'])
def test_losses_are_those_of_the_runner(study, tmp_path, kind):
    """The committed config trained by MMEngine: the loss of every step, with all videos in each batch."""
    config = Config.fromfile(next(study.CONFIGS.glob(f'lenet5-{kind.lower()}_*.py')))
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

    model = study.build(study.Net(kind))
    model.load_state_dict(hook.start)
    clips, labels = study.videos('train', 2, 7, None, str(tmp_path / 'videos'))
    ours = study.train_steps(model, clips, labels, 1e-3, study.Settings(None, epochs=4), torch.Generator())
    assert [len(epoch) for epoch in ours] == [1] * 4
    np.testing.assert_allclose(np.ravel(ours), hook.values, rtol=2e-3)


# ---- the plan

@pytest.mark.parametrize('kind, counts', [('3D', (263_906, 375_668, 496_430)), ('3T', (254_058, 348_612, 444_966))])
def test_counts_are_the_paper_s(study, kind, counts):
    assert tuple(study.count_parameters(kind, c) for c in ((6, 16), (12, 22), (18, 28))) == counts


def test_nets_of_equal_size(study):
    """Nearest by brute force over what the networks themselves say, around the choice."""
    for ours, other in ((study.EQUAL_3D, study.THREE_T), (study.EQUAL_3T, study.THREE_D)):
        target = study.count_parameters(other.kind, other.channels)
        model = study.build(ours)
        count = sum(p.numel() for p in model.parameters())
        assert count == study.count_parameters(ours.kind, ours.channels)
        assert abs(count - target) / target < 0.001
        assert abs(count - target) == min(abs(study.count_parameters(ours.kind, (a, b)) - target)
                                          for a in range(1, 33) for b in range(1, 33))


def test_small_start_is_that_of_conv3d(study):
    torch.manual_seed(0)
    own, small, plain = (study.build(net).backbone for net in (study.THREE_T, study.SMALL.three_t, study.THREE_D))
    assert study.SMALL.three_t.name == '3T 6,16 lr 0.001 small start'
    assert own.conv2.weight.std().item() == pytest.approx(1, abs=0.05)
    for conv, other in ((small.conv1, plain.conv1), (small.conv2, plain.conv2)):
        for ours, theirs in ((conv.weight, other.weight), (conv.bias, other.bias)):
            bound = (125 * conv.in_channels)**-0.5
            assert ours.abs().max() <= bound and theirs.abs().max() <= bound
        assert conv.weight.abs().max() > 0.95 * bound  # bound / sqrt(3) is the spread of a uniform distribution
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert (conv.scale == 1).all() and not conv.rotate.any()


def test_plan(study):
    jobs = study.plan(list(study.TITLES), study.ROWS, 30)
    assert len({job.key for job in jobs}) == len(jobs)
    # what matters most ends first: ten repeats of every row of the main comparison
    first = {(job.net, job.per_class, job.repeat) for job in jobs[:160]}
    assert first == {(net, row, repeat) for net in (study.THREE_D, study.THREE_T) for row in study.ROWS
                     for repeat in range(10)}
    main = study.plan(['main'], [1, 100], 2)
    assert [(job.net.kind, job.per_class, job.repeat) for job in main] == [
        ('3D', 1, 0), ('3T', 1, 0), ('3D', 1, 1), ('3T', 1, 1),
        ('3D', 100, 0), ('3T', 100, 0), ('3D', 100, 1), ('3T', 100, 1)]
    # 20 epochs of ceil(10 N / 20) batches
    settings = study.Settings()
    assert [study.Job(study.THREE_D, n, 0).steps(settings) for n in study.ROWS] == [20, 20, 40, 40, 60, 100, 500, 1000]


def test_videos_of_a_repeat(study, tmp_path):
    for _ in range(2):  # drawn, then read from the file
        study.videos.cache_clear()
        clips, labels = study.videos('train', 2, 3, None, str(tmp_path))
        data = VideoMNIST([], videos_per_class=2, subset_seed=3)
        assert labels.tolist() == [data.get_data_info(i)['label'] for i in range(20)]
        assert np.array_equal(clips[11].numpy(), data.frames(11)) and clips.shape == (20, 30, 28, 28)
    assert [path.name for path in tmp_path.iterdir()] == ['train_2_3.npz']
    smaller, _ = study.videos('train', 1, 3, None, str(tmp_path))
    kept = {clip.numpy().tobytes() for clip in clips}
    assert all(clip.numpy().tobytes() in kept for clip in smaller)
    other, _ = study.videos('train', 1, 4, None, str(tmp_path))
    assert not torch.equal(other, smaller)


# ---- tests, table, figure

def test_holm_by_hand(study):
    # sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.5
    assert study.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert study.holm([0.9, 0.8]) == pytest.approx([1., 1.])  # 1.6 is cut at 1; and 0.9 may not be below it


def fake(study, net, values, per_class=1):
    return pd.DataFrame([dict(net=net.name, per_class=per_class, repeat=repeat, val=value, test=value / 2,
                              parameters=7, train_loss=1., cpu_seconds=1.) for repeat, value in values.items()])


def test_paired_tests_by_hand(study):
    runs = pd.concat([
        # differences 10, 5, 12, 1 (repeat 9 has no partner): mean 7, squares about it 9 + 4 + 25 + 36 = 74
        fake(study, study.THREE_D, {0: 40., 1: 55., 2: 58., 3: 0.}),
        fake(study, study.THREE_T, {3: 1., 2: 70., 0: 50., 1: 60., 9: 0.}),
        fake(study, study.THREE_D, {0: 5., 1: 6.}, 2), fake(study, study.THREE_T, {0: 5., 1: 6.}, 2),
        fake(study, study.THREE_D, {0: 5.}, 3), fake(study, study.THREE_T, {0: 6.}, 3)])
    tests = study.paired_tests(runs, study.Comparison(study.THREE_D, study.THREE_T), 'val').set_index('per_class')
    assert tests.index.tolist() == [1, 2]
    row, error = tests.loc[1], (74 / 3 / 4)**0.5
    assert (row.n, row.wins, row.mean_3d, row.mean_3t, row.difference) == (4, 4, 38.25, 45.25, 7)
    assert row.half_width == pytest.approx(3.182446 * error, rel=1e-6)  # Student's t, 97.5 %, 3 degrees of freedom
    assert row.t_p == pytest.approx(2 * stats.t.sf(7 / error, 3))
    assert row.wilcoxon_p == 2 / 2**4  # all four signs the same, two-sided
    assert row.holm_p == 2 * row.wilcoxon_p
    assert tests.loc[2, ['difference', 't_p', 'wilcoxon_p', 'holm_p']].tolist() == [0, 1, 1, 1]
    table = study.make_table(runs)
    assert '| 1 | 4 | 38.2 ± 26.7 | 45.2 ± 30.6 | 39.7 | 46.8 | +7.0 ± 7.9 | 4 of 4 |' in table
    assert '| 1 | 4 | 19.1 ± 13.3 | 22.6 ± 15.3 | +3.5 ± 4.0 | 4 of 4 |' in table  # test: half of everything
    assert study.TITLES['rates'] not in table
    figure = study.make_figure(runs)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert lines['3T 6,16 lr 0.001'].get_xydata().tolist() == [[1, 36.2], [2, 5.5], [3, 6]]
    assert lines['3D, the authors'].get_ydata().tolist() == list(study.AUTHORS['3D'])


# ---- the command

def test_the_command_resumes(study, tmp_path, capsys, monkeypatch):
    """Interrupted after two runs, the same command does the others; a folder of other settings is refused."""
    original, calls = study.train, []

    def train(*job):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job[:3])
        return original(*job)

    arguments = [str(tmp_path), '--digits', 'sklearn', '--parts', 'main', '--rows', '1', '--repeats', '2', '--epochs',
                 '1']
    monkeypatch.setattr(study, 'train', train)
    paper_settings = study.Settings
    monkeypatch.setattr(study, 'Settings', lambda **given: paper_settings(**given, eval_videos_per_class=1))
    with pytest.raises(KeyboardInterrupt):
        study.main(arguments)
    assert len(pd.read_csv(tmp_path / 'runs.csv')) == 2
    calls.clear()
    assert study.main(arguments) == 0
    assert calls == [(net, 1, 1) for net in (study.THREE_D, study.THREE_T)]
    runs = pd.read_csv(tmp_path / 'runs.csv')
    assert runs[['net', 'repeat']].values.tolist() == [
        ['3D 6,16 lr 0.001', 0], ['3T 6,16 lr 0.001', 0], ['3D 6,16 lr 0.001', 1], ['3T 6,16 lr 0.001', 1]]
    assert runs.parameters.tolist() == [263_906, 254_058] * 2
    assert (tmp_path / 'figure.png').is_file() and 'As published' in (tmp_path / 'table.md').read_text()
    assert study.main([*arguments, '--table-only']) == 0
    assert study.main([*arguments[:-1], '2']) == 2
    assert "'epochs': 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.main([str(tmp_path), '--repeats', '1'])
    assert study.main([str(tmp_path / 'new'), '--data-root', str(tmp_path / 'nowhere')]) == 2
    assert '--digits sklearn needs none' in capsys.readouterr().err
