"""projects/compare_runs: the tables of docs/compare_runs.md are those of the committed runs."""
from helpers.paths import ROOT
from helpers.scripts import load_script

from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_tables import difference_table, per_class_table, summary_table

RESULTS = ROOT / 'projects/compare_runs/results'


def test_the_page_is_what_the_committed_runs_give(tmp_path):
    runs = read_runs(RESULTS / 'runs.jsonl')
    classes = (RESULTS / 'classes.txt').read_text().splitlines()
    titles = {run['model']: run['model'] for run in runs}
    text = load_script('tools/compare_runs.py').write_results(runs, tmp_path, titles, classes)
    assert text == (RESULTS / 'table.md').read_text()
    page = (ROOT / 'docs/compare_runs.md').read_text()
    for part in (summary_table(runs, titles), difference_table(runs, None, titles),
                 per_class_table(runs, classes, titles)):
        assert part in page
    assert len({run['config'] for run in runs}) == len(titles)  # one config per model in all of them
