# C-LSTM on SSv2, with the switches for a GPU (docs/recipes.md): bfloat16.
_base_ = 'clstm_scratch_8xb8-u16-100e_sthv2-rgb.py'

optim_wrapper = dict(type='BF16OptimWrapper')
