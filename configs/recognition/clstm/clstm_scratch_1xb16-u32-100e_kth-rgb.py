# C-LSTM of two layers on KTH, 32 frames over the whole sequence: 747,206 parameters; the paper's F1 is 0.84 and 0.78
# reversed. The linear layer sees all 32 steps.
_base_ = ['_base_/clstm.py', '_base_/kth.py', '_base_/plateau.py']

model = dict(backbone=dict(num_layers=2), cls_head=dict(num_classes=6, clip_len=32, feature_size=(7, 10)))
auto_scale_lr = dict(enable=False, base_batch_size=16)
