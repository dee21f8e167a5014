# R(2+1)D-18 on Jester, with the switches for a GPU (docs/recipes.md): bfloat16 and channels last.
_base_ = 'r2plus1d18_scratch_1xb32-30x1x1-100e_jester-rgb.py'

optim_wrapper = dict(type='BF16OptimWrapper')
default_hooks = dict(channels_last=dict(type='ChannelsLastHook'))
