# Inception-I3D as in "Interpreting Video Features" (ACCV 2020): stride 1 in time in the first convolution and the pool
# before Mixed_4b, so that Mixed_5c has half as many time steps as the clip.
model = dict(
    type='Recognizer3D',
    backbone=dict(type='InceptionI3d', temporal_strides=(1, 1, 2)),
    cls_head=dict(type='I3DHead', in_channels=1024, dropout_ratio=0.5, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, format_shape='NCTHW'))
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=40., norm_type=2))
