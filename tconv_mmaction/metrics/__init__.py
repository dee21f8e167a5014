from .class_report import ClassReport
from .f1_metric import F1Metric

__all__ = ['ClassReport', 'F1Metric']
