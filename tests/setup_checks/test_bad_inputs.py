"""Wrong configs and data lists: each is named by its key or line, with the value and the way out, before a start.

``PYTHONPATH=tests python tests/setup_checks/test_bad_inputs.py`` prints the table of docs/reliability/bad_inputs.md;
a test holds the two together.
"""
import argparse
import copy
import re
import sys
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence

import pytest
import torch
from helpers.paths import ROOT
from mmaction.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.runner import Runner

from tconv_mmaction import setup_checks
from tconv_mmaction.cli.main import run_script
from tconv_mmaction.setup_checks import SetupError, check_config
from tconv_mmaction.utils.confinement import ConfinementError

PAGE = ROOT / 'docs/reliability/bad_inputs.md'

CONFIG = '''
default_scope = 'mmaction'
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, channels=(3, 4),
                  clip_shape=(12, 12, 12)),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=84, dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.] * 3, std=[255.] * 3, format_shape='NCTHW'))
pipeline = [
    dict(type='DecordInit'), dict(type='SampleFrames', clip_len=12, frame_interval=1, num_clips=1),
    dict(type='DecordDecode'), dict(type='Resize', scale=(12, 12), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]


def loader(split):
    return dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=split == 'train'), dataset=dict(
            type='VideoDataset', ann_file=f'{split}.txt', data_root='{folder}', data_prefix=dict(video='videos'),
            pipeline=pipeline, test_mode=split != 'train'))


train_dataloader, val_dataloader, test_dataloader = loader('train'), loader('val'), loader('val')
val_evaluator = test_evaluator = dict(type='AccMetric')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=2)]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='acc/top1', rule='greater'),
                     check_setup=dict(type='CheckSetupHook'))
custom_hooks = [dict(type='CheckInvalidLossHook', interval=20)]
visualizer = dict(type='ActionVisualizer', vis_backends=[])
work_dir = '{folder}/work'
load_from, resume = None, False
'''
TRAIN_LIST = 'a.mp4 0\nb.mp4 1\nc.mp4 2\nd.mp4 0\n'

RESNET = dict(_delete_=True, type='TemporalResNet3d', depth=18, base_channels=2, temporal_kernels=(3, 1, 1, 1, 1))
RESNET_HEAD = {'model.cls_head.in_channels': 16}
FRAMES = {'train_dataloader.dataset': dict(
    _delete_=True, type='RawframeDataset', ann_file='frames.txt', data_root='{folder}', data_prefix=dict(img='frames'),
    pipeline=[dict(type='SampleFrames', clip_len=12), dict(type='RawFrameDecode'),
              dict(type='Resize', scale=(12, 12), keep_ratio=False), dict(type='FormatShape', input_format='NCTHW'),
              dict(type='PackActionInputs')])}


class Case(NamedTuple):
    """A mistake: where the message says it is, the words it holds, and what makes it."""
    name: str
    key: str
    says: Sequence[str]
    change: Dict[str, Any] = {}
    files: Dict[str, Any] = {}
    mode: str = 'train'


def listed(name, says, text, change=None, key='train_dataloader.dataset.ann_file', mode='train', file='train.txt'):
    return Case(name, key, says, change or {}, {file: text}, mode)


def backbone(name, says, **arguments):
    return Case(name, 'model.backbone', says, {'model.backbone': dict(RESNET, **arguments), **RESNET_HEAD})


def step(name, place, key, says, **arguments):
    return Case(name, f'train_dataloader.dataset.pipeline.{place}{key}', says,
                {f'train_dataloader.dataset.pipeline.{place}.{k}': v for k, v in arguments.items()})


T, D, B, H = 'train_dataloader', 'train_dataloader.dataset', 'model.backbone', 'model.cls_head'

