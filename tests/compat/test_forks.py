"""Forks and new releases of mmengine and mmcv: nothing unsafe gets in, and they are called by their names."""
import contextlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from helpers.attacks import ATTACKS, guarded, write
from helpers.paths import ROOT
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint

from tconv_mmaction.compat import checkpoints, packages, requirements

RECONSTRUCT, SCALAR = (value.__reduce__()[0] for value in (np.zeros(1), np.float64(1)))
THEIRS = [slice, getattr, RECONSTRUCT, np.ndarray, np.dtype, SCALAR, type(np.dtype('f8')), HistoryBuffer]


def real_getattr(path):
    """A file that calls the real getattr: harmless for a stand-in, which refuses it."""

    class Ask:
        def __reduce__(self):
            return getattr, (torch.Tensor, 'shape')

    torch.save(dict(state_dict={}, extra=Ask()), path)
    return str(path)


def good(path):
    buffer = HistoryBuffer([1., 5.], [1, 1])
    torch.save(dict(state_dict=dict(w=torch.ones(2)), message_hub=dict(loss=buffer, score=np.float64(.5))), path)
    return str(path)


# ---- the stand-ins win ----

@guarded
@pytest.mark.parametrize('order', [1, -1], ids=['theirs first', 'theirs last'])
def test_the_stand_ins_win_in_whatever_order_pytorch_goes_through_its_list(order, monkeypatch, tmp_path):
    ours = [(stand_in, path) for path, stand_in in checkpoints._STAND_INS.items()]
    # the set of the real thing, where chance decides, as a list of either order
    monkeypatch.setattr(torch._weights_only_unpickler, '_marked_safe_globals_set', (THEIRS + ours)[::order])
    table = torch._weights_only_unpickler._get_user_allowed_globals()
    assert all(table[path] is stand_in for path, stand_in in checkpoints._STAND_INS.items())
    assert table['builtins.slice'] is slice and getattr not in table.values()
    with pytest.raises(pickle.UnpicklingError, match='getattr'):
        torch.load(real_getattr(tmp_path / 'evil.pth'), weights_only=True)
    loaded = torch.load(good(tmp_path / 'good.pth'), weights_only=True)['message_hub']
    assert loaded['loss'].mean() == 3. and type(loaded['loss']) is HistoryBuffer and loaded['score'] == .5


@guarded
def test_a_name_of_ours_that_nobody_allowed_stays_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._weights_only_unpickler, '_marked_safe_globals_set', set())
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        torch.load(good(tmp_path / 'good.pth'), weights_only=True)


@guarded
@pytest.mark.parametrize('release', ['onedl-mmengine 0.10.12', 'mmengine 0.11.0rc3'])
def test_loading_as_the_other_releases_do(release, monkeypatch, tmp_path):
    """Their loaders in place of this release's: one allows the real functions and then loads without weights_only
    what was refused, the other loads everything without."""

    def onedl(file, map_location=None, weights_only=None):
        try:
            with torch.serialization.safe_globals(THEIRS):
                return torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(file, map_location=map_location, weights_only=False)

    def candidate(file, map_location=None):
        return torch.load(file, map_location=map_location, weights_only=False)

    loader = onedl if release.startswith('onedl') else candidate
    schemes = checkpoint.CheckpointLoader._schemes
    monkeypatch.setitem(schemes, '', lambda filename, map_location: loader(filename, map_location))
    evil, fine = real_getattr(tmp_path / 'evil.pth'), good(tmp_path / 'good.pth')
    for _ in range(5):
        with pytest.raises(checkpoints.UnsafeCheckpointError, match=r'evil\.pth was refused, and nothing in it was'):
            checkpoint.CheckpointLoader.load_checkpoint(evil, map_location='cpu')
        loaded = checkpoint.CheckpointLoader.load_checkpoint(fine, map_location='cpu')
        assert loaded['message_hub']['loss'].max() == 5.


