"""Scripts of tools/ and projects/ as modules of the process of the tests."""
import importlib.util
import sys

from helpers.paths import ROOT


def load_script(path, name=None):
    """A script as a module, its main part left out; ``path`` is from the root of the repository.

    Each call runs the script anew. Files beside it are found while it loads, as when Python runs it. With a ``name``
    the module is also registered, once, so that what it defines can be pickled for other processes.
    """
    if name in sys.modules:
        return sys.modules[name]
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(name or f'script_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    if name:
        sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
