# The training pipelines: random cropping ("orig"), and with random sampling rate and random camera ego-motion
# (section 4, "ours"). A config names one of them in its train_dataloader.
orig_train_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips=1),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='RandomCrop', size=224),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
ours_train_pipeline = [
    dict(type='DecordInit'),
    dict(type='RandomRateSampleFrames', clip_len=32, frame_intervals=(1, 4), test_interval=2, num_clips=1),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 256)),
    dict(type='EgoMotionCrop', crop_size=224, sigma=2.0),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
