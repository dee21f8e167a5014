# A small 3D-ResNet (two stages, 8 and 16 channels, all frames kept) with a 3T convolution as classifier: one motion per
# class, cls_head.conv (arXiv:2006.15983, sec. 4.2). The motion of each class of Video-MNIST is known.
_base_ = ['../../_base_/default_runtime.py', '../lenet5/_base_video-mnist.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='TemporalResNet3d',
        depth=18,
        base_channels=8,
        in_channels=1,
        pretrained=None,
        num_stages=2,
        out_indices=(1, ),
        temporal_kernels=(3, 3, 3),
        temporal_cfg=dict(type='Conv3d'),
        spatial_strides=(1, 1),
        temporal_strides=(1, 1),
        dilations=(1, 1)),
    cls_head=dict(
        _delete_=True, type='Conv3THead', num_classes=10, in_channels=16, kernel_size=(5, 5, 5),
        motion_std=(0.1, 0.1, 0.05), dropout_ratio=0., average_clips='prob'))

train_cfg = dict(max_epochs=10)

custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=20),
    dict(type='TemporalParamsHook', interval=5),
]
