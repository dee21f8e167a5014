# Jester, 27 gestures, 150x224 (HxW). The data set comes as folders of frames.
# Appendix C.1: 30 frames that cover the whole video. Longer videos lose frames at equal intervals, of shorter ones the
# first and the last frame are repeated.
pipeline = [
    dict(type='WholeVideoSampleFrames', clip_len=30, short='duplicate_ends'),
    dict(type='RawFrameDecode'),
    dict(type='Resize', scale=(224, 150), keep_ratio=False),  # (width, height)
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RawframeDataset',
        ann_file='data/jester/jester_train_list_rawframes.txt',
        data_prefix=dict(img='data/jester/rawframes'),
        filename_tmpl='{:05}.jpg', pipeline=pipeline))
val_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RawframeDataset',
        ann_file='data/jester/jester_val_list_rawframes.txt',
        data_prefix=dict(img='data/jester/rawframes'),
        filename_tmpl='{:05}.jpg', pipeline=pipeline, test_mode=True))
test_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RawframeDataset',
        ann_file='data/jester/jester_val_list_rawframes.txt',
        data_prefix=dict(img='data/jester/rawframes'),
        filename_tmpl='{:05}.jpg', pipeline=pipeline, test_mode=True))
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# Appendix C.2: Adam, checked every 5 epochs, stopped when the validation accuracy goes down, the best checkpoint kept.
stop_early = dict(type='EarlyStoppingHook', monitor='acc/top1', rule='greater', patience=1)
