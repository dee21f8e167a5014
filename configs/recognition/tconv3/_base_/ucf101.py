# UCF101 split 1, 101 actions, 168x224 (HxW). As in the paper, the first half of the test list (1,891 of
# 3,783 videos, in the order of the list) validates.
# Appendix C.1: 30 frames that cover the whole video. Longer videos lose frames at equal intervals, of shorter ones the
# first and the last frame are repeated.
pipeline = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=30, short='duplicate_ends'),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(224, 168), keep_ratio=False),  # (width, height)
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset',
        ann_file='data/ucf101/ucf101_train_split_1_videos.txt',
        data_prefix=dict(video='data/ucf101/videos'), pipeline=pipeline))
val_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset',
        ann_file='data/ucf101/ucf101_val_split_1_videos.txt',
        data_prefix=dict(video='data/ucf101/videos'),
        indices=1891, pipeline=pipeline, test_mode=True))
test_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset',
        ann_file='data/ucf101/ucf101_val_split_1_videos.txt',
        data_prefix=dict(video='data/ucf101/videos'), pipeline=pipeline, test_mode=True))
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# Appendix C.2: Adam, checked every 5 epochs, stopped when the validation accuracy goes down, the best checkpoint kept.
stop_early = dict(type='EarlyStoppingHook', monitor='acc/top1', rule='greater', patience=1)
