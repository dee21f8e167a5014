from .comparison.mask_metrics import *  # noqa: F403  the module moved; this path stays
