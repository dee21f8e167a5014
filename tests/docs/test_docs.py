"""What README.md and docs/ show is there and works: links, names, commands, configs and Python.

Nothing here starts a process except ``bash -n``: a command is checked by the parser of the tool that it names, which
stops right after it has understood its arguments.
"""
import argparse
import ast
import builtins
import contextlib
import importlib
import importlib.util
import inspect
import io
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import mmaction.registry
import pytest
import torch
from helpers.doc_pages import PAGES, anchors, blocks, code_spans, page_name, prose, shell_commands
from helpers.paths import ROOT
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.registry import Registry
from packaging.requirements import Requirement

from tconv_mmaction.cli import mim_scripts
from tconv_mmaction.layers import Conv3T

# Commands that have no parser of ours to ask.
NOT_CHECKED = {
    'awk': 'shell', 'mkdir': 'shell', 'cp': 'shell', 'cat': 'shell', 'cd': 'shell', 'mv': 'shell', 'tr': 'shell',
    'sed': 'shell',
    '.': 'shell: activates the environment',
    'ffmpeg': 'converts a video; not installed with this package',
}
# Python that is checked (syntax, imports, names) and not run here.
NOT_RUN = {
    'README.md: import tconv_mmaction  # first: it makes mmaction2 importable on today\'s PyTorch':
        'needs the checkpoint of the section; tests/docs/test_own_videos.py runs it',
    'docs/inference.md: import tconv_mmaction':
        'needs a checkpoint and videos; tests/compat/test_inference.py calls both interfaces',
    'docs/own_videos.md: from glob import glob':
        'needs the checkpoint of the section; tests/docs/test_own_videos.py runs it',
    'docs/report.md: import json': 'needs a report; tests/interpret/report/test_report.py reads the element of one',
    'docs/weights.md: import numpy as np': 'needs net.onnx; tests/tools/deploy/test_deploy_models.py runs such files',
}

FAQ = 'docs/faq.md'  # its Python raises, which has a test of its own


def tiny_recognizer(conv):
    backbone = dict(type='TemporalResNet3d', depth=18, base_channels=2, temporal_cfg=dict(type=conv))
    return MODELS.build(dict(type='Recognizer3D', backbone=backbone, cls_head=dict(
        type='I3DHead', num_classes=3, in_channels=16, average_clips='prob'))).eval()


# What the text around a block has introduced before it.
GIVEN = {
    'docs/interpretation.md': lambda: dict(model=tiny_recognizer('Conv3d'), clip=torch.rand(1, 3, 4, 16, 16)),
    'docs/explanation_quality.md': lambda: dict(model=tiny_recognizer('Conv3d'), clip=torch.rand(1, 3, 4, 16, 16)),
    'docs/weights.md': lambda: dict(model=tiny_recognizer('Conv3T')),
}


# ---------------------------------------------------------------------------------------------------------- links

@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_links_and_anchors_lead_somewhere(page):
    text = re.sub(r'(?<!`)`[^`]+`(?!`)', '', prose(page))
    for target in re.findall(r'\]\(\s*<?([^)>\s]+)', text):
        if re.match(r'https?://|mailto:', target):
            continue
        path, _, anchor = target.partition('#')
        where = (page.parent / path).resolve() if path else page
        assert where.exists(), f'{target}: there is no {where}'
        if anchor:
            github, mkdocs = anchors(where)
            assert anchor in github, f'{target}: headings are {sorted(github)}'
            assert anchor in mkdocs, f'{target}: works on GitHub but not on the web site: {sorted(mkdocs)}'


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_files_and_objects_named_in_the_text_exist(page):
    text = page.read_text(encoding='utf-8')
    folders, endings = 'configs|docs|projects|tests|tools|tconv_mmaction', 'py|md|sh|yml|html|csv|png'
    for name in re.findall(rf'(?<![\w/.-])(?:\.\./)*((?:{folders})/[\w./*-]+\.(?:{endings}))\b', text):
        assert list(ROOT.glob(name)), f'there is no {name}'
    for name in re.findall(r'(?<![\w/.-])tconv_mmaction(?:\.\w+)+\b(?![/.-]\w)', text):
        assert pkgutil.resolve_name(name) is not None


