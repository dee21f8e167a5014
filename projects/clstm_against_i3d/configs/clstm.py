# C-LSTM for J-HMDB sit/stand: the layout of the paper's KTH network (two layers, 5x5, a linear layer over all steps)
# with 16 channels instead of 32, at 16 frames of 48x64. One BatchNorm per layer, whose mean and variance are over all
# steps of a clip: clstm_shared.py has the paper's, docs/clstm_against_i3d.md what that does here.
_base_ = ['../../../configs/recognition/clstm/_base_/clstm.py', '_base_jhmdb.py']

model = dict(
    backbone=dict(num_layers=2, hidden_channels=16, shared_norm=False, norm_statistics='clip'),
    cls_head=dict(num_classes=2, in_channels=16, clip_len=16, feature_size=(3, 4), topk=(1, )))
