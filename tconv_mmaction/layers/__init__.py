from .conv3t import TEMPORAL_PARAMETERS, Conv3T
from .deploy import switch_to_deploy

__all__ = ['Conv3T', 'TEMPORAL_PARAMETERS', 'switch_to_deploy']
