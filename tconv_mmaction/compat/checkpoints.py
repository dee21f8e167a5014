"""MMEngine's checkpoints under ``torch.load(weights_only=True)``, the default since PyTorch 2.6.

Beside tensors, MMEngine stores its log history: HistoryBuffer objects, numpy arrays and scalars, and references to
four methods of HistoryBuffer, which pickle spells ``getattr(HistoryBuffer, 'mean')``. PyTorch refuses all of them
(https://github.com/open-mmlab/mmengine/issues/1655), so ``--resume``, test.py and load_from fail.

The usual advice, to allow the real ``getattr``, ``numpy.dtype`` and ``_reconstruct``, gives the file code execution
(getattr) or raw memory (a dtype whose pickled flags lie about holding pointers). So every name is mapped to a stand-in
of our own that checks what it is given, builds plain numbers, and refuses everything else:

==============================  ================================================================================
name in the pickle              stand-in
==============================  ================================================================================
builtins.getattr                the statistics methods of HistoryBuffer by name, nothing else
...history_buffer.HistoryBuffer an object with the two checked arrays; methods named in the file are not stored
numpy.dtype                     bool, int, uint, float, complex, bytes and str codes; byte order; no fields, no flags
numpy.ndarray, _reconstruct     an array of such a dtype whose bytes match its shape; no objects
numpy...multiarray.scalar       one number of such a dtype
builtins.bytes                  no bytes, which is how pickle spells the content of an empty array
==============================  ================================================================================

PyTorch before 2.6 loads with weights_only=False unless told otherwise, and there these checkpoints load; nothing is
changed, and nothing protects: load only files that you trust, or upgrade.
"""
import _compat_pickle
import contextlib
import functools
import math
import os
import pickle
import pickletools
import re
import struct
import sys
import zipfile
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..utils.errors import DamagedCheckpointError, UnsafeCheckpointError
from .whole_files import damage

_METHODS = ('current', 'max', 'mean', 'min')
_CODES = re.compile(r'[biufc](1|2|4|8|16|32)|[SU][1-9][0-9]{0,8}')


# first parts of names that are no user's; pickle writes modules of the standard library under Python 2's names too
_NO_USERS = {'torch', 'numpy', 'mmengine', *getattr(sys, 'stdlib_module_names', sys.builtin_module_names),
             *(name.partition('.')[0] for name in _compat_pickle.IMPORT_MAPPING)}


def _refuse(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'Unsupported content: {what}')


def _getattr(owner: Any, name: Any) -> Any:
    """Stands in for ``builtins.getattr``."""
    if (owner is _HistoryBuffer or owner is HistoryBuffer) and type(name) is str and name in _METHODS:
        return getattr(HistoryBuffer, name)
    raise _refuse(f'getattr({owner!r:.80}, {name!r:.80})')


class _Dtype:
    """Stands in for ``numpy.dtype``: a real dtype would take flags and fields from the file on trust."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if type(code) is not str or not _CODES.fullmatch(code):
            raise _refuse(f'numpy.dtype({code!r:.80})')
        try:
            self.dtype = np.dtype(code)
        except TypeError as error:  # a letter and a size that do not go together, such as f32
            raise _refuse(f'numpy.dtype({code!r})') from error

    def __setstate__(self, state: Any) -> None:
        # version, byte order, subarray, names, fields; element size, alignment and flags follow from the code
        if type(state) is not tuple or len(state) != 8 or state[0] != 3 or state[2:5] != (None, None, None) \
                or state[1] not in ('<', '>', '|', '='):
            raise _refuse(f'a numpy dtype with the state {state!r:.80}')
        if state[1] in '<>':
            self.dtype = self.dtype.newbyteorder(state[1])

    def decode(self, shape: Tuple[int, ...], raw: Any) -> bytes:
        """``raw``, once it is known to hold exactly an array of that shape and only legal characters."""
        if type(raw) is not bytes or math.prod(shape) * self.dtype.itemsize != len(raw):
            raise _refuse(f'bytes that do not fill a {self.dtype} array of shape {shape}')
        if self.dtype.kind == 'U' and raw and np.frombuffer(raw, self.dtype.byteorder + 'u4').max() > 0x10FFFF:
            raise _refuse('a character beyond Unicode')
        return raw


class _Array(np.ndarray):
    """Stands in for ``numpy.ndarray``: an array of numbers that looks at its pickled state before it takes it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise _refuse('a call of numpy.ndarray')

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise _refuse('a numpy array with an unknown state')
        version, shape, dtype, fortran, raw = state
        if version != 1 or type(dtype) is not _Dtype or type(shape) is not tuple or len(shape) > 32 \
                or any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
            raise _refuse(f'a numpy array of shape {shape!r:.80} and dtype {dtype!r:.80}')
        super().__setstate__((1, shape, dtype.dtype, bool(fortran), dtype.decode(shape, raw)))

    def __reduce_ex__(self, protocol: int) -> Any:
        return np.array(self).__reduce_ex__(protocol)  # saved again, it is a plain array


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> Any:
    """Stands in for ``numpy.core.multiarray._reconstruct``: an empty array, filled by its ``__setstate__``."""
    if subtype is not _Array and subtype is not np.ndarray:
        raise _refuse(f'a numpy array of type {subtype!r:.80}')
    return np.ndarray.__new__(_Array, (0,), 'i1')


