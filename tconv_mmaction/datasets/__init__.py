from .video_mnist import VideoMNIST

__all__ = ['VideoMNIST']
