# I3D-ResNet-18, Table 1: t1 to t5 are the temporal lengths of conv1 and of the 3x3 convolutions of conv2 to conv5.
# Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification", WACV 2024.
model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='TemporalResNet3d',
        depth=18,
        temporal_kernels=(3, 3, 3, 3, 3),
        temporal_cfg=dict(type='Conv3d'),
        # ImageNet weights, inflated; a path to the downloaded file does as well
        pretrained='https://download.pytorch.org/models/resnet18-f37072fd.pth'),
    cls_head=dict(
        type='I3DHead', in_channels=512, spatial_type='avg', dropout_ratio=0.5, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
