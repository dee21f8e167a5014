"""Channels that drive a class: contributions by finite differences and by hand, motion of the ones found, the tool."""
import re

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import write_film
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.config import Config
from torch import nn

from tconv_mmaction.interpret import temporal_layers
from tconv_mmaction.interpret.access.clips import ClipReader, load_recognizer
from tconv_mmaction.interpret.class_channels import (
    by_class,
    channel_contributions,
    channel_table,
    choose_layers,
    draw_class_channels,
    summarize_contributions,
)
from tconv_mmaction.layers import Conv3T

TOOLS = ROOT / 'tools/analysis'


class Net(nn.Module):
    """A bare Conv3T with an in-place ReLU, one in a ConvModule with BatchNorm, a kT = 1 layer and a linear head."""

    def __init__(self):
        super().__init__()
        self.first = Conv3T(2, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.second = ConvModule(4, 5, 3, padding=1, conv_cfg=dict(type='Conv3T'), norm_cfg=dict(type='BN3d'))
        self.still = Conv3T(5, 5, (1, 3, 3), padding=(0, 1, 1))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.second(self.relu(self.first(x)))
        return self.head(self.still(x).tanh().mean((2, 3, 4)))


@pytest.fixture
def net():
    torch.manual_seed(1)
    model = Net()
    with torch.no_grad():
        for layer in temporal_layers(model).values():
            for name in ('rotate', 'translate_x', 'translate_y'):
                getattr(layer, name).uniform_(-.3, .3)
        norm = model.second.norm
        for value in (norm.weight, norm.running_var):
            value.uniform_(.5, 1.5)
        for value in (norm.bias, norm.running_mean):
            value.uniform_(-.5, .5)
    return model.double()


def test_contributions_are_the_slope_of_a_channels_gain(net):
    """C_k is dF/dg at g = 1, if the channel's activation is multiplied by g: central differences."""
    clip = torch.randn(2, 2, 4, 6, 6, dtype=torch.float64)
    target = [2, 0]
    found = channel_contributions(net, clip, target)
    assert {name: tuple(value.shape) for name, value in found.items()} == {'first': (2, 4), 'second.conv': (2, 5)}
    net.eval()
    for name, module in (('first', net.first), ('second.conv', net.second)):
        for k in range(found[name].shape[1]):
            scores = []
            for gain in (1 + 1e-5, 1 - 1e-5):
                def scale(_module, _inputs, output, k=k, gain=gain):
                    factor = torch.ones(output.shape[1], dtype=output.dtype)
                    factor[k] = gain
                    return output * factor[:, None, None, None]
                handle = module.register_forward_hook(scale)
                with torch.no_grad():
                    scores.append(net(clip)[torch.arange(2), target])
                handle.remove()
            torch.testing.assert_close(found[name][:, k], (scores[0] - scores[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_a_linear_net_is_split_into_its_channels():
    """Without anything after the layer the contributions add up to the logit."""
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Conv3T(1, 3, 3, bias=False)
            self.head = nn.Linear(3, 2, bias=False)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3, 4)))

    net = Linear().double()
    clip = torch.randn(4, 1, 5, 7, 7, dtype=torch.float64)
    found = channel_contributions(net, clip, 1)['conv']
    with torch.no_grad():
        by_hand = net.conv(clip).mean((2, 3, 4)) * net.head.weight[1]
        torch.testing.assert_close(found, by_hand)
        torch.testing.assert_close(found.sum(1), net(clip)[:, 1])
    predicted = channel_contributions(net, clip)['conv']
    torch.testing.assert_close(predicted.sum(1), net(clip).max(1).values.detach())


def test_the_model_comes_back_as_it_was(net):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    clip = torch.randn(1, 2, 4, 6, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match='outside the 3 classes'):
        channel_contributions(net, clip, 5)
    with pytest.raises(ValueError, match="'second' is no Conv3T layer with kT > 1 .* Close to it: second.conv"):
        channel_contributions(net, clip, 0, ['second'])
    with pytest.raises(ValueError, match="'still' is no Conv3T layer with kT > 1"):
        channel_contributions(net, clip, 0, ['still'])
    with pytest.raises(ValueError, match='no Conv3T layer'):
        channel_contributions(nn.Conv3d(2, 2, 1), clip, 0)
    one = channel_contributions(net, clip, 0, ['second.conv'])
    torch.testing.assert_close(one['second.conv'], channel_contributions(net, clip, 0)['second.conv'])
    assert net.training and net.second.training and all(p.requires_grad for p in net.parameters())
    assert all(not m._forward_hooks for m in net.modules()) and all(p.grad is None for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    empty = channel_contributions(net, clip.requires_grad_(), 0)
    assert clip.grad is None and not empty['first'].requires_grad


def test_summary_rank_and_share_by_hand():
    parts = [{'a': torch.tensor([[1., -2., 0.]]), 'b': torch.tensor([[0., 0.]])},
             {'a': torch.tensor([[3., -2., 1.], [2., 1., -1.]]), 'b': torch.zeros(2, 2)}]
    found = summarize_contributions(parts)
    assert found.clips == 3 and found.mean['a'].tolist() == [2, -1, 0]
    np.testing.assert_allclose(found.std['a'], np.sqrt([2 / 3, 2, 2 / 3]))
    np.testing.assert_allclose(found.share('a'), [2 / 3, -1 / 3, 0])
    assert found.ranked('a').tolist() == [0, 2, 1]
    assert found.share('b').tolist() == [0, 0] and found.ranked('b').tolist() == [0, 1]
    assert choose_layers(found, 1) == ['a'] and choose_layers(found, 2) == ['a', 'b']
    groups = by_class([('x', parts[0]), ('y', parts[1]), ('x', parts[0])])
    assert {name: g.clips for name, g in groups.items()} == {'x': 2, 'y': 2}
    assert list(groups) == ['x', 'y'] and groups['x'].mean['a'].tolist() == [1, -2, 0]
    with pytest.raises(ValueError, match='no contributions'):
        summarize_contributions([])


def test_the_motion_of_the_channels(net):
    with torch.no_grad():
        layer = net.first
        layer.scale.fill_(1)
        for name in ('rotate', 'translate_x', 'translate_y'):
            getattr(layer, name).zero_()
        layer.translate_x[:, 2] = -.5  # two steps of half a half kernel, to the right: 2 * .5 * (3 - 1) / 2 = 1 px
        layer.scale[:, 1], layer.rotate[:, 1] = .5, -np.pi / 6  # grows to 2 * 2, turns clockwise by 2 * 30 degrees
        layer.scale[0, 3] = 0
    contributions = {'first': torch.tensor([[.1, .3, .5, -.1]]), 'second.conv': torch.tensor([[.2, .1, .05, .1, .1]])}
    table = channel_table(net, {'wave': summarize_contributions([contributions])})
    assert len(table) == 9 and table['rank'].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 5]
    first = table[table['layer'] == 'first'].set_index('channel')
    assert first.index.tolist() == [2, 1, 0, 3] and first['share'].tolist() == pytest.approx([.5, .3, .1, -.1])
    motion = first[['zoom', 'clockwise', 'right', 'down']]
    assert motion.loc[2].tolist() == pytest.approx([1, 0, 1, 0], abs=1e-12)
    assert motion.loc[1].tolist() == pytest.approx([4, 60, 0, 0], abs=1e-6)
    assert motion.loc[0].tolist() == pytest.approx([1, 0, 0, 0]) and motion.loc[3].isna().all()
    assert len(channel_table(net, {'wave': summarize_contributions([contributions])}, top=2)) == 4


def test_the_figure(net):
    contributions = {'first': torch.tensor([[.1, .3, .5, -.1]]), 'second.conv': torch.tensor([[.2, .1, .05, .1, .1]])}
    found = summarize_contributions([contributions])
    figure = draw_class_channels(net, found, 'wave', top=2)
    assert len(figure.axes) == 8 and 'for wave, and how it moves (1 clip' in figure.get_suptitle()
    bars, zoom, _, path = figure.axes[:4]
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([50, 30, 10, -10])
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ['channel 2', 'channel 1']
    lines = [line for line in zoom.lines if len(line.get_xdata()) == 3]
    expected = (1 / net.first.scale.detach()).cumprod(0)[:, [2, 1]]
    np.testing.assert_allclose([line.get_ydata()[1:] for line in lines], expected.T)
    assert len([line for line in path.lines if len(line.get_xdata()) == 3]) == 2
    assert len(draw_class_channels(net, found, 'wave', layers=1).axes) == 4
    for wrong, message in ((dict(top=0), 'top must be 1 to 5'), (dict(layers=['third']), r"\['third'\] were not"),
                           (dict(layers=0), 'at least 1 layer')):
        with pytest.raises(ValueError, match=message):
            draw_class_channels(net, found, 'wave', **wrong)


CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='{type}'), in_channels=3, channels=(4, 6),
                  clip_shape=(12, 32, 32)),
    cls_head=dict(type='I3DHead', num_classes=2, in_channels=84, dropout_ratio=0., init_std=1., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100.] * 3, std=[50.] * 3, format_shape='NCTHW'))
