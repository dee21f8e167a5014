"""Every ``>>>`` example of a docstring runs and gives what it says."""
import doctest
import importlib

import pytest
import torch
from helpers.paths import ROOT

WITH_EXAMPLES = [path for path in sorted((ROOT / 'tconv_mmaction').rglob('*.py'))
                 if '>>> ' in path.read_text(encoding='utf-8')]


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0 and result.attempted > 0
