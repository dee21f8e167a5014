"""What is installed, what compat did, and what does not fit: the text of ``python -m tconv_mmaction``."""
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import List, Tuple

import mmaction
import mmaction.registry
import torch
from mmengine.registry import Registry
from packaging.requirements import Requirement

from .. import compat
from ..compat.requirements import MMCV_LITE, version_of
from ..ops.available import available
from ..ops.dispatch import requested
from ..version import __version__

_NAMES = ('torch', 'torchvision', 'mmaction2', 'mmengine', 'mmcv', 'mmcv-lite', 'decord', 'opencv-python',
          'opencv-contrib-python', 'numpy', 'scipy', 'scikit-learn', 'pandas', 'matplotlib', 'importlib_metadata',
          'setuptools')


def _commit() -> str:
    """The checkout's commit, with a + when files differ from it; empty outside of a checkout."""
    root = Path(__file__).parents[2]
    if not (root / '.git').exists():
        return ''
    try:
        command = ['git', '-C', str(root), 'describe', '--always', '--dirty=+', '--exclude=*']
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown: git does not answer'


def problems() -> List[Tuple[str, str]]:
    """Everything that does not fit, as (what, the command that mends it)."""
    found = []
    try:
        requirements = metadata.requires('tconv-mmaction') or []
    except metadata.PackageNotFoundError:  # imported from a folder: what it needs is written nowhere
        requirements = []
        found.append(('tconv_mmaction is not installed, so the versions that it needs cannot be checked',
                      f'pip install -e {Path(__file__).parents[2]}'))
    for line in requirements:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({'extra': ''}):
            continue
        version = version_of(need.name)
        if version is None:
            found.append((f'{need.name} is not installed', f'pip install "{need.name}{need.specifier}"'))
        elif not need.specifier.contains(version, prereleases=True):
            found.append((f'{need.name} is {version}, and {need.name}{need.specifier} is needed',
                          f'pip install "{need.name}{need.specifier}"'))
    if version_of('mmcv') and version_of('mmcv-lite'):
        found.append(('mmcv and mmcv-lite are both installed and overwrite each other',
                      f'pip uninstall -y mmcv mmcv-lite && {MMCV_LITE}  (or your full mmcv)'))
    cv2 = {name: version_of(name) for name in ('opencv-python', 'opencv-contrib-python', 'opencv-python-headless')}
    present = {name: version for name, version in cv2.items() if version}
    if len(set(present.values())) > 1:
        newest = present['opencv-python'] if 'opencv-python' in present else next(iter(present.values()))
        found.append((f'{present} install the same cv2 in different versions',
                      'pip install --force-reinstall --no-deps ' + ' '.join(f'{name}=={newest}' for name in present)))
    return found


def _components() -> str:
    """How many components of this package are registered, per registry."""
    counts = {}
    for registry in vars(mmaction.registry).values():
        if isinstance(registry, Registry):
            ours = sum(cls.__module__.startswith('tconv_mmaction') for cls in registry.module_dict.values())
            if ours:
                counts[registry.name] = ours
    return f'{sum(counts.values())} (' + ', '.join(f'{count} {name}' for name, count in counts.items()) + ')'


def _devices() -> str:
    if not torch.cuda.is_available():
        why = 'this PyTorch is built without it' if torch.version.cuda is None else 'PyTorch finds no device'
        return f'no ({why})'
    names = ', '.join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f'CUDA {torch.version.cuda}: {names}'


def main() -> int:
    """Print the report; 0 when everything fits, 1 when something does not."""
    commit = _commit()
    print(f'tconv_mmaction         {__version__}' + (f' (commit {commit})' if commit else ''))
    print(f'python                 {platform.python_version()} on {platform.platform()}')
    for name in _NAMES:
        version = version_of(name)
        if version is not None or name not in ('mmcv', 'mmcv-lite', 'torchvision'):
            print(f'{name:<22} {version or "not installed"}')
    print(f'mmcv in use            {"full" if version_of("mmcv") else "lite"}')
    print(f'CUDA                   {_devices()}')
    print(f'registered components  {_components()}')
    print('\ncompat')
    for part in compat.report():
        issue = f' ({part.issue})' if part.issue else ''
        print(f'  {part.name:<13} {"applied" if part.applied else "nothing to do"}: {part.detail}{issue}')
    print(f'\nways to compute layers here, the first choice first (TCONV_OPS={requested()})')
    for operator, implementations in available().items():
        print(f'  {operator}: ' + ', '.join(name if why is None else f'{name} (not here: {why})'
                                            for name, why in implementations.items()))
    found = problems()
    for what, fix in found:
        print(f'\nDOES NOT FIT: {what}\n  fix: {fix}')
    if not found:
        print('\nEverything fits.')
    return 1 if found else 0
