from .deploy_model_hook import DeployModelHook
from .temporal_params_hook import TemporalParamsHook

__all__ = ['DeployModelHook', 'TemporalParamsHook']
