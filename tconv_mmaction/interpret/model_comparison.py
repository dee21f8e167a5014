from .comparison.model_comparison import *  # noqa: F403  the module moved; this path stays
