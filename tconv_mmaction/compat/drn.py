"""The folder ``mmaction/models/localizers/drn``, which the released mmaction2 1.2.0 lacks.

It has no ``__init__.py`` upstream, so packaging left it out, and ``import mmaction.models`` fails on
``from .drn.drn import DRN`` (https://github.com/open-mmlab/mmaction2/issues/2714). An import hook at the END of
``sys.meta_path`` makes the modules importable and nothing more: where the real ones exist, the finders before it win.
"""
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

PACKAGE = 'mmaction.models.localizers.drn'
_HELP = ('is not part of the released mmaction2 1.2.0 (https://github.com/open-mmlab/mmaction2/issues/2714). To get '
         'it, install mmaction2 from a checkout: git clone https://github.com/open-mmlab/mmaction2 && '
         'pip install -e ./mmaction2')


def _missing(module: str, name: str) -> type:
    """A class that can be imported, registered and subclassed, and that says what is missing when it is built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(f'{name}, of {module}, {_HELP}')

    return type(name, (), {'__init__': __init__, '__module__': module, '__doc__': f'{name} {_HELP}'})


class _StandIn(Loader):

    def create_module(self, spec: Any) -> None:
        return None  # the usual module object

    def exec_module(self, module: Any) -> None:
        made = {}

        def __getattr__(name: str) -> Any:
            if name.startswith('_'):
                raise AttributeError(f'module {module.__name__!r} has no attribute {name!r}')
            return made.setdefault(name, _missing(module.__name__, name))

        module.__getattr__ = __getattr__
        if module.__name__ == f'{PACKAGE}.drn':  # the one that upstream imports and registers
            from mmaction.registry import MODELS
            module.DRN = MODELS.register_module(name='DRN', module=_missing(module.__name__, 'DRN'))


class _Finder(MetaPathFinder):

    def find_spec(self, fullname: str, path: Optional[Sequence[str]] = None, target: Any = None) -> Any:
        if fullname != PACKAGE and not fullname.startswith(PACKAGE + '.'):
            return None
        return importlib.util.spec_from_loader(fullname, _StandIn(), is_package=True)


def apply() -> Tuple[bool, str]:
    """Install the import hook, unless mmaction2 has the folder."""
    spec = importlib.util.find_spec('mmaction')
    if any((Path(folder) / 'models/localizers/drn').is_dir() for folder in spec.submodule_search_locations):
        return False, 'mmaction2 has it'
    sys.meta_path.append(_Finder())
    return True, 'this mmaction2 lacks models/localizers/drn: importing works, building DRN says what is missing'
