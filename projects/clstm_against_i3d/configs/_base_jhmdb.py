# J-HMDB, sit against stand: data and schedule of ../clstm_against_i3d.py, the same for both networks.
# The whole video in 16 frames, the whole image in 48x64 (HxW), one fifth of 240x320. A mirrored sitting person still
# sits, so clips are flipped at random in training; nothing else is drawn.
# The number of epochs is fixed and the last checkpoint is the one tested: there are no clips to choose another on but
# those of the test list.
# narrow_i3d.py and keep_frames.py must be found: PYTHONPATH=projects/clstm_against_i3d/configs, which the driver sets.
_base_ = '../../../configs/_base_/default_runtime.py'
custom_imports = dict(imports=['tconv_mmaction', 'keep_frames', 'narrow_i3d'], allow_failed_imports=False)

data_root = 'data/jhmdb'
max_epochs = 15
head = [
    dict(type='DecordInit'),
    dict(type='WholeVideoSampleFrames', clip_len=16),
]
tail = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
decode = [
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(64, 48), keep_ratio=False),
]
# pipeline.2.enabled=True plays the clips backwards
test_pipeline = head + [dict(type='ReverseFrames', enabled=False)] + decode + tail
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset', ann_file=f'{data_root}/sitstand_train_split1.txt',
        data_prefix=dict(video=f'{data_root}/videos'),
        pipeline=[dict(type='KeepFrames', transforms=head + decode), dict(type='Flip', flip_ratio=0.5)] + tail))
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset', ann_file=f'{data_root}/sitstand_test_split1.txt',
        data_prefix=dict(video=f'{data_root}/videos'), pipeline=test_pipeline, test_mode=True))
test_evaluator = dict(type='F1Metric', topk=(1, ), class_names=['sit', 'stand'])

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs)
test_cfg = dict(type='TestLoop')
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True)]
# save_best needs validation, which there is none of
default_hooks = dict(
    logger=dict(interval=1000),  # ignore_last=False: at the end of every epoch
    checkpoint=dict(_delete_=True, type='CheckpointHook', interval=5, max_keep_ckpts=1))
log_processor = dict(window_size=7)  # 52 or 53 clips in batches of 8: the mean over one epoch
randomness = dict(seed=0)