def test_every_sub_package_has_its_api_page():
    """``::: package.*`` is every module that the package imports from (docs/site_hooks.py)."""
    for folder in sorted(path.parent.name for path in (ROOT / 'tconv_mmaction').glob('*/__init__.py')):
        page = ROOT / f'docs/api/{folder}.md'
        assert page.is_file() and f'api/{folder}.md' in (ROOT / 'mkdocs.yml').read_text(), f'write {page}'
        directives = re.findall(r'^::: (\S+)$', page.read_text(), re.M)
        assert f'tconv_mmaction.{folder}.*' in directives or folder in ('compat', 'utils'), folder
        for module in directives:
            assert inspect.getdoc(importlib.import_module(module.replace('.*', ''))) or module.endswith('.*'), module


# ------------------------------------------------------------------------------------------------------- commands

class Understood(Exception):
    """A parser has taken its arguments."""


@contextlib.contextmanager
def stop_after_parsing():
    """Every ArgumentParser raises Understood as soon as its arguments are parsed and checked."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Understood

    argparse.ArgumentParser.parse_args = parse_args
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = original


def parse_only(start, words):
    """Call ``start`` with those arguments; AssertionError with the parser's own words if it does not take them."""
    argv, path, modules, environment = sys.argv, list(sys.path), set(sys.modules), dict(os.environ)
    sys.argv, said = ['tool', *words], io.StringIO()
    try:
        with stop_after_parsing(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            start()
    except Understood:
        return
    except SystemExit as end:
        raise AssertionError(f'{words}: {said.getvalue()[-600:]}') from end
    finally:
        sys.argv, sys.path[:] = argv, path
        for name in set(sys.modules) - modules:  # siblings of the script, such as tconv_mmaction/cli/timing.py
            file = str(getattr(sys.modules[name], '__file__', ''))
            if file.startswith((str(ROOT / 'tools'), str(ROOT / 'projects'))):
                del sys.modules[name]
        os.environ.clear()
        os.environ.update(environment)
    raise AssertionError(f'{words}: the program ended without asking its parser')


def check_script(name, words):
    path = ROOT / name
    assert path.is_file(), f'there is no {name}'

    def start():
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name='__main__')

    parse_only(start, words)


def check_python(words):
    while words and words[0] in ('-u', '-W'):  # the interpreter's own; -W has a value
        words = words[1 if words[0] == '-u' else 2:]
    if not words:
        return None
    if words[0] == '-c':
        return compile(words[1], 'python -c', 'exec')
    if words[0] != '-m':
        return check_script(words[0], words[1:])
    module, words = words[1], words[2:]
    if module == 'tconv_mmaction' and words == ['run']:
        return None  # a text that names the command, without its arguments
    if module == 'tconv_mmaction':
        from tconv_mmaction.__main__ import main
        parse_only(lambda: main(words), words)
        if words[:1] == ['run']:
            assert words[1] in mim_scripts.available_scripts(), words
    elif module == 'pip':
        check_pip(words)
    elif module in ('torch.distributed.run', 'torch.distributed.launch'):
        check_torchrun(words)
    elif module == 'mkdocs':
        check_mkdocs(words)
    else:
        assert module in ('pytest', 'ruff', 'venv', 'timeit'), f'python -m {module} is not known to this test'


def check_torchrun(words):
    from torch.distributed.run import get_args_parser
    args = get_args_parser().parse_args(words)
    check_script(args.training_script, args.training_script_args)


