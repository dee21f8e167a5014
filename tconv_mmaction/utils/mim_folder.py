"""The part of this project that is no package: configs, tools, model-index.yml and the small zoo.

A wheel has copies of them in ``tconv_mmaction/.mim``, where mim and mmengine look for them; an editable install has
links there to the checkout; without an install they lie beside the package. ``setup.py`` runs this file by its path, so
it imports the standard library only.
"""
import os
import shutil
from pathlib import Path
from typing import Dict, Optional

CONTENT = ('configs', 'tools', 'model-index.yml', 'zoo')
PACKAGE = Path(__file__).resolve().parents[1]
_IGNORED = shutil.ignore_patterns('__pycache__', '*.pyc', '.*')


def fill(root: Path, folder: Path, link: bool) -> None:
    """Put the content of the checkout ``root`` into ``folder``, as links or as copies; what was there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTENT:
        source, target = root / name, folder / name
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)
        if link:
            try:
                target.symlink_to(os.path.relpath(source, folder), target_is_directory=source.is_dir())
                continue
            except OSError:  # Windows, without the right to make links
                pass
        if source.is_dir():
            shutil.copytree(source, target, ignore=_IGNORED)
        else:
            shutil.copyfile(source, target)


def mim_folder() -> Path:
    """The folder with configs, tools, model-index.yml and zoo.

    >>> (mim_folder() / 'tools/train.py').is_file()
    True

    Raises:
        FileNotFoundError: if neither the package nor the folder beside it has them.
    """
    for folder in (PACKAGE / '.mim', PACKAGE.parent):
        if all((folder / name).exists() for name in CONTENT[:3]):
            return folder
    raise FileNotFoundError(f'the configs and tools of tconv_mmaction are neither in {PACKAGE / ".mim"} nor in '
                            f'{PACKAGE.parent}. Install it again: pip install --force-reinstall --no-deps '
                            'tconv-mmaction, or pip install -e CHECKOUT.')


def shipped_configs() -> Dict[str, Path]:
    """Every config of a training by its name without ``.py``; names are unique. Those that begin with _ are bases."""
    configs = sorted((mim_folder() / 'configs').glob('recognition/*/*.py'))
    return {path.stem: path for path in configs if not path.name.startswith('_')}


def find_shipped(name: str) -> Optional[Path]:
    """The shipped file that ``name`` means, or None.

    Args:
        name: a config's name, with or without ``.py`` and ``tconv_mmaction::``; or a path as in the documentation,
            such as ``configs/recognition/lenet5/X.py`` and ``zoo/X.pth``.
    """
    name = name.partition('::')[2] if name.startswith('tconv_mmaction::') else name
    folder = mim_folder()
    for candidate in (folder / name, folder / 'configs' / name):
        if candidate.is_file() and folder in candidate.parents and '..' not in candidate.parts:
            return candidate
    stem = name[:-3] if name.endswith('.py') else name
    return None if os.path.dirname(stem) else shipped_configs().get(stem)
