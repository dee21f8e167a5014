"""Set-ups with a mistake, each with the key that the message has to name and words that it has to hold.

tests/setup_checks/test_bad_inputs.py tries every one, and prints the table of docs/reliability/mistakes.md from them.
"""
from typing import Any, Dict, NamedTuple, Sequence

CONFIG = '''
default_scope = 'mmaction'
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, channels=(3, 4),
                  clip_shape=(12, 12, 12)),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=84, dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.] * 3, std=[255.] * 3, format_shape='NCTHW'))


def pipeline(split):
    return [
        dict(type='DecordInit'),
        dict(type='SampleFrames', clip_len=12, frame_interval=1, num_clips=1, test_mode=split != 'train'),
        dict(type='DecordDecode'), dict(type='Resize', scale=(12, 12), keep_ratio=False),
        dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]


def loader(split):
    return dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=split == 'train'), dataset=dict(
            type='VideoDataset', ann_file=f'{split}.txt', data_root='{folder}', data_prefix=dict(video='videos'),
            pipeline=pipeline(split), test_mode=split != 'train'))


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
# a.mp4 to g.mp4 have 20 frames of 40x32 pixels (WxH), tall.mp4 of 32x40; folders of frames have 30, from 1 on
TRAIN_LIST = 'a.mp4 0\nb.mp4 1\nc.mp4 2\nd.mp4 0\n'
VAL_LIST = 'e.mp4 0\nf.mp4 1\ng.mp4 2\n'

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
    warning: bool = False  # it runs, and is probably not meant
    environ: Dict[str, str] = {}
    absent: Sequence[str] = ()  # packages that are not installed
    gpu: bool = False  # PyTorch says that there is one


def listed(name, says, text, change=None, key='train_dataloader.dataset.ann_file', mode='train', file='train.txt'):
    return Case(name, key, says, change or {}, {file: text}, mode)


def backbone(name, says, **arguments):
    return Case(name, 'model.backbone', says, {'model.backbone': dict(RESNET, **arguments), **RESNET_HEAD})


def step(name, place, key, says, **arguments):
    return Case(name, f'train_dataloader.dataset.pipeline.{place}{key}', says,
                {f'train_dataloader.dataset.pipeline.{place}.{k}': v for k, v in arguments.items()})


def crop(name, says, *transforms, files=None):
    """In the validation; the last transform is the one that is named."""
    place = f'val_dataloader.dataset.pipeline.{2 + len(transforms)}.crop_size'
    return Case(name, place, says, {'val_dataloader.dataset.pipeline': [*HEAD_TEST, *transforms, *SHAPE]}, files or {})


def frames(name, key, says, text, **arguments):
    dataset = dict(FRAMES['train_dataloader.dataset'], **arguments)
    return Case(name, f'train_dataloader.dataset.{key}', says, {'train_dataloader.dataset': dataset},
                {'frames.txt': text})


def schedule(name, key, says, entry, epochs):
    return Case(name, f'param_scheduler.0.{key}', says, {'param_scheduler': [entry], 'train_cfg.max_epochs': epochs},
                warning=True)


T, D, B, H = 'train_dataloader', 'train_dataloader.dataset', 'model.backbone', 'model.cls_head'
V, P = 'val_dataloader', 'model.data_preprocessor'
HEAD = [dict(type='DecordInit'), dict(type='SampleFrames', clip_len=12), dict(type='DecordDecode')]
RESIZE = dict(type='Resize', scale=(12, 12), keep_ratio=False)
HEAD_TEST = [HEAD[0], dict(HEAD[1], test_mode=True), HEAD[2]]
SHAPE = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
VIDEOS = dict(type='VideoDataset', ann_file='train.txt', data_root='{folder}', data_prefix=dict(video='videos'),
              pipeline=[*HEAD, dict(type='Resize', scale=(12, 12), keep_ratio=False), *SHAPE])
# a network whose last stage has one position left of a clip of 12x12x12
SMALL = {B: dict(RESNET, temporal_cfg=dict(type='Conv3T'), conv1_stride_t=2, pool1_stride_t=2,
                 temporal_strides=(1, 2, 2, 1)), **RESNET_HEAD}
SEVERAL = {f'{split}_dataloader.dataset.{key}': value for split in ('train', 'val')
           for key, value in (('multi_class', True), ('num_classes', 3))}
SEVERAL_LIST = 'a.mp4 0 2\nb.mp4 1\nc.mp4 2 0\nd.mp4 0\n'
AVERAGE_PRECISION = {'val_evaluator': dict(type='AccMetric', metric_list='mean_average_precision'),
                     'default_hooks.checkpoint.save_best': 'auto'}
F1 = {'val_evaluator': dict(_delete_=True, type='F1Metric', topk=(1, )),
      'default_hooks.checkpoint.save_best': 'f1/mean'}
ITERATIONS = {'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10),
              'default_hooks.checkpoint.by_epoch': False, f'{T}.sampler.type': 'InfiniteSampler', 'param_scheduler': [],
              'log_processor': dict(by_epoch=False)}

DETERMINISTIC = {'randomness': dict(seed=0, deterministic=True)}

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
    # batches
    Case('last batch of one sample', f'{T}.drop_last', ['5 samples in batches of 2', 'backbone.layer3', 'BatchNorm3d',
                                                        'one value per channel', 'drop_last=True'],
         SMALL, {'train.txt': 'a.mp4 0\nb.mp4 1\nc.mp4 2\nd.mp4 0\ne.mp4 1\n', 'val.txt': 'f.mp4 0\n'}),
    Case('batches of one sample', f'{T}.batch_size', ['a batch has one sample', 'backbone.layer3', 'batch_size to 2'],
         {**SMALL, f'{T}.batch_size': 1}),
    Case('last batch of one sample in each process', f'{T}.drop_last',
         ['6 samples in batches of 2', 'each of 2 processes (3 samples)'], {**SMALL, 'launcher': 'pytorch'},
         {'train.txt': ''.join(f'{name}.mp4 {i % 3}\n' for i, name in enumerate('abcdef')), 'val.txt': 'g.mp4 0\n'},
         environ={'WORLD_SIZE': '2'}),
    Case('last batch of one sample of a repeated list', f'{T}.drop_last', ['9 samples in batches of 2'],
         {**SMALL, D: dict(type='RepeatDataset', times=3, dataset=VIDEOS)},
         {'train.txt': 'a.mp4 0\nb.mp4 1\nc.mp4 2\n'}),
    Case('last batch of one sample of the first entries', f'{T}.drop_last', ['3 samples in batches of 2'],
         {**SMALL, f'{D}.indices': 3}),
    Case('the only batch left out', f'{T}.drop_last', ['leaves out the only batch', '4 samples', 'batch_size=8'],
         {f'{T}.batch_size': 8, f'{T}.drop_last': True}),
    Case('epochs of a sampler without an end', f'{T}.sampler.type',
         ["'InfiniteSampler' has no end", 'IterBasedTrainLoop'],
         {f'{T}.sampler.type': 'InfiniteSampler'}),
    Case('validation by a sampler without an end', f'{V}.sampler.type', ["'InfiniteSampler' has no end", 'evaluation'],
         {f'{V}.sampler.type': 'InfiniteSampler'}),
    Case('prefetching without workers', f'{T}.prefetch_factor', ['num_workers is 0'], {f'{T}.prefetch_factor': 2}),
    Case('unknown collate function', f'{T}.collate_fn.type', ["'pseudo_colate'", "'pseudo_collate'"],
         {f'{T}.collate_fn': dict(type='pseudo_colate')}),
    Case('list repeated 0 times', f'{D}.times', ['positive whole number', '0'],
         {D: dict(type='RepeatDataset', times=0, dataset=VIDEOS)}),
    Case('no list to join', f'{D}.datasets', ['list of data sets', '[]'], {D: dict(type='ConcatDataset', datasets=[])}),
    Case('evaluation that leaves the last samples out', f'{V}.drop_last', ['leaves the last samples out'],
         {f'{V}.drop_last': True}, warning=True),
    Case('training in the order of the list', f'{T}.sampler.shuffle', ['order of the list', 'Set it to True'],
         {f'{T}.sampler.shuffle': False}, warning=True),
    Case('test in another order', 'test_dataloader.sampler.shuffle', ['another order', 'False'],
         {'test_dataloader.sampler.shuffle': True}, mode='test', warning=True),
    # crops and views
    crop('three crops of frames that fit neither side', ['ThreeCrop(32x32)', 'frames are 40x40', 'crop_size=40'],
         dict(type='Resize', scale=(40, 40), keep_ratio=False), dict(type='ThreeCrop', crop_size=32)),
    crop('three crops smaller than the shorter side', ['ThreeCrop(12x12)', 'frames are 20x16', 'Resize'],
         dict(type='Resize', scale=(-1, 16)), dict(type='ThreeCrop', crop_size=12)),
    crop('three crops of videos in portrait', ['ThreeCrop cuts 20x16', 'frames are 16x20', 'tall.mp4'],
         dict(type='Resize', scale=(-1, 16)), dict(type='ThreeCrop', crop_size=(20, 16)),
         files={'val.txt': 'tall.mp4 0\n'}),
    crop('ten crops larger than the frames', ['TenCrop cuts 36x36', 'frames are 40x32', 'smaller crop'],
         dict(type='TenCrop', crop_size=36)),
    crop('crop larger than the frames', ['CenterCrop cuts 48x48', 'frames are 40x32', 'larger'],
         dict(type='CenterCrop', crop_size=48)),
    crop('crop higher than the frames', ['CenterCrop cuts 34x34', 'frames are 40x32'],
         dict(type='CenterCrop', crop_size=34)),
    Case('random crop larger than the frames', f'{D}.pipeline.3.size', ['RandomCrop cuts 40x40', '40x32'],
         {f'{D}.pipeline.3': dict(type='RandomCrop', size=40)}),
    Case('ours: moving crop larger than the frames', f'{D}.pipeline.3', ['EgoMotionCrop', '40x32', '36'],
         {f'{D}.pipeline.3': dict(type='EgoMotionCrop', crop_size=36)}),
    Case('resize after the clip has its form', f'{D}.pipeline.4', ['Resize does not take', '40x32'],
         {f'{D}.pipeline': [*HEAD, *SHAPE[:1], RESIZE, *SHAPE[1:]]}),
    Case('nothing gives the clip its form', f'{D}.pipeline', ['Recognizer3D takes (views, channels', 'FormatShape'],
         {f'{D}.pipeline': [*HEAD, RESIZE, SHAPE[1]]}),
    Case('frames of a 2D network', f'{D}.pipeline', ['Recognizer3D takes', "input_format='NCTHW'"],
         {f'{D}.pipeline.4.input_format': 'NCHW'}),
    Case('clips of different sizes in a batch', f'{D}.pipeline', ['cannot be stacked', '32x40', 'keep_ratio=False'],
         {f'{D}.pipeline': [*HEAD, dict(type='Resize', scale=(-1, 12)), *SHAPE]},
         {'train.txt': 'a.mp4 0\ntall.mp4 1\nb.mp4 2\n'}),
    Case('grey clips for three colours', f'{D}.pipeline', ['clips of 1 channels', 'mean has 3'],
         {f'{D}.pipeline': [*HEAD, RESIZE, dict(type='ToGrey'), *SHAPE]}),
    Case('views that are split, and validation in batches', f'{V}.batch_size', ['max_testing_views=2', 'batch_size=1'],
         {'model.test_cfg': dict(max_testing_views=2)}),
    Case('views that are split, and a test in batches', 'test_dataloader.batch_size', ['max_testing_views=4'],
         {'model.test_cfg': dict(max_testing_views=4)}, mode='test'),
    Case('0 views at a time', 'model.test_cfg.max_testing_views', ['positive whole number', '-1'],
         {'model.test_cfg': dict(max_testing_views=-1)}),
    Case('decoder that nothing has opened', f'{D}.pipeline.1', ['DecordInit', 'not there'],
         {f'{D}.pipeline': [*HEAD[1:], RESIZE, *SHAPE]}),
    Case('decoder of another reader', f'{D}.pipeline.2', ['DecordDecode', 'OpenCVInit stands there'],
         {f'{D}.pipeline.0': dict(type='OpenCVInit')}),
    Case('decoder that is not installed', f'{D}.pipeline.0', ["'PyAVInit' needs av", 'pip install av'],
         {f'{D}.pipeline.0': dict(type='PyAVInit'), f'{D}.pipeline.2': dict(type='PyAVDecode')}, absent=['av']),
    Case('text saved as a video', f'{D}.data_prefix.video', ['line 2', 'page.mp4', 'holds text, no video'],
         files={'train.txt': 'a.mp4 0\npage.mp4 1\n'}),
    Case('video that was cut off', f'{D}.data_prefix.video', ['line 1', 'cut.mp4', 'check_videos.py'],
         files={'train.txt': 'cut.mp4 0\n'}),
    Case('validation that draws clips at random', f'{V}.dataset.pipeline.1.test_mode',
         ['SampleFrames', 'test_mode=True'],
         {f'{V}.dataset.pipeline.1.test_mode': False}, warning=True),
    Case('validation that crops at random', f'{V}.dataset.pipeline.3', ['RandomCrop draws at random', 'CenterCrop'],
         {f'{V}.dataset.pipeline': [*HEAD_TEST, dict(type='RandomCrop', size=12), *SHAPE]}, warning=True),
    Case('validation that flips at random', f'{V}.dataset.pipeline.3', ['Flip draws at random'],
         {f'{V}.dataset.pipeline': [*HEAD_TEST, dict(type='Flip'), RESIZE, *SHAPE]}, warning=True),
    # folders of frames
    frames('frames that count from 0', 'start_index', ['img_00030.jpg', 'count from 0', 'start_index=0'],
           'from0 30 0\n'),
    frames('frames that count from 1, read from 0', 'start_index', ['img_00000.jpg', 'start_index=1 (it is 0)'],
           'a 30 0\n', start_index=0),
    frames('template of another name', 'filename_tmpl', ['image_00001.jpg', "'img_{:05}.jpg' fits the names"],
           'a 30 0\n', filename_tmpl='image_{:05}.jpg'),
    frames('template with too few digits', 'filename_tmpl', ['img_0001.jpg', "'img_{:05}.jpg' fits"], 'a 30 0\n',
           filename_tmpl='img_{:04}.jpg'),
    frames('template of another kind of image', 'filename_tmpl', ['img_00001.png', "'img_{:05}.jpg' fits"], 'a 30 0\n',
           filename_tmpl='img_{:05}.png'),
    frames('template without a number', 'filename_tmpl', ["'img.jpg'", 'a name of its own'], 'a 30 0\n',
           filename_tmpl='img.jpg'),
    frames('template of flow for colours', 'filename_tmpl', ["'{}_{:05}.jpg'", 'a name of its own'], 'a 30 0\n',
           filename_tmpl='{}_{:05}.jpg'),
    frames('more frames in the list than in the folder', 'ann_file', ['line 2', 'frames 1 to 31', 'up to 30'],
           'a 30 0\nb 31 1\n'),
    frames('part of a video that ends after its frames', 'ann_file', ['frames 11 to 35', 'up to 30'], 'a 10 25 0\n',
           with_offset=True),
    frames('folder without images', 'filename_tmpl', ['no images', 'fits none'], 'bare 30 0\n'),
    # labels, losses and metrics
    Case('class weights of lists with several labels', f'{H}.loss_cls', ['one label per line', 'BCELossWithLogits'],
         {f'{H}.loss_cls': dict(type='ClassWeightedCrossEntropyLoss', ann_file='{folder}/train.txt', num_classes=3),
          **SEVERAL, **AVERAGE_PRECISION}, {'train.txt': SEVERAL_LIST}),
    Case('a score per class for one label per line', f'{H}.loss_cls', ['BCELossWithLogits', 'multi_class=True'],
         {f'{H}.loss_cls': dict(type='BCELossWithLogits')}),
    Case('cross entropy of several labels', f'{H}.loss_cls', ['exclude each other', 'BCELossWithLogits'],
         {**SEVERAL, **AVERAGE_PRECISION}, {'train.txt': SEVERAL_LIST, 'val.txt': 'e.mp4 0 1\n'}, warning=True),
    Case('accuracy of several labels', 'val_evaluator.metric_list', ['top_k_accuracy', "'mean_average_precision'"],
         {**SEVERAL, f'{H}.loss_cls': dict(type='BCELossWithLogits')}, {'train.txt': SEVERAL_LIST}),
    Case('average precision of one label per line', 'val_evaluator.metric_list', ['several labels', 'multi_class=True'],
         AVERAGE_PRECISION),
    Case('F1 of several labels', 'val_evaluator', ['F1Metric is for one label', 'mean_average_precision'],
         {**SEVERAL, f'{H}.loss_cls': dict(type='BCELossWithLogits'), **F1}, {'train.txt': SEVERAL_LIST}),
    Case('accuracy of clips that nobody averages', f'{H}.average_clips', ['AccMetric', "average_clips='prob'"],
         {f'{H}.average_clips': None}),
    Case('average precision of clips that nobody averages', f'{H}.average_clips', ['AccMetric', "average_clips='prob'"],
         {**SEVERAL, f'{H}.loss_cls': dict(type='BCELossWithLogits'), f'{H}.average_clips': None,
          'val_evaluator': dict(type='AccMetric', metric_list='mmit_mean_average_precision'),
          'default_hooks.checkpoint.save_best': 'auto'}, {'train.txt': SEVERAL_LIST}),
    Case('F1 of clips that nobody averages, in a test', f'{H}.average_clips', ['F1Metric', 'end of the evaluation'],
         {f'{H}.average_clips': None, 'test_evaluator': dict(type='F1Metric', topk=(1, ))}, mode='test'),
    Case('mixup of more classes', f'{P}.blending.num_classes', ['400', 'num_classes is 3', 'Set it to 3'],
         {f'{P}.blending': dict(type='MixupBlending', num_classes=400)}),
    Case('mixup of fewer classes', f'{P}.blending.num_classes', ['2', 'num_classes is 3'],
         {f'{P}.blending': dict(type='MixupBlending', num_classes=2)}),
    Case('cutmix of more classes', f'{P}.blending.num_classes', ['10', 'first step'],
         {f'{P}.blending': dict(type='CutmixBlending', num_classes=10)}),
    Case('one of several ways of mixing', f'{P}.blending.augments.1.num_classes', ['174', 'num_classes is 3'],
         {f'{P}.blending': dict(type='RandomBatchAugment', augments=[
             dict(type='MixupBlending', num_classes=3), dict(type='CutmixBlending', num_classes=174)])}),
    Case('classes that the training list has none of', f'{H}.num_classes', ['no video of 1 of these classes: [2]'],
         files={'train.txt': 'a.mp4 0\nb.mp4 1\n', 'val.txt': 'e.mp4 0\n'}, warning=True),
    Case('classes that only the validation has', f'{V}.dataset.ann_file', ['training list has none of: [2]'],
         files={'train.txt': 'a.mp4 0\nb.mp4 1\n'}, warning=True),
    Case('videos of the training in the validation', f'{V}.dataset.ann_file', ['2 of 3 videos', 'a.mp4', 'unseen'],
         files={'val.txt': 'a.mp4 0\nb.mp4 1\ng.mp4 2\n'}, warning=True),
    # values of the network
    Case('dropout of everything', f'{H}.dropout_ratio', ['from 0 to below 1', '1.0', 'zeros only'],
         {f'{H}.dropout_ratio': 1.0}),
    Case('as many deviations as means', f'{P}.std', ['2 values, and mean has 3'], {f'{P}.std': [255., 255.]}),
    Case('deviation 0', f'{P}.std', ['above 0'], {f'{P}.std': [255., 0., 255.]}),
    Case('means of pixels from 0 to 1', f'{P}.std', ['from 0 to 255', '58.395'],
         {f'{P}.mean': [0.485, 0.456, 0.406], f'{P}.std': [0.229, 0.224, 0.225]}, warning=True),
    Case('normalisation of mmaction2 0.x', f'{D}.pipeline.4', ['that of mmcv', 'model.data_preprocessor'],
         {f'{D}.pipeline': [*HEAD, RESIZE, dict(type='Normalize', mean=[0.] * 3, std=[255.] * 3), *SHAPE]}),
    Case('packing of mmaction2 0.x', f'{D}.pipeline.5.type', ['Collect is of mmaction2 0.x', 'PackActionInputs'],
         {f'{D}.pipeline': [*HEAD, RESIZE, SHAPE[0], dict(type='Collect', keys=['imgs', 'label'])]}),
    Case('frozen stages without weights', f'{B}.frozen_stages', ['1', 'stay at random', 'frozen_stages=-1'],
         {B: dict(RESNET, frozen_stages=1), **RESNET_HEAD, f'{T}.drop_last': True}, warning=True),
    Case('norms that learn nothing', f'{B}.norm_eval', ['variance 1', 'Load weights'],
         {B: dict(RESNET, norm_eval=True), **RESNET_HEAD}, warning=True),
    # schedules and the length of the run
    schedule('cosine that is longer than the run', 'T_max', ['30', '0.87', 'Leave T_max out', 'T_max=8'],
             dict(type='CosineAnnealingLR', T_max=30), epochs=8),
    schedule('cosine that is shorter than the run', 'T_max', ['30', 'rise again', 'T_max=60'],
             dict(type='CosineAnnealingLR', T_max=30), epochs=60),
    schedule('cosine after a warm-up', 'T_max', ['20', 'the run has 20 epochs', 'T_max=15'],
             dict(type='CosineAnnealingLR', begin=5, T_max=20), epochs=20),
    schedule('cosine in iterations that ends in the first epoch', 'T_max', ['100', 'the run has 200 iterations'],
             dict(type='CosineAnnealingLR', by_epoch=False, T_max=100), epochs=100),
    schedule('milestones after the end', 'milestones', ['[40] of [20, 40]', '30 epochs'],
             dict(type='MultiStepLR', milestones=[20, 40]), epochs=30),
    schedule('steps longer than the run', 'step_size', ['30', 'never falls'],
             dict(type='StepLR', step_size=30), epochs=20),
    schedule('warm-up longer than the run', 'end', ['50', 'cut off'], dict(type='LinearLR', end=50), epochs=20),
    schedule('schedule that begins after the end', 'begin', ['20', 'never begins'],
             dict(type='ExponentialLR', gamma=.9, begin=20), epochs=20),
    Case('cycle that ends before the run', 'param_scheduler.0.total_steps', ['10', '20 epochs', 'total_steps=20'],
         {'param_scheduler': [dict(type='OneCycleLR', eta_max=.1, total_steps=10)], 'train_cfg.max_epochs': 20}),
    schedule('cycle that ends after the run', 'total_steps', ['40', 'cut off'],
             dict(type='OneCycleLR', eta_max=.1, total_steps=40), epochs=20),
    Case('schedule of epochs in a loop of iterations', 'param_scheduler.0', ['counts epochs', 'by_epoch=False'],
         {**ITERATIONS, 'param_scheduler': [dict(type='CosineAnnealingLR', T_max=10)]}, warning=True),
    Case('checkpoints of epochs in a loop of iterations', 'default_hooks.checkpoint.by_epoch', ['single checkpoint'],
         {**ITERATIONS, 'default_hooks.checkpoint.by_epoch': True}, warning=True),
    Case('log of epochs in a loop of iterations', 'log_processor.by_epoch', ['log_processor.by_epoch=False'],
         {**ITERATIONS, 'log_processor': dict(by_epoch=True)}, warning=True),
    Case('checkpoint of every iteration', 'default_hooks.checkpoint.interval', ['every 1 iteration'],
         {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 1}, warning=True),
    Case('no checkpoint at all', 'default_hooks.checkpoint.interval', ['5 with save_last=False', '2 epochs'],
         {'default_hooks.checkpoint.interval': 5, 'default_hooks.checkpoint.save_last': False}),
    Case('validation that begins after the end', 'train_cfg.val_begin', ['10', 'never be validated'],
         {'train_cfg.val_begin': 10}, warning=True),
    Case('best checkpoint without a validation', 'default_hooks.checkpoint.save_best', ['no val_dataloader'],
         {'val_dataloader': None, 'val_evaluator': None, 'val_cfg': None}, warning=True),
    Case('slip of the pen in a loop', 'train_cfg.max_epoch', ["no argument 'max_epoch'", "'max_epochs'"],
         {'train_cfg.max_epoch': 8}),
    Case('slip of the pen in a key', 'train_dataloder', ["'train_dataloader'", 'nothing reads it'],
         {'train_dataloder': dict(batch_size=4)}, warning=True),
    # tools around
    Case('W&B without its package', 'visualizer.vis_backends.0', ["'WandbVisBackend' needs wandb", 'pip install wandb'],
         {'visualizer.vis_backends': [dict(type='WandbVisBackend')]}, absent=['wandb']),
    Case('TensorBoard without its package', 'visualizer.vis_backends.1', ['needs tensorboard'],
         {'visualizer.vis_backends': [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]},
         absent=['tensorboard']),
    Case('MLflow without its package', 'visualizer.vis_backends.0', ['needs mlflow'],
         {'visualizer.vis_backends': [dict(type='MLflowVisBackend')]}, absent=['mlflow']),
    Case('work_dir below a file', 'work_dir', ['weights.pth is a file', '--work-dir'],
         {'work_dir': '{folder}/weights.pth/run'}),
    Case('fused evaluation of a 3T network', 'efficient_conv_bn_eval', ['backbone', 'Conv3T', 'torch.fx',
                                                                        'reparameterize_model.py'],
         {**SMALL, 'efficient_conv_bn_eval': ['backbone']}),
    Case('fused evaluation of a branched network', 'efficient_conv_bn_eval', ['MultiBranchConv3d', 'torch.fx'],
         {**SMALL, B: dict(RESNET, temporal_cfg=dict(type='MultiBranchConv3d')), 'efficient_conv_bn_eval': 'backbone'}),
    Case('fused evaluation of a part that is not there', 'efficient_conv_bn_eval',
         ["no module 'bakbone'", "'backbone'"],
         {'efficient_conv_bn_eval': ['bakbone']}),
    Case('checkpointing of a part that is not there', 'activation_checkpointing', ["no module 'backbone.layer9'"],
         {'activation_checkpointing': ['backbone.layer9']}),
    Case('compiled network, in silence', 'compile', ['first step', 'docs/recipes.md', 'compile=False'],
         {'compile': True}, warning=True),
    # what PyTorch refuses on a GPU with deterministic algorithms
    Case('deterministic training without cuBLAS\'s workspace', 'randomness.deterministic',
         ['CUBLAS_WORKSPACE_CONFIG=:4096:8', 'it is not set', 'python tools/train.py'], DETERMINISTIC, gpu=True),
    Case('deterministic training with another workspace of cuBLAS', 'randomness.deterministic',
         ["it is ':8192'", ':16:8'], DETERMINISTIC, environ=dict(CUBLAS_WORKSPACE_CONFIG=':8192'), gpu=True),
    Case('deterministic training with reflected edges', 'randomness.deterministic',
         ['backward pass of ReflectionPad3d on CUDA', 'it is in backbone.layer1.0.conv1', 'and 12 more',
          'deterministic=False'],
         {**DETERMINISTIC, **SMALL, B: dict(RESNET, temporal_kernels=(1, 3, 1, 1, 1), spatial_strides=(1, 1, 1, 1),
                                            temporal_cfg=dict(type='Conv3T', padding_mode='reflect'))},
         environ=dict(CUBLAS_WORKSPACE_CONFIG=':4096:8'), gpu=True),
]
