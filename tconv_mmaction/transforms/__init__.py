from .ego_motion import EgoMotionCrop
from .random_rate import RandomRateSampleFrames

__all__ = ['EgoMotionCrop', 'RandomRateSampleFrames']
