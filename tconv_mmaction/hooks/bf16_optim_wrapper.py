from ..optim.bf16_optim_wrapper import *  # noqa: F403  the module moved; this path stays
