"""Read what ``tools/test.py --dump`` (mmaction2's DumpResults) writes, without running what a file asks for.

A .pkl file is a pickle, and ``mmengine.load`` runs any code that is in one. The results of a test are lists and dicts
of tensors, numbers and texts; nothing else is built here.
"""
import collections
import io
import pickle
from pathlib import Path
from typing import Any, Union

import torch

from .errors import UnsafeCheckpointError


def _storage(content: bytes) -> Any:
    """Stands in for ``torch.storage._load_from_bytes``, which trusts the bytes."""
    if type(content) is not bytes:
        raise pickle.UnpicklingError(f'a storage made of a {type(content).__name__}')
    return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    """Stands in for ``_codecs.encode``, which is how protocol 2 spells bytes."""
    if type(text) is not str or encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes in the encoding {encoding!r:.40}')
    return text.encode('latin1')


ALLOWED = {
    ('_codecs', 'encode'): _encode,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch.storage', '_load_from_bytes'): _storage,
}


class _Reader(pickle.Unpickler):

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError('it refers to objects outside of the file')


def read_dump(path: Union[str, Path]) -> Any:
    """The list of results, one dict per video.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the file asks for anything but tensors and plain values, or is damaged. Nothing in it
            was run.
    """
    with open(path, 'rb') as file:
        try:
            return _Reader(file).load()
        except Exception as error:  # a damaged pickle ends in almost any error
            raise UnsafeCheckpointError(
                f'{path} was refused, and nothing in it was run: {error}. The results of a test are tensors and plain '
                'values. Make the file again with tools/test.py --dump.') from error
