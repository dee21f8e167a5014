# Clips of 32 frames at interval 2 (Kobayashi and Ye, supplement): SGD; tested on 3 crops of 256x256 of several clips,
# whose scores are summed. The paper does not say how it validated: here on one centre clip.
def clip_pipeline(num_clips, crop):
    return [
        dict(type='DecordInit'),
        dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips=num_clips, test_mode=True),
        dict(type='DecordDecode'),
        dict(type='Resize', scale=(-1, 256)),
        crop,
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs'),
    ]


test_pipeline_3_clips = clip_pipeline(3, dict(type='ThreeCrop', crop_size=256))
test_pipeline_10_clips = clip_pipeline(10, dict(type='ThreeCrop', crop_size=256))


def loader(shuffle, batch_size=1, **dataset):
    return dict(
        batch_size=batch_size,
        num_workers=8,
        persistent_workers=True,
        pin_memory=True,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        dataset=dict(type='VideoDataset', **dataset))


train_dataloader = loader(shuffle=True)
val_dataloader = loader(
    shuffle=False, test_mode=True, pipeline=clip_pipeline(1, dict(type='CenterCrop', crop_size=224)))
test_dataloader = loader(shuffle=False, test_mode=True)
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4))
