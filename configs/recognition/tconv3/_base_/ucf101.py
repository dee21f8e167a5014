# UCF101 split 1, 101 actions, 168x224 (HxW). As in the paper, the first half of the test list (1,891 of
# 3,783 videos, in the order of the list) validates.
_base_ = 'whole_video.py'

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
dataset = dict(
    type='VideoDataset',
    data_prefix=dict(video='data/ucf101/videos'),
    pipeline=pipeline)
train_dataloader = dict(dataset=dict(ann_file='data/ucf101/ucf101_train_split_1_videos.txt', **dataset))
val_dataloader = dict(
    dataset=dict(ann_file='data/ucf101/ucf101_val_split_1_videos.txt', test_mode=True, indices=1891, **dataset))
test_dataloader = dict(
    dataset=dict(ann_file='data/ucf101/ucf101_val_split_1_videos.txt', test_mode=True, **dataset))

head = dict(num_classes=101)
