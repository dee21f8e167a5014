"""Where things live: floors of imports, no circles, modules only in layers/, tests in the folders of what they test."""
import ast
from functools import cache

import pytest
from helpers.paths import ROOT

PACKAGE = 'tconv_mmaction'
# from the ground up: a file imports from its own package and from floors below; packages of one floor do not meet
FLOORS = [('utils', 'version'), ('maths', ), ('ops', ), ('compat', ), ('layers', ), ('transforms', ), ('datasets', ),
          ('backbones', ), ('heads', 'metrics', 'optim'), ('interpret', ), ('setup_checks', ), ('hooks', ), ('cli', )]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
DOORS = ('__init__', '__main__', 'doctor', 'mim_scripts')  # the package itself, its command, and paths of before
LAYERS = {'__init__', 'branch_inflation', 'conv3t', 'conv_base', 'conv_lstm2d', 'deploy', 'multi_branch_conv3d',
          'registry', 'separable_conv3d', 'single_filters'}
FIELD = ('mmaction', 'mmcv', 'mmengine')  # what the floors of plain PyTorch know nothing of


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob('*.py'))}


def imports_of(tree, module, is_package):
    """The absolute names of modules in the import statements below ``tree``; ``from p import m`` is ``p.m``."""
    package = module.split('.') if is_package else module.split('.')[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            target = '.'.join(base + (node.module.split('.') if node.module else []))
            for alias in node.names:
                yield f'{target}.{alias.name}' if f'{target}.{alias.name}' in MODULES else target


@cache
def all_imports(module):
    """Of the whole file, functions included."""
    path = MODULES[module]
    return sorted(set(imports_of(ast.parse(path.read_text(encoding='utf-8')), module, path.stem == '__init__')))


def imports_on_import(module):
    """Of what runs when the module is imported: not of its functions, not what is there for type checkers."""
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding='utf-8'))

    class Later(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node):
            return None if getattr(node.test, 'id', '') == 'TYPE_CHECKING' else self.generic_visit(node)

    return set(imports_of(Later().visit(tree), module, path.stem == '__init__')) & set(MODULES)


def floor(module):
    parts = module.split('.')
    return parts[1] if len(parts) > 1 else '__init__'


def circles(graph):
    """The strongly connected parts of more than one node, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = [stack.pop()]
            while part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_every_package_has_a_floor():
    names = {floor(module) for module in MODULES} - set(DOORS)
    assert names == set(LEVEL), 'a new package needs its place in FLOORS'


def test_imports_come_from_below():
    wrong = []
    for module in MODULES:
        here = floor(module)
        if here in DOORS:
            continue
        for target in all_imports(module):
            there = floor(target)
            if target.split('.')[0] != PACKAGE or there == here:
                continue
            if there in DOORS or LEVEL[there] >= LEVEL[here]:
                wrong.append(f'{module} imports {target}')
    assert not wrong, '\n'.join(wrong)


def test_maths_and_ops_are_plain_pytorch():
    wrong = [f'{module} imports {target}' for module in MODULES if floor(module) in ('maths', 'ops')
             for target in all_imports(module) if target.split('.')[0] in FIELD]
    assert not wrong, '\n'.join(wrong)


def test_no_circles_of_imports():
    assert circles({module: imports_on_import(module) - {module} for module in MODULES}) == []
    # nor of what functions and type checkers import later, between files; a package's face names what lies behind it
    files = {module for module, path in MODULES.items() if path.stem != '__init__'}
    assert circles({module: files & set(all_imports(module)) - {module} for module in files}) == []


@pytest.mark.parametrize('graph, expected', [
    (dict(a='bc', b='c', c=''), []), (dict(a='b', b='c', c='b'), [['b', 'c']]),
    (dict(a='b', b='a', c='d', d='c'), [['a', 'b'], ['c', 'd']])])
def test_circles_are_found(graph, expected):
    assert sorted(circles(graph)) == expected


def test_layers_holds_modules_only():
    assert {path.stem for path in (ROOT / PACKAGE / 'layers').glob('*')} - {'__pycache__'} == LAYERS, (
        'the papers\' equations go to maths/, how to compute them faster to ops/')


@pytest.mark.parametrize('folder', ['tools', 'projects'])
def test_scripts_leave_the_search_path_alone(folder):
    """What scripts share is in the package (cli/); what a study's files share lies beside them."""
    touched = [f'{path.relative_to(ROOT)}:{number}' for path in sorted((ROOT / folder).rglob('*.py'))
               for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1) if 'sys.path' in line]
    assert not touched


def test_tests_lie_in_the_folders_of_what_they_test():
    """tests/X tests tconv_mmaction/X or, for tools, projects, configs and docs, X; tests/system what crosses them."""
    wrong = []
    for path in sorted((ROOT / 'tests').rglob('test_*.py')):
        folder = path.parent.relative_to(ROOT / 'tests')
        if folder.parts[:1] != ('system', ) and not ((ROOT / PACKAGE / folder).is_dir() or (ROOT / folder).is_dir()):
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong, wrong


def test_no_test_imports_another():
    """What two of them need is in tests/helpers."""
    wrong = []
    for path in sorted((ROOT / 'tests').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[-1].startswith('test_'):
                wrong.append(f'{path.relative_to(ROOT)} imports {node.module}')
    assert not wrong, '\n'.join(wrong)


def test_one_place_knows_the_root():
    """So that a test can move from folder to folder."""
    users = [str(path.relative_to(ROOT)) for path in sorted((ROOT / 'tests').rglob('*.py'))
             if 'Path(__file__)' in path.read_text(encoding='utf-8') and path.name != 'test_house.py']
    assert users == ['tests/helpers/paths.py']
