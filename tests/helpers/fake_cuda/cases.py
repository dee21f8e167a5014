"""Counts of launches, waits and mixed devices, in a process of its own: from tests/

    python -m helpers.fake_cuda.cases CASE ...

prints a JSON for each. ``NET[:bf16][:triton]`` is a training step; the others are the functions at the end.
"""
import json
import os
import sys

from .counter import Counter, step, taken_for_plain, to_cuda, torch  # isort: skip  before any PyTorch

from mmaction.registry import HOOKS, MODELS
from mmengine.registry import init_default_scope
from torch import nn
from torch._subclasses import FakeTensorMode

import tconv_mmaction
from tconv_mmaction.hooks.channels_last_hook import clips_last
from tconv_mmaction.interpret import freeze_frames, temporal_mask
from tconv_mmaction.interpret.temporal_parameters import temporal_parameters
from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d, SeparableConv3d
from tconv_mmaction.ops import conv3t, conv_lstm  # noqa: F401
from tconv_mmaction.ops.conv3t import kernel_triton
from tconv_mmaction.ops.conv_lstm import cell

init_default_scope('mmaction')
R18 = dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=2,
           pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2))
I3D = dict(type='TemporalResNet3d', depth=50, temporal_kernels=(1, 1, 3, 3, 5))
SMALL, LONG = (2, 3, 8, 112, 112), (2, 3, 32, 64, 64)
NETS = {
    '3D-R18': (dict(R18, temporal_cfg=dict(type='Conv3d')), SMALL),
    '3T-R18': (dict(R18, temporal_cfg=dict(type='Conv3T')), SMALL),
    '3T-R18-gain': (dict(R18, temporal_cfg=dict(type='Conv3T', gain=True)), SMALL),
    '3D-GoogLeNet': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3d')), LONG),
    '3T-GoogLeNet': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')), LONG),
    'C-LSTM': (dict(type='ConvLSTMNet', num_layers=3), (8, 3, 16, 224, 224)),
    'C-LSTM-clip': (dict(type='ConvLSTMNet', num_layers=3, shared_norm=False, norm_statistics='clip'),
                    (8, 3, 16, 224, 224)),
    'I3D-R50': (dict(I3D, temporal_cfg=dict(type='Conv3d')), SMALL),
    'I3D-R50-mb': (dict(I3D, temporal_cfg=dict(type='MultiBranchConv3d')), SMALL),
    'S3D-R50': (dict(I3D, temporal_cfg=dict(type='SeparableConv3d')), SMALL),
    'R(2+1)D': (dict(type='R2Plus1d18'), SMALL),
    'LeNet5-3T': (dict(type='LeNet5', temporal_cfg=dict(type='Conv3T')), (2, 1, 30, 28, 28)),
}


def network(name: str) -> nn.Module:
    return to_cuda(MODELS.build(dict(NETS[name][0]))).train()


def training_step(name: str, *options: str) -> Counter:
    dtype = torch.bfloat16 if 'bf16' in options else None
    net = network(name)
    if dtype is not None and 'LSTM' not in name:  # as ChannelsLastHook, whose .to() fake tensors do not take
        for conv in net.modules():
            if isinstance(conv, nn.Conv3d):
                conv.weight = nn.Parameter(conv.weight.detach().contiguous(memory_format=torch.channels_last_3d))
        net.register_forward_pre_hook(clips_last)
    x = torch.randn(NETS[name][1], device='cuda')
    if 'again' in options:  # constants are made in the first step and kept
        step(net, [x], dtype)
        for p in net.parameters():
            p.grad = None
    return step(net, [x], dtype)


def freeze() -> Counter:
    clip = torch.randn(8, 3, 16, 112, 112, device='cuda')
    mask = torch.rand(8, 16, device='cuda', requires_grad=True)
    freeze_frames(clip, mask).sum().backward()  # what is made once
    grad = torch.ones_like(clip)
    with Counter() as counter:
        freeze_frames(clip, mask).backward(grad)
    return counter


