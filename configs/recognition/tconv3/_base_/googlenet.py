# GoogLeNet in time, 3T or 3D (arXiv:1912.04075, arXiv:2006.15983), with two auxiliary classifiers in training.
model = dict(
    type='Recognizer3D',
    backbone=dict(type='GoogLeNet3d', out_layers=('inception4a', 'inception4d', 'inception5b')),
    cls_head=dict(
        type='GoogLeNetHead', in_channels=1024, dropout_ratio=0.4, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCTHW'))