test_pipeline = [
    dict(type='DecordInit'), dict(type='SampleFrames', clip_len=12, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='DecordDecode'), dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='VideoDataset', ann_file='{folder}/list.txt', data_prefix=dict(video='{folder}'), pipeline=test_pipeline,
    test_mode=True))
'''


@pytest.fixture
def project(tmp_path):
    for name, kind in (('3t', 'Conv3T'), ('3d', 'Conv3d')):
        (tmp_path / f'{name}.py').write_text(CONFIG.format(type=kind, folder=tmp_path.as_posix()))
        model = MODELS.build(Config.fromfile(tmp_path / f'{name}.py').model)
        model.init_weights()
        torch.save(dict(state_dict=model.state_dict()), tmp_path / f'{name}.pth')
    for index in range(3):
        images = np.full((14, 48, 64, 3), 20 * index, dtype=np.uint8)
        for t, image in enumerate(images):
            image[10:20, 2 * t:2 * t + 10] = (40, 120, 250)
        write_film(tmp_path / f'{index}.mp4', images)
    (tmp_path / 'broken.mp4').write_bytes(b'no video' * 90)
    (tmp_path / 'list.txt').write_text('0.mp4 1\n1.mp4 0\nbroken.mp4 0\n2.mp4 1\n')
    (tmp_path / 'classes.txt').write_text('sit down\nstand up\n')
    return tmp_path


@pytest.fixture
def tool():
    module = load_script('tools/analysis/class_channels.py')
    return lambda *arguments: module.main([str(argument) for argument in (*arguments, '--device', 'cpu')])


def test_the_tool(project, tool, tmp_path, capsys):
    out = tmp_path / 'out'
    assert tool(project / '3t.py', project / '3t.pth', '--dataset', 'test', '--target', 'label', '--classes',
                project / 'classes.txt', '--out', out) == 1  # one clip is broken
    assert 'skipped test 2' in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ['channels.csv', 'contributions.npz', 'sit_down.png',
                                                           'stand_up.png']
    model = load_recognizer(str(project / '3t.py'), str(project / '3t.pth'))
    reader = ClipReader(model)
    expected = [channel_contributions(model, reader.sample('test', i).inputs, 1)['backbone.conv2'] for i in (0, 3)]
    stored = np.load(out / 'contributions.npz')
    mean = torch.cat(expected).mean(0)
    np.testing.assert_allclose(stored['stand up/backbone.conv2/mean'], mean, rtol=1e-4, atol=1e-6)
    table = pd.read_csv(out / 'channels.csv')
    assert len(table) == 2 * (4 + 6)
    best = table[(table['class'] == 'stand up') & (table['layer'] == 'backbone.conv2') & (table['rank'] == 1)]
    assert best['channel'].item() == int(mean.argmax()) and best['clips'].item() == 2
    assert tool(project / '3t.py', project / '3t.pth', project / '0.mp4', '--out', out / 'one') == 0  # the prediction
    label = pd.read_csv(out / 'one/channels.csv')['class'].unique()
    assert len(label) == 1 and re.fullmatch(r'class [01]', label[0])


def test_mistakes_are_one_line(project, tool, tmp_path, capsys):
    three = project / '3t.py', project / '3t.pth', project / '0.mp4'
    for arguments, message in (((project / '3d.py', project / '3d.pth', project / '0.mp4'), 'no Conv3T layer'),
                               ((*three, '--top', 9), 'top must be 1 to 5'),
                               ((*three, '--layers', 'backbone.conv3'), 'Close to it: backbone.conv'),
                               ((*three, '--target', 2), 'outside the 2 classes')):
        assert tool(*arguments, '--out', tmp_path / 'out') == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
