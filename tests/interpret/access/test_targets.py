"""Which class is explained, and which clips stand for a data set: one routine for every tool, by hand."""
import pytest
import torch

from tconv_mmaction.cli.clip_labels import video_labels
from tconv_mmaction.interpret.access.balanced import balanced_order
from tconv_mmaction.interpret.access.targets import class_index, class_names, labels_of, read_target, target_of
from tconv_mmaction.utils.distinct_names import distinct_names

NAMES = ['brush_hair', 'Wave', '3', 'wave!', 'sit', 'sit']


@pytest.mark.parametrize('text, index', [
    ('Wave', 1), ('wave', 1), ('brush hair', 0), ('Brush-Hair', 0), ('1', 1), ('index:3', 3), ('index: 2', 2)])
def test_a_class_by_name_or_index(text, index):
    assert class_index(text, NAMES) == index == read_target(text, NAMES)


@pytest.mark.parametrize('text, message', [
    ('3', r"'3' is the name of class 2 and the index of 'wave!'; write index:2 for the first, index:3"),
    ('sit', r'classes \[4, 5\] are all called'), ('6', r'outside the 6 classes \(0 to 5\)'), ('-1', 'outside the 6'),
    ('index:9', 'target 9 is outside'), ('brush_hare', "close to it: 'brush_hair'"), ('xyz', 'the first ones: '),
    ('labels', "nor 'prediction' or 'label'")])
def test_no_class_is_guessed(text, message):
    with pytest.raises(ValueError, match=message):
        read_target(text, NAMES)


def test_words_and_numbers_that_are_names():
    assert [read_target(word, NAMES) for word in ('label', 'prediction')] == ['label', 'prediction']
    digits = [str(i) for i in range(10)]  # Video-MNIST: name and index are the same
    assert [class_index(digit, digits) for digit in digits] == list(range(10))


@pytest.mark.parametrize('value, labels', [
    (None, ()), (-1, ()), (3, (3, )), (torch.tensor([2]), (2, )), (torch.tensor([4, 1, 1]), (1, 4)),
    (torch.tensor([0., 1., 0., 0., 1.]), (1, 4)), (torch.tensor([0, 1, 0, 0, 0]), (1, )),
    (torch.tensor([False, True]), (1, )), (torch.zeros(5), ()), ([0, 1], (0, 1))])
def test_labels_of_every_form(value, labels):
    assert labels_of(value, 5) == labels


def test_the_class_of_a_clip():
    assert target_of('prediction', (1, 2), NAMES) == 'prediction' and target_of(3, (1, ), NAMES) == 3
    assert target_of('label', (1, ), NAMES) == 1
    with pytest.raises(ValueError, match=r"has several labels \(Wave, sit\); give a class: --target 'Wave'"):
        target_of('label', (1, 4), NAMES)
    with pytest.raises(ValueError, match='has no label: --target label needs --dataset or --labels'):
        target_of('label', (), NAMES)


def test_names_of_the_data_set_only_where_they_fit():
    assert class_names(None, 2, ('a', 'b')) == ['a', 'b'] and class_names(None, 3, ('a', 'b')) == [
        'class 0', 'class 1', 'class 2']


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_a_sample_is_balanced_at_every_size(seed):
    """40, 10 and 3 clips, sorted by class as lists are: every sample has as many of each as there can be."""
    sizes = (40, 10, 3)
    labels = [(c, ) for c, n in enumerate(sizes) for _ in range(n)]
    order = balanced_order(labels, seed)
    assert sorted(order) == list(range(53))
    for count in range(1, 54):
        found = [sum(labels[i] == (c, ) for i in order[:count]) for c in range(3)]
        open_ = [n for n, size in zip(found, sizes) if n < size]  # classes with clips left
        assert not open_ or max(found) - min(open_) <= 1, (count, found)
    assert order == balanced_order(labels, seed)  # the same again, and of other seeds another one
    assert len({tuple(balanced_order(labels, s)[:6]) for s in range(8)}) > 1


def test_samples_without_labels_and_with_several():
    assert sorted(balanced_order([()] * 5)) == [0, 1, 2, 3, 4] and balanced_order([]) == []
    several = [(0, 1), (0, 1), (0, 1), (1, )]
    assert 3 in balanced_order(several)[:2]


def test_labels_of_video_files(tmp_path):
    names = ['walk', 'brush hair', 'run']
    videos = [str(tmp_path / 'walk/a b.mp4'), str(tmp_path / 'run/a b.mp4'), str(tmp_path / 'Brush_Hair/c.mp4')]
    assert video_labels('folder', videos, names) == [(0, ), (2, ), (1, )]
    (tmp_path / 'list.txt').write_text('walk/a b.mp4 2\nrun/a b.mp4 walk\nc.mp4 brush hair\nother.mp4 1\n')
    assert video_labels(str(tmp_path / 'list.txt'), videos, names) == [(2, ), (0, ), (1, )]
    (tmp_path / 'several.txt').write_text('c.mp4 0 2\n')
    assert video_labels(str(tmp_path / 'several.txt'), videos[2:], names) == [(0, 2)]
    (tmp_path / 'list.csv').write_text('c.mp4,brush hair\n')
    assert video_labels(str(tmp_path / 'list.csv'), videos[2:], names) == [(1, )]
    with pytest.raises(ValueError, match=r'list.csv has no line for 2 of 3 video\(s\)'):
        video_labels(str(tmp_path / 'list.csv'), videos, names)
    (tmp_path / 'twice.txt').write_text('a b.mp4 0\na b.mp4 2\n')
    with pytest.raises(ValueError, match=r'with different classes: \[\(0,\), \(2,\)\]. Write more of its path'):
        video_labels(str(tmp_path / 'twice.txt'), videos[:1], names)
    with pytest.raises(ValueError, match=r"lies in 'x', and 'x' is no class"):
        video_labels('folder', [str(tmp_path / 'x/c.mp4')], names)
    with pytest.raises(ValueError, match="odd.txt.*'jump' is no class"):
        (tmp_path / 'odd.txt').write_text('c.mp4 jump\n')
        video_labels(str(tmp_path / 'odd.txt'), videos[2:], names)


def test_names_that_tell_files_apart():
    assert distinct_names(['x/r1/a/v.mp4', 'x/r2/a/v.mp4', 'y/w.mp4']) == ['r1/a/v.mp4', 'r2/a/v.mp4', 'w.mp4']
    assert distinct_names(['a.mp4', './a.mp4']) == ['a.mp4', 'a.mp4 (2)']  # the same file
    assert distinct_names(['x/v.mp4', 'y/v.mp4', 'x/v.avi'], suffix=False) == ['x/v.mp4', 'y/v.mp4', 'v.avi']
