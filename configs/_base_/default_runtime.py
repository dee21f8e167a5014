# What every config of this repository shares: MMEngine's standard runtime, with our registry names imported.
default_scope = 'mmaction'
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)

default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, ignore_last=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, save_best='auto', max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    sync_buffers=dict(type='SyncBuffersHook'),
    exact_resume=dict(type='ExactResumeHook'),
    check_setup=dict(type='CheckSetupHook'),
    compile_progress=dict(type='CompileProgressHook'),
    unreadable_clips=dict(type='UnreadableClipsHook'),
    temporal_params_watch=dict(type='TemporalParamsWatchHook', interval=50))
custom_hooks = [dict(type='CheckInvalidLossHook', interval=20)]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl', timeout=1800))  # seconds until a process that no longer answers ends the job

log_processor = dict(type='LogProcessor', window_size=20, by_epoch=True)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='ActionVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
