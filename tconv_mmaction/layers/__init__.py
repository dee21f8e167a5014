from .conv3t import TEMPORAL_PARAMETERS, Conv3T
from .deploy import switch_to_deploy
from .separable_conv3d import SeparableConv3d

__all__ = ['Conv3T', 'SeparableConv3d', 'TEMPORAL_PARAMETERS', 'switch_to_deploy']
