# clstm.py with the paper's normalisation: one BatchNorm for all layers, each step normalised by itself in training.
_base_ = './clstm.py'

model = dict(backbone=dict(shared_norm=True, norm_statistics='step'))
