# ResNet18 in time, 3T or 3D (arXiv:1912.04075, arXiv:2006.15983): every spatial kernel is as deep as it is wide, and
# the stem, the pool and stages 2 to 4 halve the frames too. Only temporal_cfg and the weights differ between configs.
model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='TemporalResNet3d',
        depth=18,
        temporal_kernels=(7, 3, 3, 3, 3),
        conv1_stride_t=2,
        pool1_kernel=(3, 3, 3),
        pool1_stride_t=2,
        temporal_strides=(1, 2, 2, 2)),
    cls_head=dict(
        type='I3DHead', in_channels=512, spatial_type='avg', dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
