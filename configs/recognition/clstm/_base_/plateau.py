# From scratch until the validation F1 stops rising: the learning rate falls by 10 after 4 epochs without a better one,
# training ends after 10, and the best checkpoint is kept. The paper prints no hyper-parameters (it refers to its web
# page); those here and the optimizers of the configs are ours.
_base_ = '../../../_base_/default_runtime.py'

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='ReduceOnPlateauLR', monitor='f1/mean', rule='greater', factor=0.1, patience=4, min_value=1e-6)
]
custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=20),
    dict(type='EarlyStoppingHook', monitor='f1/mean', rule='greater', min_delta=1e-4, patience=10),
]
default_hooks = dict(checkpoint=dict(save_best='f1/mean', rule='greater'))
randomness = dict(seed=0)
