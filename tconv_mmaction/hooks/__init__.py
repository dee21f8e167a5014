from .check_invalid_loss_hook import CheckInvalidLossHook
from .deploy_model_hook import DeployModelHook
from .temporal_params_hook import TemporalParamsHook
from .temporal_params_watch_hook import TemporalParamsError, TemporalParamsWatchHook

__all__ = [
    'CheckInvalidLossHook', 'DeployModelHook', 'TemporalParamsHook', 'TemporalParamsError', 'TemporalParamsWatchHook'
]
