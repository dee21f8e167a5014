# Model, data and schedule of the Video-MNIST configs; only the type of the convolutions differs between them.
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', channels=(6, 16), in_channels=1, clip_shape=(30, 28, 28)),
    # 0.063 is the spread of nn.Linear's own initialisation for 84 inputs
    cls_head=dict(
        type='I3DHead', num_classes=10, in_channels=84, spatial_type='avg', dropout_ratio=0., init_std=0.063,
        average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW'))

pipeline = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
# for video files (inference_recognizer, MMAction2Inferencer, tools/demo/video_demo.py); the data set draws its own
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=30),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(28, 28), keep_ratio=False),
    dict(type='ToGrey'),
    *pipeline,
]
dataset = dict(type='VideoMNIST', data_root=None, pipeline=pipeline)

train_dataloader = dict(
    batch_size=20,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', **dataset))
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, **dataset))
test_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', test_mode=True, **dataset))
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
auto_scale_lr = dict(enable=False, base_batch_size=20)
randomness = dict(seed=0)
