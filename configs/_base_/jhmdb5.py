# Five classes of J-HMDB (climb_stairs, golf, pour, pullup, shoot_ball): 8 frames over the whole video,
# 48x64 (HxW) and the lists of fold 1: the data part of what tools/data/class_folders.py writes (docs/compare_runs.md).
_base_ = ['default_runtime.py', 'small_real_videos.py']

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
    dataset=dict(
        ann_file=f'{data_root}/jhmdb5_train_split1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file=f'{data_root}/jhmdb5_test_split1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=test_pipeline))

param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)]
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(save_best=None, max_keep_ckpts=1))
custom_hooks = [dict(type='CheckInvalidLossHook', interval=5)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
