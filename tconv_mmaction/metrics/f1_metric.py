"""F1 per class and on average, beside top-k accuracy.

Manttari, Broome et al., "Interpreting Video Features" (ACCV 2020), Tables 1 and 2. For one class, with precision P and
recall R of the predictions of that class,

    F1 = 2 P R / (P + R) = 2 TP / (2 TP + FP + FN)
"""
from typing import Dict, List, Optional, Sequence

import numpy as np
from mmaction.registry import METRICS
from mmengine.evaluator import BaseMetric
from sklearn.metrics import f1_score


def top_k_predictions(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The label where it is among the k highest scores, else the highest: ``(N, K)`` and ``(N,)`` to ``(N,)``.

    Of equal scores the lower class number counts as higher, as for ``argmax``.
    """
    best = np.argsort(-scores, axis=1, kind='stable')[:, :k]
    return np.where((best == labels[:, None]).any(axis=1), labels, best[:, 0])


@METRICS.register_module()
class F1Metric(BaseMetric):
    """Mean F1, F1 per class, and accuracy, of single-label predictions.

    Keys: ``f1/mean``, the mean over classes that occur among labels or predictions (scikit-learn's macro average);
    ``f1/mean_top5``, the same with a label among the five highest scores taken as predicted, which is how we read
    the paper's "F1-score (Top-5)"; ``f1/top1``, ``f1/top5``, the accuracies; and with ``per_class`` one
    ``f1/NAME`` for each of these classes.

    Args:
        topk: the k of accuracy and mean F1, at most the number of classes; k = 1 gives ``mean`` and ``top1``.
        per_class: whether to report every class.
        class_names: what to call the classes; ``class0``, ``class1``, ... by default.
        collect_device, prefix: as for every metric of MMEngine.

    Raises:
        ValueError: if a k is not positive or exceeds the number of classes, a sample has several labels or one out
            of range, or ``class_names`` are not as many as the scores.
    """
    default_prefix = 'f1'

    def __init__(self, topk: Sequence[int] = (1, 5), per_class: bool = True,
                 class_names: Optional[Sequence[str]] = None, collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if isinstance(topk, int) or not topk or any(not isinstance(k, int) or k < 1 for k in topk):
            raise ValueError(f'F1Metric: topk must be positive integers, as in (1, 5), got {topk!r}.')
        if class_names is not None and len(set(class_names)) != len(class_names):
            raise ValueError('F1Metric: class_names must be different from each other.')
        taken = {'mean', *(f'mean_top{k}' for k in topk), *(f'top{k}' for k in topk)}.intersection(class_names or ())
        if taken:
            raise ValueError(f'F1Metric: {sorted(taken)} are names of the metrics and cannot be class_names.')
        self.topk, self.per_class, self.class_names = tuple(topk), per_class, class_names

    def process(self, data_batch: Sequence[dict], data_samples: Sequence[dict]) -> None:
        """Keep the scores and label of every sample of a batch."""
        for sample in data_samples:
            score, label = sample['pred_score'], sample['gt_label']
            if label.numel() != 1:
                raise ValueError(f'F1Metric is for one label per video, got {label.tolist()}.')
            if score.dim() != 1:
                raise ValueError(f'F1Metric needs one score per class, got shape {tuple(score.shape)}. Set '
                                 "average_clips='prob' in the head, so that the clips of a video become one.")
            self.results.append(dict(score=score.detach().float().cpu().numpy(), label=int(label)))

    def compute_metrics(self, results: List[dict]) -> Dict[str, float]:
        """The metrics of all samples; MMEngine has gathered them from all processes and removed the padding."""
        scores = np.stack([r['score'] for r in results])
        labels = np.array([r['label'] for r in results])
        num_classes = scores.shape[1]
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f'F1Metric: labels go from {labels.min()} to {labels.max()}, the network has '
                             f'{num_classes} classes (0 to {num_classes - 1}). Do the list and num_classes agree?')
        if max(self.topk) > num_classes:
            raise ValueError(f'F1Metric: topk={self.topk} with {num_classes} classes; a top-{max(self.topk)} is always '
                             f'right. Use topk of at most {num_classes}.')
        names = self.class_names or [f'class{i}' for i in range(num_classes)]
        if len(names) != num_classes:
            raise ValueError(f'F1Metric: {len(names)} class_names for {num_classes} classes.')
        metrics = {}
        for k in self.topk:
            predicted = top_k_predictions(scores, labels, k)
            metrics['mean' if k == 1 else f'mean_top{k}'] = float(f1_score(labels, predicted, average='macro'))
            metrics[f'top{k}'] = float(np.mean(predicted == labels))
        if self.per_class:
            predicted = top_k_predictions(scores, labels, 1)
            present = np.union1d(labels, predicted)
            for i, value in zip(present, f1_score(labels, predicted, labels=present, average=None)):
                metrics[names[i]] = float(value)
        return metrics
