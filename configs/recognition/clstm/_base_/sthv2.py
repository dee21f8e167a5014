# Something-Something V2 as in "Interpreting Video Features" (ACCV 2020): the whole video in 16 frames of 224x224, the
# same ones for both networks, trained and validated on the provided split. tools/data/sthv2.py makes the lists.
# The paper does not say how frames become 224x224; we resize the short side to 256 and crop. No flips: classes have
# a left and a right.
data_root = 'data/sthv2'
head = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=16),
]
train_pipeline = head + [
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomCrop', size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
# pipeline.2.enabled=True plays the clips backwards, the rows "(rev.)" of Table 1:
#   tools/test.py CONFIG CHECKPOINT --cfg-options test_dataloader.dataset.pipeline.2.enabled=True
test_pipeline = head + [
    dict(type='ReverseFrames', enabled=False),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='CenterCrop', crop_size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset', ann_file=f'{data_root}/sthv2_train_list_videos.txt',
        data_prefix=dict(video=f'{data_root}/videos'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset', ann_file=f'{data_root}/sthv2_val_list_videos.txt',
        data_prefix=dict(video=f'{data_root}/videos'), pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='F1Metric', per_class=False)
test_evaluator = dict(type='F1Metric', per_class=True)
