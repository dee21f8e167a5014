# R(2+1)D-18 on Jester, from scratch, for which the paper gives no settings. Batch 32 on one GPU.
_base_ = ['../../_base_/default_runtime.py', '_base_/r2plus1d18.py', '_base_/jester.py']

model = dict(
    cls_head={{_base_.head}})

train_dataloader = dict(batch_size=32)
val_dataloader = dict(batch_size=32)
test_dataloader = dict(batch_size=32)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-6))
custom_hooks = {{_base_.hooks}}
auto_scale_lr = dict(enable=False, base_batch_size=32)
