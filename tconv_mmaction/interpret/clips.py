from .access.clips import *  # noqa: F403  the module moved; this path stays
