"""GoogLeNet3d and GoogLeNetHead: counts of the papers, a 2D GoogLeNet in functional calls, losses by hand."""
import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tconv_mmaction.backbones import GoogLeNet3d
from tconv_mmaction.backbones.inflation import inflate_state_dict
from tconv_mmaction.heads import GoogLeNetHead
from tconv_mmaction.layers import Conv3T, switch_to_deploy
from tconv_mmaction.utils.complexity import count_complexity, count_parameters

AUX_LAYERS = ('inception4a', 'inception4d', 'inception5b')
SMALL = (13, 61, 61)
# torchvision's table: inputs; outputs of branch1, branch2.0, branch2.1, branch3.0, branch3.1, branch4.1
BLOCKS = {
    '3a': (192, 64, 96, 128, 16, 32, 32), '3b': (256, 128, 128, 192, 32, 96, 64),
    '4a': (480, 192, 96, 208, 16, 48, 64), '4b': (512, 160, 112, 224, 24, 64, 64),
    '4c': (512, 128, 128, 256, 24, 64, 64), '4d': (512, 112, 144, 288, 32, 64, 64),
    '4e': (528, 256, 160, 320, 32, 128, 128), '5a': (832, 256, 160, 320, 32, 128, 128),
    '5b': (832, 384, 192, 384, 48, 128, 128),
}
EPS = 1e-3  # torchvision's GoogLeNet


def config(kind='Conv3d', num_classes=27, backbone=None, **head):
    return dict(type='Recognizer3D',
                backbone=dict(type='GoogLeNet3d', temporal_cfg=dict(type=kind), out_layers=AUX_LAYERS,
                              **(backbone or {})),
                cls_head=dict(type='GoogLeNetHead', num_classes=num_classes, **head))


def randomise_norms(net):
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, .5, 1.5)
            nn.init.normal_(module.bias, std=.3)
            nn.init.normal_(module.running_mean, std=.3)
            nn.init.uniform_(module.running_var, .5, 2)
    return net


def samples(labels):
    return [ActionDataSample().set_gt_label(label) for label in labels]


@pytest.fixture
def log():
    """Messages of the current logger."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


# -- numbers of the papers ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind, num_classes, count', [
    ('Conv3T', 27, 7_419_121), ('Conv3T', 101, 7_646_671), ('Conv3d', 27, 14_078_833), ('Conv3d', 101, 14_306_383)])
def test_counts(kind, num_classes, count):
    with torch.device('meta'):
        model = MODELS.build(config(kind, num_classes))
    assert count_parameters(model) == count
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv3d, Conv3T))}
    temporal = {name: m for name, m in layers.items() if m.kernel_size != (1, 1, 1)}
    aux = [name for name in layers if name.startswith('cls_head')]
    assert (len(temporal), len(layers) - len(temporal) - len(aux), len(aux)) == (20, 39 - 2, 2)
    expected = {'backbone.conv1.conv': (7, 7, 7), 'backbone.conv3.conv': (3, 3, 3), **{
        f'backbone.inception{block}.branch{i}.1.conv': (3, 3, 3) for block in BLOCKS for i in (2, 3)}}
    assert {name: m.kernel_size for name, m in temporal.items()} == expected
    if kind == 'Conv3T':
        assert all(isinstance(m, Conv3T) == (name in temporal) for name, m in layers.items())
        assert sum(p.numel() for m in temporal.values() for name, p in m.named_parameters()
                   if name != 'weight') == 27_648
    assert not any(m.bias is not None for m in layers.values())
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-5}


@pytest.mark.parametrize('height', [150, 168])
def test_sizes_at_the_papers_clips(height):
    with torch.device('meta'):
        net = GoogLeNet3d(out_layers=('conv1', 'maxpool1', 'maxpool2', 'inception3b') + AUX_LAYERS)
        sizes = [tuple(y.shape[1:]) for y in net(torch.empty(1, 3, 30, height, 224))]
    rows = {150: (75, 37, 18, 8, 3), 168: (84, 41, 20, 9, 4)}[height]
    assert sizes == [(64, 15, rows[0], 112), (64, 15, rows[1], 55), (192, 15, rows[2], 27), (480, 15, rows[2], 27),
                     (512, 7, rows[3], 13), (528, 7, rows[3], 13), (1024, 3, rows[4], 6)]
    # where the authors' AvgPool3d(5, s3) gives what the adaptive pool gives everywhere
    assert [(n - 5) // 3 + 1 for n in sizes[4][1:]] == [1, 2, 3]


# -- weights of a 2D net -----------------------------------------------------------------------------------------------

def random_googlenet2d():
    """A state dict in torchvision's public layout; norms are fitted to data, with statistics that vary."""
    state = {}

    def conv(name, inputs, outputs, k):
        state[f'{name}.conv.weight'] = torch.randn(outputs, inputs, k, k, dtype=torch.float64) / (inputs * k * k)**.5
        state[f'{name}.bn.weight'] = .5 + torch.rand(outputs, dtype=torch.float64)
        state[f'{name}.bn.bias'] = torch.randn(outputs, dtype=torch.float64) * .3
        state[f'{name}.bn.running_mean'] = torch.zeros(outputs, dtype=torch.float64)
        state[f'{name}.bn.running_var'] = torch.ones(outputs, dtype=torch.float64)
        state[f'{name}.bn.num_batches_tracked'] = torch.tensor(7)

    conv('conv1', 3, 64, 7)
    conv('conv2', 64, 64, 1)
    conv('conv3', 64, 192, 3)
    for block, (n, a, b, c, d, e, f) in BLOCKS.items():
        for branch, shape in (('1', (n, a, 1)), ('2.0', (n, b, 1)), ('2.1', (b, c, 3)), ('3.0', (n, d, 1)),
                              ('3.1', (d, e, 3)), ('4.1', (n, f, 1))):
            conv(f'inception{block}.branch{branch}', *shape)
    for name, inputs in (('aux1', 512), ('aux2', 528)):
        conv(f'{name}.conv', inputs, 128, 1)
        for fc, shape in (('fc1', (1024, 2048)), ('fc2', (1000, 1024))):
            state[f'{name}.{fc}.weight'], state[f'{name}.{fc}.bias'] = torch.randn(*shape), torch.randn(shape[0])
    state['fc.weight'], state['fc.bias'] = torch.randn(1000, 1024), torch.randn(1000)
    googlenet2d(state, torch.randn(4, 3, 93, 93, dtype=torch.float64), calibrate=True)
    for name in [name for name in state if name.endswith('running_var')]:
        state[name] = state[name] * (.7 + .6 * torch.rand_like(state[name]))
    return state


