from ..ops.conv3t.shared_transforms import share_transforms
from .conv3t import TEMPORAL_PARAMETERS, Conv3T
from .conv_lstm2d import ConvLSTM2d
from .deploy import switch_to_deploy
from .multi_branch_conv3d import DeployedConv3d, MultiBranchConv3d
from .separable_conv3d import SeparableConv3d
from .single_filters import accept_single_filters

__all__ = [
    'Conv3T', 'ConvLSTM2d', 'DeployedConv3d', 'MultiBranchConv3d', 'SeparableConv3d', 'TEMPORAL_PARAMETERS',
    'accept_single_filters', 'share_transforms', 'switch_to_deploy'
]
