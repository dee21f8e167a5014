"""Temporal convolutions and their analysis as registry components of mmaction2.

Importing this package makes released mmaction2 work on today's PyTorch
(:mod:`tconv_mmaction.compat`) and registers every dataset, transform, layer,
backbone, head, hook and metric with ``mmaction.registry``.
"""
from . import compat

compat.apply()

from . import backbones, datasets, heads, hooks, layers, metrics, transforms  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['__version__', 'backbones', 'compat', 'datasets', 'heads', 'hooks', 'layers', 'metrics', 'transforms']
