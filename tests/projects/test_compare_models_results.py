"""projects/compare_models: its tables, and those of its page, are what the committed csv files give."""
import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.scripts import load_script

from tconv_mmaction.cli.run_statistics import fill_page

PROJECT = ROOT / 'projects/compare_models'


@pytest.mark.parametrize('name', ['results', 'results_same_cells'])
def test_the_tables_are_those_of_the_csv_files(name, tmp_path, capsys):
    for file in ('samples.csv', 'blobs.csv', 'summary.json'):
        shutil.copy(PROJECT / name / file, tmp_path)
    tool = load_script('tools/analysis/compare_models.py')
    assert tool.main(['--out', str(tmp_path), '--table-only']) == 0, capsys.readouterr().err
    assert (tmp_path / 'tables.md').read_text() == (PROJECT / name / 'tables.md').read_text()
    summary = json.loads((PROJECT / name / 'summary.json').read_text())
    for model in summary['models']:  # of this repository
        assert (ROOT / model['config']).is_file()
        assert hashlib.sha256((ROOT / model['checkpoint']).read_bytes()).hexdigest() == model['checkpoint_sha256']


def test_the_page_has_the_tables():
    page = (PROJECT / 'README.md').read_text()
    tables = load_script('projects/compare_models/page.py').tables(PROJECT)
    assert fill_page(page, tables) == page and all(table in page for table in tables.values())
    assert tables.keys() == {'reversal', 'blobs', 'masks', 'tests', 'same-cells', 'same-cells-tests'}


def test_the_figure_of_the_masks():
    """By hand: of two clips that the model knows, one has frames 1 and 2 (from 0) in the mask, the other frame 2."""
    tool = load_script('projects/compare_models/mask_figure.py')
    samples = pd.DataFrame(dict(model='a', used=True, label=[0, 0, 0, 1], prediction=[0, 0, 1, 0],
                                runs=['1-2', '2-2', '0-3', None], frames=4))
    shares = tool.shares(samples, 'a', 2)
    np.testing.assert_array_equal(shares[0], [0, .5, 1, 0])
    assert np.isnan(shares[1]).all()  # it knows none of that class
    assert tool.in_mask('0-1 3-3', 4).tolist() == [1, 1, 0, 1] and not tool.in_mask(float('nan'), 4).any()
