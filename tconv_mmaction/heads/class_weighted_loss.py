"""Cross entropy whose class weights come from the training list.

Ras et al., arXiv:1912.04075, appendix C.2, weigh the loss on Jester, where one class has three times as many videos as
the others. They do not give the weights; here class k of K with n_k of n videos has weight n / (K n_k), so that every
class has the same share of the loss and the mean weight of a training sample is 1.
"""
from collections import Counter
from pathlib import Path
from typing import List, Optional, Union

import torch
from mmaction.models.losses import CrossEntropyLoss
from mmaction.registry import MODELS
from torch import Tensor

from ..utils.text_files import parse_label, read_lines

VIDEO_ENDINGS = ('.mp4', '.avi', '.webm', '.mkv', '.mov', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')


def balanced_class_weights(ann_file: Union[str, Path], num_classes: int, delimiter: str = ' ') -> List[float]:
    """n / (K n_k) for each class of an annotation list.

    Args:
        ann_file: list in VideoDataset's or RawframeDataset's form with one label per line, the last entry of it.
        num_classes: K.
        delimiter: between the entries of a line.

    Raises:
        FileNotFoundError: if the list is not there.
        ValueError: if a line has no label from 0 to K-1, or seems to have several, or the file is no UTF-8 text, or a
            class has no video.
    """
    path = Path(ann_file)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there. The class weights are counted in the training list; make it '
                                '(docs/data.md), or set class_weight=[...] of a CrossEntropyLoss yourself.')
    counts: Counter = Counter()
    first: Optional[int] = None
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = line.strip().split(delimiter)
        first = first or len(fields)
        _check_one_label(fields, first, path, number)
        text = fields[-1]
        label = parse_label(text, num_classes)
        if label is None:
            raise ValueError(f'{path}, line {number}: {text!r:.80} is no label from 0 to {num_classes - 1} '
                             f'(num_classes={num_classes}): {line!r:.200}')
        counts[label] += 1
    empty = [k for k in range(num_classes) if not counts[k]]
    if empty:
        raise ValueError(f'{path} has no video of class {empty}, and a class without videos has no weight. Check '
                         f'num_classes={num_classes}, or remove the class.')
    total = sum(counts.values())
    return [total / (num_classes * counts[k]) for k in range(num_classes)]


def _check_one_label(fields: List[str], first: int, path: Path, number: int) -> None:
    """PATH LABEL, PATH FRAMES LABEL or PATH START FRAMES LABEL, the same on every line; more is several labels.

    A line of a video and two labels looks like one of a folder of frames; the ending of the path tells them apart.
    """
    several = len(fields) > 2 and Path(fields[0]).suffix.lower() in VIDEO_ENDINGS
    if several or len(fields) > 4 or len(fields) != first:
        raise ValueError(f'{path}, line {number}: {len(fields)} entries, {" ".join(fields)!r:.80}'
                         f'{f", and {first} on the lines before" if len(fields) != first else ""}. Class weights count '
                         'one label per line, and more would be left out in silence. For several labels per video use '
                         'BCELossWithLogits with class_weight=[...].')


@MODELS.register_module()
class ClassWeightedCrossEntropyLoss(CrossEntropyLoss):
    """mmaction2's CrossEntropyLoss with :func:`balanced_class_weights`.

    The list is read at the first loss, not when the model is built: testing and inference do not need it.

    Args:
        ann_file, num_classes, delimiter: as for :func:`balanced_class_weights`.
        loss_weight: factor on the loss.
    """

    def __init__(self, ann_file: str, num_classes: int, delimiter: str = ' ', loss_weight: float = 1.) -> None:
        super().__init__(loss_weight=loss_weight)
        self.ann_file, self.num_classes, self.delimiter = ann_file, num_classes, delimiter

    def _forward(self, cls_score: Tensor, label: Tensor, **kwargs) -> Tensor:
        if self.class_weight is None:
            weights = balanced_class_weights(self.ann_file, self.num_classes, self.delimiter)
            self.class_weight = torch.tensor(weights, device=cls_score.device)
        return super()._forward(cls_score, label, **kwargs)
