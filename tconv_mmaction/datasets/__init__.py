from .tolerant_video_dataset import TolerantVideoDataset
from .unreadable_sample import UnreadableSample
from .video_mnist import VideoMNIST

__all__ = ['TolerantVideoDataset', 'UnreadableSample', 'VideoMNIST']
