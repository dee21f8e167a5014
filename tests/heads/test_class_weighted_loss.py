"""Class weights counted in a list, and the loss that uses them."""
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from helpers.tiny_project import run_here
from mmaction.registry import MODELS

from tconv_mmaction.heads.class_weighted_loss import balanced_class_weights


@pytest.fixture
def ann_file(tmp_path):
    path = tmp_path / 'train.txt'
    path.write_text('a.mp4 0\nb.mp4 1\nc.mp4 1\nd.mp4 1\n\ne.mp4 2\nf.mp4 2\n')  # 1, 3 and 2 of 6
    return path


def test_weights_by_hand(ann_file):
    assert balanced_class_weights(ann_file, 3) == [2., 6 / 9, 1.]
    done = run_here(['python', ROOT / 'tools/data/class_weights.py', ann_file, '3'], ROOT)
    assert done.stdout.strip() == '[2, 0.666667, 1]'


def test_loss_equals_weighted_cross_entropy(ann_file):
    loss = MODELS.build(dict(type='ClassWeightedCrossEntropyLoss', ann_file=str(ann_file), num_classes=3,
                             loss_weight=0.3))
    scores, labels = torch.randn(5, 3), torch.tensor([0, 1, 1, 2, 1])
    want = 0.3 * F.cross_entropy(scores, labels, torch.tensor([2., 6 / 9, 1.]))
    torch.testing.assert_close(loss(scores, labels), want)
    assert not loss.state_dict()


def test_errors(ann_file, tmp_path):
    loss = MODELS.build(dict(type='ClassWeightedCrossEntropyLoss', ann_file=str(tmp_path / 'none.txt'), num_classes=3))
    with pytest.raises(FileNotFoundError, match='none.txt is not there'):  # at the first loss, not when built
        loss(torch.randn(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r'no video of class \[3\]'):
        balanced_class_weights(ann_file, 4)
    with pytest.raises(ValueError, match=r"line 6: '2' is no label from 0 to 1"):
        balanced_class_weights(ann_file, 2)
    with pytest.raises(ValueError, match="line 1: 'a.mp4 0' is no label"):
        balanced_class_weights(ann_file, 3, delimiter=';')


@pytest.mark.parametrize('text, words', [
    ('a.mp4 0 2\nb.mp4 1\n', "line 1: 3 entries, 'a.mp4 0 2'"), ('a.mp4 0\nb.mp4 1 2\n', 'line 2: 3 entries'),
    ('a 30 0\nb 30 1 2\n', "line 2: 4 entries, 'b 30 1 2', and 3 on the lines before"), ('a 0 30 1 2\n', 'line 1: 5'),
    ('A.AVI 0 1\n', 'line 1: 3'), ('a.webm 0 1 2\n', 'line 1: 4')])
def test_several_labels_on_a_line_are_refused(text, words, tmp_path):
    """Only the last one was counted, in silence."""
    (tmp_path / 'list.txt').write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        balanced_class_weights(tmp_path / 'list.txt', 3)
    assert 'BCELossWithLogits' in str(caught.value)


def test_folders_of_frames_have_their_counts_before_the_label(tmp_path):
    (tmp_path / 'list.txt').write_text('a 30 0\nb 30 1\nc 30 1\n')
    assert balanced_class_weights(tmp_path / 'list.txt', 2) == [1.5, 0.75]
    (tmp_path / 'list.txt').write_text('a 0 30 0\nb 5 30 1\nc 9 30 1\n')
    assert balanced_class_weights(tmp_path / 'list.txt', 2) == [1.5, 0.75]
