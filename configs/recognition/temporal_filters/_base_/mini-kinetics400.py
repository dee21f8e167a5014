# mini-Kinetics: half of the classes of Kinetics-400 (tools/data/class_subset.py).
# Supplement, Table A: batch 32 (8 GPUs with 4), 45 epochs; 3 crops x 10 clips per test video.
_base_ = 'clips.py'

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='data/mini-kinetics400/train.txt',
        data_prefix=dict(video='data/kinetics400/videos_train')))
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='data/mini-kinetics400/val.txt',
        data_prefix=dict(video='data/kinetics400/videos_val')))
test_dataloader = dict(
    dataset=dict(
        ann_file='data/mini-kinetics400/val.txt',
        data_prefix=dict(video='data/kinetics400/videos_val'),
        pipeline={{_base_.test_pipeline_10_clips}}))

train_cfg = dict(max_epochs=45)
param_scheduler = [dict(type='MultiStepLR', milestones=[15, 30], gamma=0.1, by_epoch=True)]
auto_scale_lr = dict(enable=False, base_batch_size=32)
