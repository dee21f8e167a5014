from .access.adapters import *  # noqa: F403  the module moved; this path stays
