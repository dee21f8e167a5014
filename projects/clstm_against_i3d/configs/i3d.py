# I3D for J-HMDB sit/stand: a quarter of the channels (narrow_i3d.py), the strides in time of the C-LSTM paper, and the
# optimizer of the C-LSTM beside it.
_base_ = ['../../../configs/recognition/clstm/_base_/i3d.py', '_base_jhmdb.py']

model = dict(
    backbone=dict(_delete_=True, type='NarrowInceptionI3d', width=0.25, temporal_strides=(1, 1, 2), norm_momentum=0.1),
    cls_head=dict(num_classes=2, in_channels=256, topk=(1, )))
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3),
    clip_grad=dict(max_norm=10., norm_type=2))
