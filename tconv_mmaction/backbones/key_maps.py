"""Public 3D checkpoints, classifier included, under the names of a whole mmaction2 recognizer.

``R2Plus1d18`` and ``InceptionI3d`` name their modules as the public files do, so ``pretrained=`` needs no renaming.
r3d_18 is a ``TemporalResNet3d``, under other names. Who wants that one, or also the classifier (to test on Kinetics,
say), needs the names of ``Recognizer3D`` with ``I3DHead``; tools/convert/public_3d.py writes such a file:

========================  ================================  =========================================================
file                      name there                        name here
========================  ================================  =========================================================
torchvision r2plus1d_18   fc.weight, fc.bias                cls_head.fc_cls.weight, cls_head.fc_cls.bias
                          stem.0.weight (all others)        backbone.stem.0.weight
torchvision r3d_18        fc.weight, fc.bias                cls_head.fc_cls.weight, cls_head.fc_cls.bias
                          stem.0, stem.1                    backbone.conv1.conv, backbone.conv1.bn
                          layer1.0.conv1.0, .1              backbone.layer1.0.conv1.conv, .bn
                          layer2.0.downsample.0, .1         backbone.layer2.0.downsample.conv, .bn
I3D                       logits.conv3d.weight, .bias       cls_head.fc_cls.weight (K, 1024), .bias
                          Conv3d_1a_7x7.conv3d.weight ...   backbone.Conv3d_1a_7x7.conv3d.weight ...
========================  ================================  =========================================================
"""
import re
from typing import Dict

from torch import Tensor

CLASSIFIERS = {
    'fc.weight': 'cls_head.fc_cls.weight',
    'fc.bias': 'cls_head.fc_cls.bias',
    'logits.conv3d.weight': 'cls_head.fc_cls.weight',
    'logits.conv3d.bias': 'cls_head.fc_cls.bias',
}
KNOWN_BY = ('layer4.1.conv2.0.3.weight', 'Mixed_5c.b3b.conv3d.weight')
R3D_18 = 'layer4.1.conv2.0.weight'
PARTS = ('conv', 'bn')


def r3d_18_name(name: str) -> str:
    """torchvision's r3d_18 -> ``TemporalResNet3d(18, temporal_strides=(1, 2, 2, 2), with_pool1=False)``."""
    match = re.fullmatch(r'(?:stem|(layer\d\.\d)\.(conv\d|downsample))\.([01])\.(\w+)', name)
    if match is None:
        raise ValueError(f"{name} is no name of torchvision's r3d_18.")
    block, conv, part, parameter = match.groups()
    return f'backbone.{f"{block}.{conv}" if block else "conv1"}.{PARTS[int(part)]}.{parameter}'


def recognizer_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The weights of torchvision's r2plus1d_18 or r3d_18, or of a PyTorch I3D, for ``Recognizer3D`` with ``I3DHead``.

    A 1x1x1 convolution that classifies becomes a linear layer: (K, C, 1, 1, 1) -> (K, C).

    Raises:
        ValueError: if the names are those of none of these files, or the classifier is no 1x1x1 convolution.
    """
    if R3D_18 in state_dict and state_dict[R3D_18].dim() == 5:
        return {CLASSIFIERS.get(name) or r3d_18_name(name): value for name, value in state_dict.items()}
    if not any(name in state_dict for name in KNOWN_BY):
        raise ValueError(f'Neither {KNOWN_BY[0]} (torchvision, r2plus1d_18) nor {KNOWN_BY[1]} (I3D) is in the file, '
                         f'nor {R3D_18} (torchvision, r3d_18); it has {list(state_dict)[:3]}, ...')
    conv = state_dict.get('logits.conv3d.weight')
    if conv is not None and (conv.dim() != 5 or conv.shape[2:] != (1, 1, 1)):
        raise ValueError(f'logits.conv3d.weight has shape {tuple(conv.shape)}, and a 1x1x1 convolution that classifies '
                         'has (K, C, 1, 1, 1).')
    return {CLASSIFIERS.get(name, f'backbone.{name}'): value.flatten(1) if name == 'logits.conv3d.weight' else value
            for name, value in state_dict.items()}
