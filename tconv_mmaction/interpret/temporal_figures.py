from .pictures.temporal_figures import *  # noqa: F403  the module moved; this path stays
