# The transforms of 3T at ten times the learning rate of everything else, and without weight decay, which would pull the
# scale to 0. For networks that start from the identity (docs/motion_starts.md says what it is worth):
#   _base_ = ['PATH/resnet18-3t_....py', 'PATH/configs/_base_/transforms_x10.py']
#   optim_wrapper = dict(paramwise_cfg={{_base_.transforms_x10}})
transforms_x10 = dict(custom_keys={
    '.scale': dict(lr_mult=10., decay_mult=0.),
    '.rotate': dict(lr_mult=10., decay_mult=0.),
    '.translate_x': dict(lr_mult=10., decay_mult=0.),
    '.translate_y': dict(lr_mult=10., decay_mult=0.)})
