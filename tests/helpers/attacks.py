"""Checkpoints that would run code if a pickle were let: what compat and every way to load a file must refuse."""
import copyreg
import functools
import importlib
import operator
import os
import pickle
import runpy
import subprocess

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

guarded = pytest.mark.skipif(tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6),
                             reason=f'PyTorch {torch.__version__} loads without weights_only; compat leaves it so')


class Call:
    """Pickles as a call of ``function`` with ``args``; as the function of another Call it is called in turn."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __call__(self):
        raise AssertionError('only pickle calls it')

    def __reduce__(self):
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


class New(Call):
    """Pickles as an instance of ``args[0]`` that was made without ``__init__``, as most objects do."""

    def __init__(self, *args, state=None):
        super().__init__(copyreg.__newobj__, *args, state=state)

    @property
    def __class__(self):  # pickle compares it with the class that is named
        return self.args[0]


def write(obj, path):
    torch.save(dict(state_dict=dict(weight=torch.ones(2)), message_hub=obj), path)
    return str(path)


def history_globals():
    return Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__')


ATTACKS = {
    'os.system': lambda mark: Call(os.system, f'touch {mark}'),
    'subprocess.Popen': lambda mark: Call(subprocess.Popen, ['touch', str(mark)]),
    'subprocess.check_output': lambda mark: Call(subprocess.check_output, ['touch', str(mark)]),
    'eval': lambda mark: Call(eval, f'open({str(mark)!r}, "w")'),
    'exec': lambda mark: Call(exec, f'open({str(mark)!r}, "w")'),
    'open': lambda mark: Call(open, str(mark), 'w'),
    'import_module': lambda mark: Call(Call(getattr, Call(importlib.import_module, 'os'), 'system'), f'touch {mark}'),
    '__import__': lambda mark: Call(Call(getattr, Call(__import__, 'os'), 'system'), f'touch {mark}'),
    'runpy': lambda mark: Call(runpy.run_path, str(mark) + '.py'),
    'pickle.loads': lambda mark: Call(pickle.loads, pickle.dumps(Call(os.system, f'touch {mark}'))),
    'torch.load': lambda mark: Call(functools.partial(torch.load, weights_only=False), str(mark) + '.pth'),
    'partial': lambda mark: Call(functools.partial(os.system, f'touch {mark}')),
    'methodcaller': lambda mark: Call(operator.methodcaller('system', f'touch {mark}'), Call(__import__, 'os')),
    'getattr globals': lambda mark: Call(
        Call(getattr, Call(Call(getattr, history_globals(), '__getitem__'), '__builtins__'), '__getitem__'), 'eval'),
    'getattr subclasses': lambda mark: Call(Call(getattr, Call(getattr, HistoryBuffer, '__base__'), '__subclasses__')),
    'getattr of getattr': lambda mark: Call(getattr, Call(getattr, HistoryBuffer, 'mean'), '__globals__'),
    'getattr register': lambda mark: Call(Call(getattr, HistoryBuffer, 'register_statistics'), len),
    'getattr torch': lambda mark: Call(getattr, torch.Tensor, '__init_subclass__'),
    'method called': lambda mark: Call(Call(getattr, HistoryBuffer, 'mean'), 3),
    'state method': lambda mark: New(HistoryBuffer, state=dict(
        max_length=3, _log_history=np.zeros(1), _count_history=np.ones(1), statistics_methods=dict(mean=os.system))),
    'state attribute': lambda mark: New(HistoryBuffer, state=dict(
        max_length=3, _log_history=np.zeros(1), _count_history=np.ones(1), mean=torch.Tensor)),
    'state of tensors': lambda mark: New(HistoryBuffer, state=dict(
        max_length=3, _log_history=torch.zeros(1), _count_history=torch.ones(1))),
    'history called': lambda mark: Call(HistoryBuffer, [1.], [1]),
    'state lengths': lambda mark: New(HistoryBuffer, state=dict(
        max_length=3, _log_history=np.zeros(1), _count_history=np.ones(2))),
    'object array': lambda mark: np.array([Call(os.system, f'touch {mark}')], dtype=object),
    'object dtype': lambda mark: np.array(['a', 3], dtype=object),
    'structured dtype': lambda mark: np.zeros(2, dtype=[('a', 'f8'), ('b', 'i4')]),
    'ndarray over a buffer': lambda mark: Call(np.ndarray, (1,), 'O', b'\x10' * 8),
    'ndarray made anew': lambda mark: New(np.ndarray, (1,), 'O'),
}


def is_guarded(name):
    return pytest.param(name, marks=guarded)
