# The paper's method: temporal kernels that grow with depth (1-1-3-3-5), multi-branch filters with a regularised
# average, random sampling rate and random camera ego-motion.
_base_ = 'i3d-r50_orig_imagenet-pretrained_8xb4-32x2x1-100e_sthv2-rgb.py'

model = dict(
    backbone=dict(
        temporal_kernels=(1, 1, 3, 3, 5),
        temporal_cfg=dict(type='MultiBranchConv3d', eta=2.0)))

train_dataloader = dict(dataset=dict(pipeline={{_base_.ours_train_pipeline}}))
