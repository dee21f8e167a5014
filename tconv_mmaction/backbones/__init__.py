from .lenet5 import LeNet5
from .temporal_resnet3d import TemporalResNet3d

__all__ = ['LeNet5', 'TemporalResNet3d']
