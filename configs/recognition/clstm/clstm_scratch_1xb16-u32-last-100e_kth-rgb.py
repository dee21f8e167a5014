# The KTH C-LSTM classified from its last step only: 330,566 parameters. It takes clips of any length, so
# tools/demo/stream_clstm.py gives a result at every frame of a video of any length.
_base_ = './clstm_scratch_1xb16-u32-100e_kth-rgb.py'

model = dict(cls_head=dict(steps='last', clip_len=None))
