# I3D on Something-Something V2, 16 frames over the whole video: 12,465,614 parameters; the paper's validation F1 is
# 0.43 (top-1) and 0.09 reversed.
_base_ = ['_base_/i3d.py', '_base_/sthv2.py', '_base_/plateau.py']

model = dict(cls_head=dict(num_classes=174))
auto_scale_lr = dict(enable=False, base_batch_size=64)
