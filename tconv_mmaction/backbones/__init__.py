from .conv_lstm_net import ConvLSTMNet
from .googlenet3d import GoogLeNet3d
from .inception_i3d import InceptionI3d
from .lenet5 import LeNet5
from .moving_start import MotionOfClips
from .r2plus1d18 import R2Plus1d18
from .temporal_resnet3d import TemporalResNet3d

__all__ = ['ConvLSTMNet', 'GoogLeNet3d', 'InceptionI3d', 'LeNet5', 'MotionOfClips', 'R2Plus1d18', 'TemporalResNet3d']
