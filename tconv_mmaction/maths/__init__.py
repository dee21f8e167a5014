"""The papers' equations in plain PyTorch: differentiable, on any device, without state. Everything faster in
:mod:`tconv_mmaction.ops` is tested against them."""
from .conv_lstm import Cell, lstm_update, steps
from .temporal_basis import analysis_matrix, apply_in_time, coefficients, cosine_basis, synthesis_matrix
from .temporal_transform import affine_matrix, resampling_matrices, slice_transforms, temporal_kernel

__all__ = [
    'Cell', 'affine_matrix', 'analysis_matrix', 'apply_in_time', 'coefficients', 'cosine_basis', 'lstm_update',
    'resampling_matrices', 'slice_transforms', 'steps', 'synthesis_matrix', 'temporal_kernel'
]
