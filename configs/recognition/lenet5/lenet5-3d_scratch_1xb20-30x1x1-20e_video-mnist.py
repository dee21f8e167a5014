# LeNet-5-3D on Video-MNIST, the plain 3D convolution beside lenet5-3t_*: 263,906 parameters.
_base_ = ['../../_base_/default_runtime.py', '_base_video-mnist.py']

model = dict(backbone=dict(temporal_cfg=dict(type='Conv3d')))
