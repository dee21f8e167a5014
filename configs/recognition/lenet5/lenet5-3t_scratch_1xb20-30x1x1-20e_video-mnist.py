# LeNet-5-3T on Video-MNIST (arXiv:1912.04075, appendix B): 254,058 parameters, Adam 1e-3, batch 20, 20 epochs.
# The digits are scikit-learn's unless data_root names a folder with the MNIST idx files:
#   --cfg-options data_root=data/mnist train_dataloader.dataset.data_root=data/mnist ... (see README)
_base_ = ['../../_base_/default_runtime.py', '_base_video-mnist.py']

model = dict(backbone=dict(temporal_cfg=dict(type='Conv3T', init='paper')))

custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=20),
    dict(type='TemporalParamsHook', interval=5),
]