CASES = [
    # lists
    listed('label as large as the number of classes', ['line 2', 'label 3', 'num_classes=3', 'from 0 to 2'],
           'a.mp4 0\nb.mp4 3\n'),
    listed('labels that count from 1', ['line 3', 'label 3', 'not from 1'], 'a.mp4 1\nb.mp4 2\nc.mp4 3\n'),
    listed('negative label', ['line 1', 'label -1', 'count from 0'], 'a.mp4 -1\nb.mp4 0\n'),
    listed('label that is a name', ['line 2', "'wave' in 'b.mp4 wave'", 'whole numbers'], 'a.mp4 0\nb.mp4 wave\n'),
    listed('label with a fraction', ['line 1', "'1.0'", 'whole numbers'], 'a.mp4 1.0\n'),
    listed('no label', ['line 1', "no label in 'a.mp4'", 'delimiter'], 'a.mp4\nb.mp4\n'),
    listed('another delimiter in the list', ['line 1', "'a.mp4,0'", "delimiter of the data set is ' '"],
           'a.mp4,0\nb.mp4,1\n'),
    listed('another delimiter in the config', ["delimiter of the data set is ','", "'PATH,LABEL'"], TRAIN_LIST,
           {f'{D}.delimiter': ','}),
    listed('file name with a blank', ['line 1', "'my film.mp4 0'", "delimiter=','"], 'my film.mp4 0\n'),
    listed('empty list', ['train.txt is empty', "'PATH LABEL'"], ''),
    listed('empty line', ['line 2: empty', 'Take the empty lines out'], 'a.mp4 0\n\nb.mp4 1\n'),
    listed('same video twice', ['line 3', "'a.mp4' is already on line 1", 'check_setup.duplicates=True'],
           'a.mp4 0\nb.mp4 1\na.mp4 0\n'),
    listed('same video with two labels', ['line 2', 'has label 1, on line 1 0'], 'a.mp4 0\na.mp4 1\n'),
    listed('list that is no UTF-8', ['line 2', '0xe9', 'UTF-8'], b'a.mp4 0\n\xe9.mp4 1\n'),
    listed('list with a byte order mark', ['line 1', 'byte order mark'], b'\xef\xbb\xbfa.mp4 0\n'),
    listed('list with zero bytes inside', ['line 1', 'needs the path of a file'], b'a\x00.mp4 0\n'),
    listed('path missing on a line', ['line 2', 'needs the path'], 'a.mp4,0\n,1\n', {f'{D}.delimiter': ','}),
    listed('list of frame folders where videos are expected', ['line 1', '3 fields', "type='RawframeDataset'"],
           'a.mp4 30 0\nb.mp4 30 1\n'),
    listed('list of videos where frame folders are expected', ['line 1', '2 fields', "type='VideoDataset'"],
           'a 0\nb 1\n', FRAMES, file='frames.txt'),
    listed('frame folder with no frames', ['line 1', '0 frames', 'at least one frame'], 'a 0 1\n', FRAMES,
           file='frames.txt'),
    listed('start frames without with_offset', ['line 1', '4 fields', 'with_offset=True'], 'a 5 30 1\n', FRAMES,
           file='frames.txt'),
    listed('negative start frame', ['line 1', 'start -5', 'counted from 0'], 'a -5 30 1\n',
           {D: dict(FRAMES[D], with_offset=True)}, file='frames.txt'),
    listed('no label in a list of frame folders', ['line 1', "'PATH START FRAMES LABEL'"], 'a 5 30\n',
           {D: dict(FRAMES[D], with_offset=True)}, file='frames.txt'),
    listed('frame folder that is not there', ['line 2', 'no folder of frames', 'z'], 'a 30 0\nz 30 1\n', FRAMES,
           key=f'{D}.data_prefix.img', file='frames.txt'),
    listed('video that is not there', ['line 2', 'there is no video', 'nothing.mp4'], 'a.mp4 0\nnothing.mp4 1\n',
           key=f'{D}.data_prefix.video'),
    listed('video of zero bytes', ['line 1', 'empty.mp4 has zero bytes'], 'empty.mp4 0\n',
           key=f'{D}.data_prefix.video'),
    listed('label out of range in the validation list', ['val.txt, line 1', 'label 7'], 'a.mp4 7\n',
           key='val_dataloader.dataset.ann_file', file='val.txt'),
    listed('label out of range in a test', ['val.txt, line 1', 'label 7'], 'a.mp4 7\n', mode='test',
           key='test_dataloader.dataset.ann_file', file='val.txt'),
    listed('path that leaves the data root', ['line 2', '../outside.mp4', 'outside of', 'confine_paths='],
           'a.mp4 0\n../../outside.mp4 1\n', {'default_hooks.check_setup.confine_paths': True}),
    listed('absolute path, paths confined', ['line 1', '{folder}/../outside.mp4'], '{folder}/../outside.mp4 0\n',
           {'default_hooks.check_setup.confine_paths': True}),
    listed('link that leaves the data root', ['line 1', 'link.mp4 leads to', 'outside of'], 'link.mp4 0\n',
           {'default_hooks.check_setup.confine_paths': True}),
    # data sets and loaders
    Case('list that is not there', f'{D}.ann_file', ['nowhere.txt is not there', '--cfg-options'],
         {f'{D}.ann_file': 'nowhere.txt'}),
    Case('folder instead of a list', f'{D}.ann_file', ['videos is a folder'], {f'{D}.ann_file': 'videos'}),
    Case('no list', f'{D}.ann_file', ['must be the path', 'None'], {f'{D}.ann_file': None}),
    Case('folder of videos that is not there', f'{D}.data_prefix.video', ['there is no folder', 'films'],
         {f'{D}.data_prefix.video': 'films'}),
    Case('prefix of the other kind of data set', f'{D}.data_prefix', ['dict(video=FOLDER)', "'img'"],
         {f'{D}.data_prefix': dict(_delete_=True, img='videos')}),
    Case('more entries asked for than the list has', f'{D}.indices', ['1891', 'has 4 lines'], {f'{D}.indices': 1891}),
    Case('unknown data set', f'{D}.type', ["'VideoDatset'", "Did you mean 'VideoDataset'", 'custom_imports'],
         {f'{D}.type': 'VideoDatset'}),
    Case('class count of the data set', f'{D}.num_classes', ['5', 'num_classes is 3'], {f'{D}.num_classes': 5}),
    Case('class names of the data set', f'{H}.num_classes', ['3', 'has 2 classes', 'num_classes=2'],
         {f'{D}.metainfo': dict(classes=['a', 'b'])}),
    Case('several labels without a class count', f'{D}.num_classes', ['multi_class=True', 'None'],
         {f'{D}.multi_class': True}),
    Case('batch size 0', f'{T}.batch_size', ['positive whole number', '0'], {f'{T}.batch_size': 0}),
    Case('negative workers', f'{T}.num_workers', ['-1'], {f'{T}.num_workers': -1}),
    Case('persistent workers without workers', f'{T}.persistent_workers', ['num_workers is 0'],
         {f'{T}.persistent_workers': True}),
    Case('unknown sampler', f'{T}.sampler.type', ["'DefaultSample'", "'DefaultSampler'"],
         {f'{T}.sampler.type': 'DefaultSample'}),
    # pipelines
    step('unknown transform', 0, '.type', ["'DecordInitt'", "Did you mean 'DecordInit'"], type='DecordInitt'),
    step('clip of 0 frames', 1, '.clip_len', ['SampleFrames', 'positive', '0'], clip_len=0),
    step('interval of 0 frames', 1, '.frame_interval', ['SampleFrames', 'positive', '0'], frame_interval=0),
    step('0 clips', 1, '.num_clips', ['positive', '0'], num_clips=0),
    step('no such out_of_bound_opt', 1, '', ["out_of_bound_opt='mirror'", "'loop', 'repeat_last'"],
         out_of_bound_opt='mirror'),
    step('slip of the pen that a transform would ignore', 1, '.num_clip', ["no argument 'num_clip'", "'num_clips'"],
         num_clip=3),
    step('argument that a transform does not have', 3, '', ['Resize', "'ratio'"], ratio=2),
    step('ours: no such filling of short videos', 1, '', ["short must be 'repeat' or 'duplicate_ends'", "'mirror'"],
         type='WholeVideoSampleFrames', short='mirror', clip_len=12, _delete_=True),
    step('ours: intervals in the wrong order', 1, '', ['frame_intervals', '(4, 1)'], _delete_=True, clip_len=12,
         type='RandomRateSampleFrames', frame_intervals=(4, 1)),
    step('ours: negative sigma', 3, '', ['sigma must be', '-2.0'], _delete_=True, type='EgoMotionCrop', crop_size=12,
         sigma=-2.),
    step('ours: crop of 0 pixels', 3, '.crop_size', ['positive', '0'], _delete_=True, type='EgoMotionCrop',
         crop_size=0),
    step('frames are chosen after decoding', 2, '', ['SampleFrames', 'after DecordDecode'], _delete_=True,
         type='SampleFrames', clip_len=12)._replace(change={
             f'{D}.pipeline.1': dict(_delete_=True, type='DecordDecode'),
             f'{D}.pipeline.2': dict(_delete_=True, type='SampleFrames', clip_len=12)}),
    step('decoder of frame folders for videos', 2, '', ['RawFrameDecode reads folders', 'DecordDecode'], _delete_=True,
         type='RawFrameDecode'),
    Case('nothing packs the clip', f'{D}.pipeline', ['PackActionInputs', 'FormatShape'],
         {f'{D}.pipeline': [dict(type='DecordInit'), dict(type='SampleFrames', clip_len=12), dict(type='DecordDecode'),
                            dict(type='FormatShape', input_format='NCTHW')]}),
    Case('empty pipeline', f'{D}.pipeline', ['list of transforms', '[]'], {f'{D}.pipeline': []}),
    # networks
    Case('unknown network', f'{B}.type', ["'TemporalResnet3d'", "Did you mean 'TemporalResNet3d'"],
         {f'{B}.type': 'TemporalResnet3d'}),
    backbone('unknown convolution', ["'Conv3R'", 'registered type'],
             temporal_cfg=dict(type='Conv3R')),
    backbone('even temporal kernel', ['temporal_kernels', '5 odd', '(3, 2, 3, 3, 3)'],
             temporal_kernels=(3, 2, 3, 3, 3)),
    backbone('temporal kernels of four stages instead of five', ['temporal_kernels', '5 odd', '(3, 3, 3, 3)'],
             temporal_kernels=(3, 3, 3, 3)),
    backbone('stage strides that are too few', ['temporal_strides', '4 stages', '(1, 2)'], temporal_strides=(1, 2)),
    backbone('five stages', ['num_stages', '5'], num_stages=5),
    backbone('no such depth', ['depth must be one of', '20'], depth=20),
    backbone('output of a stage that is not there', ['out_indices', '(7,)'], out_indices=(7, )),
    backbone('frozen stages', ['frozen_stages', '9'], frozen_stages=9),
    backbone('argument that the network does not have', ["['temporal_kernel']", 'temporal_kernels'],
             temporal_kernel=3),
    backbone('even pool', ['pool1_kernel', '(2, 3, 3)'], pool1_kernel=(2, 3, 3)),
    backbone('eta below its range', ['eta', '-1'], temporal_cfg=dict(type='MultiBranchConv3d', eta=-1.)),
    backbone('branches that are even', ['branches', '2'], temporal_kernels=(3, 3, 3, 3, 3),
             temporal_cfg=dict(type='MultiBranchConv3d', branches=(1, 2))),
    backbone('no such transform of Conv3T', ["transform must be 'affine' or 'free'", "'linear'"],
             temporal_cfg=dict(type='Conv3T', transform='linear')),
    Case('temporal kernel longer than the clip', f'{T}.dataset.pipeline', ['clip_len=4', '7 frames', 'at least 7'],
         {B: dict(RESNET, temporal_kernels=(7, 1, 1, 1, 1)), **RESNET_HEAD, f'{D}.pipeline.1.clip_len': 4}),
    Case('clip that is too short for the network', B, ['built for clips', '6 frames', 'clip_len'],
         {f'{D}.pipeline.1.clip_len': 6}),
    Case('negative stride', B, ['stride', '-1'], {B: dict(
        _delete_=True, type='ConvLSTMNet', num_layers=1, hidden_channels=2, kernel_size=3, stride=-1)}),
    Case('dilation 0', B, ['dilation', '0'], {f'{B}.temporal_cfg': dict(type='Conv3T', dilation=0)}),
    Case('colours of the data preprocessor', B, ['1 channels', 'data_preprocessor.mean'],
         {'model.data_preprocessor.mean': [0.], 'model.data_preprocessor.std': [1.]}),
    Case('channels of the head', f'{H}.in_channels', ['512', 'gives 84 channels', 'in_channels=84'],
         {f'{H}.in_channels': 512}),
    Case('class count 0', f'{H}.num_classes', ['number of your classes', '0'], {f'{H}.num_classes': 0}),
    Case('classes of the loss', f'{H}.loss_cls.num_classes', ['27', 'num_classes is 3'],
         {f'{H}.loss_cls': dict(type='ClassWeightedCrossEntropyLoss', ann_file='{folder}/train.txt',
                                num_classes=27)}),
    Case('class weights', f'{H}.loss_cls.class_weight', ['2 classes', 'is 3'],
         {f'{H}.loss_cls': dict(type='CrossEntropyLoss', class_weight=[1., 2.])}),
    Case('unknown head', f'{H}.type', ["'I3DHed'", "'I3DHead'"], {f'{H}.type': 'I3DHed'}),
    # weights
    Case('checkpoint that is not there', 'load_from', ['none.pth is not there'], {'load_from': '{folder}/none.pth'}),
    Case('resume from a path that is not there', 'load_from', ['none.pth is not there'],
         {'load_from': '{folder}/none.pth', 'resume': True}),
    Case('resume from weights only', 'resume', ['weights only', 'without --resume'],
         {'load_from': '{folder}/weights.pth', 'resume': True}),
    Case('checkpoint of another network', 'load_from', ['nothing in', 'fits the backbone', 'layer9.weight'],
         {'load_from': '{folder}/other.pth'}),
    Case('checkpoint of a wider network', 'load_from', ['another network', 'backbone.conv1.weight'],
         {'load_from': '{folder}/wide.pth'}),
    Case('test of half a checkpoint', 'load_from', ['lacks 2 of the', 'cls_head.fc_cls'],
         {'load_from': '{folder}/headless.pth'}, mode='test'),
    Case('checkpoint without weights', 'load_from', ['holds no weights'], {'load_from': '{folder}/empty.pth'}),
    Case('checkpoint that is cut off', 'load_from', ['cut.pth', 'damaged', 'Get it again'],
         {'load_from': '{folder}/cut.pth'}),
    Case('pretrained file that is not there', f'{B}.pretrained', ['resnet18.pth is not there', 'Download'],
         {B: dict(RESNET, pretrained='resnet18.pth'), **RESNET_HEAD}),
    Case('pretrained name of torchvision', f'{B}.pretrained', ['torchvision', 'resnet19'],
         {B: dict(RESNET, pretrained='torchvision://resnet19'), **RESNET_HEAD}),
    Case('init_cfg file that is not there', f'{B}.init_cfg.checkpoint', ['x.pth is not there'],
         {B: dict(RESNET, init_cfg=dict(type='Pretrained', checkpoint='x.pth')), **RESNET_HEAD}),
    # schedule, metrics, hooks
    Case('custom_keys that name no parameter', 'optim_wrapper.paramwise_cfg.custom_keys.scales',
         ["'scales' in its name", 'change nothing'], {'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(
             scales=dict(lr_mult=0.1)))}),
    Case('unknown optimizer', 'optim_wrapper.optimizer.type', ["'Adamm'", "'Adam'"],
         {'optim_wrapper.optimizer.type': 'Adamm'}),
    Case('argument that the optimizer does not have', 'optim_wrapper', ['Adam', 'momentum'],
         {'optim_wrapper.optimizer.momentum': 0.9}),
    Case('learning rate 0', 'optim_wrapper.optimizer.lr', ['positive', '0'], {'optim_wrapper.optimizer.lr': 0}),
    Case('learning rate as a text', 'optim_wrapper.optimizer.lr', ['positive number', "'1e-3'"],
         {'optim_wrapper.optimizer.lr': '1e-3'}),
    Case('gradient clipping', 'optim_wrapper.clip_grad', ['max_norm', 'max_grad'],
         {'optim_wrapper.clip_grad': dict(max_grad=40)}),
    Case('unknown schedule', 'param_scheduler.0.type', ["'CosineLR'"], {'param_scheduler.0.type': 'CosineLR'}),
    Case('schedule that ends before it begins', 'param_scheduler.0.end', ['5', 'begin=10'],
         {'param_scheduler.0.begin': 10, 'param_scheduler.0.end': 5}),
    Case('0 epochs', 'train_cfg.max_epochs', ['positive', '0'], {'train_cfg.max_epochs': 0}),
    Case('unknown loop', 'train_cfg.type', ["'EpochLoop'"], {'train_cfg.type': 'EpochLoop'}),
    Case('unknown metric', 'val_evaluator.type', ["'AccMetrics'", "'AccMetric'"], {'val_evaluator.type': 'AccMetrics'}),
    Case('class names of the metric', 'val_evaluator.class_names', ['2 names', 'is 3'],
         {'val_evaluator': dict(_delete_=True, type='F1Metric', class_names=['a', 'b'], topk=(1, )),
          'default_hooks.checkpoint.save_best': 'f1/mean'}),
    Case('more best classes than classes', 'val_evaluator.topk', ['(1, 5) with 3 classes', 'at most 3'],
         {'val_evaluator': dict(_delete_=True, type='F1Metric'), 'default_hooks.checkpoint.save_best': 'f1/mean'}),
    Case('best checkpoint by a metric that nobody reports', 'default_hooks.checkpoint.save_best',
         ["'f1/mean'", "'acc/top1'"], {'default_hooks.checkpoint.save_best': 'f1/mean'}),
    Case('early stopping by a metric that nobody reports', 'custom_hooks.1.monitor', ["'f1/mean'", "'acc/top1'"],
         {'custom_hooks': [dict(type='CheckInvalidLossHook'), dict(type='EarlyStoppingHook', monitor='f1/mean')]}),
    Case('unknown hook', 'custom_hooks.0.type', ["'TemporalParamHook'", "'TemporalParamsHook'", 'custom_imports'],
         {'custom_hooks.0': dict(_delete_=True, type='TemporalParamHook')}),
    Case('value of a hook', 'custom_hooks.0', ['interval must be', '0'], {'custom_hooks.0.interval': 0}),
    Case('slip of the pen that a hook would ignore', 'default_hooks.checkpoint.intervals',
         ['CheckpointHook', "'interval'"], {'default_hooks.checkpoint.intervals': 3}),
    Case('argument that a hook does not have', 'custom_hooks.1', ['EarlyStoppingHook', "'wait'"],
         {'custom_hooks': [dict(type='CheckInvalidLossHook'),
                           dict(type='EarlyStoppingHook', monitor='acc/top1', wait=3)]}),
    Case('confine_paths without a folder to stay in', f'{D}.ann_file', ['confine_paths=True needs a folder'],
         {f'{D}.data_root': '', f'{D}.data_prefix.video': '', f'{D}.ann_file': '{folder}/absolute.txt',
          'default_hooks.check_setup.confine_paths': True}, {'absolute.txt': '{folder}/videos/a.mp4 0\n'}),
]


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp('bad') / 'data')


