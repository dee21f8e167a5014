# GoogLeNet with 3TConv on Jester, ImageNet weights. Batch 20 on one GPU.
_base_ = ['../../_base_/default_runtime.py', '_base_/googlenet.py', '_base_/jester.py']

model = dict(
    backbone=dict(
        temporal_cfg=dict(type='Conv3T'),
        # ImageNet weights: unscaled as the first slice K_1
        transform_input=True,  # torchvision's weights want pixels in [-1, 1]
        pretrained='https://download.pytorch.org/models/googlenet-1378be20.pth'),
    cls_head={{_base_.head}})

train_dataloader = dict(batch_size=20)
val_dataloader = dict(batch_size=20)
test_dataloader = dict(batch_size=20)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-5))
custom_hooks = {{_base_.hooks_3t}}
auto_scale_lr = dict(enable=False, base_batch_size=20)
