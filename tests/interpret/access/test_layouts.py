"""Time and space in the outputs of mmaction2's backbones, transformers among them, against what is known of each."""
import warnings

import numpy as np
import pytest
import torch
from mmaction.registry import MODELS
from torch import nn

from tconv_mmaction.interpret import grad_cam, most_active_channels, normalise_maps, saliency, upsample_maps
from tconv_mmaction.interpret.access.clips import Clip
from tconv_mmaction.interpret.access.default_layer import default_layers, last_map_layer
from tconv_mmaction.interpret.access.feature_maps import layer_output
from tconv_mmaction.interpret.access.layouts import _KNOWN, feature_map, register_layout
from tconv_mmaction.interpret.comparison.model_comparison import Settings, comparison_layer, measure_clips
from tconv_mmaction.interpret.report.clip_analysis import analyse_clip

SWIN = dict(type='SwinTransformer3D', arch=dict(embed_dims=12, depths=[1, 1], num_heads=[1, 2]), patch_size=(2, 4, 4),
            window_size=(2, 2, 2), pretrained=None, pretrained2d=False, out_indices=(1, ))
MVIT = dict(type='MViT', arch=dict(embed_dims=12, num_layers=3, num_heads=1, downscale_indices=[1]), spatial_size=32,
            temporal_size=8, out_scales=(1, ))
MAE = dict(type='VisionTransformer', img_size=32, patch_size=8, embed_dims=12, depth=2, num_heads=2, num_frames=8,
           mlp_ratio=2., qkv_bias=True)
TIMES = dict(type='TimeSformer', num_frames=8, img_size=32, patch_size=8, embed_dims=12, num_heads=2,
             num_transformer_layers=2)
RESNET = dict(pretrained=None, base_channels=4)
X3D = dict(type='X3D', gamma_w=1, gamma_b=2.25, gamma_d=1)
CSN = dict(type='ResNet3dCSN', depth=50, with_pool2=False, bottleneck_mode='ir', norm_eval=False, **RESNET)
UNI2 = dict(type='UniFormerV2', input_resolution=32, patch_size=8, width=16, layers=2, heads=2, t_size=8, n_layers=1,
            return_list=[1], n_dim=16, n_head=2, mlp_dropout=[0.], clip_pretrained=False)
SLOWFAST = dict(
    type='ResNet3dSlowFast', pretrained=None, resample_rate=4, speed_ratio=4, channel_ratio=4,
    slow_pathway=dict(type='resnet3d', depth=18, pretrained=None, lateral=True, conv1_kernel=(1, 7, 7), base_channels=8,
                      dilations=(1, 1, 1, 1), conv1_stride_t=1, pool1_stride_t=1, inflate=(0, 0, 1, 1),
                      norm_eval=False),
    fast_pathway=dict(type='resnet3d', depth=18, pretrained=None, lateral=False, base_channels=2,
                      conv1_kernel=(5, 7, 7), conv1_stride_t=1, pool1_stride_t=1, norm_eval=False))


class Net(nn.Module):
    """A backbone, and scores of what it puts out: the channels' means, or a class token."""

    def __init__(self, cfg):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = MODELS.build(cfg)
        for parameter in self.backbone.parameters() if cfg['type'] == 'UniFormerV2' else ():
            if not parameter.any():  # as it starts, its decoder hands nothing of the frames on
                nn.init.normal_(parameter, std=.1)
        self.two_dimensional = 'depth' in cfg and cfg['type'] in ('ResNet', 'ResNetTSM')

    def forward(self, x):
        if self.two_dimensional:
            count = len(x)
            y = self.backbone(x.transpose(1, 2).flatten(0, 1))
            return y.mean((2, 3)).unflatten(0, (count, -1)).mean(1)
        y = self.backbone(x)
        if isinstance(self.backbone, MODELS.get('ResNet3dSlowFast')):
            return torch.cat([path.mean((2, 3, 4)) for path in y], 1)
        while isinstance(y, (tuple, list)):
            y = y[-1]
        return y.flatten(2).mean(2) if y.dim() > 2 else y


@pytest.fixture(scope='module')
def clip():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('cfg, layer, size', [
    (SWIN, 'backbone.norm1', (4, 4, 4)),  # frames / 2, pixels / 4 / 2 by the merging of the first stage
    (MVIT, 'backbone.blocks.1', (4, 4, 4)),  # behind it only the class token is seen
    (MAE, 'backbone.norm', (4, 4, 4)),
    (TIMES, 'backbone.transformer_layers.layers.1.attentions.0', (8, 4, 4)),
    (dict(type='UniFormer', depth=[1, 1, 1, 1], embed_dim=[8, 8, 16, 16], head_dim=8), 'backbone.norm', (4, 1, 1)),
    (UNI2, 'backbone.transformer.resblocks.1', (8, 4, 4)), (X3D, 'backbone.conv5', (8, 1, 1)),
    (dict(type='C3D', dropout_ratio=0), None, None),
    (CSN, 'backbone.layer4.0.conv1', (2, 2, 2)),  # the stride is in the convolution behind it
    (dict(type='ResNetTSM', depth=18, pretrained=None, num_segments=8), 'backbone.layer3', (8, 2, 2))])