def mask_search() -> Counter:
    """Ten iterations on a tiny network; the news of what has converged never arrives."""
    net = to_cuda(nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 5), nn.Softmax(1)))
    clip, target = torch.randn(4, 3, 16, 20, 20, device='cuda'), torch.zeros(4, dtype=torch.long, device='cuda')
    temporal_mask._Flags.__init__ = lambda flags, tensor: setattr(flags, 'copy', tensor.to('cpu', non_blocking=True))
    temporal_mask._Flags.arrived = lambda flags: False
    initial, search = torch.ones(4, 16, device='cuda'), temporal_mask.Search.anywhere(clip)
    with Counter() as counter:
        temporal_mask._optimise(net, clip, target, initial, (0.01, 0.02, 3., 0.2, 10, 1e-5), search)
    return counter


def watch_hook() -> Counter:
    """A check of 3T-ResNet18 with its gradients, when the rows are laid out."""
    net = network('3T-R18')
    hook = HOOKS.build(dict(type='TemporalParamsWatchHook'))
    hook._layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, Conv3T)}
    parameters = {(name, key): p for name, layer in hook._layers.items() for key, p in layer.named_parameters()
                  if key != 'weight'}
    for p in net.parameters():
        p.grad = torch.empty_like(p)
    hook._gradients_due = True
    hook._before_step(None, parameters)
    hook._report()
    with Counter() as counter:
        hook._before_step(None, parameters)
        report, _ = hook._report()
        report.to('cpu')
    return counter


def params_hook() -> Counter:
    """The copies of TemporalParamsHook; what is done with them is on the host."""
    sys.modules['tconv_mmaction.interpret.temporal_parameters'].check_finite = lambda *arguments: None
    net = network('3T-R18')
    with Counter() as counter:
        temporal_parameters(net)
    return counter


def layers() -> Counter:
    """Every layer in odd settings, training and eval."""
    todo = [Conv3T(8, 8, 3, transform='free'), Conv3T(8, 8, (3, 3, 2), gain=True, groups=2),
            Conv3T(8, 8, 3, padding=1, padding_mode='reflect'), Conv3T(8, 8, (1, 3, 3)),
            Conv3T(8, 8, 5, padding='same'), Conv3T(8, 8, 3, evaluation='factored', stride=2),
            MultiBranchConv3d(8, 8, 3, eta=float('inf')), MultiBranchConv3d(8, 8, 5, padding=2, branches=(3, 5)),
            SeparableConv3d(8, 8, 3, padding=1)]
    total = Counter()
    for layer in map(to_cuda, todo):
        x = torch.randn(2, 8, 6, 9, 9, device='cuda', requires_grad=True)
        step(layer, [x])  # constants are made once and kept
        for dtype in (None, torch.bfloat16):
            found = step(layer, [x], dtype)
            with Counter() as quiet, torch.no_grad():
                layer.eval()(x)
            layer.train()
            for count in (found, quiet):
                for kind in ('launches', 'waits', 'mixed'):
                    getattr(total, kind).update(getattr(count, kind))
    lstm = to_cuda(ConvLSTM2d(3, 4, 3, checkpoint_steps=2))
    found = step(lstm, [torch.randn(2, 3, 5, 8, 8, device='cuda'), (torch.randn(2, 4, 8, 8, device='cuda'), ) * 2])
    for kind in ('launches', 'waits', 'mixed'):
        getattr(total, kind).update(getattr(found, kind))
    return total


if __name__ == '__main__':
    tconv_mmaction.compat  # noqa: B018  imported for its patches
    for case in sys.argv[1:]:
        name, *options = case.split(':')
        kernel_triton.triton_is_there = cell.triton_is_there = lambda options=options: 'triton' in options
        with FakeTensorMode(), taken_for_plain():
            counted = training_step(name, *options) if name in NETS else globals()[name]()
        print(json.dumps(dict(case=case, **counted.summary())), flush=True)
    sys.stdout.flush()
    os._exit(0)  # PyTorch is not to look for the device when it ends
