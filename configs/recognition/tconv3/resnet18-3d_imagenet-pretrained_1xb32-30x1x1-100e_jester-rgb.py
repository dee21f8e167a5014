# ResNet18 with 3D convolutions on Jester, ImageNet weights. Batch 32 on one GPU.
_base_ = ['../../_base_/default_runtime.py', '_base_/resnet18.py', '_base_/jester.py']

model = dict(
    backbone=dict(
        temporal_cfg=dict(type='Conv3d'),
        # ImageNet weights: repeated along time, divided by the kernel's depth
        pretrained='https://download.pytorch.org/models/resnet18-f37072fd.pth'),
    cls_head={{_base_.head}})

train_dataloader = dict(batch_size=32)
val_dataloader = dict(batch_size=32)
test_dataloader = dict(batch_size=32)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-6))
custom_hooks = {{_base_.hooks}}
auto_scale_lr = dict(enable=False, base_batch_size=32)
