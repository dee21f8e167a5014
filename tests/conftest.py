"""Fixtures for all tests: where reference files and real data are, and a clean default scope."""
import gc
import runpy
import sys

import numpy as np
import pytest
import torch
from helpers.compared_project import compared, compared_once  # noqa: F401  fixtures of several folders
from helpers.paths import ROOT, SHARED
from hypothesis import HealthCheck, settings
from mmengine.registry import init_default_scope

import tconv_mmaction  # noqa: F401  registers everything, and makes mmaction2 importable

# tests/*/test_fuzz_*.py: every run of the suite has the same few examples, the nightly one draws many new ones
# (docs/reliability/fuzzing.md). A busy machine is no failure, so neither has a deadline per example.
PATIENT = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile('suite', max_examples=12, derandomize=True, **PATIENT)
settings.register_profile('nightly', max_examples=500, print_blob=True, **PATIENT)
settings.load_profile('suite')  # --hypothesis-profile=nightly replaces it


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason='needs a CUDA device, and torch.cuda.is_available() is False here')
        for item in items:
            if item.get_closest_marker('gpu'):  # keywords hold the folders' names as well
                item.add_marker(skip)


def pytest_collection_finish(session):
    """Collecting garbage looks at every object of the libraries and tests otherwise, and many tests collect."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope='session')
def configs_are_written_without_layout():
    """MMEngine lays out the text of a config for every Runner, with a formatter of Python that takes up to a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.config.config.FormatCode', lambda text, **options: (text, False))
        yield


@pytest.fixture(autouse=True, scope='module')
def scope_of_module_fixtures():
    """They are made before the fixture below, and whichever test comes first on a worker may need one."""
    init_default_scope('mmaction')


@pytest.fixture(autouse=True)
def seed_and_scope():
    """The same random numbers for every test, and the scope that a Runner sets from `default_scope`."""
    torch.manual_seed(0)
    np.random.seed(0)
    init_default_scope('mmaction')


@pytest.fixture
def benchmark_script(monkeypatch):
    """Runs a script of tools/benchmarks by name, but for its main part, and gives its namespace."""
    folder = ROOT / 'tools/benchmarks'
    monkeypatch.syspath_prepend(str(folder))
    yield lambda name: runpy.run_path(str(folder / f'{name}.py'), run_name=name)
    for name in ('summary', 'transforms'):  # other folders may have siblings of such names
        sys.modules.pop(name, None)


@pytest.fixture
def shared():
    """The folder of reference material beside the checkout; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f'needs the reference material in {SHARED}, which is not there')
    return SHARED
