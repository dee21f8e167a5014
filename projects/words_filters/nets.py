"""I3D-ResNet18 up to layer3, narrow, from scratch: temporal lengths, kinds of filters, temporal augmentation.

As in the paper's I3D nothing is strided or pooled in time: 8 frames stay 8. The paper's five lengths t1-...-t5 are of
the stem and four stages; the last stage is not there, so its 1-1-3-3-5 (Table 2, b1: the deepest stage looks furthest)
is 1-1-3-5 here, 1-1-3-3-3 (b) is 1-1-3-3, and 3-3-3-3-3 is 3-3-3-3.
"""
from typing import Dict, NamedTuple, Tuple

from torch import nn

from tconv_mmaction.cli.study_nets import resnet18_to_layer3

WIDTH = 16  # channels of the stem, 64 in ResNet18


class Net(NamedTuple):
    """``filters``: 'single' or the eta of multi-branch filters. ``rate``, ``ego``: how it is trained."""
    title: str
    lengths: Tuple[int, ...]
    filters: object = 'single'
    rate: bool = False
    ego: bool = False

    def temporal_cfg(self) -> dict:
        return dict(type='Conv3d') if self.filters == 'single' else dict(type='MultiBranchConv3d', eta=self.filters)


THREES, B, B1 = (3, 3, 3, 3), (1, 1, 3, 3), (1, 1, 3, 5)
NETS: Dict[str, Net] = {
    '3333': Net('3-3-3-3', THREES),
    '1133': Net('1-1-3-3', B),
    '1135': Net('1-1-3-5', B1),
    'multi1': Net('branches, eta 1', B1, 1.),
    'multi2': Net('branches, eta 2', B1, 2.),
    'multi4': Net('branches, eta 4', B1, 4.),
    '3333_both': Net('3-3-3-3 + both', THREES, rate=True, ego=True),
    '1135_both': Net('1-1-3-5 + both', B1, rate=True, ego=True),
    'multi2_both': Net('branches, eta 2 + both', B1, 2., True, True),
    '1135_rate': Net('1-1-3-5 + rate', B1, rate=True),
    '1135_ego': Net('1-1-3-5 + ego-motion', B1, ego=True),
    'multi2_rate': Net('branches, eta 2 + rate', B1, 2., rate=True),
    'multi2_ego': Net('branches, eta 2 + ego-motion', B1, 2., ego=True),
    'multi2_3333': Net('3-3-3-3 branches, eta 2', THREES, 2.),
    'multi2_3333_both': Net('3-3-3-3 branches, eta 2 + both', THREES, 2., True, True),
}


def build(name: str, classes: int) -> nn.Module:
    """Clips (N, 3, T, H, W) -> scores (N, classes)."""
    return resnet18_to_layer3(NETS[name].lengths, NETS[name].temporal_cfg(), WIDTH, classes)