def googlenet2d(state, x, calibrate=False):
    """(N, 3, H, W) -> the three feature maps (N, C, H', W'); with the papers' pools, which do not round up."""

    def conv(x, name, stride=1):
        weight = state[f'{name}.conv.weight']
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        if calibrate:
            state[f'{name}.bn.running_mean'], state[f'{name}.bn.running_var'] = x.mean((0, 2, 3)), x.var((0, 2, 3))
        return F.relu(F.batch_norm(x, *(state[f'{name}.bn.{key}'] for key in (
            'running_mean', 'running_var', 'weight', 'bias')), eps=EPS))

    outs = {}
    x = F.max_pool2d(conv(x, 'conv1', 2), 3, 2)
    x = F.max_pool2d(conv(conv(x, 'conv2'), 'conv3'), 3, 2)
    for block in BLOCKS:
        name = f'inception{block}.branch'
        x = outs[block] = torch.cat([
            conv(x, f'{name}1'), conv(conv(x, f'{name}2.0'), f'{name}2.1'), conv(conv(x, f'{name}3.0'), f'{name}3.1'),
            conv(F.max_pool2d(x, 3, 1, 1), f'{name}4.1')], 1)
        if block in ('3b', '4e'):
            x = F.max_pool2d(x, 3, 2)
    return [outs[block] for block in ('4a', '4d', '5b')]


@pytest.fixture(scope='module')
def state2d():
    torch.manual_seed(3)
    return random_googlenet2d()


@pytest.mark.parametrize('kind, options', [
    ('Conv3d', {}), ('Conv3T', dict(divide_3t=True)), ('SeparableConv3d', {}), ('MultiBranchConv3d', {})])