def make_template(folder):
    """Fill the folder that the config without a mistake is for; videos are only looked for, so any bytes do."""
    for name in ('a', 'b', 'c', 'd'):
        for path in (folder / 'videos' / f'{name}.mp4', folder / 'frames' / name / 'img_00001.jpg'):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'film')
    (folder.parent / 'outside.mp4').write_bytes(b'film')
    (folder / 'videos/link.mp4').symlink_to(folder.parent / 'outside.mp4')
    (folder / 'videos/empty.mp4').touch()
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    init_default_scope('mmaction')
    config = Config.fromstring(CONFIG.replace('{folder}', folder.as_posix()), '.py')
    state = MODELS.build(config.model).state_dict()
    wide = copy.deepcopy(config.model)
    wide.backbone.channels = (5, 4)
    torch.save(dict(state_dict=state), folder / 'weights.pth')
    torch.save(dict(state_dict=MODELS.build(wide).state_dict()), folder / 'wide.pth')
    torch.save(dict(state_dict={'layer9.weight': torch.ones(2)}), folder / 'other.pth')
    torch.save(dict(state_dict={k: v for k, v in state.items() if 'backbone' in k}), folder / 'headless.pth')
    torch.save(dict(state_dict={}), folder / 'empty.pth')
    (folder / 'cut.pth').write_bytes((folder / 'weights.pth').read_bytes()[:2000])
    return folder


