"""What ``import mmaction`` needs, checked first so that the error names the command that helps.

Nothing is installed or replaced here: several distributions bring the same folder (mmcv, mmcv-lite and onedl-mmcv all
bring ``mmcv``; mmengine, mmengine-lite and onedl-mmengine all bring ``mmengine``), and installing one over another
breaks both. So what is installed is asked by the folder it brings, and a fix never mixes two families.

mmaction2 1.2.0 refuses every mmcv from 2.2 on. What it and this package use of mmcv is the same in 2.2 and 2.3, so the
check is lifted for those; below 2.0 and from 3 on it stands.
"""
import importlib
import warnings
from contextlib import nullcontext
from importlib import metadata
from typing import Any, Dict, Optional, Tuple
from unittest import mock

MMCV_LITE = 'pip install "mmcv-lite>=2.1.0,<2.2.0"'
MMCV_FULL = 'pip install -U openmim && mim install "mmcv>=2.1.0,<2.2.0"'
MMENGINE = '>=0.10.4,<1.0'
NEWEST_MMCV = '2.3.6'  # the newest that was run
FORKED = 'pip uninstall -y {fork} && pip install "mmcv-lite>=2.1.0,<2.2.0" "mmengine>=0.10.4,<1.0"'


def version_of(distribution: str) -> Optional[str]:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _brings(distribution: Any, module: str) -> bool:
    listed = distribution.read_text('top_level.txt')
    if listed is not None:
        return module in listed.split()
    return any(path.parts[:1] == (module, ) for path in distribution.files or ())


def providers(module: str) -> Dict[str, str]:
    """The installed distributions that bring the folder ``module``, as {name: version}.

    >>> list(providers('mmaction'))
    ['mmaction2']
    """
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata['Name'] or ''
        if name not in found and _brings(distribution, module):
            found[name] = distribution.version
    return found


def _found() -> str:
    names = {name: version_of(name) for name in ('torch', 'mmaction2')}
    for module in ('mmengine', 'mmcv'):
        names.update(providers(module) or {module: None})
    return 'Found: ' + ', '.join(f'{name} {version or "none"}' for name, version in names.items()) + '.'


def _require(module: str, message: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is there, and something that it needs is not: that error says more
            raise
        raise ImportError(f'{message} {_found()}') from error


def _lifted(mmcv: Any) -> Any:
    """A context in which mmaction2 takes an mmcv of 2.2 or 2.3 for one that it knows; any other stays what it is."""
    release = tuple(int(part) for part in mmcv.__version__.split('.')[:2] if part.isdigit())
    return mock.patch.object(mmcv, '__version__', '2.1.0') if (2, 2) <= release < (3, ) else nullcontext()


def mmcv_fix() -> str:
    """The command that replaces an unfit mmcv without mixing families."""
    present = providers('mmcv')
    forks = [name for name in (*present, *providers('mmengine')) if name.startswith('onedl')]
    if forks:
        return FORKED.format(fork=' '.join(forks))
    return MMCV_FULL if 'mmcv' in present else MMCV_LITE


def mmengine_fix() -> str:
    """The command that brings a fit mmengine, of the kind that is installed."""
    forks = [name for name in providers('mmengine') if name.startswith('onedl')]
    return f'pip install "{forks[0] if forks else "mmengine"}{MMENGINE}"'


def apply() -> Tuple[bool, str]:
    """Import mmcv and mmaction, with an error that helps where they do not.

    Raises:
        ImportError: if importlib_metadata, mmengine, mmcv or mmaction2 is missing, or mmaction2 refuses a version.
    """
    _require('importlib_metadata', 'mmaction2 imports importlib_metadata and does not ask for it when it is installed. '
                                   'Run: pip install importlib_metadata.')
    either = (f'Run either  {MMCV_LITE} "mmengine{MMENGINE}"  (no compiled operators, enough for everything here)  or  '
              f'{MMCV_FULL}  (with them).')
    _require('mmengine', f'mmaction2 needs mmengine, and neither it nor a fork of it is installed. {either}')
    _require('mmcv', f'mmaction2 needs mmcv or mmcv-lite, and neither is installed. {either}')
    import mmcv
    lifted = _lifted(mmcv)
    try:
        with lifted:
            _require('mmaction', 'mmaction2 is not installed. Run: pip install "mmaction2>=1.2.0,<1.3".')
    except AssertionError as error:  # mmaction2's own check of the versions of mmcv and mmengine
        fix = mmcv_fix() if 'MMCV' in str(error) else mmengine_fix()
        raise ImportError(f'mmaction2 refuses what is installed: {error} Run: {fix}. {_found()}') from error
    # asked for by one module of mmcv that nothing here uses, at the head of every command
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')
    if isinstance(lifted, nullcontext):
        return False, 'importlib_metadata, mmengine, mmcv and mmaction2 are there and fit'
    return True, (f"mmaction2's check of mmcv < 2.2 is lifted for {mmcv.__version__}"
                  + ('' if mmcv.__version__ == NEWEST_MMCV else f' (tried with {NEWEST_MMCV})'))