def test_a_still_clip_gives_the_features_of_the_2d_net(state2d, kind, options):
    net = GoogLeNet3d(dict(type=kind), out_layers=AUX_LAYERS, norm_cfg=dict(type='BN3d', eps=EPS)).double().eval()
    new, report = inflate_state_dict(state2d, net, net.key_from_2d, **options)
    net.load_state_dict(new, strict=False)
    image = torch.randn(1, 3, 65, 70, dtype=torch.float64)
    with torch.no_grad():
        want = googlenet2d(state2d, image)
        got = net(image[:, :, None].expand(-1, -1, 106, -1, -1))
    # Output k of inception5b is centred on frame 8k + 6 and sees 51 frames on either side, as counted layer by layer:
    # 3 + 2 (conv3) + 2 * 2 (3a, 3b) + 2 (pool) + 5 * 4 (4a-4e) + 4 (pool) + 2 * 8 (5a, 5b); so k = 6 of 106 frames.
    for a, b, k in zip(want, got, (12, 12, 6)):
        assert a.abs().max() > .1
        torch.testing.assert_close(b[:, :, k], a, rtol=1e-7, atol=1e-7)
    assert {name.split('.')[0] for name in report.skipped} == {'fc', 'aux1', 'aux2'}
    assert set(report.loaded) | set(report.skipped) == set(state2d)
    if kind == 'Conv3d':
        assert report.missing == []


def test_a_3t_convolution_gives_kt_times_its_2d_convolution(state2d):
    net = GoogLeNet3d(dict(type='Conv3T')).double().eval()
    new, _ = inflate_state_dict(state2d, net, net.key_from_2d)
    net.load_state_dict(new, strict=False)
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, Conv3T)}
    assert len(layers) == 20
    for name, layer in layers.items():
        frames = layer.kernel_size[0]
        image = torch.randn(1, layer.in_channels, 9, 8, dtype=torch.float64)
        with torch.no_grad():
            got = layer(image[:, :, None].expand(-1, -1, 2 * frames, -1, -1))[:, :, frames // layer.stride[0]]
        want = frames * F.conv2d(image, state2d[f'{name}.weight'], stride=layer.stride[1:], padding=layer.padding[1:])
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_weights_by_config(state2d, tmp_path, log):
    torch.save(state2d, tmp_path / 'googlenet.pth')
    path = str(tmp_path / 'googlenet.pth')
    model = MODELS.build(config('Conv3T', backbone=dict(pretrained=path, pretrained2d=True), pretrained=path))
    model.init_weights()
    torch.testing.assert_close(model.backbone.inception4c.branch3[1].conv.weight[:, :, 0],
                               state2d['inception4c.branch3.1.conv.weight'].float(), rtol=0, atol=0)
    torch.testing.assert_close(model.backbone.inception4c.branch4[1].bn.running_var,
                               state2d['inception4c.branch4.1.bn.running_var'].float(), rtol=0, atol=0)
    torch.testing.assert_close(model.cls_head.aux2.conv.conv.weight[:, :, 0],
                               state2d['aux2.conv.conv.weight'].float(), rtol=0, atol=0)
    text = '\n'.join(log)
    assert 'skipped  fc.weight: no counterpart' in text and 'skipped  aux1.fc1.weight: no counterpart' in text
    assert 'loaded   aux1.conv.bn.bias -> aux1.conv.bn.bias' in text
    assert 'skipped  aux1.fc1.weight: torchvision flattens 128x4x4' in text
    assert 'missing  inception5b.branch2.1.conv: scale, rotate, translate_x, translate_y' in text
    assert "torchvision's GoogLeNet has eps=0.001 in its batch norms, this net eps=1e-05" in text

    divided = GoogLeNet3d(dict(type='Conv3T'), inflation_cfg=dict(divide_3t=True, copy_norm=False),
                         init_cfg=dict(type='Pretrained', checkpoint=path))
    divided.init_weights()
    torch.testing.assert_close(divided.conv1.conv.weight[:, :, 0], state2d['conv1.conv.weight'].float() / 7)
    assert divided.conv1.bn.running_mean.abs().max() == 0

    # its own checkpoint, 3D, comes back unchanged
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'trained.pth')
    again = GoogLeNet3d(dict(type='Conv3T'), pretrained=str(tmp_path / 'trained.pth'), pretrained2d=False)
    again.init_weights()
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def test_weights_that_do_not_fit(state2d, tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save({name: value for name, value in state2d.items() if not name.startswith('aux')}, path)
    with pytest.raises(ValueError, match='has no tensor aux1.conv.conv.weight'):
        GoogLeNetHead(5, pretrained=path).init_weights()
    with pytest.raises(ValueError, match='holds 2D kernels: set pretrained2d=True'):
        GoogLeNet3d(pretrained=path, pretrained2d=False).init_weights()
    with pytest.raises(ValueError, match='More than one checkpoint is named'):
        GoogLeNet3d(pretrained=path, init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()
    torch.save({'layer1.0.conv1.weight': torch.rand(4, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match='Not one convolution of the 2D weights has a counterpart'):
        GoogLeNet3d(pretrained=path).init_weights()
    with pytest.raises(FileNotFoundError):
        GoogLeNet3d(pretrained=str(tmp_path / 'nothing.pth')).init_weights()
    net = GoogLeNet3d()
    with pytest.raises(ValueError, match='conv1.conv.weight: the checkpoint has .* That is a 2D kernel'):
        net.load_state_dict(state2d, strict=False)
    with pytest.raises(ValueError, match=r'conv1.conv.weight: the checkpoint has \(64, 3, 7, 7, 7\), GoogLeNet3d needs '
                                         r'\(64, 2, 7, 7, 7\)'):
        GoogLeNet3d(in_channels=2).load_state_dict(net.state_dict(), strict=False)


def test_transform_input_is_the_other_normalisation():
    net = randomise_norms(GoogLeNet3d()).eval()
    other = GoogLeNet3d(transform_input=True).eval()
    other.load_state_dict(net.state_dict())
    pixels = torch.randint(0, 256, (1, 3, *SMALL)).float()
    imagenet = (pixels - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1, 1)) / torch.tensor(
        [58.395, 57.12, 57.375]).view(3, 1, 1, 1)
    kept = imagenet.clone()
    with torch.no_grad():
        want, got = net((pixels - 127.5) / 127.5), other(imagenet)
        assert (net(imagenet) - want).abs().max() > .05 * want.abs().max()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())
    torch.testing.assert_close(imagenet, kept, rtol=0, atol=0)


# -- losses and predictions --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('loss_cls, weights', [
    (dict(type='CrossEntropyLoss'), None),
    (dict(type='CrossEntropyLoss', class_weight=[.5, 2., 1., .1, 3.]), [.5, 2., 1., .1, 3.])])
