"""The network of studies on small clips: ResNet18 up to layer3 and a classifier, untrained or with 2D weights."""
from typing import Optional, Sequence

from mmaction.registry import MODELS

from ..utils.complexity import BackboneAndHead


def resnet18_to_layer3(temporal_kernels: Sequence[int], temporal_cfg: dict, width: int, classes: int,
                       stride_t: int = 1, pool_t: int = 1, pretrained: Optional[str] = None) -> BackboneAndHead:
    """Clips (N, 3, T, H, W) -> scores (N, classes).

    Args:
        temporal_kernels: frames of the stem and of layer1, layer2, layer3.
        temporal_cfg: type of the convolutions in time.
        width: channels of the stem, 64 in ResNet18.
        stride_t: of the stem in time; nothing after it has one.
        pool_t: frames of the pool after the stem.
        pretrained: a 2D ResNet18 checkpoint under torchvision's names.

    >>> import torch
    >>> resnet18_to_layer3((1, 1, 3, 5), dict(type='Conv3d'), 4, 10)(torch.randn(2, 3, 8, 32, 32)).shape
    torch.Size([2, 10])
    """
    backbone = MODELS.build(dict(
        type='TemporalResNet3d', depth=18, base_channels=width, num_stages=3, out_indices=(2, ),
        spatial_strides=(1, 2, 2), temporal_strides=(1, 1, 1), dilations=(1, 1, 1), temporal_kernels=temporal_kernels,
        temporal_cfg=temporal_cfg, conv1_stride_t=stride_t, pool1_kernel=(pool_t, 3, 3), pool1_stride_t=1,
        pretrained=pretrained))
    head = MODELS.build(dict(type='I3DHead', num_classes=classes, in_channels=4 * width, dropout_ratio=0.))
    model = BackboneAndHead(backbone, head)
    backbone.init_weights()
    head.init_weights()
    return model
