from .comparison.blob_metrics import *  # noqa: F403  the module moved; this path stays
