"""What compat lets through, what it refuses, and that a refused pickle did not run."""
import functools
import http.server
import importlib
import importlib.metadata
import os
import pickle
import sys
import threading
import zipfile

import mmcv
import numpy as np
import pytest
import torch
from helpers.attacks import ATTACKS, Call, New, guarded, is_guarded, write
from helpers.tiny_project import run
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from tconv_mmaction import compat
from tconv_mmaction.compat import checkpoints, drn, requirements


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


# ---- checkpoints: what MMEngine writes ----

TRAIN = '''
import sys
import numpy as np
if 'compat' in sys.argv:
    import tconv_mmaction
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def forward(self, x, mode='loss'):
        return dict(loss=(self.layer(torch.stack(x)) ** 2).mean()) if mode == 'loss' else x

class Data(BaseDataset):
    METAINFO = dict(classes=('a', 'b'), palette=np.eye(3, dtype='>f4'), names=np.array(['left', 'd\\xe9j\\xe0']))
    def load_data_list(self):
        return [{}] * 4
    def __getitem__(self, index):
        return dict(x=torch.arange(2.) + index)

torch.manual_seed(0)
runner = Runner(
    model=Toy(), work_dir='.', resume='resume' in sys.argv, randomness=dict(seed=0),
    train_dataloader=dict(batch_size=2, num_workers=0, dataset=Data(),
                          sampler=dict(type='DefaultSampler', shuffle=True)),
    optim_wrapper=dict(optimizer=dict(type='Adam', lr=.1)), experiment_name=str(len(sys.argv)),
    param_scheduler=[dict(type='MultiStepLR', milestones=[1]), dict(type='CosineAnnealingParamScheduler',
                     param_name='weight_decay', T_max=3)],
    custom_hooks=[dict(type='EMAHook')],
    train_cfg=dict(by_epoch=True, max_epochs=3 if 'resume' in sys.argv else 2))
runner.message_hub.update_info('best_score', np.float64(0.75))
runner.message_hub.update_info('flag', np.bool_(True))
runner.train()
assert ('tconv_mmaction' in sys.modules) == ('compat' in sys.argv)
'''


@pytest.fixture(scope='module')
def foreign(tmp_path_factory):
    """A work_dir that mmengine's Runner wrote in a process that never imported this package."""
    folder = tmp_path_factory.mktemp('foreign')
    (folder / 'toy.py').write_text(TRAIN)
    run(['python', 'toy.py'], folder)
    return folder


