"""Where layers are registered.

mmcv looks a ``conv_cfg`` type up in the registry of the current default scope. Without one (a backbone built in a
notebook, say) it looks in mmengine's root only, so layers are registered there as well as in ``mmaction.registry``.
"""
from mmaction.registry import MODELS
from mmengine.registry import MODELS as ROOT_MODELS


def register_layer(cls: type, force: bool = False) -> type:
    """Class decorator: make ``dict(type=cls.__name__)`` build in mmaction2's scope and outside any scope.

    ``force`` replaces a class of that name, as a script needs that may run twice in one process.
    """
    ROOT_MODELS.register_module(module=cls, force=force)
    return MODELS.register_module(module=cls, force=force)
