"""F1Metric: by hand, against scikit-learn and a loop over a confusion matrix, and over two processes."""
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmaction.registry import METRICS
from mmaction.structures import ActionDataSample
from mmengine.evaluator import Evaluator
from sklearn.metrics import f1_score, top_k_accuracy_score

from tconv_mmaction.metrics import F1Metric


def samples(scores, labels):
    return [ActionDataSample().set_pred_score(torch.as_tensor(s)).set_gt_label(int(label)).to_dict()
            for s, label in zip(scores, labels)]


def evaluate(metric, scores, labels, batch=4):
    data = samples(scores, labels)
    for i in range(0, len(data), batch):
        metric.process({}, data[i:i + batch])
    return metric.evaluate(len(data))


def one_hot(predicted, classes):
    return np.eye(classes, dtype=np.float32)[predicted]


def test_by_hand():
    labels, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0]
    # class 0: TP 2, FP 1, FN 1; class 1: TP 2, FP 1, FN 0; class 2: TP 0, FP 0, FN 1; class 3 does not occur
    result = evaluate(F1Metric(topk=(1, )), one_hot(predicted, 4), labels)
    assert result == pytest.approx({'f1/class0': 4 / 6, 'f1/class1': 4 / 5, 'f1/class2': 0., 'f1/top1': 4 / 6,
                                    'f1/mean': (4 / 6 + 4 / 5 + 0) / 3})


def test_top_two_by_hand():
    scores = np.array([[.5, .3, .2], [.2, .5, .3], [.2, .3, .5], [.1, .2, .7]], dtype=np.float32)
    labels = [1, 2, 0, 2]
    # at two guesses: right, right, wrong (stays 2), right -> predicted 1, 2, 2, 2
    result = evaluate(F1Metric(topk=(1, 2), per_class=False), scores, labels)
    assert result['f1/top1'] == 1 / 4 and result['f1/top2'] == 3 / 4
    assert result['f1/mean_top2'] == pytest.approx((0 + 1 + 4 / 5) / 3)  # 2 TP / (2 TP + FP + FN): 0, 2/2, 4/5
    assert set(result) == {'f1/mean', 'f1/top1', 'f1/mean_top2', 'f1/top2'}


def test_against_scikit_learn_and_a_confusion_matrix():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 11, 300)
    scores = rng.random((300, 12)).astype(np.float32)
    scores[np.arange(300), labels] += 0.3
    names = [f'name {i}' for i in range(12)]
    result = evaluate(METRICS.build(dict(type='F1Metric', class_names=names)), scores, labels, batch=7)
    predicted = scores.argmax(1)
    assert result['f1/mean'] == pytest.approx(f1_score(labels, predicted, average='macro'), abs=1e-12)
    for k in (1, 5):
        assert result[f'f1/top{k}'] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(12)))
    matrix = np.zeros((12, 12))
    for t, p in zip(labels, predicted):
        matrix[t, p] += 1
    for i in range(12):
        expected = 2 * matrix[i, i] / (matrix[i].sum() + matrix[:, i].sum())
        assert result[f'f1/name {i}'] == pytest.approx(expected, abs=1e-12)


def evaluate_rank(rank, scores, labels, folder):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    metric = F1Metric(topk=(1, 2))
    # DefaultSampler deals in turn and fills up with the first samples
    mine = [i % len(labels) for i in range(rank, len(labels) + len(labels) % 2, 2)]
    metric.process({}, samples(scores[mine], labels[mine]))
    torch.save(metric.evaluate(len(labels)), folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_count_every_sample_once(tmp_path):
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 3, 9), rng.random((9, 3)).astype(np.float32)
    alone = evaluate(F1Metric(topk=(1, 2)), scores, labels)
    mp.spawn(evaluate_rank, (scores, labels, tmp_path), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pt', weights_only=True) == pytest.approx(alone)


def test_in_an_evaluator_beside_accuracy():
    evaluator = Evaluator([dict(type='AccMetric'), dict(type='F1Metric', per_class=False)])
    scores, labels = one_hot([0, 1, 1, 5], 6), [0, 1, 2, 5]
    evaluator.process([ActionDataSample().set_pred_score(torch.as_tensor(s)).set_gt_label(i)
                       for s, i in zip(scores, labels)], {})
    result = evaluator.evaluate(4)
    assert result['acc/top1'] == result['f1/top1'] == 0.75
    assert result['f1/mean'] == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)


def test_errors():
    scores = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match='labels go from 0 to 3, the network has 3 classes'):
        evaluate(F1Metric(topk=(1, )), scores, [0, 1, 3])
    with pytest.raises(ValueError, match=r'topk=\(1, 5\) with 3 classes'):
        evaluate(F1Metric(), scores, [0, 1, 2])
    with pytest.raises(ValueError, match='2 class_names for 3 classes'):
        evaluate(F1Metric(topk=(1, ), class_names=['a', 'b']), scores, [0, 1, 2])
    with pytest.raises(ValueError, match=r"\['top1'\] are names of the metrics"):
        F1Metric(class_names=['top1', 'b'])
    with pytest.raises(ValueError, match='topk must be positive'):
        F1Metric(topk=0)
    with pytest.raises(ValueError, match="average_clips='prob'"):
        F1Metric().process({}, [dict(pred_score=torch.rand(2, 3), gt_label=torch.tensor([0]))])
    with pytest.raises(ValueError, match='one label per video'):
        F1Metric().process({}, [dict(pred_score=torch.rand(3), gt_label=torch.tensor([0, 1]))])
