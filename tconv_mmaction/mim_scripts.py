"""Run a script that mmaction2 installs (``mmaction/.mim/tools``), with this package imported first.

Our ``tools/train.py`` and ``tools/test.py`` are mmaction2's own, so that their options never drift apart; scripts that
import no component, such as ``deployment/publish_model.py``, get :mod:`tconv_mmaction.compat` this way.
"""
import difflib
import runpy
import sys
from pathlib import Path
from typing import List, Sequence

import mmaction

from .compat import checkpoints


def scripts_folder() -> Path:
    """The folder of mmaction2's scripts: ``.mim/tools`` of an installed one, ``tools`` beside a checkout.

    Raises:
        FileNotFoundError: if neither is there.
    """
    package = Path(mmaction.__file__).parent
    for folder in (package / '.mim/tools', package.parent / 'tools'):
        if (folder / 'train.py').is_file() and (folder / 'deployment').is_dir():
            return folder
    raise FileNotFoundError(
        f"mmaction2's scripts are neither in {package / '.mim/tools'} nor in {package.parent / 'tools'}. A released "
        'mmaction2 brings them: pip install --force-reinstall --no-deps "mmaction2>=1.2.0,<1.3"')


def available_scripts() -> List[str]:
    """Every script, as a path relative to :func:`scripts_folder`."""
    folder = scripts_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.py'))


def run_script(name: str, arguments: Sequence[str]) -> None:
    """Run the script as ``python NAME ARGUMENTS`` would, in this process.

    A checkpoint that the script loads by itself is read with weights_only on, and a refusal names the file.

    Args:
        name: path relative to :func:`scripts_folder`, such as ``deployment/publish_model.py``.
        arguments: what follows it on the command line.

    Raises:
        FileNotFoundError: if there is no such script; the message lists the nearest names.
    """
    path = scripts_folder() / name
    if not path.is_file():
        by_name = {Path(script).name: script for script in available_scripts()}
        near = [by_name[match] for match in difflib.get_close_matches(Path(name).name, by_name, n=3)]
        meant = f' Did you mean {" or ".join(near)}?' if near else ''
        raise FileNotFoundError(f'mmaction2 has no script {name!r} in {scripts_folder()}.{meant}')
    argv, search_path = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    try:
        with checkpoints.guarded_torch_load():
            runpy.run_path(str(path), run_name='__main__')
    finally:
        sys.argv, sys.path[:] = argv, search_path
