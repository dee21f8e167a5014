"""Everything that reads a user's text or files, on drawn content (hypothesis): a valid result, or a named error.

Lists, class files, json and csv of data sets, folders of videos, checkpoints and npz files that were cut or changed,
names of layers, and the values of command lines. A named error is a ValueError, TypeError or OSError (of a file: with
its name), or the exit of argparse; anything else, a KeyError from the depth or a hang, fails the test.
"""
import contextlib
import functools
import importlib
import io
import json
import os
import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import load_script
from hypothesis import assume, example, given
from hypothesis import strategies as st
from mmaction.registry import MODELS

from tconv_mmaction.backbones.inflation import inflate_state_dict, is_2d, read_state_dict
from tconv_mmaction.backbones.key_maps import KNOWN_BY, recognizer_state_dict
from tconv_mmaction.compat.checkpoints import DamagedCheckpointError
from tconv_mmaction.datasets.digit_images import read_idx
from tconv_mmaction.heads.class_weighted_loss import balanced_class_weights
from tconv_mmaction.interpret import load_parameters, save_parameters
from tconv_mmaction.interpret.access.clips import class_names
from tconv_mmaction.interpret.access.targets import read_target
from tconv_mmaction.layers import Conv3T

NAMED = (ValueError, TypeError, OSError)


def tool(path):
    """A tool as a module, imported in this process."""
    return load_script(f'tools/{path}')


class_folders, class_subset = tool('data/class_folders.py'), tool('data/class_subset.py')
jester, sthv2, kth = tool('data/jester.py'), tool('data/sthv2.py'), tool('data/kth/prepare.py')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz')


def in_file(folder, content):
    """``content`` in a file; the same name for every example, so that thousands of them leave one file."""
    path = folder / 'drawn.txt'
    path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8', 'surrogatepass'))
    return path


def attempt(function, path, *args, **kwargs):
    """The result, or None after an error that names the file."""
    try:
        return function(path, *args, **kwargs)
    except NAMED as error:
        assert path.name in str(error), f'{type(error).__name__} does not name the file: {error}'
        return None


# Lines that look like annotation lists, with the errors that people and tools make in them.
LABELS = st.integers(-1, 4).map(str) | st.sampled_from(['', ' ', '²', '٣', '1.0', '1e3', 'x', '9' * 5000, '-0', '+1'])
NAMES = st.text(max_size=8) | st.sampled_from(['a.mp4', 'wave/b.mp4', 'with blank.mp4', 'ü.mp4', '../x', 'a;b'])
LINES = st.builds(lambda name, gap, label: f'{name}{gap}{label}', NAMES, st.sampled_from([' ', '\t', ';', '', '  ']),
                  LABELS) | st.text(max_size=12)
LISTS = st.lists(LINES, max_size=8).map('\n'.join) | st.binary(max_size=40) | st.lists(
    st.builds('v{}.mp4 {}'.format, st.integers(0, 9), st.integers(0, 2)), max_size=8).map('\n'.join)


@given(LISTS, st.integers(1, 4), st.sampled_from([' ', ';', '\t']))
@example('a.mp4 0\nb.mp4 ²', 1, ' ')  # isdigit() is True for a superscript, and int() refuses it
@example(b'a.mp4 0\n\xff 0', 1, ' ')  # not UTF-8
@example('a.mp4 ' + '0' * 5000, 1, ' ')  # Python's limit of digits
def test_annotation_lists(folder, content, classes, delimiter):
    path = in_file(folder, content)
    weights = attempt(balanced_class_weights, path, classes, delimiter)
    if weights is not None:
        assert len(weights) == classes and all(0 < w < 1e9 for w in weights)
    entries = attempt(class_subset.read_list, path, classes, delimiter)
    if entries is not None:
        assert {label for _, label in entries} == set(range(classes))
        assert '\n'.join(f'{head}{delimiter}{label}' for head, label in entries).count('\n') == len(entries) - 1
        assert weights is not None  # what one reader takes, the other takes too


@given(st.lists(st.text(max_size=6), max_size=6).map('\n'.join) | st.binary(max_size=30), st.integers(0, 6))
@example(b'\xff\n', 1)
def test_class_lists(folder, content, classes):
    path = in_file(folder, content)
    names = attempt(class_names, path, classes)
    if names is not None:
        assert len(names) == classes and all(name.strip() == name and name for name in names)
    labels = attempt(jester.read_labels, path)
    if labels is not None:
        assert sorted(labels.values()) == list(range(len(labels)))


