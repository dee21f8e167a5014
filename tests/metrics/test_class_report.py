"""The report per class of a test, on cases worked out by hand."""
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from mmaction.structures import ActionDataSample
from mmengine.logging import MMLogger
from PIL import Image

from tconv_mmaction.metrics import ClassReport
from tconv_mmaction.metrics.class_report import as_text, class_table, confusion_matrix

# four of class a (three right, one taken for c), two of b (both taken for a), none of c
LABELS, PREDICTIONS = [0, 0, 0, 0, 1, 1], [0, 0, 2, 0, 0, 0]
MATRIX = [[3, 0, 1], [2, 0, 0], [0, 0, 0]]


def samples(labels=LABELS, predictions=PREDICTIONS, classes=3):
    made = []
    for label, prediction in zip(labels, predictions):
        sample = ActionDataSample()
        sample.set_gt_label(label)
        sample.set_pred_score(torch.eye(classes)[prediction])
        made.append(sample.to_dict())
    return made


@pytest.fixture
def said():
    """What is logged."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_instance('class_report')
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    MMLogger._instance_dict.clear()


def test_the_matrix_counts():
    assert confusion_matrix(LABELS, PREDICTIONS, 3).tolist() == MATRIX


def test_the_table_of_classes():
    table = class_table(np.array(MATRIX), ['a', 'b', 'c'])
    assert table.samples.tolist() == [4, 2, 0] and table.confused_with.tolist() == ['c', 'a', '']
    assert table.accuracy.tolist()[:2] == [.75, 0.] and np.isnan(table.accuracy['c'])
    assert as_text(table).splitlines() == ['Accuracy per class:', '  a    75.0% of 4, most often taken for c',
                                           '  b     0.0% of 2, most often taken for a']


def test_of_many_classes_the_worst_and_the_best_are_listed():
    matrix = np.diag(np.arange(40)) + np.eye(40, k=1, dtype=int)[:, :40] * 5
    lines = as_text(class_table(matrix, [f'c{number}' for number in range(40)])).splitlines()
    assert 'ten lowest and five highest of 40' in lines[0] and len(lines) == 16
    # c0 is never right; c39 has no wrong one
    assert lines[1].split()[0] == 'c0' and lines[-1].split()[0] == 'c39'


def test_files_and_log(tmp_path, said):
    metric = ClassReport(out_dir=str(tmp_path / 'out'))
    metric.dataset_meta = dict(classes=('left', 'right', 'up'))
    metric.process(None, samples()[:4])
    metric.process(None, samples()[4:])
    assert metric.evaluate(6) == {}
    matrix = pd.read_csv(tmp_path / 'out/confusion_matrix.csv', index_col='class')
    assert matrix.values.tolist() == MATRIX and list(matrix.columns) == list(matrix.index) == ['left', 'right', 'up']
    table = pd.read_csv(tmp_path / 'out/class_report.csv', index_col='class')
    assert table.accuracy['left'] == .75 and table.confused_with['right'] == 'left'
    with Image.open(tmp_path / 'out/confusion_matrix.png') as picture:
        assert min(picture.size) > 300
    assert any('right     0.0% of 2, most often taken for left' in line for line in said)
    assert any('confusion_matrix.png' in line for line in said)


@pytest.mark.parametrize('labels, message', [
    ([[0, 1]] * 6, 'samples with several labels'),
    ([0, 0, 0, 0, 1, 7], "no label of the network's 3 classes, such as 7"),
    ([-1] * 6, 'no label of the network')])
def test_what_cannot_be_reported_is_said(labels, message, tmp_path, said):
    metric = ClassReport(out_dir=str(tmp_path / 'out'))
    metric.process(None, samples(labels))
    assert metric.evaluate(6) == {} and any(message in line for line in said)
    assert not (tmp_path / 'out').exists()


def test_names_that_are_not_as_many_as_the_classes_are_not_used():
    metric = ClassReport(class_names=['a', 'b'])
    assert metric._names(3) == ['0', '1', '2'] and metric._names(2) == ['a', 'b']
