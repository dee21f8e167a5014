"""Public 3D checkpoints, classifier included, under the names of a whole mmaction2 recognizer.

``R2Plus1d18`` and ``InceptionI3d`` name their modules as the public files do, so ``pretrained=`` needs no renaming. Who
also wants the classifier (to test on Kinetics, say) needs the names of ``Recognizer3D`` with ``I3DHead``:

========================  ================================  =========================================================
file                      name there                        name here
========================  ================================  =========================================================
torchvision r2plus1d_18   fc.weight, fc.bias                cls_head.fc_cls.weight, cls_head.fc_cls.bias
                          stem.0.weight (all others)        backbone.stem.0.weight
I3D                       logits.conv3d.weight, .bias       cls_head.fc_cls.weight (K, 1024), .bias
                          Conv3d_1a_7x7.conv3d.weight ...   backbone.Conv3d_1a_7x7.conv3d.weight ...
========================  ================================  =========================================================
"""
from typing import Dict

from torch import Tensor

CLASSIFIERS = {
    'fc.weight': 'cls_head.fc_cls.weight',
    'fc.bias': 'cls_head.fc_cls.bias',
    'logits.conv3d.weight': 'cls_head.fc_cls.weight',
    'logits.conv3d.bias': 'cls_head.fc_cls.bias',
}
KNOWN_BY = ('layer4.1.conv2.0.3.weight', 'Mixed_5c.b3b.conv3d.weight')


def recognizer_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The weights of torchvision's r2plus1d_18 or of a PyTorch I3D for ``Recognizer3D`` with ``I3DHead``.

    A 1x1x1 convolution that classifies becomes a linear layer: (K, C, 1, 1, 1) -> (K, C).

    Raises:
        ValueError: if the names are those of neither file, or the classifier is no 1x1x1 convolution.
    """
    if not any(name in state_dict for name in KNOWN_BY):
        raise ValueError(f'Neither {KNOWN_BY[0]} (torchvision, r2plus1d_18) nor {KNOWN_BY[1]} (I3D) is in the file; it '
                         f'has {list(state_dict)[:3]}, ...')
    conv = state_dict.get('logits.conv3d.weight')
    if conv is not None and (conv.dim() != 5 or conv.shape[2:] != (1, 1, 1)):
        raise ValueError(f'logits.conv3d.weight has shape {tuple(conv.shape)}, and a 1x1x1 convolution that classifies '
                         'has (K, C, 1, 1, 1).')
    return {CLASSIFIERS.get(name, f'backbone.{name}'): value.flatten(1) if name == 'logits.conv3d.weight' else value
            for name, value in state_dict.items()}
