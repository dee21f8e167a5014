from .class_weighted_loss import ClassWeightedCrossEntropyLoss
from .googlenet_head import GoogLeNetHead
from .sequence_head import SequenceHead

__all__ = ['ClassWeightedCrossEntropyLoss', 'GoogLeNetHead', 'SequenceHead']
