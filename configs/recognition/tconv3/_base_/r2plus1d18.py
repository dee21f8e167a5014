# R(2+1)D-18 in torchvision's layout, which the 3TConv paper compares with. It gives no learning rate for it: here that
# of its 3D networks.
model = dict(
    type='Recognizer3D',
    backbone=dict(type='R2Plus1d18'),
    cls_head=dict(
        type='I3DHead', in_channels=512, spatial_type='avg', dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
