# ResNet18 with 3TConv on Jester, ImageNet weights. Batch 32 on one GPU.
_base_ = ['../../_base_/default_runtime.py', '_base_/resnet18.py', '_base_/jester.py']

model = dict(
    backbone=dict(
        # transforms from the identity, K_1 from N(0, 1) where no weights are given: the paper's start, to repeat the
        # paper; others train faster (docs/conv3t.md, Training)
        temporal_cfg=dict(type='Conv3T', init='paper'),
        # ImageNet weights: unscaled as the first slice K_1
        pretrained='https://download.pytorch.org/models/resnet18-f37072fd.pth'),
    cls_head={{_base_.head}})

train_dataloader = dict(batch_size=32)
val_dataloader = dict(batch_size=32)
test_dataloader = dict(batch_size=32)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-5))
custom_hooks = {{_base_.hooks_3t}}
auto_scale_lr = dict(enable=False, base_batch_size=32)