@given(st.lists(st.text(max_size=8) | st.sampled_from(['1;Wave', '2;Point', '"3;Wave', '4;Wave;x', '']),
                max_size=6).map('\n'.join) | st.binary(max_size=30))
@example('1;Wave\n"2;Wave' + 'x' * 140_000)  # csv.Error: field larger than field limit
@example(b'\xff;Wave')
def test_jester_csv(folder, content):
    entries = attempt(jester.read_split, in_file(folder, content), dict(Wave=0, Point=1))
    if entries is not None:
        assert len({video for video, _ in entries}) == len(entries) and {label for _, label in entries} <= {0, 1}


JSON = st.recursive(st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(['id', 'template', 'a', '[a]', '']), inner, max_size=3), max_leaves=8)
ENTRIES = st.lists(st.fixed_dictionaries(dict(id=st.integers(0, 5).map(str) | JSON,
                                              template=st.sampled_from(['a', '[a]', 'b']) | JSON)), max_size=4)


@given((JSON | ENTRIES).map(json.dumps) | st.binary(max_size=20) | st.text(max_size=10),
       st.dictionaries(st.sampled_from('ab'), st.integers(0, 2).map(str) | JSON).map(json.dumps) | JSON.map(json.dumps))
@example('[' * 100_000, '[' * 100_000)  # RecursionError
@example('[{"id": "1", "template": 5}]', '[0]')
@example('[{"id": ["1"], "template": "a"}]', '{"a": 0.7}')
def test_something_something_json(folder, split, labels):
    entries = attempt(sthv2.read_split, in_file(folder, split), dict(a=0, b=1))
    if entries is not None:
        assert all(type(video) is str and label in (0, 1) for video, label in entries)
    read = attempt(sthv2.read_labels, in_file(folder, labels))
    if read is not None:
        assert sorted(read.values()) == list(range(len(read)))


@given(st.lists(st.builds('person{:02d}_{}_d{}\tframes\t{}'.format, st.integers(0, 30), st.sampled_from(
    kth.ACTIONS + ('dancing', )), st.integers(0, 5), st.lists(st.builds('{}-{}'.format, st.integers(0, 9),
                                                                       st.integers(0, 99)), max_size=3).map(', '.join))
    | st.text(max_size=20) | st.just('person13_handclapping_d3 *missing*'), max_size=5).map('\n'.join))
@example('person01_boxing_d1 frames 1-' + '9' * 5000)
def test_kth_sequences(text):
    try:
        videos, missing = kth.parse_sequences(text)
    except ValueError as error:
        assert 'line' in str(error)
    else:
        assert videos and not set(videos) & set(missing)
        assert all(1 <= first <= last for ranges in videos.values() for first, last in ranges)


# Names of files as they are on disks: blanks, line breaks, dots, bytes that are no UTF-8.
FILE_NAMES = st.text(st.characters(blacklist_characters='/\0', blacklist_categories=('Cs', )), min_size=1,
                     max_size=6).filter(lambda n: n not in ('.', '..') and len(os.fsencode(n)) < 200)


@given(st.dictionaries(FILE_NAMES, st.lists(FILE_NAMES, min_size=1, max_size=5, unique=True), min_size=1, max_size=3),
       st.sampled_from([' ', ';', ',', '\t', '', '1', '.', '\n', '  ', 'mp4']),
       st.sampled_from(['0', '0.2', '0.5', '1', '-1', 'nan', 'inf', 'x']))
