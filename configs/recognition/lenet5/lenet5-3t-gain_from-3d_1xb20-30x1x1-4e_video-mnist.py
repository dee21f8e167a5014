# LeNet-5-3T with gains, fine-tuned from a trained LeNet-5-3D whose kernels were read as 3T kernels (docs/fit.md).
# First write the start: python tools/convert/fit_3t.py THIS_CONFIG zoo/lenet5-3d_video-mnist-ad0119b4.pth
# work_dirs/lenet5-3t-gain_fitted.pth
_base_ = ['../../_base_/default_runtime.py', '_base_video-mnist.py']

model = dict(backbone=dict(temporal_cfg=dict(type='Conv3T', init='paper', gain=True)))

load_from = 'work_dirs/lenet5-3t-gain_fitted.pth'
train_cfg = dict(max_epochs=4)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=20),
    dict(type='TemporalParamsHook', interval=1),
]
