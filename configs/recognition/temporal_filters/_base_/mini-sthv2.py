# mini-SSv2: half of the classes of Something-Something v2 (tools/data/class_subset.py).
# Supplement, Table A: batch 24 (8 GPUs with 3), 35 epochs; 3 crops x 3 clips per test video.
_base_ = 'clips.py'

train_dataloader = dict(
    batch_size=3,
    dataset=dict(
        ann_file='data/mini-sthv2/train.txt',
        data_prefix=dict(video='data/sthv2/videos')))
val_dataloader = dict(
    batch_size=3,
    dataset=dict(
        ann_file='data/mini-sthv2/val.txt',
        data_prefix=dict(video='data/sthv2/videos')))
test_dataloader = dict(
    dataset=dict(
        ann_file='data/mini-sthv2/val.txt',
        data_prefix=dict(video='data/sthv2/videos'),
        pipeline={{_base_.test_pipeline_3_clips}}))

train_cfg = dict(max_epochs=35)
param_scheduler = [dict(type='MultiStepLR', milestones=[15, 30], gamma=0.1, by_epoch=True)]
auto_scale_lr = dict(enable=False, base_batch_size=24)