@pytest.fixture
def project(template):
    """The folder, with its own lists."""
    write(template, {'train.txt': TRAIN_LIST, 'val.txt': TRAIN_LIST, 'frames.txt': 'a 30 0\nb 30 1\n'})
    return template


def write(folder, files):
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content.replace('{folder}', folder.as_posix()))


def filled(value, folder):
    if isinstance(value, str):
        return value.replace('{folder}', folder.as_posix())
    if isinstance(value, dict):
        return {key: filled(item, folder) for key, item in value.items()}
    return type(value)(filled(item, folder) for item in value) if isinstance(value, (list, tuple)) else value


def replace(cfg, dotted, value):
    """Set a key as --cfg-options does; a dict with _delete_ takes the place of what is there."""
    *parents, last = dotted.split('.')
    for name in parents:
        cfg = cfg[int(name)] if isinstance(cfg, list) else cfg[name]
    if isinstance(value, dict) and value.get('_delete_'):
        value = {key: item for key, item in value.items() if key != '_delete_'}
    cfg[int(last) if isinstance(cfg, list) else last] = value


def config_of(folder, change=None):
    text = CONFIG.replace('{folder}', folder.as_posix())
    cfg = Config.fromstring(text, '.py')
    raw = cfg._cfg_dict.to_dict()
    for name in ('pipeline', 'loader'):
        raw.pop(name, None)
    raw = copy.deepcopy(raw)
    steps = {}
    for dotted, value in (change or {}).items():
        match = re.fullmatch(r'(.*pipeline\.\d+)\.(\w+)', dotted)
        if match and match[2] == '_delete_':
            replace(raw, match[1], {})
        else:
            steps[dotted] = value
    for dotted, value in steps.items():
        replace(raw, dotted, filled(value, folder))
    return Config(raw)