@example({'a': ['x\ny', 'z'], 'b': ['1', '2']}, ' ', '0')  # a line break in a name
@example({'a': ['1', '2'], ' b': ['1', '2']}, ';', '0')  # VideoDataset strips the line: ' b/1.mp4' would be lost
@example({'a': ['1', '2'], 'b\x85': ['1', '2']}, ';', '0')  # str.splitlines() breaks here, files do not
@example({'a': ['1', '2'], os.fsdecode(b'\xff'): ['1', '2']}, ' ', '0')  # no UTF-8: it cannot be in a list
@example({'a': ['1', '2'], 'b': ['1', '2']}, '\n', '0')
@example({'a': ['1', '2'], 'b': ['1', '2']}, ' ', 'nan')
@example({'a': ['1', '2'], 'b': ['1', '2']}, '4', '0')
def test_class_folders_give_lists_that_read_back(classes, delimiter, val):
    """Exit code 0 and lists from which mmaction2's reader gets every file back, or code 2 and a line that says why."""
    with tempfile.TemporaryDirectory() as name:
        videos, out = Path(name) / 'videos', Path(name) / 'out'
        for sub, files in classes.items():
            (videos / sub).mkdir(parents=True)
            for file in files:
                (videos / sub / f'{file}.mp4').touch()
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = class_folders.main([str(videos), '--out-dir', str(out), '--val', val, '--test', '0',
                                           '--delimiter', delimiter])
            except SystemExit as exit_:
                code = exit_.code
        assert code in (0, 2)
        if code == 2:
            assert 'error: ' in error.getvalue() and not out.exists()
            return
        shown = sorted(sub for sub in classes if not sub.startswith('.'))
        assert (out / 'classes.txt').read_text(encoding='utf-8').split('\n') == [*shown, '']
        found = []
        for part in ('train', 'val', 'test'):
            for line in (out / f'{part}.txt').open(encoding='utf-8', newline=None):
                file, label = line.strip().split(delimiter)  # VideoDataset.load_data_list
                assert (videos / file).is_file() and file.split('/')[0] == shown[int(label)]
                found.append(file)
        assert sorted(found) == sorted(f'{sub}/{file}.mp4' for sub in shown for file in classes[sub])


@given(st.binary(max_size=60), st.integers(1, 3), st.booleans())
@example(b'\x00\x00\x08\x03' + b'\xff' * 12, 3, False)
@example(b'\x1f\x8b\x08\x00', 1, False)
def test_idx_files(folder, content, dims, head):
    content = (0x0800 + dims).to_bytes(4, 'big') + content if head else content
    array = attempt(read_idx, in_file(folder, content), dims)
    assert array is None or array.ndim == dims and array.size == len(content) - 4 - 4 * dims


def cut_and_changed(valid, changes, length):
    data = bytearray(valid)
    for position, value in changes:
        data[position % len(data)] = value
    return bytes(data[:round(length * len(data))])


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)


@pytest.fixture(scope='module')
def valid_files():
    layer, buffer = Conv3T(2, 2, 3), io.BytesIO()
    torch.save(dict(state_dict=layer.state_dict(), meta=dict(epoch=1)), buffer)
    with tempfile.TemporaryDirectory() as name:
        save_parameters(Path(name) / 'p.npz', layer)
        return SimpleNamespace(checkpoint=buffer.getvalue(), npz=(Path(name) / 'p.npz').read_bytes())


@given(CHANGES, st.floats(0, 1) | st.just(1.), st.none() | st.binary(max_size=40))
@example([], 0., None)  # empty
@example([], .5, None)  # cut short
@example([], 1., pickle.dumps(print))
@example([(590681, 1)], 1., None)  # an archive on several disks: a RuntimeError, though zipfile finds it whole
@example([(121, 1)], 1., None)  # a changed length in the pickle: UnicodeDecodeError
@example([], 1., b'PK\x03\x04')
def test_damaged_checkpoints(folder, valid_files, changes, length, other):
    path = in_file(folder, cut_and_changed(valid_files.checkpoint, changes, length) if other is None else other)
    try:
        state = read_state_dict(str(path))
    except (*NAMED, pickle.UnpicklingError, DamagedCheckpointError) as error:  # UnsafeCheckpointError is one of these
        assert path.name in str(error), f'{type(error).__name__}: {error}'
    else:
        assert state and all(torch.is_tensor(value) for value in state.values())


@given(CHANGES, st.floats(0, 1) | st.just(1.), st.none() | st.binary(max_size=40))
@example([], 0., None)
@example([], .5, None)
@example([], 1., b'PK\x03\x04')
@example([], 1., b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }" + b' ' * 60)
def test_damaged_npz(folder, valid_files, changes, length, other):
    path = in_file(folder, cut_and_changed(valid_files.npz, changes, length) if other is None else other)
    read = attempt(load_parameters, path)
    if read is not None:
        assert all(torch.is_tensor(v) for layer in read[0].values() for v in layer.values())


