"""Scores of explanation methods as tuples, dicts and files give them; what is none is named."""
import json

import pytest

from tconv_mmaction.interpret.comparison.comparison_report import score_table
from tconv_mmaction.interpret.comparison.method_scores import check_scores, read_scores, score_rows

WANT = {'a': (.5, .25, None), 'b': (.2, .6, (.3, .5))}


@pytest.mark.parametrize('scores', [
    WANT, {'a': [.5, .25], 'b': [.2, .6, [.3, .5]]},
    {'a': (.5, .25, (float('nan'), float('nan'))), 'b': (.2, .6, (.3, .5))},
    {'a': dict(auc_deletion=.5, auc_insertion=.25),
     'b': dict(auc_deletion=.2, auc_insertion=.6, interval=dict(low=.3, high=.5))}])
def test_every_form_is_read(scores, tmp_path):
    assert check_scores(scores) == WANT
    (tmp_path / 's.json').write_text(json.dumps(scores))
    (tmp_path / 'more.json').write_text(json.dumps(dict(model='x', scores=scores)))
    assert read_scores(tmp_path / 's.json') == read_scores(tmp_path / 'more.json') == WANT


def test_the_best_method_is_first():
    rows = score_rows(check_scores(WANT))
    assert rows == [('b', '0.200', '0.600', '0.400', '0.300 to 0.500'), ('a', '0.500', '0.250', '-0.250', '–')]
    assert '| I3D | b | 0.200 | 0.600 | 0.400 | 0.300 to 0.500 |' in score_table([check_scores(WANT)], ['I3D'])


@pytest.mark.parametrize('scores, message', [
    ([], 'got list'), ({}, 'got dict without a method'), ({'a': .5}, "scores of 'a' must be auc_deletion"),
    ({'a': [.5]}, 'got .0.5.'), ({'a': [.5, None]}, "auc_insertion of 'a' must be a number, got None"),
    ({'a': [float('inf'), .5]}, "auc_deletion of 'a' must be a number, got inf"),
    ({'a': [.5, .5, .1]}, "interval of 'a' must be two numbers, low and high, got 0.1")])
def test_what_is_none_is_named(scores, message):
    with pytest.raises(ValueError, match=message):
        check_scores(scores)