def _scalar(dtype: Any, raw: Any = None) -> Any:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    if type(dtype) is not _Dtype:
        raise _refuse(f'a numpy scalar of dtype {dtype!r:.80}')
    return np.frombuffer(dtype.decode((), raw), dtype.dtype)[0]


def _bytes() -> bytes:
    """Stands in for ``builtins.bytes``."""
    return b''


class _HistoryBuffer(HistoryBuffer):
    """Stands in for HistoryBuffer, whose own ``__setstate__`` puts the methods of the file into the class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise _refuse('a call of HistoryBuffer')  # pickle makes it without __init__ and then sets its state

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or not set(state) <= {*HistoryBuffer().__dict__, 'statistics_methods'}:
            raise _refuse(f'a HistoryBuffer with the state {state!r:.80}')
        logs, counts, length = (state.get(key) for key in ('_log_history', '_count_history', 'max_length'))
        for values in (logs, counts):
            if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in 'biuf':
                raise _refuse('a HistoryBuffer whose history is not a row of numbers')
        if len(logs) != len(counts) or type(length) is not int:
            raise _refuse('a HistoryBuffer whose lengths do not agree')
        self._set_default_statistics()
        self.__dict__.update(max_length=length, _log_history=np.array(logs), _count_history=np.array(counts))
        self.__class__ = HistoryBuffer


_STAND_INS = {
    f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}': _HistoryBuffer,
    'builtins.getattr': _getattr, 'builtins.bytes': _bytes, 'numpy.ndarray': _Array, 'numpy.dtype': _Dtype,
    'numpy.core.multiarray._reconstruct': _reconstruct, 'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy.core.multiarray.scalar': _scalar, 'numpy._core.multiarray.scalar': _scalar,
}


def _allow_stand_ins() -> None:
    """Put the stand-ins on PyTorch's list of allowed names, in place of what somebody allowed under the same name."""

    def name(entry: Any) -> str:
        return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'

    ours = [(stand_in, path) for path, stand_in in _STAND_INS.items()]
    present = torch.serialization.get_safe_globals()
    if {entry for entry in present if name(entry) in _STAND_INS} != set(ours):
        # two entries of one name: PyTorch's list is a set, and chance would choose between them
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([entry for entry in present if name(entry) not in _STAND_INS] + ours)


def _prefer_stand_ins() -> None:
    """Let the stand-ins win whoever allows something under the same name, for good or for the time of one load.

    onedl-mmengine allows the real functions around each load. PyTorch keeps what is allowed in a set and makes its
    table by name from that, so between two entries of one name chance would choose.
    """
    unpickler = torch._weights_only_unpickler
    table = getattr(unpickler, '_get_user_allowed_globals', None)
    if table is None:
        return

    @functools.wraps(table)
    def with_stand_ins() -> Dict[str, Any]:
        return {path: _STAND_INS.get(path, allowed) for path, allowed in table().items()}

    unpickler._get_user_allowed_globals = with_stand_ins


def _load(file: Any, map_location: Any = None, weights_only: Optional[bool] = None) -> Any:
    """In place of the loader of onedl-mmengine, which reads what was refused once more with weights_only off."""
    return torch.load(file, map_location=map_location, weights_only=weights_only)


