from ..optim.bf16_optim_wrapper import BF16OptimWrapper
from .channels_last_hook import ChannelsLastHook
from .check_invalid_loss_hook import CheckInvalidLossHook
from .check_setup_hook import CheckSetupHook
from .compile_progress_hook import CompileProgressHook
from .deploy_model_hook import DeployModelHook
from .exact_resume_hook import ExactResumeHook
from .temporal_params_hook import TemporalParamsHook
from .temporal_params_watch_hook import TemporalParamsError, TemporalParamsWatchHook
from .unreadable_clips_hook import UnreadableClipsHook

__all__ = [
    'BF16OptimWrapper', 'ChannelsLastHook', 'CheckInvalidLossHook', 'CheckSetupHook',
    'CompileProgressHook', 'DeployModelHook', 'ExactResumeHook',
    'TemporalParamsError', 'TemporalParamsHook', 'TemporalParamsWatchHook', 'UnreadableClipsHook'
]
