from .cli.mim_scripts import *  # noqa: F403  the module moved; this path stays
