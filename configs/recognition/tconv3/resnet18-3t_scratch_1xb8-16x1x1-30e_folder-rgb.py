# 3T-ResNet18 on a folder of your own videos: 16 frames over the whole video, 112x112. With ImageNet weights:
#   --cfg-options model.backbone.pretrained=PATH_OF_resnet18.pth
_base_ = ['../../_base_/default_runtime.py', '_base_/resnet18.py', '_base_/folder.py']

model = dict(
    # every filter starts with a random velocity: from the paper's start, the identity, the transforms hardly move in a
    # short training (docs/motion_starts.md). In 16 frames two halvings less than for 30: no slice of a temporal kernel
    # lies outside of the clip.
    backbone=dict(
        temporal_cfg=dict(type='Conv3T', init='he', motion_std=(0.5, 0.3, 0.1)), temporal_strides=(1, 2, 1, 1)),
    cls_head=dict(num_classes=2))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)]  # over all of max_epochs
# the last checkpoint, to go on from, and the best one
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(max_keep_ckpts=1))
custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=5),
    dict(type='TemporalParamsHook', interval=5),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
