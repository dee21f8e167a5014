from .tolerant_video_dataset import TolerantVideoDataset
from .video_mnist import VideoMNIST

__all__ = ['TolerantVideoDataset', 'VideoMNIST']
