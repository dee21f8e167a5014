"""tools/benchmarks: the page is assembled from the tables, every script runs. Times are never looked at."""
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

TOOLS = Path(__file__).parent.parent / 'tools/benchmarks'
PAGE = """# Title

Text before.

<!-- table: one_cpu -->
old
<!-- end -->

Between.

<!-- table: two_cpu -->
<!-- end -->
"""


@pytest.fixture
def script(monkeypatch):
    """The namespace of a script of tools/benchmarks."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def load(name):
        return runpy.run_path(str(TOOLS / f'{name}.py'), run_name=name)
    yield load
    sys.modules.pop('common', None)  # other folders of tools/ have siblings of that name


def test_assembles_the_page(script, tmp_path):
    (tmp_path / 'one_cpu.md').write_text('header\n\n| a |\n| --- |\n| 1\\2 \\g<0> |\n')
    text, replaced, missing = script('all')['assemble'](PAGE, tmp_path)
    assert text == PAGE.replace('\nold\n', '\n\nheader\n\n| a |\n| --- |\n| 1\\2 \\g<0> |\n\n')
    assert (replaced, missing) == (['one_cpu'], ['two_cpu'])
    assert script('all')['assemble'](text, tmp_path)[0] == text  # a second time changes nothing


@pytest.mark.parametrize('page, said', [
    (PAGE.replace('<!-- end -->', '', 1), 'one_cpu'),
    (PAGE.replace('<!-- table: two_cpu -->', ''), '1 lines .* 2 lines'),
    (PAGE.replace('two_cpu', 'one_cpu'), 'more than once: one_cpu'),
    (PAGE + '<!-- end -->\n', '3 lines "<!-- end'),
])
def test_refuses_a_page_with_broken_marks(script, tmp_path, page, said):
    with pytest.raises(ValueError, match=said):
        script('all')['assemble'](page, tmp_path)


def test_fills_the_page_and_says_what_is_missing(script, tmp_path, capsys):
    page, out_dir = tmp_path / 'page.md', tmp_path / 'out'
    out_dir.mkdir()
    (out_dir / 'two_cpu.md').write_text('two\n')
    (out_dir / 'three_cpu.md').write_text('three\n')
    page.write_text(PAGE)
    main = script('all')['main']
    assert main(['--no-run', '--out-dir', str(out_dir), '--page', str(page)]) == 0
    assert page.read_text() == PAGE.replace('two_cpu -->\n', 'two_cpu -->\n\ntwo\n\n')
    printed = capsys.readouterr().out
    assert 'no one_cpu.md' in printed and 'no place for three_cpu' in printed
    with pytest.raises(SystemExit):
        main(['--no-run'])
    with pytest.raises(FileNotFoundError, match='nowhere.md'):
        main(['--no-run', '--page', str(tmp_path / 'nowhere.md')])


def test_a_failing_benchmark_is_named_and_the_others_run(script, tmp_path, capfd):
    for name, code in (('bad', 'import sys; sys.exit(3)'), ('killed', 'import os; os.kill(os.getpid(), 9)'),
                       ('good', 'print("ran")')):
        (tmp_path / f'{name}.py').write_text(code)
    failed = script('all')['run_all']([[str(tmp_path / f'{name}.py')] for name in ('bad', 'killed', 'good')])
    assert failed == ['bad: exit status 3', 'killed: signal 9']
    printed = capfd.readouterr().out
    assert 'ran\n' in printed and 'failed: bad: exit status 3; killed: signal 9' in printed


def test_all_runs_every_script_and_the_page_has_a_place_for_each(script, tmp_path):
    """Every script of the folder is in the list, takes the options it is given, and has its table on the page."""
    namespace = script('all')
    assert set(namespace['SCRIPTS']) == {path.stem for path in TOOLS.glob('*.py')} - {'all', 'common'}
    lines = namespace['commands'](list(namespace['SCRIPTS']), 'cpu', tmp_path, quick=False)
    assert [Path(line[0]).exists() for line in lines] == [True] * len(lines)
    page = (TOOLS.parent.parent / 'docs/benchmarks.md').read_text()
    names = {match['name'] for match in namespace['TABLE'].finditer(page)}
    assert {f'{name}_cpu' for name in namespace['SCRIPTS']} <= names


def test_ratios_are_medians_of_rounds(script):
    import numpy as np
    row, = script('common')['rows_against'](
        'peer', {'peer': np.array([1., 2., 4.]), 'ours': np.array([1., 1., 8.])}, case='x')
    assert (row['ratio'], row['ms'], row['peer_ms'], row['case']) == (1.0, 1000.0, 2000.0, 'x')
    assert row['quartiles'] == '0.750 - 1.500'


def test_report_writes_csv_markdown_and_plot(script, tmp_path, capsys):
    namespace = script('common')
    args = namespace['parser']('').parse_args(['--out-dir', str(tmp_path), '--rounds', '2'])
    rows = [dict(case='a', candidate='ours', peer='theirs', ratio=0.5, quartiles='0.4 - 0.6', ms=1., peer_ms=2.)]
    namespace['report']('name', rows, args)
    assert pd.read_csv(tmp_path / 'name_cpu.csv').to_dict('records') == rows
    text = (tmp_path / 'name_cpu.md').read_text()
    assert text.startswith('name on ') and '| a | ours | theirs | 0.5 | 0.4 - 0.6 | 1.0 | 2.0 |\n' in text
    assert (tmp_path / 'name_cpu.png').stat().st_size > 1000
