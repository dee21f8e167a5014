"""Which implementations can run on this machine, for ``python -m tconv_mmaction``."""
from typing import Dict, Optional

from . import onednn
from .conv3d import implementations as conv3d  # noqa: F401  makes its operators known
from .conv3t import implementations as conv3t  # noqa: F401
from .conv_lstm import implementations as conv_lstm  # noqa: F401
from .dispatch import OPERATORS


def _packed_kernels() -> Optional[str]:
    has = onednn.has_onednn() and onednn.has_packed()
    return None if has else 'this PyTorch has no convolution with a packed kernel'


def _onednn_products() -> Optional[str]:
    return None if onednn.has_onednn() and onednn.has_products() else 'this PyTorch has no product by oneDNN'


# what an implementation needs of the machine; those that are not listed need nothing
NEEDS = {'packed_kernel': _packed_kernels, 'slices_times_patches': _onednn_products}


def available() -> Dict[str, Dict[str, Optional[str]]]:
    """For every operator and each of its implementations: why this machine cannot run it, or None.

    >>> available()['Conv3T']['reference'] is None
    True
    """
    return {name: {i.name: NEEDS[i.name]() if i.name in NEEDS else None for i in implementations}
            for name, implementations in OPERATORS.items()}
