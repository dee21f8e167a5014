from .access.modules import *  # noqa: F403  the module moved; this path stays
