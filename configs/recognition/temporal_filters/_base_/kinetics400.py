# Kinetics-400: 241,181 training and 19,877 test videos.
# Supplement, Table A: batch 32 (8 GPUs with 4), 100 epochs; 3 crops x 10 clips per test video.
_base_ = 'clips.py'

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='data/kinetics400/kinetics400_train_list_videos.txt',
        data_prefix=dict(video='data/kinetics400/videos_train')))
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file='data/kinetics400/kinetics400_val_list_videos.txt',
        data_prefix=dict(video='data/kinetics400/videos_val')))
test_dataloader = dict(
    dataset=dict(
        ann_file='data/kinetics400/kinetics400_val_list_videos.txt',
        data_prefix=dict(video='data/kinetics400/videos_val'),
        pipeline={{_base_.test_pipeline_10_clips}}))

train_cfg = dict(max_epochs=100)
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)]  # over all of max_epochs
auto_scale_lr = dict(enable=False, base_batch_size=32)