@contextlib.contextmanager
def explained(filename: Any) -> Iterator[None]:
    """Keep weights_only on inside, and turn a refusal into an :class:`UnsafeCheckpointError` that names the file."""
    # The variable outranks weights_only=False, which torch.hub passes for every download. A user who asked for the
    # opposite in the environment is not overruled: PyTorch refuses to be told both.
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before, opposite = os.environ.get(name), os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0').lower()
    if before is None and opposite not in ('1', 'y', 'yes', 'true'):
        os.environ[name] = '1'
    try:
        yield
    except UnsafeCheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(_explanation(filename, str(error))) from error
    except (RuntimeError, EOFError, LookupError, UnicodeDecodeError, struct.error) as error:
        is_file = isinstance(filename, (str, os.PathLike)) and os.path.isfile(filename)
        reason = damage(filename) if is_file else None
        # What PyTorch's reader says of an archive, and what a changed byte does to its unpickler, is about the file.
        if is_file and reason is None and ('PytorchStreamReader' in str(error) or not isinstance(error, RuntimeError)):
            reason = f'{type(error).__name__}: {str(error).split(". ")[0]}'
        if reason is None:  # the file is whole: the error is about something else, such as a missing CUDA device
            raise
        raise DamagedCheckpointError(
            f'{filename} is damaged or was cut short, and nothing of it was loaded: {reason}. Get it again, or resume '
            'from an earlier checkpoint of the same run (--resume PATH; without PATH, --resume takes the newest whole '
            'one by itself).') from error
    finally:
        if before is None:
            os.environ.pop(name, None)


def statistics_methods(filename: Any) -> List[str]:
    """The functions that the HistoryBuffers of a checkpoint name as statistics, ``module.name`` each; runs nothing.

    Empty for a file that is no zip archive of torch.save, or that cannot be read. What Python, PyTorch, numpy and
    mmengine bring is no function of a user's and is left out: nobody is to be told how to allow ``os.system``.
    """
    try:
        with zipfile.ZipFile(filename) as archive:
            inner = next(name for name in archive.namelist() if name.endswith('/data.pkl'))
            operations = list(pickletools.genops(archive.read(inner)))
    except (OSError, ValueError, StopIteration, TypeError, zipfile.BadZipFile):
        return []
    found, inside = [], False
    for operation, argument, _ in operations:
        if argument == 'statistics_methods':  # the key; its dict of names and functions follows, up to SETITEM(S)
            inside = True
        elif inside and operation.name == 'GLOBAL' and argument.partition('.')[0].split()[0] not in _NO_USERS:
            found.append(argument.replace(' ', '.'))
        elif inside and operation.name in ('SETITEM', 'SETITEMS'):
            inside = False
    return found


def _explanation(filename: Any, error: str) -> str:
    found = re.search(r'GLOBAL (\S+)|Unsupported content: ([^\n]+)|(reduce for unrecognized function [^\n]+)', error)
    if not found:
        lines = [line for line in error.splitlines() if line and 'documentation' not in line]
        return (f'{filename} is no checkpoint that PyTorch can read ({lines[-1] if lines else error}). It may be '
                'damaged, cut short by a download, or another kind of file. Nothing in it was run. Get it again.')
    asks = next(group for group in found.groups() if group)
    if asks in statistics_methods(filename):
        module, _, name = asks.rpartition('.')
        return (f'{filename} was refused, and nothing in it was run: its log history (HistoryBuffer) names {asks} as a '
                'statistics function, as HistoryBuffer.register_statistics leaves it in every checkpoint. A file that '
                'may call it can call it with anything. If that function is yours and does no harm: before loading, '
                f'for instance in a module of custom_imports, run  from {module} import {name}; '
                f'torch.serialization.add_safe_globals([{name}]). If you do not know it, do not use the file.')
    return (f'{filename} was refused, and nothing in it was run: it asks for {asks}, which no checkpoint that MMEngine '
            'writes needs, and a file that can ask for that can run any code on this machine. If you do not know who '
            'made it, delete it. If you made it: save it again with plain values only (tensors, numbers, strings, '
            'lists, dicts), or, for a class of your own that you trust, call '
            'torch.serialization.add_safe_globals([TheClass]) before loading.')


@contextlib.contextmanager
def guarded_torch_load() -> Iterator[None]:
    """Inside, every refusal of ``torch.load`` names the file; for scripts that call it themselves."""
    original = torch.load

    @functools.wraps(original)
    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        with explained(f):
            return original(f, *args, **kwargs)

    torch.load = load
    try:
        yield
    finally:
        torch.load = original


def apply() -> Tuple[bool, str]:
    """Allow the stand-ins, and name the file in what CheckpointLoader raises."""
    release = tuple(int(number) for number in re.findall(r'\d+', torch.__version__)[:2])
    if release < (2, 6):
        return False, (f'PyTorch {torch.__version__} loads without weights_only: everything loads, and a file from a '
                       'stranger can run code. PyTorch 2.6 or later is safer')
    _allow_stand_ins()
    _prefer_stand_ins()

    from mmengine.runner import CheckpointLoader, checkpoint
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = _load
    original = CheckpointLoader.load_checkpoint.__func__

    @functools.wraps(original)
    def load_checkpoint(cls: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        _allow_stand_ins()
        with explained(filename):
            return original(cls, filename, *args, **kwargs)

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    return True, "MMEngine's checkpoints load with weights_only on, through stand-ins that build numbers only"
