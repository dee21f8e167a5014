from .confine_paths import ConfinePaths
from .data_preprocessor import ActionDataPreprocessor
from .decord_video import DecordDecode, DecordInit, UnreadableVideoError
from .ego_motion import EgoMotionCrop
from .packed_decode import PackedDecode, PackedResize
from .random_rate import RandomRateSampleFrames
from .reverse import ReverseFrames
from .to_grey import ToGrey
from .whole_video import WholeVideoSampleFrames

__all__ = ['ActionDataPreprocessor', 'ConfinePaths', 'DecordDecode', 'DecordInit', 'EgoMotionCrop', 'PackedDecode',
           'PackedResize', 'RandomRateSampleFrames', 'ReverseFrames', 'ToGrey', 'UnreadableVideoError',
           'WholeVideoSampleFrames']
