# (2+1)D-ResNet18 a quarter as wide, up to layer3, on spoken words: 1x3x3, BN, ReLU, 3x1x1; the stem is 3D
_base_ = ['../../_base_/default_runtime.py', '_base_/miracl.py']

model = dict(backbone=dict(temporal_cfg=dict(type='SeparableConv3d')))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=3e-3))
default_hooks = dict(checkpoint=dict(save_best=None, max_keep_ckpts=1))
