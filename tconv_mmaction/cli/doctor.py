"""What is installed, what compat did, and what does not fit: the text of ``tconv doctor``."""
import argparse
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import mmaction
import mmaction.registry
import numpy as np
import torch
from mmengine.registry import Registry
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .. import compat
from ..compat.requirements import FORKED, MMCV_LITE, MMENGINE, mmengine_fix, providers, version_of
from ..ops.available import available
from ..ops.dispatch import requested
from ..version import __version__

_NAMES = ('torch', 'torchvision', 'mmaction2', 'decord', 'numpy', 'scipy', 'scikit-learn', 'pandas', 'matplotlib',
          'importlib_metadata', 'setuptools')
_FOLDERS = ('mmengine', 'mmcv', 'cv2')  # several distributions bring each of these


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
    return found + _folder_problems()


def _folder_problems() -> List[Tuple[str, str]]:
    """What does not fit about the folders that several distributions bring."""
    found = []
    engines, mmcvs, cv2s = (providers(folder) for folder in _FOLDERS)
    for name, version in engines.items():
        if not SpecifierSet(MMENGINE).contains(version, prereleases=True):
            found.append((f'{name} is {version}, and {name}{MMENGINE} is needed', mmengine_fix()))
    for folder, present in (('mmengine', engines), ('mmcv', mmcvs)):
        if len(present) > 1:
            listed = ' and '.join(f'{name} {version}' for name, version in present.items())
            found.append((f'{listed} are both installed, bring the same folder {folder} and overwrite each other',
                          _one_family(engines, mmcvs)))
    if cv2s and (fault := cv2_fault()):
        found.append((f'{" and ".join(cv2s)} bring a cv2 that does not work ({fault})',
                      f'pip uninstall -y {" ".join(cv2s)} && pip install opencv-python opencv-contrib-python'))
    return found


def _one_family(engines: Dict[str, str], mmcvs: Dict[str, str]) -> str:
    """The command that leaves one family of mmengine and mmcv, OpenMMLab's."""
    names = ' '.join({**engines, **mmcvs})
    if any(name.startswith('onedl') for name in (*engines, *mmcvs)):
        return f'{FORKED.format(fork=names)}  (or reinstall the fork alone: pip install onedl-mmengine onedl-mmcv)'
    return f'pip uninstall -y {names} && {MMCV_LITE} "mmengine{MMENGINE}"  (or your full mmcv)'


def cv2_fault() -> str:
    """What does not work of the OpenCV functions that are used here; empty if all do."""
    try:
        import cv2
    except ImportError as error:
        return f'ImportError: {error}'
    try:
        image = np.random.RandomState(0).randint(0, 255, (24, 32, 3)).astype(np.uint8)
        coded = cv2.imencode('.png', image)[1]
        if not np.array_equal(cv2.imdecode(coded, cv2.IMREAD_COLOR), image):
            return 'a PNG does not come back as it was'
        cv2.cvtColor(cv2.resize(image, (16, 12)), cv2.COLOR_RGB2HSV)
        cv2.warpAffine(image, np.float32([[1, 0, 2], [0, 1, 1]]), (32, 24))
        cv2.VideoWriter, cv2.VideoCapture  # noqa: B018  AttributeError if one is missing
    except (AttributeError, cv2.error) as error:
        return f'{type(error).__name__}: {error}'
    return ''


def notes() -> List[str]:
    """What is unusual, works, and need not be changed."""
    found = []
    cv2s = providers('cv2')
    if len(set(cv2s.values())) > 1 and not cv2_fault():
        import cv2
        listed = ', '.join(f'{name} {version}' for name, version in cv2s.items())
        found.append(f'{listed} all bring cv2. {cv2.__version__} is in use, and what is needed of it works.')
    for name in (name for folder in _FOLDERS[:2] for name in providers(folder) if name.startswith('onedl')):
        found.append(f'{name} is a fork. An upgrade that brings mmengine or mmcv over it would break both.')
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


def command(arguments: Optional[Sequence[str]] = None) -> int:
    """``tconv doctor``, which has no options; returns the exit status."""
    argparse.ArgumentParser(prog='tconv doctor', description=__doc__).parse_args(arguments)
    return main()


def main() -> int:
    """Print the report; 0 when everything fits, 1 when something does not."""
    commit = _commit()
    print(f'tconv_mmaction         {__version__}' + (f' (commit {commit})' if commit else ''))
    print(f'python                 {platform.python_version()} on {platform.platform()}')
    for name in _NAMES:
        version = version_of(name)
        if version is not None or name != 'torchvision':
            print(f'{name:<22} {version or "not installed"}')
    for folder in _FOLDERS:
        listed = ', '.join(f'{name} {version}' for name, version in providers(folder).items())
        print(f'{folder + " is from":<22} {listed or "a folder that no installed distribution brings"}')
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
    for note in notes():
        print(f'\nnote: {note}')
    if not found:
        print('\nEverything fits.')
    return 1 if found else 0
