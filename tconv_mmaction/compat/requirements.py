"""What ``import mmaction`` needs, checked first so that the error names the command that helps.

Nothing is installed or replaced here: full mmcv and mmcv-lite are the same package to Python, and a user's full mmcv
has compiled operators that mmcv-lite lacks.
"""
import importlib
from importlib import metadata
from typing import Optional, Tuple

MMCV_LITE = 'pip install "mmcv-lite>=2.1.0,<2.2.0"'
MMCV_FULL = 'pip install -U openmim && mim install "mmcv>=2.1.0,<2.2.0"'


def version_of(distribution: str) -> Optional[str]:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _found() -> str:
    names = ('torch', 'mmaction2', 'mmengine', 'mmcv', 'mmcv-lite')
    return 'Found: ' + ', '.join(f'{name} {version_of(name) or "none"}' for name in names) + '.'


def _require(module: str, message: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is there, and something that it needs is not: that error says more
            raise
        raise ImportError(f'{message} {_found()}') from error


def apply() -> Tuple[bool, str]:
    """Import mmcv and mmaction, with an error that helps where they do not.

    Raises:
        ImportError: if importlib_metadata, mmcv or mmaction2 is missing, or mmaction2 refuses a version.
    """
    _require('importlib_metadata', 'mmaction2 imports importlib_metadata and does not ask for it when it is installed. '
                                   'Run: pip install importlib_metadata.')
    _require('mmcv', f'mmaction2 needs mmcv or mmcv-lite, and neither is installed. Run either  {MMCV_LITE}  (no '
                     f'compiled operators, enough for everything here)  or  {MMCV_FULL}  (with them).')
    try:
        _require('mmaction', 'mmaction2 is not installed. Run: pip install "mmaction2>=1.2.0,<1.3".')
    except AssertionError as error:  # mmaction2's own check of the versions of mmcv and mmengine
        if 'MMCV' in str(error):
            fix = MMCV_FULL if version_of('mmcv') else MMCV_LITE
        else:
            fix = 'pip install "mmengine>=0.10.4,<1.0"'
        raise ImportError(f'mmaction2 refuses what is installed: {error} Run: {fix}. {_found()}') from error
    return False, 'importlib_metadata, mmcv and mmaction2 are there and fit'
