from .packed_video_dataset import PackedVideoDataset
from .tolerant_video_dataset import TolerantVideoDataset
from .unreadable_sample import UnreadableSample
from .video_mnist import VideoMNIST

__all__ = ['PackedVideoDataset', 'TolerantVideoDataset', 'UnreadableSample', 'VideoMNIST']