def problems_of(folder, case):
    write(folder, case.files)
    cfg = config_of(folder, dict(sorted(case.change.items(), key=lambda item: not item[0].endswith('_delete_'))))
    with pytest.raises(SetupError) as caught:
        check_config(cfg, case.mode, **setup_checks.options_in(cfg))
    return caught.value


def test_the_config_itself_has_no_mistake(project):
    for mode in ('train', 'val', 'test'):
        assert check_config(config_of(project), mode).notes == []
    assert check_config(config_of(project, FRAMES)).notes == []


@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_it_is_named_with_its_key_value_and_way_out(project, case):
    error = problems_of(project, case)
    assert {problem.key for problem in error.problems} == {case.key}, str(error)
    for words in case.says:
        words = words.replace('{folder}', project.as_posix())
        assert any(words in problem.text for problem in error.problems), str(error)
    for problem in error.problems:
        assert f'{problem.key}: {problem.text}' in str(error)
        assert len(problem.text.rstrip('.').split()) > 3 and 'Traceback' not in problem.text


# ---- the hook, and the tools ----

def test_the_table_in_the_docs_is_this_one():
    assert table() in PAGE.read_text(encoding='utf-8'), f'python {__file__} prints the table anew'
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)


def test_all_mistakes_are_named_at_once(project):
    write(project, {'train.txt': 'a.mp4 7\n\nb.mp4 x\n'})
    cfg = config_of(project, {'optim_wrapper.optimizer.lr': -1, f'{H}.in_channels': 3, 'train_cfg.max_epochs': 0})
    with pytest.raises(SetupError) as caught:
        check_config(cfg)
    assert str(caught.value).startswith('6 problems in the config or its files; nothing was started.\n  1. train_')
    assert sorted({problem.key for problem in caught.value.problems}) == [
        f'{H}.in_channels', 'optim_wrapper.optimizer.lr', 'train_cfg.max_epochs', f'{D}.ann_file']


