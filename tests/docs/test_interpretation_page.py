"""docs/interpretation.md: every tool, pictures of a size for a page, and formulas that are formulas."""
import re
import struct

import pytest
from helpers.doc_pages import PAGES, code_spans, page_name, prose
from helpers.paths import ROOT

from tconv_mmaction.cli.main import SCRIPTS

PAGE = ROOT / 'docs/interpretation.md'
FORMULA = r'^\$\$\s*(.+?)\s*\$\$$|(?<![\w$\\])\$(?! )([^$]+?)(?<! )\$(?![\w$])'  # as docs/site_hooks.py finds them


def formulas(page):
    text = re.sub(r'`[^`\n]+`', '', prose(page))
    return [block or inline for block, inline in re.findall(FORMULA, text, re.S | re.M)]


def test_every_tool_of_analysis_is_named_by_command_and_file():
    spans = set(code_spans(PAGE))
    for script in sorted((ROOT / 'tools/analysis').glob('*.py')):
        command, = (name for name, path in SCRIPTS.items() if path == f'analysis/{script.name}')
        assert f'tconv {command}' in spans and script.name in spans, script.name


def test_pictures_are_there_small_and_as_wide_as_the_page():
    names = re.findall(r'!\[[^\]]+\]\((images/[\w.-]+)\)', prose(PAGE))
    assert len(names) >= 6 and len(set(names)) == len(names)
    for name in names:
        data = (ROOT / 'docs' / name).read_bytes()
        width, = struct.unpack('>I', data[16:20])
        assert data.startswith(b'\x89PNG') and 600 <= width <= 1100 and len(data) < 250_000, (name, width, len(data))


def test_no_formula_is_plain_text():
    text = re.sub(r'`[^`\n]+`', '', prose(PAGE))
    rest = re.sub(FORMULA, '', text, flags=re.S | re.M)
    assert not re.search('[α-ωΑ-Ω∂∑√·²³]', rest) and not re.search(r'\w\^|\w_[ijkt(]|[λσ]\d', rest)
    assert not re.search(r'^ {4,}\S', rest, re.M)  # the code blocks in which other pages have them
    assert len(formulas(PAGE)) > 15


@pytest.mark.parametrize('page', [page for page in PAGES if formulas(page)], ids=page_name)
def test_formulas_can_be_read(page):
    converter = pytest.importorskip('latex2mathml.converter', reason='needs the extra `docs`')
    for formula in formulas(page):
        assert '<math' in converter.convert(formula), formula
