# 3T-ResNet18 an eighth as wide (8, 16, 32, 64 channels) on Video-MNIST: strides, pools and temporal lengths are the
# paper's, the data and their loading those of lenet5/. It trains on a CPU in a minute or two.
_base_ = ['../../_base_/default_runtime.py', '../lenet5/_base_video-mnist.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='TemporalResNet3d',
        depth=18,
        base_channels=8,
        in_channels=1,
        pretrained=None,
        temporal_kernels=(7, 3, 3, 3, 3),
        temporal_cfg=dict(type='Conv3T', init='paper'),
        conv1_stride_t=2,
        pool1_kernel=(3, 3, 3),
        pool1_stride_t=2,
        temporal_strides=(1, 2, 2, 2)),
    cls_head=dict(
        _delete_=True, type='I3DHead', num_classes=10, in_channels=64, spatial_type='avg', dropout_ratio=0.,
        average_clips='prob'))

train_cfg = dict(max_epochs=10)

custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=20),
    dict(type='TemporalParamsHook', interval=5),
]
