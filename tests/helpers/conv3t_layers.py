"""Conv3T layers of the golden files, and layers away from the identity."""
import torch

from helpers.paths import golden
from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T

GOLDEN = golden('conv3t_*.npz')


def golden_layer(data, dtype):
    out_channels, in_channels, *kernel_size = data['kernel'].shape
    layer = Conv3T(in_channels, out_channels, tuple(kernel_size), stride=data['stride'].tolist(),
                   padding=data['padding'].tolist()).to(dtype)
    names = ('weight', 'bias', *TEMPORAL_PARAMETERS)
    layer.load_state_dict({name: torch.tensor(data[name]) for name in names})
    return layer


def generic_layer(*args, spread=0.3, **kwargs):
    """A layer away from the identity, where everything is smooth."""
    layer = Conv3T(*args, **kwargs).double()
    with torch.no_grad():
        for name in TEMPORAL_PARAMETERS:
            parameter = getattr(layer, name)
            parameter += spread * torch.randn(parameter.shape, dtype=parameter.dtype)
    return layer
