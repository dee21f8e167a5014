# KTH actions as in "Interpreting Video Features" (ACCV 2020): the whole sequence in 32 frames of 120x160 (HxW), trained
# on subjects 1 to 16 and evaluated on 17 to 25. tools/data/kth/prepare.py makes the clips and lists.
# The paper names no validation subjects, so what the schedule watches is the test list, as it seems to be there. For
# numbers that are not chosen on the test subjects, keep some of the 16 aside (prepare.py --val-subjects) and
#   --cfg-options val_dataloader.dataset.ann_file=data/kth/val.txt
data_root = 'data/kth'
head = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=32),
]
tail = [
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(160, 120), keep_ratio=False),  # KTH's own size: nothing changes
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_pipeline = head + tail
# pipeline.2.enabled=True plays the clips backwards, the rows "(rev.)" of Table 1:
#   tools/test.py CONFIG CHECKPOINT --cfg-options test_dataloader.dataset.pipeline.2.enabled=True
test_pipeline = head + [dict(type='ReverseFrames', enabled=False)] + tail
classes = ['boxing', 'handclapping', 'handwaving', 'jogging', 'running', 'walking']
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset', ann_file=f'{data_root}/train.txt', data_prefix=dict(video=data_root),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset', ann_file=f'{data_root}/test.txt', data_prefix=dict(video=data_root),
        pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='F1Metric', class_names=classes)
test_evaluator = val_evaluator