def test_default_layer_and_its_map(cfg, layer, size, clip):
    """The last layer with several steps and pixels that the scores depend on, by name, and the map's shape."""
    if layer is None:  # C3D ends in linear layers that want 112 x 112 and 16 frames
        clip = torch.randn(1, 3, 16, 112, 112)
        layer, size = 'backbone.conv5b', (2, 7, 7)
    elif size[1] == 1:  # larger frames, so that the last stage has several pixels
        clip = torch.randn(1, 3, 8, 64, 64)
        size = (size[0], 2, 2)
    net = Net(cfg).eval()
    found = last_map_layer(net, net, clip)
    maps = grad_cam(net, clip, 'prediction', found)
    assert maps.shape == (len(clip), *size)
    assert maps.abs().sum() > 0
    assert found.startswith(layer)


def test_swin_equals_eq_2_on_the_permuted_output(clip):
    net = Net(SWIN).eval()
    maps = grad_cam(net, clip, 3, 'backbone.layers.1')
    stage = {}
    handle = net.backbone.layers[1].register_forward_hook(lambda m, i, o: stage.update(out=o))
    clip = clip.clone().requires_grad_()
    score = net(clip)[:, 3].sum()
    handle.remove()
    gradient, = torch.autograd.grad(score, stage['out'])
    assert stage['out'].shape == (2, 4, 4, 4, 24)  # channels last
    features, gradient = (t.detach().permute(0, 4, 1, 2, 3) for t in (stage['out'], gradient))
    want = torch.zeros(2, 4, 4, 4)
    for n in range(2):
        for t in range(4):
            for channel in range(24):
                want[n, t] += gradient[n, channel, t].mean() * features[n, channel, t]
    torch.testing.assert_close(maps, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('cfg, layer', [
    (SWIN, 'backbone.layers.0.blocks.0'), (SWIN, 'backbone.patch_embed'), (MVIT, 'backbone.blocks.0'),
    (MAE, 'backbone.blocks.0'), (TIMES, 'backbone.transformer_layers.layers.0'),
    (dict(type='UniFormer', depth=[1, 1, 1, 1], embed_dim=[8, 8, 16, 16], head_dim=8), 'backbone.blocks3.0'),
    (UNI2, 'backbone.transformer.resblocks.0'), (UNI2, 'backbone.conv1'), (X3D, 'backbone.layer1'),
    (CSN, 'backbone.layer1'), (dict(type='C3D'), 'backbone.conv2a'), (SLOWFAST, 'backbone.fast_path.layer1'),
    (SLOWFAST, 'backbone.slow_path.layer1'),
    (dict(type='ResNetTSM', depth=18, pretrained=None, num_segments=8), 'backbone.layer1')])
def test_a_patch_that_changes_is_where_the_map_changes(cfg, layer):
    """The known answer for any weights: a layer's output changes most where, and when, the clip does.

    That is in the lower right, at the end; read in another order it would be elsewhere.
    """
    net = Net(cfg).eval()
    still = torch.zeros(1, 3, 32 if cfg is SLOWFAST else 8, 32, 32)
    moved = still.clone()
    moved[:, :, still.size(2) * 3 // 4:, 24:, 24:] = 3.
    before, after = (layer_output(net, net, layer, x) for x in (still, moved))
    change = (after - before).norm(dim=1)[0]  # T, H, W
    frames, height, width = change.shape
    assert frames > 1 and height > 1 and width > 1
    t, h, w = (int(n) for n in torch.nonzero(change == change.max())[0])
    assert (t >= .74 * frames - 1, h >= .74 * height - 1, w >= .74 * width - 1) == (True, True, True)
    late, early = change[-(-frames * 3 // 4):].sum(), change[:frames // 2].sum()
    assert late > early


@pytest.mark.parametrize('cfg, layer, size', [
    (SWIN, 'backbone.norm1', (4, 4, 4)), (MVIT, 'backbone.blocks.1', (4, 4, 4))])
def test_every_method_reads_a_transformer_the_same_way(cfg, layer, size, clip):
    """Saliency of a layer's channel, comparison and report: channels are channels, time is time."""
    net = Net(cfg).eval()
    features = layer_output(net, net, layer, clip)
    assert features.shape[2:] == size
    channels = most_active_channels(net, clip, layer, 3).channels
    want = features.relu().mean((2, 3, 4)).topk(3, 1).indices
    assert torch.equal(channels, want)
    leaf = clip[:1].clone().requires_grad_()
    gradient, = torch.autograd.grad(layer_output(net, net, layer, leaf)[0, 1].relu().mean(), leaf)
    torch.testing.assert_close(saliency(net, clip[:1], 1, layer), gradient.abs().amax(1))
    assert comparison_layer(net, clip[:1]).startswith(layer)
    row, = measure_clips(with_softmax(net), clip[:1], [None], layer, Settings(iterations=1))
    assert len(row['blobs']) == size[0]
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    found = analyse_clip(with_softmax(net), Clip('x', clip[:1], frames, None), iterations=1, channels=0)
    assert found.layer.startswith(layer) and len(found.attention) == 8
    maps = upsample_maps(grad_cam(with_softmax(net), clip[:1], found.target, found.layer), (8, 32, 32))
    np.testing.assert_allclose(found.attention, normalise_maps(maps)[0].mean((1, 2)), atol=1e-5)


def with_softmax(net):
    """The net with softmax scores, its layers under the same names."""
    wrapped = nn.Module()
    wrapped.backbone = net.backbone
    wrapped.forward = lambda x: net(x).softmax(1)
    return wrapped


def test_slowfast_has_a_layer_for_each_pathway():
    net = Net(SLOWFAST)
    net = net.eval()
    clip = torch.randn(1, 3, 32, 64, 64)
    slow, fast = default_layers(net, net, clip)
    assert slow == 'backbone.slow_path.layer4' and fast == 'backbone.fast_path.layer4'
    with pytest.warns(UserWarning, match=r"2 pathways: 'backbone.slow_path.layer4' is shown.*fast_path.layer4"):
        assert last_map_layer(net, net, clip) == slow
    shown = Clip('x', clip, np.zeros((32, 64, 64, 3), np.uint8), None)
    found = analyse_clip(with_softmax(net), shown, iterations=1, channels=0)
    assert found.layer == slow and '2 pathways' in found.notes[0] and fast in found.notes[0]
    assert analyse_clip(with_softmax(net), shown, layer=fast, iterations=1, channels=0).notes == []
    assert layer_output(net, net, slow, clip).shape[2] == 8 and layer_output(net, net, fast, clip).shape[2] == 32


def test_what_cannot_be_read_is_refused_by_name(clip):
    """Windows of attention, tokens behind a pooling; and the sentence names a layer that can be read."""
    for cfg, layer in ((SWIN, 'backbone.layers.0.blocks.0.attn'), (MVIT, 'backbone.blocks.0.mlp'),
                       (TIMES, 'backbone.patch_embed')):
        net = Net(cfg).eval()
        with pytest.raises(ValueError, match=r'is no map|which is no map.*a layer that can be read is .backbone'):
            layer_output(net, net, layer, clip)


class Attending(nn.Module):
    """A network that nobody has registered: five axes, channels last, attention inside."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv3d(3, 8, (2, 8, 8), (2, 8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Identity()

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 4, 1)
        tokens = x.flatten(1, 3)
        return self.last((tokens + self.attention(tokens, tokens, tokens)[0]).view(x.shape)).permute(0, 4, 1, 2, 3)


def test_unknown_transformers_are_refused_until_they_are_registered(clip):
    net = nn.Module()
    net.backbone = Attending()
    net.forward = lambda x: net.backbone(x).mean((2, 3, 4))
    with pytest.raises(ValueError, match='Attending has attention layers.*register_layout'):
        grad_cam(net, clip, 1, 'backbone.last')
    with pytest.raises(ValueError, match='Attending has attention layers.*register_layout'):
        last_map_layer(net, net.forward, clip)
    try:
        @register_layout('Attending')
        def channels_last(backbone, name, output, clip_size):
            return output.permute(0, 4, 1, 2, 3) if name == 'last' else None

        assert last_map_layer(net, net.forward, clip) == 'backbone.last'
        assert grad_cam(net, clip, 1, 'backbone.last').shape == (2, 4, 4, 4)
    finally:
        _KNOWN.pop('Attending')


def test_one_time_step_is_left_for_an_earlier_layer():
    """A network that halves time away: the last layer with several steps, and if there is none, the last map."""
    net = nn.Module()
    net.backbone = nn.Sequential(nn.Conv3d(3, 4, 3, 2, 1), nn.Conv3d(4, 4, 3, 2, 1), nn.Conv3d(4, 4, 3, (2, 1, 1), 1))
    net.forward = lambda x: net.backbone(x).mean((2, 3, 4))
    assert last_map_layer(net, net.forward, torch.randn(1, 3, 8, 16, 16)) == 'backbone.1'  # 4, 2, 1 steps
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert last_map_layer(net, net.forward, torch.randn(1, 3, 1, 16, 16)) == 'backbone.2'


def test_a_convolution_is_read_as_it_is():
    features = torch.randn(2, 5, 4, 3, 3)
    net = nn.Sequential(nn.Conv3d(1, 1, 1))
    assert feature_map(net, '0', features, (2, 1, 4, 3, 3)) is features
    frames = torch.randn(8, 5, 3, 3)  # of a 2D network: two clips of four frames
    assert torch.equal(feature_map(net, '0', frames, (2, 1, 4, 3, 3))[1, :, 2], frames[6])
    assert feature_map(net, '0', torch.randn(2, 5), (2, 1, 4, 3, 3)) is None
