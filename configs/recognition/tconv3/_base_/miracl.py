# ResNet18 a quarter as wide, up to layer3, on ten spoken words of MIRACL-VC1, speakers that it has not seen (fold 1):
# the network and the clips of projects/miracl_words.
_base_ = '../../../_base_/small_real_videos.py'

model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='TemporalResNet3d',
        depth=18,
        base_channels=16,
        num_stages=3,
        out_indices=(2, ),
        temporal_kernels=(7, 3, 3, 3),
        conv1_stride_t=2,
        pool1_kernel=(3, 3, 3),
        pool1_stride_t=1,
        spatial_strides=(1, 2, 2),
        temporal_strides=(1, 1, 1),
        dilations=(1, 1, 1)),
    cls_head=dict(
        type='I3DHead', num_classes=10, in_channels=64, spatial_type='avg', dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))

data_root = 'data/miracl'
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=8),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(72, 36), keep_ratio=False),
    dict(type='RandomResizedCrop', area_range=(0.7, 1.0)),
    dict(type='Resize', scale=(64, 32), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=8),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(72, 36), keep_ratio=False),
    dict(type='CenterCrop', crop_size=(64, 32)),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    batch_size=20,
    drop_last=True,
    dataset=dict(
        ann_file=f'{data_root}/words_train_unseen1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(
    batch_size=20,
    dataset=dict(
        ann_file=f'{data_root}/words_test_unseen1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=test_pipeline))

param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=20)
