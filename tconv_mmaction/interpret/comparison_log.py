from .comparison.comparison_log import *  # noqa: F403  the module moved; this path stays
