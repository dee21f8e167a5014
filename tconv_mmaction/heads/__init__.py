from .class_weighted_loss import ClassWeightedCrossEntropyLoss
from .conv3t_head import Conv3THead
from .googlenet_head import GoogLeNetHead
from .sequence_head import SequenceHead

__all__ = ['ClassWeightedCrossEntropyLoss', 'Conv3THead', 'GoogLeNetHead', 'SequenceHead']
