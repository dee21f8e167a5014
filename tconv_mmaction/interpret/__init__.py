from .access.adapters import RecognizerScores
from .access.modules import find_layer
from .class_channels import channel_contributions, channel_table, draw_class_channels, summarize_contributions
from .comparison.blob_metrics import BlobMetrics, blob_metrics, detect_blobs
from .comparison.mask_metrics import drop_difference, drop_ratio, mask_length, summarize, welch_test
from .deletion_insertion import DeletionInsertion, deletion_insertion
from .disjoint_masks import find_disjoint_masks
from .explanation_scores import (
    ExplanationScore,
    against,
    areas,
    explanation_scores,
    joined,
    method_curves,
    method_maps,
    summarize_scores,
)
from .fit_temporal_parameters import FittedMotion, fit_temporal_parameters
from .freeze import freeze_frames, mask_runs, reverse_frames
from .grad_cam import grad_cam, normalise_maps, upsample_maps
from .integrated_gradients import integrated_gradients
from .maximize_activation import MaximizedActivation, maximize_activation
from .methods import METHODS, explain_clip, over_frames, register_method
from .model_motion import LayerMotion, fit_kernels, fittable_kernels
from .motion_ladder import Ladder, motion_ladder
from .motion_null import MotionNull, motion_null
from .occlusion import occlusion, temporal_occlusion
from .parameter_statistics import parameter_statistics, table_2
from .perturbations import PERTURBATIONS, perturb
from .pictures.figure_files import save_figure
from .pictures.temporal_figures import draw_distributions, draw_trajectories
from .randomization_check import RandomizationCheck, randomization_check
from .receptive_field import effective_receptive_field, field_marginals
from .saliency import channel_saliency, most_active_channels, saliency, strongest_frame
from .smooth_grad import smooth_grad
from .temporal_filters import (
    energy_table,
    filter_distribution,
    primary_temporal_filters,
    temporal_axes,
    temporal_kernels,
)
from .temporal_mask import TemporalMask, find_temporal_mask, total_variation
from .temporal_parameters import kernel_sizes, load_parameters, save_parameters, temporal_layers, temporal_parameters

__all__ = [
    'BlobMetrics', 'DeletionInsertion', 'ExplanationScore', 'FittedMotion', 'Ladder', 'LayerMotion', 'METHODS',
    'MaximizedActivation', 'MotionNull', 'PERTURBATIONS', 'RandomizationCheck', 'RecognizerScores', 'TemporalMask',
    'against', 'areas', 'blob_metrics', 'channel_contributions', 'channel_saliency', 'channel_table',
    'deletion_insertion', 'detect_blobs', 'draw_class_channels', 'draw_distributions', 'draw_trajectories',
    'drop_difference', 'drop_ratio', 'effective_receptive_field', 'energy_table', 'explain_clip', 'explanation_scores',
    'field_marginals', 'filter_distribution', 'find_disjoint_masks', 'find_layer', 'find_temporal_mask', 'fit_kernels',
    'fit_temporal_parameters', 'fittable_kernels', 'freeze_frames', 'grad_cam', 'integrated_gradients', 'joined',
    'kernel_sizes', 'load_parameters', 'mask_length', 'mask_runs', 'maximize_activation', 'method_curves',
    'method_maps', 'most_active_channels', 'motion_ladder', 'motion_null', 'normalise_maps', 'occlusion', 'over_frames',
    'parameter_statistics', 'perturb', 'primary_temporal_filters', 'randomization_check', 'register_method',
    'reverse_frames', 'saliency', 'save_figure', 'save_parameters', 'smooth_grad', 'strongest_frame', 'summarize',
    'summarize_contributions', 'summarize_scores', 'table_2', 'temporal_axes', 'temporal_kernels', 'temporal_layers',
    'temporal_occlusion', 'temporal_parameters', 'total_variation', 'upsample_maps', 'welch_test'
]