def test_the_total_loss_by_hand(loss_cls, weights):
    model = MODELS.build(config(num_classes=5, loss_cls=loss_cls, aux_dropout_ratio=0., dropout_ratio=0.))
    model.init_weights()
    model.double().train()
    for p in model.cls_head.parameters():  # so that the three losses differ
        nn.init.normal_(p, std=.2)
    labels = torch.tensor([3, 1, 4])
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    if weights is not None:
        model.cls_head.loss_cls.class_weight = weights
    clips = torch.randn(3, 1, 3, *SMALL, dtype=torch.float64)
    before = copy.deepcopy(model)
    losses = model(clips, samples(labels), mode='loss')
    total, _ = model.parse_losses(losses)
    feats = before.backbone(clips[:, 0])
    head = before.cls_head

    def aux(net, x):
        x = net.conv.conv(F.adaptive_avg_pool3d(x, (1, 2, 3)))
        x = F.relu(F.batch_norm(x, None, None, net.conv.bn.weight, net.conv.bn.bias, True, eps=1e-5)).reshape(3, 768)
        return F.linear(F.relu(F.linear(x, net.fc1.weight, net.fc1.bias)), net.fc2.weight, net.fc2.bias)

    scores = [head.fc_cls(feats[2].mean((2, 3, 4))), aux(head.aux1, feats[0]), aux(head.aux2, feats[1])]
    nll = [-s.log_softmax(1)[range(3), labels] for s in scores]
    if weights is None:
        ce = [n.mean() for n in nll]
    else:  # mmaction2's weighted mean
        ce = [(n * weights[labels]).sum() / weights[labels].sum() for n in nll]
    for key, value in (('loss_cls', ce[0]), ('loss_cls_aux1', .3 * ce[1]), ('loss_cls_aux2', .3 * ce[2])):
        torch.testing.assert_close(losses[key], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(total, ce[0] + .3 * (ce[1] + ce[2]), rtol=1e-9, atol=1e-9)
    assert len({round(v.item(), 6) for v in ce}) == 3
    assert {key for key in losses if 'loss' in key} == {'loss_cls', 'loss_cls_aux1', 'loss_cls_aux2'}


@pytest.mark.parametrize('head', [dict(label_smooth_eps=.1), dict(multi_class=True, loss_cls=dict(
    type='BCELossWithLogits'))])
def test_soft_labels_reach_the_auxiliary_losses(head):
    head = GoogLeNetHead(4, 6, (5, 7), aux_dropout_ratio=0., dropout_ratio=0., aux_weight=.5, **head).double().train()
    feats = [torch.randn(2, c, 2, 3, 3, dtype=torch.float64) for c in (5, 7, 6)]
    soft = torch.tensor([[.7, .3, 0, 0], [0, 1., 0, 0]], dtype=torch.float64)
    data = [ActionDataSample().set_gt_label(label) for label in soft]
    losses = head.loss(feats, data)
    assert not any('acc' in key for key in losses)
    scores = [*head.aux_scores(feats).values(), head(feats)]
    for key, score, factor in zip(('loss_cls_aux1', 'loss_cls_aux2', 'loss_cls'), scores, (.5, .5, 1)):
        target = soft * (1 - head.label_smooth_eps) + head.label_smooth_eps / 4
        want = (F.binary_cross_entropy_with_logits(score, target) if head.multi_class
                else -(target * score.log_softmax(1)).sum(1).mean())
        torch.testing.assert_close(losses[key], factor * want)


@pytest.mark.parametrize('loss_cls', [
    dict(type='CrossEntropyLoss', class_weight=[1.] * 6),
    dict(type='ClassWeightedCrossEntropyLoss', ann_file='list.txt', num_classes=6)])
def test_another_number_of_classes_in_the_loss(loss_cls):
    with pytest.raises(ValueError, match='num_classes=5 in the head, but the weighted loss has 6 classes'):
        GoogLeNetHead(5, loss_cls=loss_cls)
    assert GoogLeNetHead(6, loss_cls=loss_cls).num_classes == 6


def test_auxiliary_classifiers_are_off_in_validation_and_test():
    model = randomise_norms(MODELS.build(config(num_classes=5, average_clips='prob'))).eval()
    for name in ('aux1', 'aux2'):
        getattr(model.cls_head, name).forward = lambda x: pytest.fail('an auxiliary classifier ran')
    clips = torch.randn(2, 2, 3, *SMALL)  # two clips of each of two videos
    with torch.no_grad():
        predictions = model(clips, samples([1, 2]), mode='predict')
        losses = model(clips[:, :1], samples([1, 2]), mode='loss')
        features = model.backbone(clips.flatten(0, 1))[-1]
        want = model.cls_head.fc_cls(features.mean((2, 3, 4))).softmax(1).view(2, 2, 5).mean(1)
    assert {key for key in losses if 'loss' in key} == {'loss_cls'}
    for prediction, scores in zip(predictions, want):
        torch.testing.assert_close(prediction.pred_score, scores)
        assert prediction.pred_label == scores.argmax()
    # views of one video, a few at a time
    model.test_cfg = dict(max_testing_views=2)
    with torch.no_grad():
        torch.testing.assert_close(model(clips[:1], samples([1]), mode='predict')[0].pred_score, want[0])


def test_i3dhead_on_the_last_feature_map():
    cfg = config()
    cfg['backbone'].pop('out_layers')
    cfg['cls_head'] = dict(type='I3DHead', num_classes=5, in_channels=1024, dropout_ratio=.4)
    model = MODELS.build(cfg)
    model.init_weights()
    losses = model(torch.randn(2, 1, 3, *SMALL), samples([1, 2]), mode='loss')
    assert {key for key in losses if 'loss' in key} == {'loss_cls'}
    with pytest.raises(ValueError, match=r"needs 3 feature maps for its classifiers, got one. Set out_layers="):
        GoogLeNetHead(5).loss(torch.rand(2, 1024, 1, 1, 1), samples([1, 2]))
    with pytest.raises(ValueError, match='got 2. Set out_layers='):
        GoogLeNetHead(5).loss((torch.rand(2, 512, 1, 1, 1), torch.rand(2, 1024, 1, 1, 1)), samples([1, 2]))


@pytest.mark.parametrize('kind', ['Conv3T', 'Conv3d'])
def test_a_training_step_gives_every_parameter_a_gradient(kind):
    model = MODELS.build(config(kind, num_classes=5))
    model.init_weights()
    model.train()
    # 3x2x2 at the end: on a single pixel only the centre of a kernel counts, which no rotation moves
    model.parse_losses(model(torch.randn(1, 1, 3, 29, 93, 93), samples([1]), mode='loss'))[0].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


# -- clips, options, deployment ----------------------------------------------------------------------------------------

def test_the_smallest_clip():
    with torch.device('meta'):
        net = GoogLeNet3d(out_layers=AUX_LAYERS).eval()
        assert net.smallest_clip == SMALL
        assert [tuple(y.shape[2:]) for y in net(torch.empty(1, 3, *SMALL))] == [(3, 3, 3), (3, 3, 3), (1, 1, 1)]
        for axis in range(3):
            clip = list(SMALL)
            clip[axis] -= 1
            with pytest.raises(ValueError, match=rf'smallest with \(T, H, W\) = \(13, 61, 61\); got \(1, 3, {clip[0]}'):
                net(torch.empty(1, 3, *clip))
        for shape in ((1, 1, *SMALL), (3, *SMALL)):
            with pytest.raises(ValueError, match=r'takes clips \(N, 3, T, H, W\)'):
                net(torch.empty(*shape))


def test_odd_sizes():
    model = MODELS.build(config(num_classes=3)).eval()
    with torch.no_grad():
        for size in ((14, 62, 75), (20, 97, 61)):
            feats = model.backbone(torch.randn(1, 3, *size))
            assert all(torch.isfinite(s).all() and s.shape == (1, 3) for s in model.cls_head.aux_scores(feats).values())


@pytest.mark.parametrize('frozen', [0, 2])
def test_frozen_stages(frozen):
    net = GoogLeNet3d(dict(type='Conv3T'), frozen_stages=frozen)
    names = ('conv', ) if frozen == 0 else ('conv', 'inception3', 'inception4')
    assert net.train() is net
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(2, 3, *SMALL)).square().mean().backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == name.startswith(names) == (not p.requires_grad), name
    for name, value in net.state_dict().items():
        if 'running' in name:
            assert torch.equal(value, before[name]) == name.startswith(names), name


