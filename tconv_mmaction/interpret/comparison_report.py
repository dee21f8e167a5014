from .comparison.comparison_report import *  # noqa: F403  the module moved; this path stays