PROGRAM = '''
import json, os, sys
import mmengine
import tconv_mmaction
from mmengine.runner import CheckpointLoader
from tconv_mmaction.compat.checkpoints import UnsafeCheckpointError
folder, good, evil = sys.argv[1], sys.argv[2], sys.argv[3:]
refused = 0
for path in evil:
    try:
        CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except UnsafeCheckpointError:
        refused += 1
loads = sum(bool(CheckpointLoader.load_checkpoint(good, map_location='cpu')['message_hub']['loss'].mean() == 3.)
            for _ in range(10))
print(json.dumps(dict(refused=refused, loads=loads, version=mmengine.__version__, path=mmengine.__file__)))
'''


@guarded
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('release', ['onedl-mmengine==0.10.12', 'mmengine==0.11.0rc3'])
def test_hostile_files_in_ten_processes_with_the_release_itself(release, tmp_path):
    """All hostile files of the suite refused, and ten good loads, in each of ten processes."""
    place = tmp_path / 'release'
    install = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--pre', '--target', str(place), release]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'{release} could not be installed: {done.stderr[-300:]}')
    mark = tmp_path / 'it-ran'
    evil = [write(attack(mark), tmp_path / f'evil{number}.pth') for number, attack in enumerate(ATTACKS.values())]
    (tmp_path / 'program.py').write_text(PROGRAM)
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv('PYTHONPATH', f'{place}{os.pathsep}{ROOT}')
        for _ in range(10):
            done = subprocess.run([sys.executable, str(tmp_path / 'program.py'), str(tmp_path),
                                   good(tmp_path / 'good.pth'), *evil], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            result = json.loads(done.stdout.splitlines()[-1])
            assert result['path'].startswith(str(place)) and result['version'] == release.split('==')[1]
            assert result['refused'] == len(evil) >= 29 and result['loads'] == 10
            assert not mark.exists()


# ---- a user's own statistics ----

def spread(buffer):
    """Stands for a function that a user registers."""
    return float(buffer.data[0].max() - buffer.data[0].min())


@guarded
def test_a_users_own_statistics_function_is_named_and_can_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', dict(HistoryBuffer._statistics_methods))
    HistoryBuffer.register_statistics(spread)
    path = good(tmp_path / 'own.pth')
    name = f'{spread.__module__}.spread'
    assert checkpoints.statistics_methods(path) == [name]
    with pytest.raises(checkpoints.UnsafeCheckpointError) as caught:
        checkpoint.CheckpointLoader.load_checkpoint(path)
    message = str(caught.value)
    assert f'names {name} as a statistics function' in message and 'register_statistics' in message
    assert f'from {spread.__module__} import spread; torch.serialization.add_safe_globals([spread])' in message
    assert 'no checkpoint that MMEngine writes needs' not in message
    with torch.serialization.safe_globals([spread]):
        buffer = checkpoint.CheckpointLoader.load_checkpoint(path)['message_hub']['loss']
    assert buffer.statistics('spread') == 4.


@guarded
def test_the_way_to_allow_a_function_is_never_told_for_one_of_pythons_own(tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', dict(mean=subprocess.call))
    path = good(tmp_path / 'evil.pth')
    with pytest.raises(checkpoints.UnsafeCheckpointError, match='asks for .*call, which no checkpoint that'):
        checkpoint.CheckpointLoader.load_checkpoint(path)


@guarded
def test_a_stranger_does_not_pass_for_a_statistics_function(tmp_path):
    path = real_getattr(tmp_path / 'evil.pth')
    assert checkpoints.statistics_methods(path) == []
    assert checkpoints.statistics_methods(tmp_path / 'none.pth') == []
    (tmp_path / 'page.pth').write_text('<html>')
    assert checkpoints.statistics_methods(tmp_path / 'page.pth') == []


def test_what_python_313_writes_for_the_methods_of_a_buffer_is_no_function_of_a_users(tmp_path):
    """It names the class anew for every method, where earlier ones refer to its first mention."""
    key = b'statistics_methods'
    operations = (b'\x80\x02X' + len(key).to_bytes(4, 'little') + key
                  + b'cmmengine.logging.history_buffer\nHistoryBuffer\n' + b'cmine.tools\nspread\ns.')
    with zipfile.ZipFile(tmp_path / 'own.pth', 'w') as archive:
        archive.writestr('own/data.pkl', operations)
    assert checkpoints.statistics_methods(tmp_path / 'own.pth') == ['mine.tools.spread']


# ---- names ----

class Distribution:
    """What importlib.metadata tells about one installed distribution."""

    def __init__(self, name, version, folder, listed=True):
        self.metadata, self.version, self.listed, self.folder = {'Name': name}, version, listed, folder
        self.files = [importlib.metadata.PackagePath(f'{folder}/__init__.py')]

    def read_text(self, name):
        return f'{self.folder}\n' if self.listed and name == 'top_level.txt' else None


def installed(monkeypatch, *distributions):
    monkeypatch.setattr(importlib.metadata, 'distributions', lambda: iter(distributions))


@pytest.fixture
def fork(monkeypatch):
    installed(monkeypatch, Distribution('onedl-mmengine', '0.10.12', 'mmengine', listed=False),
              Distribution('onedl-mmcv', '2.3.6', 'mmcv'), Distribution('mmaction2', '1.2.0', 'mmaction'))


def test_who_brings_a_folder(fork):
    assert requirements.providers('mmengine') == {'onedl-mmengine': '0.10.12'}
    assert requirements.providers('mmcv') == {'onedl-mmcv': '2.3.6'} and requirements.providers('cv2') == {}


def test_no_fix_installs_mmengine_over_a_fork(fork):
    assert requirements.mmengine_fix() == 'pip install "onedl-mmengine>=0.10.4,<1.0"'
    fix = requirements.mmcv_fix()  # mmcv-lite asks for mmengine, so the fork must go first
    assert fix.startswith('pip uninstall -y onedl-mmcv onedl-mmengine && pip install "mmcv-lite')


@pytest.mark.parametrize('version, lifted', [('1.7.2', False), ('2.1.0', False), ('2.2.0', True), ('2.3.6', True),
                                             ('3.0.0', False)])
def test_the_check_of_mmcv_is_lifted_for_what_works_alone(version, lifted, monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', version)
    with requirements._lifted(mmcv):
        assert mmcv.__version__ == ('2.1.0' if lifted else version)
    assert mmcv.__version__ == version


def test_mmaction2_imports_with_mmcv_two_three(monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', '2.3.6')
    monkeypatch.delitem(sys.modules, 'mmaction')
    applied, detail = requirements.apply()
    assert applied and 'lifted for 2.3.6' in detail


# ---- where packages lie ----

def test_packages_are_found_by_folder_and_by_distribution():
    import mmaction
    folder = str(Path(mmaction.__file__).parent)
    assert packages.get_installed_path('mmaction') == packages.get_installed_path('mmaction2') == folder
    assert packages.package2module('mmaction2') == 'mmaction'
    assert packages.is_installed('mmaction') and packages.is_installed('mmaction2')
    assert not packages.is_installed('not_there')
    for ask, error in ((packages.get_installed_path, importlib.metadata.PackageNotFoundError),
                       (packages.package2module, ValueError)):
        with pytest.raises(error, match='not_there'):
            ask('not_there')


def test_a_namespace_package_lies_nowhere(tmp_path, monkeypatch):
    (tmp_path / 'spread_out').mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not packages.is_installed('spread_out')
    with pytest.raises(RuntimeError, match='namespace package'):
        packages.get_installed_path('spread_out')


def test_mmengines_own_look_up_is_left_alone_where_it_is_right(monkeypatch):
    from mmengine.utils import package_utils

    def right(package):
        return package

    for name in ('is_installed', 'get_installed_path', 'package2module'):
        monkeypatch.setattr(package_utils, name, right)
    assert packages._replace(package_utils) is False and package_utils.is_installed is right


def test_an_mmaction_base_is_found_without_pkg_resources(tmp_path, monkeypatch):
    from mmengine.config import Config
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)
    name = 'recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py'
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmaction::{name}'\nmodel = dict(cls_head=dict(num_classes=7))\n")
    config = Config.fromfile(tmp_path / 'mine.py')
    assert config.model.type == 'Recognizer2D' and config.model.cls_head.num_classes == 7
