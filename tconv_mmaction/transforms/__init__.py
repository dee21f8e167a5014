from .ego_motion import EgoMotionCrop
from .random_rate import RandomRateSampleFrames
from .reverse import ReverseFrames
from .whole_video import WholeVideoSampleFrames

__all__ = ['EgoMotionCrop', 'RandomRateSampleFrames', 'ReverseFrames', 'WholeVideoSampleFrames']
