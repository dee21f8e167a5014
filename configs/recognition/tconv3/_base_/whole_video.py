# What Jester and UCF101 share (arXiv:1912.04075, appendix C): Adam, checked every 5 epochs, stopped when the validation
# accuracy goes down, the best checkpoint kept.
def loader(shuffle):
    return dict(
        num_workers=8,
        persistent_workers=True,
        pin_memory=True,
        sampler=dict(type='DefaultSampler', shuffle=shuffle))


train_dataloader = loader(shuffle=True)
val_dataloader = loader(shuffle=False)
test_dataloader = loader(shuffle=False)
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
hooks = [
    dict(type='CheckInvalidLossHook', interval=20),
    dict(type='EarlyStoppingHook', monitor='acc/top1', rule='greater', patience=1),
]
hooks_3t = [*hooks, dict(type='TemporalParamsHook', interval=5)]
