# 3T-ResNet18 a quarter as wide, up to layer3, on spoken words; every filter starts with a random velocity
_base_ = ['../../_base_/default_runtime.py', '_base_/miracl.py']

model = dict(backbone=dict(temporal_cfg=dict(type='Conv3T', init='he', motion_std=(0.5, 0.3, 0.1))))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
default_hooks = dict(checkpoint=dict(save_best=None, max_keep_ckpts=1))
