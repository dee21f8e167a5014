# C-LSTM with two layers of 16 channels (half of the paper's) on spoken words; a third layer would have no pixel left of
# 32x64. Data and schedule as tools/data/class_folders.py writes them.
_base_ = ['_base_/clstm.py', '../../_base_/miracl_words.py']

model = dict(
    backbone=dict(num_layers=2, hidden_channels=16, shared_norm=False, norm_statistics='clip'),
    cls_head=dict(num_classes=10, in_channels=16, clip_len=8, feature_size=(2, 4)))
