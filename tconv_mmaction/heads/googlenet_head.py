"""GoogLeNet's three classifiers: the main one, and two on earlier features whose losses help the training.

Szegedy et al., "Going Deeper with Convolutions" (arXiv:1409.4842), as Ras et al. (arXiv:1912.04075) use it in time:

    loss = CE(main) + 0.3 (CE(aux1) + CE(aux2))

in training; in validation and test only the main classifier is there. All three classify into the same classes with
the same loss (class weights, label smoothing, soft labels), so ``num_classes`` and ``loss_cls`` are given once.
"""
from typing import Dict, Optional, Sequence, Tuple, Union

from mmaction.models.heads import I3DHead
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.model import constant_init, kaiming_init
from torch import Tensor, nn

from ..backbones.inflation import inflate_state_dict, read_state_dict

NORM_CFG, LOSS_CFG = dict(type='BN3d', eps=1e-5), dict(type='CrossEntropyLoss')  # never changed
POOLED = (1, 2, 3)  # (T, H, W)
NO_FC = ('torchvision flattens 128x4x4 numbers of an image, here it is 128x1x2x3 of a clip: both linear layers start '
         'anew')


class AuxClassifier3d(nn.Module):
    """Average pool to 1x2x3, 1x1x1 convolution to 128, BN, ReLU, linear 768 -> 1024, ReLU, dropout, linear.

    The authors pool with a 5x5x5 window and stride 3, which gives 1x2x3 at their two clip sizes only (30 frames of
    150x224 or 168x224); the adaptive pool gives it for every size, with the same number of parameters.

    Args:
        in_channels: of the feature map.
        num_classes: K.
        dropout_ratio: before the last layer.
        norm_cfg: after the convolution.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout_ratio: float, norm_cfg: dict) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(POOLED)
        self.conv = ConvModule(in_channels, 128, 1, bias=False, conv_cfg=dict(type='Conv3d'), norm_cfg=norm_cfg)
        self.fc1 = nn.Linear(128 * POOLED[0] * POOLED[1] * POOLED[2], 1024)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout_ratio)
        self.fc2 = nn.Linear(1024, num_classes)

    def init_weights(self) -> None:
        """He for the convolution, PyTorch's own initialisation for the linear layers."""
        kaiming_init(self.conv.conv)
        constant_init(self.conv.norm, 1)
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, K)."""
        x = self.conv(self.pool(x)).flatten(1)  # N, 768
        return self.fc2(self.dropout(self.relu(self.fc1(x))))


@MODELS.register_module()
class GoogLeNetHead(I3DHead):
    """mmaction2's I3DHead with auxiliary classifiers.

    The backbone is ``GoogLeNet3d`` with ``out_layers=('inception4a', 'inception4d', 'inception5b')``. In training the
    losses are 'loss_cls' and, already weighted, 'loss_cls_aux1' and 'loss_cls_aux2'.

    Args:
        num_classes: K, of all classifiers.
        in_channels: of the last feature map.
        aux_channels: of the feature maps before it, one auxiliary classifier for each.
        aux_weight: factor on their losses.
        aux_dropout_ratio: in the auxiliary classifiers.
        dropout_ratio: in the main one.
        norm_cfg: in the auxiliary classifiers.
        pretrained: torchvision's GoogLeNet file, for the convolutions of the auxiliary classifiers; nothing else of it
            fits. The backbone has its own ``pretrained``.
        loss_cls, init_std, multi_class, label_smooth_eps, topk, average_clips, init_cfg: as for I3DHead.

    Raises:
        ValueError: if ``loss_cls`` weighs another number of classes.
    """

    def __init__(self, num_classes: int, in_channels: int = 1024, aux_channels: Sequence[int] = (512, 528),
                 aux_weight: float = .3, aux_dropout_ratio: float = .7, dropout_ratio: float = .4,
                 norm_cfg: dict = NORM_CFG, pretrained: Optional[str] = None,
                 loss_cls: dict = LOSS_CFG, init_std: float = .01, multi_class: bool = False,
                 label_smooth_eps: float = 0., topk: Union[int, Tuple[int, ...]] = (1, 5),
                 average_clips: Optional[str] = None, init_cfg: Union[dict, list, None] = None) -> None:
        super().__init__(num_classes, in_channels, loss_cls, dropout_ratio=dropout_ratio, init_std=init_std,
                         multi_class=multi_class, label_smooth_eps=label_smooth_eps, topk=topk,
                         average_clips=average_clips, init_cfg=init_cfg)
        weights = getattr(self.loss_cls, 'class_weight', None)
        expected = getattr(self.loss_cls, 'num_classes', num_classes) if weights is None else len(weights)
        if expected != num_classes:
            raise ValueError(f'num_classes={num_classes} in the head, but the weighted loss has {expected} classes.')
        self.aux_weight, self.pretrained = aux_weight, pretrained
        self.aux_names = [f'aux{i}' for i in range(1, len(aux_channels) + 1)]
        for name, channels in zip(self.aux_names, aux_channels):
            self.add_module(name, AuxClassifier3d(channels, num_classes, aux_dropout_ratio, norm_cfg))

    def init_weights(self) -> None:
        """From scratch, then the convolutions of ``pretrained``.

        Raises:
            ValueError: if that file has no auxiliary classifier.
        """
        super().init_weights()
        for name in self.aux_names:
            getattr(self, name).init_weights()
        if self.pretrained:
            state_dict = {name: value for name, value in read_state_dict(self.pretrained, prefix='').items()
                          if name.split('.')[0] in self.aux_names}
            if not state_dict:
                raise ValueError(f'{self.pretrained} has no tensor {self.aux_names[0]}.conv.conv.weight or the like: '
                                 'leave pretrained of the head out.')
            new, report = inflate_state_dict(state_dict, self, lambda name: None if '.fc' in name else name)
            report.skipped = {name: NO_FC if '.fc' in name else why for name, why in report.skipped.items()}
            self.load_state_dict(new, strict=False)
            print_log(f'{self.pretrained} into the auxiliary classifiers: {report}', 'current')

    def forward(self, x: Union[Tensor, Tuple[Tensor, ...]], **kwargs) -> Tensor:
        """Scores (N, K) of the main classifier, from its feature map or a tuple that ends with it.

        ``kwargs`` are what a recognizer hands to every head ('loss_aux' of a neck, 'fcn_test'); I3DHead has no use for
        them either.
        """
        return super().forward(x if isinstance(x, Tensor) else x[-1])

    def aux_scores(self, x: Sequence[Tensor]) -> Dict[str, Tensor]:
        """{'aux1': (N, K), ...} of the feature maps, the main one last."""
        if isinstance(x, Tensor) or len(x) != len(self.aux_names) + 1:
            got = 'one' if isinstance(x, Tensor) else len(x)
            raise ValueError(f'GoogLeNetHead needs {len(self.aux_names) + 1} feature maps for its classifiers, got '
                             f"{got}. Set out_layers=('inception4a', 'inception4d', 'inception5b') in the backbone.")
        return {name: getattr(self, name)(features) for name, features in zip(self.aux_names, x)}

    def loss(self, feats: Sequence[Tensor], data_samples: list, **kwargs) -> Dict[str, Tensor]:
        """Losses and accuracies of the main classifier; in training mode the weighted auxiliary losses too."""
        losses = super().loss(feats, data_samples, **kwargs)
        if self.training:
            for name, scores in self.aux_scores(feats).items():
                losses.update({f'{key}_{name}': self.aux_weight * value
                               for key, value in self.loss_by_feat(scores, data_samples).items() if 'loss' in key})
        return losses
