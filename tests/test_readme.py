"""What README.md and docs/ show exists and runs: files, options of the tools, the example config, the table."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample

from tconv_mmaction.layers import Conv3T

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def fences(text, language):
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r'\]\(([^)#]+?)(?:#[^)]*)?\)', page.read_text()):
            if not target.startswith(('http://', 'https://')):
                assert (page.parent / target).exists(), f'{page.name}: {target}'
        for target in re.findall(r'\bdocs/\w+\.md\b', page.read_text()):
            assert (ROOT / target).exists(), f'{page.name}: {target}'


def commands():
    """(page, script, options) of every `python tools/...` line in a bash fence, continuation lines joined."""
    found = []
    for page in PAGES:
        for block in fences(page.read_text(), 'bash'):
            for line in block.replace('\\\n', ' ').split('\n'):
                match = re.search(r'python (tools/\S+\.py)(.*)', line.split(' #')[0])
                if match:
                    options = re.findall(r'(?<!\S)(--[a-z][\w-]*)', match[2])
                    found.append((page.name, match[1], tuple(options)))
    return sorted(set(found))


@pytest.mark.parametrize('script', sorted({script for _, script, _ in commands()}))
def test_commands_name_real_scripts_and_options(script):
    assert (ROOT / script).is_file(), script
    done = subprocess.run([sys.executable, ROOT / script, '--help'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page, other, options in commands():
        if other == script:
            missing = [option for option in options if option not in done.stdout]
            assert not missing, f'{page}: {script} has no {missing}'


def test_configs_named_in_the_pages_exist():
    for page in PAGES:
        for name in re.findall(r'configs/[\w./-]+\.py', page.read_text()):
            assert (ROOT / name).is_file(), f'{page.name}: {name}'


def test_example_config_trains_a_step():
    block = next(b for b in fences((ROOT / 'README.md').read_text(), 'python') if 'custom_imports' in b)
    config = {}
    exec(block, config)
    model = config['model']
    recognizer = MODELS.build(model)
    assert sum(isinstance(m, Conv3T) for m in recognizer.modules()) > 0
    losses = recognizer(torch.randn(2, 1, 3, 8, 32, 32), [ActionDataSample().set_gt_label(k) for k in (0, 1)], 'loss')
    losses['loss_cls'].backward()
    moving = [m for m in recognizer.modules() if isinstance(m, Conv3T) and m.kernel_size[0] > 1]
    assert moving and all(m.rotate.grad is not None for m in moving)


def test_parameter_table_is_what_the_configs_give():
    """The rows of README's table that name a network of this repository, checked in test_configs and test_lenet5."""
    text = (ROOT / 'README.md').read_text()
    for count in ('11,222,619', '33,217,755', '7,419,121', '14,078,833', '254,058', '263,906', '1,324,014',
                  '12,465,614'):
        assert count in text
