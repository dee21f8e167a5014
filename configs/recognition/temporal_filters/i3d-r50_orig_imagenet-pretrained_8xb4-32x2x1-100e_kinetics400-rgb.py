_base_ = [
    '../../_base_/default_runtime.py', '_base_/i3d-r50.py', '_base_/kinetics400.py', '_base_/augmentation.py'
]

model = dict(cls_head=dict(num_classes=400))

train_dataloader = dict(dataset=dict(pipeline={{_base_.orig_train_pipeline}}))