@given(st.lists(st.text(max_size=5) | st.sampled_from(['x.py', 'y.json', 'a.pth', 'b.pth', '.py']), max_size=5))
def test_pairs_of_configs_and_checkpoints(temporal_params, tokens):
    try:
        pairs = temporal_params.pair_up('first.py', 'c.pth', tokens)
        titles = temporal_params.chosen_titles(pairs, None)
    except ValueError as error:
        assert str(error)
    else:
        assert len(titles) == len(set(titles)) == len(pairs)
        assert [c for _, c in pairs] == [t for t in ['c.pth', *tokens] if not t.endswith(('.py', '.json'))]


@pytest.fixture(scope='module')
def temporal_params():
    return tool('analysis/temporal_params.py')


@pytest.fixture(scope='module')
def clip_tool():
    return importlib.import_module('tconv_mmaction.cli.clip_tool')


@given(st.text(max_size=6) | st.integers(-5, 200).map(str) | st.sampled_from(['prediction', 'label', '--5', '²', '-']),
       st.none() | st.integers(0, 9))
@example('²', None)
@example('--5', None)
@example('-', 1)
def test_target_and_file_names(clip_tool, text, label):
    try:
        target = clip_tool.target_of(read_target(text, [f'class {i}' for i in range(10)]),
                                     SimpleNamespace(classes=() if label is None else (label, )))
    except ValueError as error:
        assert 'class' in str(error)
    else:
        assert target == 'prediction' or type(target) is int
    taken = set()
    names = [clip_tool.unique(text, taken) for _ in range(3)]
    assert len(set(names)) == 3 and all(name and '/' not in name and '\0' not in name for name in names)


PARTS = st.sampled_from(['conv1', 'bn1', 'layer1', 'layer4', '0', '1', 'weight', 'bias', 'fc', 'inception3a', 'branch1',
                         'conv', 'downsample', 'backbone', 'module', '', 'Mixed_5c', 'aux1', 'classifier', 'features'])
DOTTED = st.lists(PARTS, max_size=5).map('.'.join) | st.text(max_size=8)
BACKBONES = [dict(type='TemporalResNet3d', depth=18, pretrained=None), dict(type='GoogLeNet3d', pretrained=None),
             dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'))]


@functools.lru_cache(1)  # no fixture: hypothesis would print them with every failure
def backbones():
    built = [MODELS.build(cfg) for cfg in BACKBONES]
    return [(model, getattr(model, 'key_from_2d', lambda name: name)) for model in built]


@given(DOTTED)
def test_names_of_2d_networks(name):
    for _, key_from_2d in backbones():
        target = key_from_2d(name)
        assert target is None or isinstance(target, str)


TENSORS = st.lists(st.integers(0, 3), max_size=6).map(torch.ones)


@given(st.dictionaries(DOTTED, TENSORS, max_size=6), st.booleans())
@example({'conv1.weight': torch.ones(6, 1, 5, 5), 'conv1.bias': torch.ones(3)}, False)
@example({'logits.conv3d.weight': torch.tensor(1.), KNOWN_BY[1]: torch.ones(1)}, True)
def test_state_dicts_of_any_shape(state, known):
    """Names and shapes drawn freely: converted with the right shapes, or refused by name."""
    if known:
        state = {**state, KNOWN_BY[0]: torch.ones(1)}
    try:
        renamed = recognizer_state_dict(state)
    except ValueError as error:
        assert str(error)
    else:
        assert all(name.startswith(('backbone.', 'cls_head.')) for name in renamed)
    model, key_from_2d = backbones()[len(state) % 3]
    try:
        assume(is_2d(state))
        new, _ = inflate_state_dict(state, model, key_from_2d)
    except NAMED as error:
        assert str(error)
        return
    own = model.state_dict()
    assert all(new[name].shape == own[name].shape for name in new)


def test_npz_that_reads_back(tmp_path, valid_files):
    """The fuzzed files' original is a good one."""
    (tmp_path / 'p.npz').write_bytes(valid_files.npz)
    parameters, sizes = load_parameters(tmp_path / 'p.npz')
    assert sizes == {'': (3, 3, 3)} and np.allclose(parameters['']['scale'], 1)
