from .parameter_statistics import parameter_statistics, table_2
from .temporal_figures import draw_distributions, draw_trajectories, save_figure
from .temporal_parameters import kernel_sizes, load_parameters, save_parameters, temporal_layers, temporal_parameters

__all__ = [
    'draw_distributions', 'draw_trajectories', 'kernel_sizes', 'load_parameters', 'parameter_statistics',
    'save_figure', 'save_parameters', 'table_2', 'temporal_layers', 'temporal_parameters'
]
