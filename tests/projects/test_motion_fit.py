"""projects/motion_fit: its tables, and those of docs/fit.md, are what the committed csv files give."""
import shutil

from helpers.paths import ROOT
from helpers.scripts import load_script

RESULTS = ROOT / 'projects/motion_fit/results'


def test_the_tables_are_those_of_the_csv_files(tmp_path, capsys):
    tables = load_script('projects/motion_fit/tables.py')
    assert tables.main([str(tmp_path)]) == 2 and 'has none of known_answers.csv' in capsys.readouterr().err
    page = (ROOT / 'docs/fit.md').read_text()
    for name in tables.TABLES:
        shutil.copy(RESULTS / f'{name}.csv', tmp_path)
    assert tables.main([str(tmp_path)]) == 0
    for name in tables.TABLES:
        text = (tmp_path / f'{name}.md').read_text()
        assert text == (RESULTS / f'{name}.md').read_text() and text in page and text.count('\n') > 6, name
