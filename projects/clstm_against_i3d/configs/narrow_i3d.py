"""InceptionI3d with a fraction of the channels in every layer, small enough to train on one CPU core.

Layers, names, kernels, strides and padding are those of ``tconv_mmaction.backbones.InceptionI3d``; only the numbers of
channels are scaled. At ``width=0.25`` it has 0.78 million parameters instead of 12.29, and 256 channels at Mixed_5c.
"""
from typing import Sequence

from mmaction.registry import MODELS

from tconv_mmaction.backbones.inception_i3d import MIXED, InceptionI3d, Mixed, Unit3d


@MODELS.register_module()
class NarrowInceptionI3d(InceptionI3d):
    """I3D with ``max(1, round(width * channels))`` channels everywhere.

    Args:
        width: the fraction, in (0, 1].
        temporal_strides: see :class:`InceptionI3d`.
        norm_momentum: of all BatchNorms, in PyTorch's sense. I3D's 0.01 needs some hundreds of iterations until the
            running statistics have forgotten where they started.

    Raises:
        ValueError: if ``width`` is out of range.
    """

    def __init__(self, width: float, temporal_strides: Sequence[int] = (2, 2, 2),
                 norm_momentum: float = .01) -> None:
        if not 0 < width <= 1:
            raise ValueError(f'NarrowInceptionI3d: width must be in (0, 1], got {width!r}.')
        norm_cfg = dict(type='BN3d', eps=1e-3, momentum=norm_momentum)
        super().__init__(temporal_strides=temporal_strides, norm_cfg=norm_cfg)

        def scaled(channels):
            return tuple(map(scaled, channels)) if isinstance(channels, tuple) else max(1, round(width * channels))

        self.Conv3d_1a_7x7 = Unit3d(3, scaled(64), 7, (temporal_strides[0], 2, 2), norm_cfg=norm_cfg)
        self.Conv3d_2b_1x1 = Unit3d(scaled(64), scaled(64), norm_cfg=norm_cfg)
        self.Conv3d_2c_3x3 = Unit3d(scaled(64), scaled(192), 3, norm_cfg=norm_cfg)
        channels = scaled(192)
        for name, widths in MIXED.items():
            block = Mixed(channels, scaled(widths), norm_cfg)
            setattr(self, name, block)
            channels = block.out_channels
        self.out_channels = channels
