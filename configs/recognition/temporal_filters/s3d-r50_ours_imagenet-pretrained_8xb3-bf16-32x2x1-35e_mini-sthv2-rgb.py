# S3D-ResNet50 by the paper on mini-SSv2 with the switches for a GPU (docs/recipes.md): bfloat16, channels last.
_base_ = 's3d-r50_ours_imagenet-pretrained_8xb3-32x2x1-35e_mini-sthv2-rgb.py'

optim_wrapper = dict(type='BF16OptimWrapper')
default_hooks = dict(channels_last=dict(type='ChannelsLastHook'))