def same(a, b):
    """Whether two loaded checkpoints hold the same values, array by array."""
    if isinstance(b, HistoryBuffer):
        return type(a) is HistoryBuffer and same(a.data, b.data) and a.max_length == b.max_length
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(b, (np.ndarray, np.generic)):
        native = b.dtype.newbyteorder('=')  # numpy swaps the bytes of an array when it unpickles it
        return a.dtype == native and a.shape == b.shape and bool(np.all(a == b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize('core', ['as written', b'numpy.core', b'numpy._core'])
def test_a_checkpoint_written_without_this_package_loads_equal(foreign, core, tmp_path):
    path = foreign / 'epoch_2.pth'
    if core != 'as written':  # numpy 1 and 2 name the same functions differently
        changed = tmp_path / 'changed.pth'
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, 'w') as target:
            for name in source.namelist():
                data = source.read(name)
                if name.endswith('data.pkl'):
                    data = data.replace(b'numpy._core', b'numpy.core').replace(b'numpy.core', core)
                    assert core + b'.multiarray\n' in data
                target.writestr(name, data)
        path = changed
    expected = torch.load(path, weights_only=False)
    loaded = load(path)
    assert same(loaded, expected)
    assert loaded['message_hub']['runtime_info']['best_score'] == 0.75
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    losses = [float(value) for value in expected['message_hub']['log_scalars']['train/loss'].data[0]]
    assert len(losses) == 4
    assert buffer.statistics('mean') == buffer.mean() == pytest.approx(sum(losses) / 4)
    assert buffer.statistics('max', 2) == max(losses[-2:])
    buffer.update(1.5)
    assert buffer.current() == 1.5


@guarded
def test_without_compat_the_same_checkpoint_is_refused(foreign):
    code = "import torch; torch.load('epoch_2.pth')"
    done = run(['python', '-c', code], foreign, check=False)
    assert done.returncode == 1 and 'was not an allowed global by default' in done.stderr


def test_resume_of_a_checkpoint_written_without_this_package(foreign):
    done = run(['python', 'toy.py', 'resume', 'compat'], foreign)
    assert 'resumed epoch: 2, iter: 4' in done.stdout
    resumed = torch.load(foreign / 'epoch_3.pth', weights_only=False)
    before = torch.load(foreign / 'epoch_2.pth', weights_only=False)
    losses = [checkpoint['message_hub']['log_scalars']['train/loss'].data[0] for checkpoint in (before, resumed)]
    np.testing.assert_array_equal(losses[1][:4], losses[0])
    assert len(losses[1]) == 6 and resumed['optimizer']['state'][0]['step'] == 6


def test_loaded_and_saved_again_is_what_numpy_itself_writes(foreign, tmp_path):
    torch.save(load(foreign / 'epoch_2.pth'), tmp_path / 'again.pth')
    assert same(torch.load(tmp_path / 'again.pth', weights_only=False),
                torch.load(foreign / 'epoch_2.pth', weights_only=False))
    with zipfile.ZipFile(tmp_path / 'again.pth') as saved:
        assert b'tconv_mmaction' not in saved.read('again/data.pkl')


@pytest.mark.parametrize('value', [
    np.arange(24, dtype='>i4').reshape(2, 3, 4)[::2, :, ::-1], np.array(3 + 4j), np.zeros((0, 5), bool),
    np.asfortranarray(np.arange(6., dtype='f2').reshape(2, 3)), np.array([b'ab', b'c']), np.array([['x', 'ü']]),
    np.float32(1.1), np.int8(-3), np.bool_(True), np.complex64(1j), np.str_('grün'), np.array([], 'u8'),
    HistoryBuffer(), HistoryBuffer([1., 2., 4.], [1, 1, 2], max_length=7)], ids=lambda value: repr(value)[:30])
def test_values_survive(value, tmp_path):
    loaded = load(write(dict(value=value, list=[value, 1]), tmp_path / 'value.pth'))['message_hub']
    assert same(loaded['value'], value) and loaded['list'][0] is not None


# ---- checkpoints: what must not get in ----

@pytest.mark.parametrize('name', map(is_guarded, ATTACKS))
def test_a_pickle_that_would_run_code_is_refused_and_did_not_run(name, tmp_path):
    mark = tmp_path / 'it-ran'
    (tmp_path / 'it-ran.py').write_text(f'open({str(mark)!r}, "w")')
    torch.save(Call(os.system, f'touch {mark}'), tmp_path / 'it-ran.pth')
    path = write(ATTACKS[name](mark), tmp_path / 'evil.pth')
    methods = dict(HistoryBuffer._statistics_methods)
    with pytest.raises(checkpoints.UnsafeCheckpointError) as caught:
        load(path)
    assert not mark.exists()
    message = str(caught.value)
    assert path in message and 'nothing in it was run' in message and 'If you made it' in message
    assert 'weights_only=False' not in message  # the way out is not to open the door
    with pytest.raises(pickle.UnpicklingError):  # and so for a script that calls torch.load itself
        torch.load(path)
    assert not mark.exists() and HistoryBuffer._statistics_methods == methods


@pytest.mark.parametrize('name', ['os.system', 'eval', 'open', 'import_module', 'runpy', 'pickle.loads', 'partial',
                                  'torch.load', 'methodcaller', 'object array'])
def test_the_attacks_are_real(name, tmp_path):
    mark = tmp_path / 'it-ran'
    (tmp_path / 'it-ran.py').write_text(f'open({str(mark)!r}, "w")')
    torch.save(Call(os.system, f'touch {mark}'), tmp_path / 'it-ran.pth')
    torch.load(write(ATTACKS[name](mark), tmp_path / 'evil.pth'), weights_only=False)
    assert mark.exists()


def arrays(shape=(1,), code='f8', state=(3, '<', None, None, None, -1, -1, 0), raw=b'\0' * 8, version=1):
    dtype = Call(np.dtype, code, False, True, state=state)
    reconstruct = np.zeros(1).__reduce__()[0]
    return Call(reconstruct, np.ndarray, (0,), b'b', state=(version, shape, dtype, False, raw))


@guarded
@pytest.mark.parametrize('array', [
    arrays(raw=b'\0' * 7), arrays(shape=(2,)), arrays(shape=(-1,), raw=b''), arrays(shape=(2**40, 0), raw=b''),
    arrays(shape=(-1, -1)), arrays(shape=('1',)), arrays(shape=[1]), arrays(raw=[1.]), arrays(version=2),
    arrays(code='O8'), arrays(code='V8'), arrays(code='M8'), arrays(code='i16'), arrays(code='f8,f8'),
    arrays(code='U2', state=(3, '<', None, None, None, 8, 4, 8), raw=b'\xff' * 8),
    arrays(state=(3, '<', ('f8', (2,)), None, None, -1, -1, 0)),
    arrays(state=(3, '|', None, ('a',), dict(a=(np.dtype('f8'), 0)), 8, 1, 16)),
    arrays(state=(4, '<', None, None, None, -1, -1, 0, {})), arrays(state=(3, '?', None, None, None, -1, -1, 0)),
    Call(np.float64(1).__reduce__()[0], np.dtype('f8'), b'\0' * 4),
    Call(np.float64(1).__reduce__()[0], 'f8', b'\0' * 8),
    Call(np.zeros(1).__reduce__()[0], torch.Tensor, (0,), b'b')], ids=[str(i) for i in range(22)])
def test_numpy_content_that_is_not_plain_numbers_is_refused(array, tmp_path):
    with pytest.raises(checkpoints.UnsafeCheckpointError, match='refused'):
        load(write(array, tmp_path / 'evil.pth'))


@guarded
def test_flags_in_the_file_do_not_reach_a_dtype(tmp_path):
    # 63 claims that the numbers are counted pointers; numpy would follow them when the array is freed
    array = arrays(state=(3, '<', None, None, None, -1, -1, 63), raw=np.array([7.]).tobytes())
    loaded = load(write(array, tmp_path / 'flags.pth'))['message_hub']
    assert loaded.dtype.flags == np.dtype('f8').flags and not loaded.dtype.hasobject and loaded[0] == 7.


@guarded
def test_methods_named_in_the_file_do_not_reach_the_class(tmp_path):
    methods = dict(HistoryBuffer._statistics_methods)
    state = dict(max_length=3, _log_history=np.array([1., 5.]), _count_history=np.ones(2),
                 statistics_methods=dict(mean=HistoryBuffer.max, extra=torch.Tensor))
    loaded = load(write(New(HistoryBuffer, state=state), tmp_path / 'methods.pth'))['message_hub']
    assert HistoryBuffer._statistics_methods == methods and loaded.statistics('mean') == 3.


@guarded
def test_the_real_functions_that_somebody_allowed_give_way(foreign, tmp_path):
    # the advice that goes around for this error; with it a file can call getattr
    scalar, reconstruct = (value.__reduce__()[0] for value in (np.float64(1), np.zeros(1)))
    torch.serialization.add_safe_globals([HistoryBuffer, getattr, np.ndarray, np.dtype, reconstruct, scalar, Call])
    try:
        assert same(load(foreign / 'epoch_2.pth'), torch.load(foreign / 'epoch_2.pth', weights_only=False))
        for attack in ('getattr globals', 'ndarray over a buffer', 'getattr of getattr'):
            with pytest.raises(checkpoints.UnsafeCheckpointError, match='refused'):
                load(write(ATTACKS[attack](tmp_path / 'mark'), tmp_path / 'evil.pth'))
        allowed = torch.serialization.get_safe_globals()
        assert Call in allowed and getattr not in allowed  # what has no stand-in stays
        torch.serialization.clear_safe_globals()
        assert load(foreign / 'epoch_2.pth')['meta']['epoch'] == 2
    finally:
        torch.serialization.clear_safe_globals()
        checkpoints._allow_stand_ins()


@guarded
def test_a_file_that_is_no_checkpoint_says_so(tmp_path):
    path = tmp_path / 'page.pth'
    path.write_bytes(b'<!DOCTYPE html><html>404</html>')
    with pytest.raises(checkpoints.UnsafeCheckpointError, match=r'page\.pth is no checkpoint that PyTorch can read'):
        load(path)


@guarded
def test_a_download_is_read_with_weights_only_too(tmp_path, monkeypatch):
    folder, mark = tmp_path / 'site', tmp_path / 'it-ran'
    folder.mkdir()
    write(Call(os.system, f'touch {mark}'), folder / 'evil.pth')
    write(HistoryBuffer([2.], [1]), folder / 'good.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f'http://127.0.0.1:{server.server_address[1]}'
        try:
            assert load(f'{site}/good.pth')['message_hub'].mean() == 2.
            with pytest.raises(checkpoints.UnsafeCheckpointError, match='evil.pth was refused'):
                load(f'{site}/evil.pth')
        finally:
            server.shutdown()
    assert not mark.exists()


@guarded
def test_the_environment_is_left_as_it_was(tmp_path, monkeypatch):
    path = write(1, tmp_path / 'one.pth')
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    load(path)
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # the user's own word counts
    assert load(path)['message_hub'] == 1


def test_on_old_pytorch_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.5.1+cu121')
    before = CheckpointLoader.load_checkpoint
    applied, detail = checkpoints.apply()
    assert not applied and 'PyTorch 2.6 or later is safer' in detail and CheckpointLoader.load_checkpoint == before


# ---- drn ----

def test_drn_is_importable_and_says_what_is_missing_when_built():
    import mmaction.models.localizers
    from mmaction.registry import MODELS
    if not any(part.applied for part in compat.report() if part.name == 'drn'):
        pytest.skip('this mmaction2 has the real DRN')
    message = r'DRN.*is not part of the released mmaction2 1\.2\.0.*2714.*git clone'
    for build in (mmaction.models.localizers.DRN, lambda: MODELS.build(dict(type='DRN', vocab_size=3))):
        with pytest.raises(ImportError, match=message):
            build()
    utils = importlib.import_module(drn.PACKAGE + '.drn_utils.fpn')
    with pytest.raises(ImportError, match='Backbone, of .*drn_utils.fpn'):
        utils.Backbone(1)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('mmaction.models.localizers.not_there')


def test_a_real_drn_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / 'models/localizers/drn').mkdir(parents=True)
    spec = importlib.util.spec_from_loader('mmaction', None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: spec)
    finders = list(sys.meta_path)
    assert drn.apply() == (False, 'mmaction2 has it') and sys.meta_path == finders


# ---- requirements ----

@pytest.mark.parametrize('module, message', [
    ('mmengine', r'needs mmengine, and neither it nor a fork.*"mmcv-lite>=2\.1\.0,<2\.2\.0" "mmengine>=0\.10'),
    ('mmcv', r'needs mmcv or mmcv-lite.*pip install "mmcv-lite>=2\.1\.0,<2\.2\.0".*mim install "mmcv.*Found: torch'),
    ('importlib_metadata', r'Run: pip install importlib_metadata'),
    ('mmaction', r'mmaction2 is not installed. Run: pip install "mmaction2')])
def test_what_is_missing_is_named_with_the_command(module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    # below Python 3.10 the imported importlib_metadata answers for the standard library's, and would miss itself
    monkeypatch.setattr(requirements, 'version_of', {'torch': '2.13.0'}.get)
    with pytest.raises(ImportError, match=message):
        requirements.apply()


@pytest.mark.parametrize('full', [False, True])
def test_a_wrong_mmcv_is_named_and_its_kind_is_kept(full, monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', '1.7.2')
    monkeypatch.delitem(sys.modules, 'mmaction')
    brings = {'mmcv': {'mmcv' if full else 'mmcv-lite': '1.7.2'}, 'mmengine': {'mmengine': '0.10.7'}}
    monkeypatch.setattr(requirements, 'providers', brings.get)
    with pytest.raises(ImportError, match='refuses what is installed: MMCV==1.7.2') as caught:
        requirements.apply()
    assert ('mim install "mmcv>' in str(caught.value)) == full and ('mmcv-lite>' in str(caught.value)) != full


def test_a_wrong_mmengine_is_named(monkeypatch):
    import mmengine
    monkeypatch.setattr(mmengine, '__version__', '0.5.0')
    monkeypatch.delitem(sys.modules, 'mmaction')
    with pytest.raises(ImportError, match=r'MMEngine==0\.5\.0.*Run: pip install "mmengine>=0\.10'):
        requirements.apply()


def test_an_error_inside_of_mmcv_is_not_called_a_missing_mmcv(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'cv2'", name='cv2')
    monkeypatch.setattr(importlib, 'import_module', broken)
    with pytest.raises(ModuleNotFoundError, match='cv2'):
        requirements._require('mmcv', 'mmcv is missing')


def test_installing_this_package_never_asks_for_an_mmcv():
    needs = importlib.metadata.requires('tconv-mmaction')
    assert any(need.startswith('mmcv-lite') and 'extra' in need for need in needs)
    # nor for an mmengine: it would come over a fork of it
    assert not [need for need in needs if need.startswith(('mmcv', 'mmengine')) and 'extra' not in need]


# ---- the switch ----

def test_one_variable_switches_all_of_it_off(tmp_path):
    code = f'''
import sys, types
package = types.ModuleType('tconv_mmaction')
package.__path__ = [{os.path.dirname(os.path.dirname(compat.__file__))!r}]
sys.modules['tconv_mmaction'] = package
import torch
from mmengine.runner import CheckpointLoader
import tconv_mmaction.compat as compat
before = (CheckpointLoader.load_checkpoint, list(sys.meta_path), torch.serialization.get_safe_globals())
compat.apply()
assert before == (CheckpointLoader.load_checkpoint, sys.meta_path, torch.serialization.get_safe_globals())
print([part.detail for part in compat.report()])
'''
    done = run(['python', '-c', code], tmp_path, TCONV_MMACTION_NO_COMPAT='1')
    assert done.stdout.count('switched off by TCONV_MMACTION_NO_COMPAT') == 10


def test_every_part_is_on_record_once():
    compat.apply()
    assert [part.name for part in compat.report()] == [
        'requirements', 'drn', 'checkpoints', 'distributed', 'whole_files', 'packages', 'numpy_two', 'inference',
        'drawing', 'model_index']
    assert {part.name: part.issue.rsplit('/')[-1] for part in compat.report() if part.issue} == {
        'drn': '2714', 'checkpoints': '1655'}
