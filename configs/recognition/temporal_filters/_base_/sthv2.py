# Something-Something v2: 168,913 training and 24,777 test videos.
# Supplement, Table A: batch 32 (8 GPUs with 4), 100 epochs; 3 crops x 3 clips per test video.
_base_ = 'clips.py'

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='data/sthv2/sthv2_train_list_videos.txt',
        data_prefix=dict(video='data/sthv2/videos')))
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='data/sthv2/sthv2_val_list_videos.txt',
        data_prefix=dict(video='data/sthv2/videos')))
test_dataloader = dict(
    dataset=dict(
        ann_file='data/sthv2/sthv2_val_list_videos.txt',
        data_prefix=dict(video='data/sthv2/videos'),
        pipeline={{_base_.test_pipeline_3_clips}}))

train_cfg = dict(max_epochs=100)
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)]  # over all of max_epochs
auto_scale_lr = dict(enable=False, base_batch_size=32)
