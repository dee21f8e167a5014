from .cli.doctor import *  # noqa: F403  the module moved; this path stays