def check_pip(words):
    assert words[0] in ('install', 'uninstall', 'list', 'wheel'), words
    extras = next(ast.literal_eval(keyword.value) for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
                  if isinstance(node, ast.Call) for keyword in node.keywords if keyword.arg == 'extras_require')
    rest = iter(words[1:])
    for word in rest:
        if word in ('-c', '-r'):
            assert (ROOT / next(rest)).is_file(), words
        elif word.startswith('.'):
            asked = re.fullmatch(r'\.(?:\[([\w,-]+)\])?', word)
            assert asked and set((asked[1] or '').split(',')) - {''} <= set(extras), word
        elif not word.startswith('-'):
            Requirement(word)


def check_make(words):
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
    assert set(word for word in words if '=' not in word) <= set(targets), words


def check_mkdocs(words):
    cli = pytest.importorskip('mkdocs.__main__', reason='needs the extra `docs`').cli
    command = cli.commands[words[0]]
    command.make_context(words[0], words[1:], resilient_parsing=False)


def check_launcher(script):
    """tools/dist_train.sh CONFIG PROCESSES ..., and the others: the words after their own go to train.py or test.py."""
    own = {'dist_train': 2, 'dist_test': 3, 'slurm_train': 3, 'slurm_test': 4}[Path(script).stem]
    tool = f"tools/{Path(script).stem.split('_')[1]}.py"

    def check(words):
        assert os.access(ROOT / script, os.X_OK) and len(words) >= own, words
        first = {'dist': 0, 'slurm': 2}[Path(script).stem.split('_')[0]]
        checkpoint = own - (1 if 'dist' in script else 0)
        check_script(tool, words[first:checkpoint] + words[own:] + ['--launcher', 'none'])

    return check


def check_tconv(words):
    """``tconv COMMAND ...``: the command is there, and its script takes the arguments."""
    from tconv_mmaction.cli.main import OWN, SCRIPTS
    if not words or words[0] == 'COMMAND' or {'--help', '...'} & set(words):
        return
    words = ['1' if word == 'VALUE' else word for word in words]  # of a loop over numbers
    assert words[0] in SCRIPTS or words[0] in OWN, f'there is no tconv {words[0]}'
    if words[0] in SCRIPTS and len(words) > 1 and 'CONFIG' not in words[1:2]:
        check_script(f'tools/{SCRIPTS[words[0]]}', words[1:])
    elif words[0] == 'run' and len(words) > 1:
        assert words[1] in mim_scripts.available_scripts() or words[1] == 'SCRIPT', words


def check_sh(words):
    assert (ROOT / words[0]).is_file(), f'there is no {words[0]}'


