# Jester, 27 gestures, 150x224 (HxW). The data set comes as folders of frames.
_base_ = 'whole_video.py'

# Appendix C.1: 30 frames that cover the whole video. Longer videos lose frames at equal intervals, of shorter ones the
# first and the last frame are repeated.
pipeline = [
    dict(type='WholeVideoSampleFrames', clip_len=30, short='duplicate_ends'),
    dict(type='RawFrameDecode'),
    dict(type='Resize', scale=(224, 150), keep_ratio=False),  # (width, height)
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
dataset = dict(
    type='RawframeDataset',
    data_prefix=dict(img='data/jester/rawframes'),
    filename_tmpl='{:05}.jpg',
    pipeline=pipeline)
train_dataloader = dict(dataset=dict(ann_file='data/jester/jester_train_list_rawframes.txt', **dataset))
val_dataloader = dict(
    dataset=dict(ann_file='data/jester/jester_val_list_rawframes.txt', test_mode=True, **dataset))
test_dataloader = dict(
    dataset=dict(ann_file='data/jester/jester_val_list_rawframes.txt', test_mode=True, **dataset))

head = dict(
    num_classes=27,
    loss_cls=dict(
        type='ClassWeightedCrossEntropyLoss',
        ann_file='data/jester/jester_train_list_rawframes.txt',
        num_classes=27))