def test_norm_eval_and_checkpointing():
    net = randomise_norms(GoogLeNet3d(norm_eval=True)).train()
    x = torch.randn(1, 3, *SMALL)
    trained = net(x)
    torch.testing.assert_close(net.eval()(x), trained)
    plain, saving = GoogLeNet3d(out_layers=AUX_LAYERS), GoogLeNet3d(out_layers=AUX_LAYERS, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, *SMALL)
    for n in (plain, saving):
        sum(y.square().mean() for y in n.train()(x)).backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(q.grad, p.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers()):
        torch.testing.assert_close(b, a, msg=name)  # running statistics counted once


def test_deployed_3t_equals_the_original(tmp_path):
    model = randomise_norms(MODELS.build(config('Conv3T', num_classes=5))).eval()
    for module in model.modules():
        if isinstance(module, Conv3T):
            for name in ('scale', 'rotate', 'translate_x', 'translate_y'):
                p = getattr(module, name)
                p.data.add_(torch.randn_like(p) * .1)
    fused = switch_to_deploy(model)
    assert not any(isinstance(m, Conv3T) for m in fused.modules())
    clips = torch.randn(1, 1, 3, *SMALL)
    with torch.no_grad():
        want = model(clips, samples([0]), mode='predict')[0].pred_score
        got = fused(clips, samples([0]), mode='predict')[0].pred_score
        a, b = model.backbone(clips[0]), fused.backbone(clips[0])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    for x, y in zip(a, b):
        assert (x - y).abs().max() < 1e-4 * x.abs().max()
    counts = [count_complexity(m.backbone, (1, 3, *SMALL)).conv for m in (fused, MODELS.build(config()))]
    assert counts[0] == counts[1]

    # in ONNX the same, with the input transform inside
    net = switch_to_deploy(GoogLeNet3d(dict(type='Conv3T'), transform_input=True)).eval()
    net.load_state_dict(fused.backbone.state_dict())
    onnxruntime = pytest.importorskip('onnxruntime')
    torch.onnx.export(net, (clips[0], ), str(tmp_path / 'net.onnx'), dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(str(tmp_path / 'net.onnx'), providers=['CPUExecutionProvider'])
    exported = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: clips[0].numpy()})[0])
    with torch.no_grad():
        want = net(clips[0])
    assert (exported - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize('kwargs, message', [
    (dict(out_layers=('inception4d', 'inception4a')), 'in this order; got'),
    (dict(out_layers=('inception6a', )), "must be one or more of .'conv1', 'maxpool1'"),
    (dict(out_layers=()), 'one or more'),
    (dict(frozen_stages=4), r'from -1 \(none\) to 3, got 4'),
    (dict(transform_input=True, in_channels=1), 'for the 3 channels R, G, B, got in_channels=1'),
    (dict(temporal_cfg=dict(type='Conv7d')), 'registered'),
])
def test_mistakes(kwargs, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        GoogLeNet3d(**kwargs)
