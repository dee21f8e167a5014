"""The data sample of a test clip that could not be read: whatever a network says of it is wrong.

A test over the clips that can be read is another test. So the clip stays in the list, and its score is replaced by one
that no metric takes for right: for K classes and the true class y,

    score[y] = 0,    score[y + 1 mod K] = 2 / K,    1 / K for all others.

It adds up to 1 for a single label; y is not among the k highest for any k < K, and the predicted class is a wrong one.
"""
from typing import Any

import torch
from mmaction.structures import ActionDataSample
from mmaction.structures.action_data_sample import format_score


def wrong_score(score: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """A score of the shape, type and device of ``score`` (K,) that is wrong for ``truth``.

    Args:
        score: of any network for this clip; its values do not matter.
        truth: the label (1,), several (n,), or one number per class (K,), positive for the true ones.

    Raises:
        ValueError: if every class is true, so that nothing can be wrong; if the score is no vector.
    """
    if score.ndim != 1:
        raise ValueError(f'A clip that cannot be read has to be scored as wrong, and a score of shape '
                         f'{tuple(score.shape)} is not one value per class (K,).')
    classes = len(score)
    true = torch.zeros(classes, dtype=torch.bool)
    truth = truth.reshape(-1).cpu()
    if len(truth) == classes > 1:
        true = truth > 0
    else:
        true[truth.long()] = True
    if true.all():
        raise ValueError(f'A clip that cannot be read has to be scored as wrong, and each of its {classes} classes is '
                         'right: repair the file, or take it from the list.')
    wrong = torch.where(true, 0., 1. / classes)
    first = int(torch.nonzero(true)[0]) if true.any() else 0
    wrong[next(k % classes for k in range(first + 1, first + 1 + classes) if not true[k % classes])] *= 2
    return wrong.to(score)


class UnreadableSample(ActionDataSample):
    """An ``ActionDataSample`` whose ``set_pred_score`` and ``set_pred_label`` store what is wrong, see above.

    Its metainfo ``unreadable`` is a dict with the file, the kind and reason of the failure, and the index in the list;
    it is in the dumps of ``tools/test.py --dump``, too.
    """

    @classmethod
    def of(cls, sample: ActionDataSample, file: str, kind: str, reason: str, index: int) -> 'UnreadableSample':
        """With the label and everything else of ``sample``."""
        made = cls(metainfo=dict(sample.metainfo, unreadable=dict(file=file, kind=kind, reason=reason, index=index)))
        made.set_data(dict(sample.items()))
        return made

    def _wrong(self, value: Any) -> Any:
        if isinstance(value, dict):  # several modalities
            return {name: self._wrong(score) for name, score in value.items()}
        return wrong_score(value, self.gt_label)

    @property
    def scored_wrong(self) -> bool:
        """Whether the score that is stored is such a wrong one."""
        def wrong(score: Any) -> bool:
            if isinstance(score, dict):
                return all(map(wrong, score.values()))
            return isinstance(score, torch.Tensor) and torch.equal(score, wrong_score(score, self.gt_label))

        return wrong(self.get('pred_score'))

    def set_pred_score(self, value: Any) -> 'UnreadableSample':
        """Store a wrong score of the shape of ``value``."""
        return super().set_pred_score(self._wrong(format_score(value)))

    def set_pred_label(self, value: Any) -> 'UnreadableSample':
        """Store the class with the highest wrong score, where there is one score to go by."""
        score = self.get('pred_score')
        return super().set_pred_label(score.argmax(dim=-1, keepdim=True) if isinstance(score, torch.Tensor) else value)
