# 3T-ResNet18 an eighth as wide on five classes of J-HMDB; data, schedule and strides in time as
# tools/data/class_folders.py writes them
_base_ = ['_base_/resnet18.py', '../../_base_/jhmdb5.py']

model = dict(
    backbone=dict(
        base_channels=8,
        temporal_cfg=dict(type='Conv3T', init='he', motion_std=(0.5, 0.3, 0.1)),  # a random velocity per filter
        temporal_strides=(1, 1, 1, 1)),
    cls_head=dict(num_classes=5, in_channels=64))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
