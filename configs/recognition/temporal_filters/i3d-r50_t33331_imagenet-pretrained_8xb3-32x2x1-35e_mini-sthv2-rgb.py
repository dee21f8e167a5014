# Table 2, row h.
_base_ = 'i3d-r50_orig_imagenet-pretrained_8xb3-32x2x1-35e_mini-sthv2-rgb.py'

model = dict(backbone=dict(temporal_kernels=(3, 3, 3, 3, 1)))
