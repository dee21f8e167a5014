"""mmaction2's ``ActionDataPreprocessor``, whose copies to the GPU do not wait.

The registry's name stands for this class, so every config uses it unchanged. With ``pin_memory=True`` in the data
loader, which our configs have, a batch lies in memory that the GPU reads by itself: with ``non_blocking`` the process
goes on to launch kernels while the copy runs. The kernels are in the same stream and so still come after it. From
memory that is not pinned, and on a CPU, nothing changes.
"""
import warnings

from mmaction.models.data_preprocessors import ActionDataPreprocessor as _ActionDataPreprocessor
from mmaction.registry import MODELS

# Our configs pin memory everywhere; where there is no GPU PyTorch says in every epoch that it does not.
warnings.filterwarnings('ignore', message="'pin_memory' argument is set as true but no accelerator is found")


@MODELS.register_module(name='ActionDataPreprocessor', force=True)
class ActionDataPreprocessor(_ActionDataPreprocessor):
    """Copies a batch to the model's device, normalises, blends; arguments are those of mmaction2's, and one more.

    Args:
        *args, **kwargs: mean, std, to_rgb, to_float32, blending, format_shape as in mmaction2.
        non_blocking: whether copies from pinned memory run beside what the process does next.
    """

    def __init__(self, *args, non_blocking: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._non_blocking = non_blocking
