_base_ = [
    '../../_base_/default_runtime.py', '_base_/i3d-r18.py', '_base_/mini-kinetics400.py', '_base_/augmentation.py'
]

model = dict(cls_head=dict(num_classes=200))

train_dataloader = dict(dataset=dict(pipeline={{_base_.orig_train_pipeline}}))