def test_only_the_first_lines_of_a_kind_are_shown(project):
    write(project, {'train.txt': ''.join(f'a.mp4 {label}\n' for label in range(3, 20))})
    with pytest.raises(SetupError) as caught:
        check_config(config_of(project), duplicates=True)
    text, = (problem.text for problem in caught.value.problems if 'num_classes' in problem.text)
    assert 'line 5: label 7; and 12 more lines' in text and 'line 6' not in text


@pytest.mark.parametrize('name', ['label as large as the number of classes', 'negative label',
                                  'custom_keys that name no parameter', 'temporal kernel longer than the clip'])
def test_the_hook_stops_a_training_that_no_tool_has_checked(project, name):
    case, = (case for case in CASES if case.name == name)
    write(project, case.files)
    runner = Runner.from_cfg(config_of(project, case.change))
    with pytest.raises(SetupError) as caught:
        runner.train()
    assert [problem.key for problem in caught.value.problems] == [case.key] and runner.iter == 0
    assert list((project / 'work').rglob('*.pth')) == []


def test_the_hook_does_nothing_twice(project, monkeypatch):
    cfg = config_of(project)
    setup_checks.check_once(cfg, 'train')
    assert not setup_checks.take_passed(cfg, 'test')  # another mode
    setup_checks.check_once(cfg, 'train')
    assert setup_checks.take_passed(cfg, 'train') and not setup_checks.take_passed(cfg, 'train')
    write(project, {'train.txt': ''})
    cfg.default_hooks['check_setup'] = None  # switched off
    setup_checks.check_once(cfg, 'train')
    assert not setup_checks.take_passed(cfg, 'train')


