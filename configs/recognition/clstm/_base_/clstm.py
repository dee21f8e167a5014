# The C-LSTM of "Interpreting Video Features" (ACCV 2020). Gradients through time may explode, so they are clipped.
model = dict(
    type='Recognizer3D',
    backbone=dict(type='ConvLSTMNet', num_layers=3, hidden_channels=32, kernel_size=5, stride=2, shared_norm=True),
    cls_head=dict(type='SequenceHead', in_channels=32, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, format_shape='NCTHW'))
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3), clip_grad=dict(max_norm=10., norm_type=2))