CHECKS = {
    'tconv': check_tconv, 'sh': check_sh,
    'python': check_python, 'python3': check_python, '.venv/bin/python': check_python, 'torchrun': check_torchrun,
    'pip': check_pip, 'make': check_make, 'mkdocs': check_mkdocs,
    **{f'tools/{name}.sh': check_launcher(f'tools/{name}.sh')
       for name in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test')},
}


def all_commands():
    """{(page, words): None} of fences, of indented lines that start with a program we check, and of inline code."""
    found = {}
    programs = '|'.join(re.escape(name) for name in [*CHECKS, 'ffmpeg'])
    for block in blocks('bash', 'sh', 'shell', 'console'):
        found.update(((block.page, tuple(words)), None) for words in shell_commands(block.code))
    for page in PAGES:
        pieces = re.findall(rf'^    ((?:{programs}) .*(?:\n {{5,}}.*)*)', prose(page), re.M)
        pieces += [span for span in code_spans(page) if re.match(rf'(?:{programs}) \S+ \S', span) and '[' not in span]
        found.update(((page_name(page), tuple(words)), None) for piece in pieces for words in shell_commands(piece))
    return list(found)


@pytest.mark.parametrize('page', sorted({page for page, _ in all_commands()}))
def test_commands_are_understood_by_their_programs(page):
    for where, words in all_commands():
        if where == page and words[0] not in NOT_CHECKED:
            assert words[0] in CHECKS, f'{" ".join(words)}: add a check for {words[0]}, or a reason to NOT_CHECKED'
            CHECKS[words[0]](list(words[1:]))


def test_the_check_of_commands_finds_mistakes():
    check_python(['tools/convert/public_3d.py', 'IN', 'OUT'])
    for wrong in (['tools/convert/public_3d.py', 'IN'], ['tools/convert/public_3d.py', 'IN', 'OUT', '--no-such'],
                  ['tools/no_such_tool.py'], ['tools/train.py'], ['tools/train.py', 'C', '--launcher', 'none-such'],
                  ['-m', 'tconv_mmaction', 'run', 'no_such.py'], ['tools/benchmarks/models.py', '--rounds', 'x']):
        with pytest.raises(AssertionError):
            check_python(wrong)
    for wrong in (['install', '.[no-such]'], ['install', '-c', 'none.txt', 'torch']):
        with pytest.raises(AssertionError):
            check_pip(wrong)


@pytest.mark.parametrize('block', blocks('bash', 'sh', 'shell'), ids=lambda block: block.name[:60])
def test_bash_is_bash(block):
    done = subprocess.run(['bash', '-n', '-c', block.code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------------------- Python

def is_file(block):
    """Whether the block is a file that the reader is to write: its first line is a comment with the name."""
    return re.match(r'# [\w./-]+\.py\n', block.code) is not None


def is_config(block):
    only_keys = all(isinstance(node, ast.Assign) for node in ast.parse(block.code).body)
    return only_keys and ('dict(' in block.code or '_base_ =' in block.code)


def check_components(tree):
    """Every ``dict(type='Name', key=...)`` names a registered class that takes these keys."""
    registries = [value for name, value in vars(mmaction.registry).items()  # FUNCTION names a place that is not there
                  if isinstance(value, Registry) and name != 'FUNCTION']
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'dict'):
            continue
        keys = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        if not isinstance(keys.get('type'), ast.Constant):
            continue
        name = keys.pop('type').value
        classes = [cls for cls in (registry.get(name) for registry in registries) if cls is not None]
        if not classes and any(f'class {name}(' in block.code for block in blocks('python')):
            continue  # the reader's own, on a page that shows how to write it
        assert classes, f'type={name!r} is in no registry'
        accepted, open_ended = accepted_arguments(classes[0])
        unknown = set(keys) - accepted - {'_delete_', '_scope_', 'priority', 'paramwise_cfg', 'constructor'}
        assert open_ended or not unknown, f'{name} takes no {sorted(unknown)}'


def accepted_arguments(cls):
    """(names, whether any other name is taken) of a class whose ``**kwargs`` go to the classes above it."""
    accepted = set()
    for owner in (inspect.getmro(cls) if inspect.isclass(cls) else [cls]):
        function = vars(owner).get('__init__') if inspect.isclass(owner) else owner
        if function is None or not callable(function) or owner is object:
            continue
        parameters = inspect.signature(function).parameters.values()
        accepted |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return accepted, False
    return accepted, True


@pytest.mark.parametrize('block', [b for b in blocks('python', 'py') if is_config(b)], ids=lambda b: b.name[:70])
def test_configs_load(block, tmp_path):
    code = block.code
    for base in re.findall(r"'([^']+\.py)'", ''.join(re.findall(r"^_base_ = (\[.+?\]|'.+?')", code, re.M | re.S))):
        known = {p.resolve() for p in (ROOT / 'configs').rglob(Path(base).name)}
        if base == 'mine_3t.py':  # what class_folders.py writes from the folder config
            known = set((ROOT / 'configs/recognition/tconv3').glob('resnet18-3t_scratch_*_folder-rgb.py'))
        path, = known
        code = code.replace(base, str(path))
    (tmp_path / 'config.py').write_text(code)
    config = Config.fromfile(tmp_path / 'config.py', import_custom_modules=False)
    assert len(config) > 0
    check_components(ast.parse(code))


def test_the_check_of_configs_finds_mistakes():
    check_components(ast.parse("x = dict(type='TemporalResNet3d', depth=18, norm_eval=True)"))
    for wrong in ("x = dict(type='NoSuchNet')", "x = dict(type='Conv3T', no_such=1)"):
        with pytest.raises(AssertionError):
            check_components(ast.parse(wrong))


def code_blocks():
    return [block for block in blocks('python', 'py') if not is_config(block)]


def names_of(tree):
    """(names that the code binds anywhere, names that it reads)."""
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    return bound, {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize('page', sorted({block.page for block in code_blocks()}))
def test_python_compiles_and_its_names_exist(page):
    known = set(dir(builtins)) | {'__file__', '__name__'} | set(GIVEN.get(page, dict)())
    written = {Path(block.code[2:].split('\n')[0]).stem for block in blocks('python') if is_file(block)}
    for block in code_blocks():
        if block.page != page:
            continue
        tree = ast.parse(block.code)
        if page != FAQ:
            check_components(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name.split('.')[0] in written or importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module.split('.')[0] not in written:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f'{node.module}.{alias.name}')
        bound, read = names_of(tree)
        known |= bound
        assert read <= known, f'{block.name}: {sorted(read - known)} come from nowhere'


def errors_of_the_faq():
    """(heading, Python, message) where a section of docs/faq.md has both."""
    text = (ROOT / FAQ).read_text(encoding='utf-8')
    return re.findall(r'^### ([^\n]*)\n+```python\n(.*?)^```\n+```text\n(.*?)^```', text, re.M | re.S)


@pytest.mark.parametrize('heading, code, message', errors_of_the_faq(), ids=lambda text: text.split('\n')[0][:40])
def test_the_errors_of_the_faq_are_what_it_says(heading, code, message, tmp_path, monkeypatch):
    if 'pkg_resources' in heading and importlib.util.find_spec('pkg_resources'):
        pytest.skip('this setuptools still brings pkg_resources')
    if 'AmpOptim' in heading and torch.cuda.is_available():
        pytest.skip('here it trains')
    if 'torchvision' in heading and importlib.util.find_spec('torchvision'):
        pytest.skip('torchvision is there')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as caught:
        exec(compile(code, heading, 'exec'), {'__name__': 'faq'})
    said = ' '.join(str(caught.value).split())
    for part in ' '.join(message.split()).split('...'):
        assert part.strip() in said
    assert len(errors_of_the_faq()) > 10


@pytest.mark.parametrize('page', sorted({b.page for b in code_blocks() if b.name not in NOT_RUN and not is_file(b)
                                         and b.page != FAQ}))
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = GIVEN.get(page, dict)()
    for block in code_blocks():
        if block.page == page and block.name not in NOT_RUN and not is_file(block):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.code, block.name, 'exec'), namespace)


def test_exceptions_are_needed():
    """An entry that no page needs any more would hide the next mistake."""
    assert set(NOT_RUN) <= {block.name for block in code_blocks()}
    assert set(NOT_CHECKED) <= {words[0] for _, words in all_commands()}


# --------------------------------------------------------------------------------------------------------- README

def test_the_example_config_of_the_readme_trains_a_step():
    block = next(b for b in blocks('python') if b.page == 'README.md' and 'custom_imports' in b.code)
    recognizer = MODELS.build(Config.fromstring(block.code, '.py').model)
    assert sum(isinstance(m, Conv3T) for m in recognizer.modules()) > 0
    losses = recognizer(torch.randn(2, 1, 3, 4, 32, 32), [ActionDataSample().set_gt_label(k) for k in (0, 1)], 'loss')
    losses['loss_cls'].backward()
    moving = [m for m in recognizer.modules() if isinstance(m, Conv3T) and m.kernel_size[0] > 1]
    assert moving and all(m.rotate.grad is not None for m in moving)


def test_parameter_table_is_what_the_configs_give():
    """The rows of README's table that name a network of this repository, checked in test_configs and test_lenet5."""
    text = (ROOT / 'README.md').read_text()
    for count in ('11,222,619', '33,217,755', '7,419,121', '14,078,833', '254,058', '263,906', '1,324,014',
                  '12,465,614'):
        assert count in text
