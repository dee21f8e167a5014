"""Paired differences, corrected tests and tables against numbers worked out by hand and by SciPy."""
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tconv_mmaction.cli.run_statistics import fill_file, fill_page, holm, mean_std, p_text, paired, signed_rank_p
from tconv_mmaction.cli.run_tables import curves, difference_table, fold_table, per_class_table, summary_table


def test_paired_by_hand():
    """Differences 10, 5, 12, 1: mean 7, squares about it 9 + 4 + 25 + 36 = 74; run 9 has no partner."""
    first = pd.Series({0: 40., 1: 55., 2: 58., 3: 0.})
    second = pd.Series({3: 1., 2: 70., 0: 50., 1: 60., 9: 0.})
    result, error = paired(first, second), (74 / 3 / 4)**0.5
    assert (result.n, result.wins, result.first, result.second, result.difference) == (4, 4, 38.25, 45.25, 7)
    assert result.half_width == pytest.approx(3.182446 * error, rel=1e-6)  # Student's t, 97.5 %, 3 degrees of freedom
    assert result.t_p == pytest.approx(2 * stats.t.sf(7 / error, 3))
    assert result.wilcoxon_p == 2 / 2**4  # all four signs the same, two-sided
    assert result.text() == '+7.0 ± 7.9'


def test_paired_at_the_edges():
    same = paired(pd.Series([5., 6.]), pd.Series([5., 6.]))
    assert (same.difference, same.half_width, same.t_p, same.wilcoxon_p) == (0, 0, 1, 1)
    one = paired(pd.Series([5.]), pd.Series([7.]))
    assert one.text() == '+2.0' and np.isnan(one.t_p) and p_text(one.t_p) == ''
    assert paired(pd.Series({'a': 1.}), pd.Series({'b': 1.})) is None
    with pytest.raises(ValueError, match="'a' is there twice"):
        paired(pd.Series([1., 2.], index=['a', 'a']), pd.Series({'a': 1.}))


@pytest.mark.parametrize('n', [1, 2, 3, 7, 30])
def test_signed_ranks_as_scipy_has_them(n):
    """With ties and zeros, and without."""
    rng = np.random.default_rng(n)
    for difference in (rng.integers(-2, 4, n) * .5 + (n < 3), rng.normal(.5, 1, n)):
        assert signed_rank_p(difference) == pytest.approx(stats.wilcoxon(difference).pvalue, abs=1e-12)


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.5
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1., 1.])  # 1.6 is cut at 1; and 0.9 may not be below it


def test_texts():
    assert [mean_std(v) for v in ([], [3.], [1., 3.])] == ['', '3.0', '2.0 ± 1.4']
    assert [p_text(p) for p in (0.0341, 0.00002)] == ['0.034', '2e-05']


def run(model, fold, seed, accuracy, backwards, predicted):
    return dict(model=model, fold=fold, seed=seed, accuracy=accuracy, accuracy_reversed=backwards,
                losses=[2., seed + 1.], parameters=1234, labels='0011', predicted=predicted)


RUNS = [run('3d', 1, 0, 50., 25., '0101'), run('3d', 2, 0, 60., 25., '0111'), run('3t', 1, 0, 52., 50., [0, 0, 1, 1]),
        run('3t', 2, 0, 64., 60., '1111'), run('3t', 3, 0, 10., 10., '1111')]


def test_tables_of_runs():
    titles = {'3d': '3D', '3t': '3T'}
    summary = summary_table(RUNS, titles).splitlines()
    # 3D: reversal changes by -25 and -35; 12.706 is Student's t for one degree of freedom, 7.07/sqrt(2) = 5
    assert summary[2] == '| 3D | 1,234 | 2 | 55.0 ± 7.1 | 25.0 ± 0.0 | -30.0 ± 63.5 | 1.00 ± 0.00 |'
    # 3T minus 3D in the two folds that both have: 2 and 4, 12.706 * 1
    assert difference_table(RUNS, None, titles).splitlines()[2].startswith('| 3T − 3D | 2 | +3.0 ± 12.7 | 2 of 2 |')
    same = difference_table(RUNS, [('3d', 'no such'), ('3t', '3t')], titles).splitlines()
    assert len(same) == 3 and same[2] == '| 3T − 3T | 3 | +0.0 ± 0.0 | 0 of 3 | 1.000 |'
    assert difference_table(RUNS[:2]) is None
    others = dict(accuracy_reversed='backwards')
    row = difference_table(RUNS, [('3d', '3t'), ('3t', '3t')], titles, others, {('3d', '3t'): 1.294}).splitlines()[2:]
    assert row[0].endswith('| +1.29 | +30.0 ± 63.5 |') and row[1].endswith('|  | +0.0 ± 0.0 |')  # 25 and 35 more
    assert summary_table(RUNS, titles, others).splitlines()[2].endswith('| 25.0 ± 0.0 | 1.00 ± 0.00 |')
    folds = fold_table([dict(run, lr=0.03) for run in [*RUNS, run('3d', 1, 1, 40., 0., '')]], titles).splitlines()
    assert folds[2:] == ['| 3D | 0.03 | 45.0 (2) | 60.0 (1) |  |', '| 3T | 0.03 | 52.0 (1) | 64.0 (1) | 10.0 (1) |']
    # class 0: 3D right 1 of 2 and 1 of 2; 3T 2, 0, 0 of 2. class 1: 3D 1 and 2 of 2; 3T all
    assert per_class_table(RUNS, ['wave', 'point'], titles).splitlines()[2:] == [
        '| wave | 50 | 33 |', '| point | 75 | 100 |']
    left, right = curves(RUNS, titles).axes
    assert left.get_lines()[0].get_xydata().tolist() == [[1, 2], [2, 1]]
    by_line = [sorted(line.get_xdata()) for line in right.get_lines()]  # per model: runs, their mean; and backwards
    assert by_line == [[50, 60], [55], [25, 25], [25], [10, 52, 64], [42], [10, 50, 60], [40]]


def test_page_is_filled():
    page = '# A\n<!-- table a -->\nold\n\nold\n<!-- end -->\ntext\n<!-- table b -->\n<!-- end -->\n'
    filled = fill_page(page, {'a': '| 1 |', 'b': '| 2 |', 'c': 'not asked for'})
    assert filled == '# A\n<!-- table a -->\n\n| 1 |\n\n<!-- end -->\ntext\n<!-- table b -->\n\n| 2 |\n\n<!-- end -->\n'
    assert fill_page(filled, {'a': '| 1 |', 'b': '| 2 |'}) == filled
    with pytest.raises(ValueError, match="asks for the table 'b'"):
        fill_page(page, {'a': ''})


def test_a_file_says_what_has_not_been_run(tmp_path):
    path = tmp_path / 'page.md'
    path.write_text('<!-- table a -->\n<!-- end -->\n<!-- table b -->\n| old |\n<!-- end -->\n')
    fill_file(path, {'a': '| 1 |', 'c': '| 3 |'})
    assert path.read_text() == ('<!-- table a -->\n\n| 1 |\n\n<!-- end -->\n'
                                '<!-- table b -->\n\nNo runs yet.\n\n<!-- end -->\n')
