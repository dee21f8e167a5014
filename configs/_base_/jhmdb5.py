# Five classes of J-HMDB (climb_stairs, golf, pour, pullup, shoot_ball): 8 frames over the whole video,
# 48x64 (HxW) and the lists of fold 1: the data part of what tools/data/class_folders.py writes (docs/compare_runs.md).
_base_ = 'default_runtime.py'

data_root = 'data/jhmdb'
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=8),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(73, 55), keep_ratio=False),
    dict(type='RandomResizedCrop', area_range=(0.5, 1.0)),
    dict(type='Resize', scale=(64, 48), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=8),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(73, 55), keep_ratio=False),
    dict(type='Resize', scale=(64, 48), keep_ratio=False),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset',
        ann_file=f'{data_root}/jhmdb5_train_split1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset',
        ann_file=f'{data_root}/jhmdb5_test_split1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=test_pipeline,
        test_mode=True))
val_dataloader = test_dataloader  # there is no third list: nothing is chosen, the last epoch is what is tested
val_evaluator = test_evaluator = dict(type='AccMetric')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10, val_interval=10)
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)]
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(save_best=None, max_keep_ckpts=1))
custom_hooks = [dict(type='CheckInvalidLossHook', interval=5)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
