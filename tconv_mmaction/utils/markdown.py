"""Tables as GitHub and mkdocs read them; pandas' own need the package tabulate."""
import re
from typing import Iterable, List, Sequence


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]], align: bool = False) -> str:
    """A Markdown table without a line's end behind it.

    Args:
        header: titles of the columns.
        rows: one sequence of cells per row; a cell is its ``str``, in which ``|`` ends no cell.
        align: fill the cells with spaces, so that the columns stand below each other in a terminal.

    Raises:
        ValueError: for a row that has another number of cells than the header.

    >>> print(markdown_table(['net', 'top-1'], [['3T', 0.5], ['3D', 0.25]]))
    | net | top-1 |
    | --- | --- |
    | 3T | 0.5 |
    | 3D | 0.25 |
    """
    lines: List[List[str]] = [list(map(_cell, header)), ['---'] * len(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f'a row of the table has {len(row)} cells, its header {len(header)}: {list(row)}.')
        lines.append(list(map(_cell, row)))
    if align:
        widths = [max(map(len, column)) for column in zip(*lines)]
        lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(value: object) -> str:
    return re.sub(r'(?<!\\)\|', r'\\|', str(value))
