# C-LSTM on Something-Something V2, 16 frames over the whole video: 1,324,014 parameters; the paper's validation F1 is
# 0.23 (top-1) and 0.05 reversed. The linear layer sees all 16 steps.
# --cfg-options model.backbone.checkpoint_steps=4 trains in less memory, with the same numbers.
_base_ = ['_base_/clstm.py', '_base_/sthv2.py', '_base_/plateau.py']

model = dict(cls_head=dict(num_classes=174, clip_len=16, feature_size=(3, 3)))
auto_scale_lr = dict(enable=False, base_batch_size=64)
