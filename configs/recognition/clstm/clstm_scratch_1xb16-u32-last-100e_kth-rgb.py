# The KTH C-LSTM classified from its last step only: 330,566 parameters. It takes clips of any length, and
# tools/demo/stream_clstm.py can follow a video that never ends.
_base_ = './clstm_scratch_1xb16-u32-100e_kth-rgb.py'

model = dict(cls_head=dict(steps='last', clip_len=None))
