"""Keeps the paths of an annotation list inside the folders that they are meant for.

A list from a stranger may hold ``../../secrets``, ``/etc/passwd`` or the name of a symbolic link that leads out; what
they point at would be decoded, shown on report pages, or named in messages. A path is judged by where it leads once
every link is followed.
"""
import os
from typing import Optional, Sequence, Tuple, Union


class ConfinementError(ValueError):
    """A path leads out of the allowed folders."""


def roots_of(confine: Union[bool, str, Sequence[str]], data_root: Optional[str],
             folder: Optional[str]) -> Tuple[str, ...]:
    """The allowed folders, with links followed.

    Args:
        confine: folders, or True for the data set's own: ``data_root`` where it has one, else ``folder``.
        data_root: of the data set.
        folder: its prefix, to which the paths of the list are added.

    Raises:
        ValueError: for True, if the data set names no folder; for a folder that is not there.
    """
    if confine is True:
        own = data_root or folder
        if not own:
            raise ValueError('confine_paths=True needs a folder to stay in, and the data set has neither data_root nor '
                             'data_prefix. Set one, or name the folders: confine_paths=[...].')
        confine = own
    roots = [confine] if isinstance(confine, str) else list(confine)
    for root in roots:
        if not isinstance(root, str) or not os.path.isdir(root):
            raise ValueError(f'confine_paths: there is no folder {root!r}.')
    return tuple(os.path.realpath(root) for root in roots)


def check_confined(path: str, roots: Sequence[str]) -> Optional[str]:
    """None if ``path`` leads into one of ``roots`` (from :func:`roots_of`), else what is wrong with it."""
    real = os.path.realpath(path)
    if any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        return None
    leads = '' if real == os.path.normpath(path) else f' leads to {real}, which'
    return f'{path}{leads} is outside of {" and ".join(roots)}.'


def confined(path: str, roots: Sequence[str]) -> str:
    """``path``.

    Raises:
        ConfinementError: if it leads out of ``roots``.
    """
    text = check_confined(path, roots)
    if text:
        raise ConfinementError(f'{text} The annotation list may not name it while confine_paths is on.')
    return path
