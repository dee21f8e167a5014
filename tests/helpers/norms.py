"""Norms whose statistics and parameters are away from where they start: fresh ones hide mistakes of fusing."""
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def randomise(model):
    """Norms with statistics and affine parameters away from their initial values, also negative gains."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
    return model
