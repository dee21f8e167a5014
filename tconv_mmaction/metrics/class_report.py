"""What a test says of each class: accuracy, and which class it is taken for."""
import io
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mmaction.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..utils.atomic import atomic_write_bytes, atomic_write_text

LISTED = 30  # classes that are all listed; of more, the worst and the best


def confusion_matrix(labels: Sequence[int], predictions: Sequence[int], num_classes: int) -> np.ndarray:
    """How many samples of class ``i`` were taken for ``j``: ``(K, K)``.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    matrix = np.zeros((num_classes, num_classes), int)
    np.add.at(matrix, (np.asarray(labels, int), np.asarray(predictions, int)), 1)
    return matrix


def class_table(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Per class: samples, accuracy (share of them that were recognised), and the class it was most often taken for."""
    samples, right = matrix.sum(1), matrix.diagonal()
    wrong = matrix - np.diag(right)
    others = [names[row.argmax()] if row.any() else '' for row in wrong]
    return pd.DataFrame(dict(samples=samples, accuracy=np.where(samples > 0, right / np.maximum(samples, 1), np.nan),
                             confused_with=others), index=pd.Index(names, name='class'))


def as_text(table: pd.DataFrame) -> str:
    """The table in lines: all classes, or of many the ten worst and the five best."""
    shown = table[table.samples > 0].sort_values('accuracy', kind='stable')
    head = 'Accuracy per class:'
    if len(shown) > LISTED:
        head = f'Accuracy per class: the ten lowest and five highest of {len(shown)} (all in class_report.csv):'
        shown = pd.concat([shown[:10], shown[-5:]])
    else:
        shown = table[table.samples > 0]
    width = max(map(len, map(str, shown.index)))
    lines = [f'  {str(name):<{width}}  {row.accuracy:7.1%} of {row.samples}'
             + (f', most often taken for {row.confused_with}' if row.confused_with else '')
             for name, row in shown.iterrows()]
    return '\n'.join([head, *lines])


def draw(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """The confusion matrix, every row as shares of its class; numbers in it up to 20 classes, names up to 60."""
    count = len(names)
    side = min(max(4.5, 0.36 * count + 2), 16)
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label='share of the class', shrink=0.8)
    axes.set(xlabel='taken for', ylabel='class')
    if count <= 60:
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(count), names)
    if count <= 20:
        for row, column in zip(*matrix.nonzero()):
            axes.text(column, row, matrix[row, column], ha='center', va='center', fontsize=8,
                      color='white' if shares[row, column] > 0.5 else 'black')
    return figure


@METRICS.register_module()
class ClassReport(BaseMetric):
    """Accuracy of every class in the log, and the confusion matrix with the classes' names as a figure and as csv.

    It adds no number to the results. ``tconv test`` adds it by itself. Files: ``class_report.csv``,
    ``confusion_matrix.csv`` (row: class, column: what it was taken for; counts) and ``confusion_matrix.png``.

    Args:
        out_dir: folder of the files; None writes none.
        class_names: what to call the classes, in their order; by default the data set's ``classes``, else numbers.
        collect_device, prefix: as for every metric of MMEngine.
    """
    default_prefix = 'classes'

    def __init__(self, out_dir: Optional[str] = None, class_names: Optional[Sequence[str]] = None,
                 collect_device: str = 'cpu', prefix: Optional[str] = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir, self.class_names = out_dir, class_names

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep label, prediction and number of classes of every sample of a batch."""
        for sample in data_samples:
            label, score = sample['gt_label'].reshape(-1), sample['pred_score']
            one = len(label) == 1 and not isinstance(score, dict)
            self.results.append((int(label[0]), int(score.argmax()), len(score)) if one else None)

    def compute_metrics(self, results: List[Any]) -> Dict[str, float]:
        """Log the table and write the files; no metrics."""
        if any(result is None for result in results):
            print_log('No report per class: there are samples with several labels or several scores.', 'current')
            return {}
        labels, predictions, counts = zip(*results)
        unknown = [label for label in labels if not 0 <= label < counts[0]]
        if unknown:
            print_log(f'No report per class: {len(unknown)} samples have no label of the network\'s {counts[0]} '
                      f'classes, such as {unknown[0]}.', 'current')
            return {}
        names = self._names(counts[0])
        matrix = confusion_matrix(labels, predictions, counts[0])
        table = class_table(matrix, names)
        lines = as_text(table).splitlines()
        if self.out_dir is not None:
            self._write(matrix, table, names)
            lines.append(f'Confusion matrix: {Path(self.out_dir) / "confusion_matrix.png"} and .csv')
        for line in lines:
            print_log(line, 'current')
        return {}

    def _names(self, count: int) -> List[str]:
        meta = getattr(self, 'dataset_meta', None) or {}
        names = self.class_names or meta.get('classes') or range(count)
        names = [str(name) for name in names]
        return names if len(names) == count else [str(number) for number in range(count)]

    def _write(self, matrix: np.ndarray, table: pd.DataFrame, names: List[str]) -> None:
        folder = Path(self.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / 'class_report.csv', table.to_csv())
        counts = pd.DataFrame(matrix, index=pd.Index(names, name='class'), columns=names)
        atomic_write_text(folder / 'confusion_matrix.csv', counts.to_csv())
        picture = io.BytesIO()
        draw(matrix, names).savefig(picture, format='png', dpi=110)
        atomic_write_bytes(folder / 'confusion_matrix.png', picture.getvalue())