def test_a_data_set_that_bears_bad_videos_may_have_some(project):
    write(project, {'train.txt': 'empty.mp4 0\nnothing.mp4 1\na.mp4 2\n'})
    change = {f'{D}.type': 'TolerantVideoDataset'}
    check_config(config_of(project, change))
    check_config(config_of(project, {**change, f'{D}.test_mode': True, f'{D}.unreadable_in_test': 'wrong'}))
    for wrong, words in (({**change, f'{D}.test_mode': True}, 'nothing.mp4'), (change, '3 of the 3')):
        with pytest.raises(SetupError, match=words):
            check_config(config_of(project, wrong))
        write(project, {'train.txt': 'x.mp4 0\ny.mp4 1\nz.mp4 2\n'})


def test_the_check_draws_no_random_number_and_leaves_the_config_alone(project):
    cfg = config_of(project)
    before, state = repr(cfg), torch.get_rng_state()
    check_config(cfg)
    assert repr(cfg) == before and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('script, arguments, words', [
    ('train.py', [], 'line 2: label 3'), ('test.py', ['none.pth'], 'load_from: none.pth is not there')])
def test_the_tools_say_it_in_one_message(project, tmp_path, capsys, script, arguments, words):
    write(project, {'train.txt': 'a.mp4 0\nb.mp4 3\n'})
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.replace('{folder}', project.as_posix()))
    assert run_script(script, [str(path), *arguments, '--work-dir', str(tmp_path / 'work')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('SetupError: 1 problem in the config or its files; nothing was started.\n  1. ')
    assert words in error and 'Traceback' not in error and not (tmp_path / 'work').exists()


# ---- paths that leave the data root ----

def built_training(cfg):
    """A Runner at the moment after the hooks have seen it."""
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    return runner._train_loop.dataloader.dataset


def test_a_video_that_becomes_a_link_out_of_the_root_is_not_opened(project):
    write(project, {'train.txt': 'a.mp4 0\nswapped.mp4 1\n'})
    path = project / 'videos/swapped.mp4'
    path.write_bytes(b'film')
    try:
        dataset = built_training(config_of(project, {'default_hooks.check_setup.confine_paths': True}))
        assert [type(step).__name__ for step in dataset.pipeline.transforms[:2]] == ['ConfinePaths', 'DecordInit']
        path.unlink()
        path.symlink_to(project.parent / 'outside.mp4')
        with pytest.raises(ConfinementError, match=r'swapped.mp4 leads to .*outside.mp4, which is outside of .*data\.'):
            dataset[1]
    finally:
        path.unlink()


def test_a_frame_that_is_a_link_out_of_the_root_is_not_opened(project):
    frame = project / 'frames/d/img_00001.jpg'
    frame.unlink()
    frame.symlink_to(project.parent / 'outside.mp4')
    write(project, {'frames.txt': 'd 1 0\n'})
    try:
        dataset = built_training(config_of(project, {**FRAMES, 'default_hooks.check_setup.confine_paths': True}))
        with pytest.raises(ConfinementError, match=r'img_00001.jpg leads to .*outside.mp4'):
            dataset[0]
    finally:
        frame.unlink()
        frame.write_bytes(b'film')


def test_confined_paths_in_allowed_folders_are_opened(project, tmp_path):
    guard = TRANSFORMS.build(dict(type='ConfinePaths', roots=[str(project), str(project.parent)]))
    sample = dict(filename=str(project / 'videos/link.mp4'))
    assert guard.transform(sample) is sample and str(project) in repr(guard)
    near = project.parent / (project.name + '-other')  # the name starts like the root's
    near.mkdir(exist_ok=True)
    strict = TRANSFORMS.build(dict(type='ConfinePaths', roots=str(project)))
    for path in (near / 'x.mp4', project / 'videos/../../outside.mp4', project / '../data-other/x'):
        with pytest.raises(ConfinementError, match='outside of'):
            strict.transform(dict(filename=str(path)))
    assert strict.transform(dict(filename=str(project / 'videos/../videos/a.mp4')))
    with pytest.raises(ValueError, match='there is no folder'):
        TRANSFORMS.build(dict(type='ConfinePaths', roots='no/such'))
    with pytest.raises(ValueError, match='neither filename nor frame_dir'):
        strict.transform(dict(total_frames=3))


# ---- the table ----

def table():
    """Markdown: what is wrong, where the message says it is, and words of it."""
    lines = ['| mistake | named as | the message holds |', '|---|---|---|']
    for case in CASES:
        words = ' ... '.join(case.says).replace('|', '\\|').replace('{folder}', 'DATA')
        lines.append(f'| {case.name} | `{case.key}` | {words} |')
    return '\n'.join(lines)


def main(arguments):
    """Print the table, or with --times how much CPU time each case takes until it is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--times', type=Path, metavar='FOLDER', help='a new folder for lists and files')
    times_in = parser.parse_args(arguments).times
    if times_in is None:
        return print(table())
    folder = make_template(times_in.absolute())
    times = []
    for case in [*CASES, *CASES]:  # the first round loads what PyTorch loads once
        write(folder, {'train.txt': TRAIN_LIST, 'val.txt': TRAIN_LIST, 'frames.txt': 'a 30 0\nb 30 1\n'})
        start = time.process_time()
        problems_of(folder, case)
        times.append((time.process_time() - start, case.name))
    for title, part in (('first', times[:len(CASES)]), ('second', times[len(CASES):])):
        print(f'{title} round: {len(part)} cases, slowest {max(part)[0]:.2f} s of CPU ({max(part)[1]}), median '
              f'{sorted(part)[len(part) // 2][0]:.3f} s')


if __name__ == '__main__':
    main(sys.argv[1:])
