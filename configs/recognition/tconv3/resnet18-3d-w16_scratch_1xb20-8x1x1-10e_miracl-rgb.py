# 3D-ResNet18 a quarter as wide, up to layer3, on spoken words
_base_ = ['../../_base_/default_runtime.py', '_base_/miracl.py']

model = dict(backbone=dict(temporal_cfg=dict(type='Conv3d')))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=3e-4))
default_hooks = dict(checkpoint=dict(save_best=None, max_keep_ckpts=1))
