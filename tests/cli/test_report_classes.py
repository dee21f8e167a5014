"""Which class several models explain of one clip, by hand."""
import numpy as np
import pytest

from tconv_mmaction.cli.report_classes import choose_class, in_other_classes, read_report_target

NAMES = ['sit', 'stand', 'wave']
OTHER = ['wave', 'sit', 'jump']


def test_a_class_in_another_numbering():
    assert [in_other_classes(i, NAMES, OTHER) for i in range(3)] == [1, None, 0]
    unnamed = ['class 0', 'class 1', 'class 2']
    assert [in_other_classes(i, NAMES, unnamed) for i in range(3)] == [0, 1, 2]
    assert in_other_classes(2, NAMES, ['class 0', 'class 1']) is None


def test_the_true_class_and_else_the_highest_mean():
    scores = [np.array([.5, .4, .1]), np.array([.9, .1, 0.])]
    two = [NAMES, NAMES]
    assert choose_class('common', (2, ), scores, two) == ([2, 2], 'Explained: “wave”, the true class.')
    assert choose_class('common', (), scores, two).targets == [0, 0]  # means .7, .25, .05
    # by name: sit has .5 and .1, wave .1 and .9; stand is in the first only
    found = choose_class('common', (), scores, [NAMES, OTHER])
    assert found == ([2, 0], 'Explained: “wave”, the class with the highest mean score of all models.')
    assert choose_class('common', (0, 1), scores, two).targets == [0, 0]  # several labels are not the one true class
    assert choose_class('common', (), [None, scores[1]], two).targets == [0, 0]
    nothing = choose_class('common', (), scores, [['a', 'b', 'c'], ['d', 'e', 'f']])
    assert nothing.targets == [None, None] and 'no class in common' in nothing.sentence


def test_a_class_that_is_asked_for():
    assert choose_class(1, (), [None, None], [NAMES, OTHER]) == ([1, None], 'Explained: “stand”, given by --target.')
    assert choose_class('label', (2, ), [None], [NAMES]) == ([2], 'Explained: “wave”, the true class.')
    assert choose_class('prediction', (2, ), [None], [NAMES]) == ([None], '')
    with pytest.raises(ValueError, match=r'has several labels \(sit, wave\)'):
        choose_class('label', (0, 2), [None], [NAMES])
    assert [read_report_target(text, 2, NAMES) for text in (None, 'Stand', '0', 'label')] == ['common', 1, 0, 'label']
    assert read_report_target(None, 1, NAMES) == 'prediction'
