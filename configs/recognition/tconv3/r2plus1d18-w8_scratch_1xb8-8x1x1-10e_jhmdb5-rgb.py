# R(2+1)D-18 an eighth as wide on five classes of J-HMDB; data and schedule as tools/data/class_folders.py writes them.
# It halves the frames three times: of 8 its last layer sees one, and the outer slices of the temporal kernels there
# padding only.
_base_ = ['_base_/r2plus1d18.py', '../../_base_/jhmdb5.py']

model = dict(backbone=dict(base_channels=8), cls_head=dict(num_classes=5, in_channels=64))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
