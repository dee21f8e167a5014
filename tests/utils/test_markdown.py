"""Tables in Markdown."""
import pytest

from tconv_mmaction.utils.markdown import markdown_table


def test_a_bar_ends_no_cell():
    assert markdown_table(['|x|', 'y'], [['a \\| b', 1.5]]) == ('| \\|x\\| | y |\n| --- | --- |\n'
                                                               '| a \\| b | 1.5 |')


def test_columns_stand_below_each_other():
    assert markdown_table(['net', 'n'], [['3T', 10]], align=True) == '| net | n   |\n| --- | --- |\n| 3T  | 10  |'


def test_another_number_of_cells_is_an_error():
    with pytest.raises(ValueError, match='has 1 cells, its header 2'):
        markdown_table(['a', 'b'], [[1]])
