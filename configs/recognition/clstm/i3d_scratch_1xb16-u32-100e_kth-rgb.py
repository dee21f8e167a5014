# I3D on KTH, 32 frames over the whole sequence: 12,293,414 parameters; the paper's F1 is 0.86 and 0.80 reversed.
_base_ = ['_base_/i3d.py', '_base_/kth.py', '_base_/plateau.py']

model = dict(cls_head=dict(num_classes=6))
auto_scale_lr = dict(enable=False, base_batch_size=16)
