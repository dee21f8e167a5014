"""projects/compare_runs: the tables of docs/compare_runs.md are those of the committed runs."""
import pytest
from helpers.paths import ROOT
from helpers.scripts import load_script

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_page

PROJECT = ROOT / 'projects/compare_runs'


@pytest.mark.parametrize('name', ['results', 'results_words', 'results_search'])
def test_the_tables_are_what_the_committed_runs_give(name, tmp_path):
    runs = read_runs(PROJECT / name / 'runs.jsonl')
    classes = (PROJECT / name / 'classes.txt').read_text().splitlines()
    titles = {run['model']: run['model'] for run in runs}
    text = load_script('tools/compare_runs.py').write_results(runs, tmp_path, titles, classes)
    assert text == (PROJECT / name / 'table.md').read_text()
    assert len({(run['model'], run['config']) for run in runs}) == len(titles)  # one config per model in all of them
    assert len({(run['model'], run['fold'], run['seed']) for run in runs}) == len(runs)
    labels = {run['fold']: run['labels'] for run in runs}
    assert all(run['labels'] == labels[run['fold']] for run in runs)  # the same test clips, in the same order


def test_the_page_has_the_tables():
    page = (ROOT / 'docs/compare_runs.md').read_text()
    tables = load_script('projects/compare_runs/page.py').tables()
    assert fill_page(page, tables) == page
    assert all(table in page for name, table in tables.items()
               if name not in ('search-differences', 'search-classes'))  # single runs: no statistics
