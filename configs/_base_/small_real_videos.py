# Short clips of a small set of real videos: loaders and ten epochs. There is no third list, so nothing is chosen and
# the last epoch is tested. Lists, pipelines and batch sizes are those of the configs that build on it.
train_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='VideoDataset'))
test_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='VideoDataset', test_mode=True))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(type='AccMetric')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10, val_interval=10)
