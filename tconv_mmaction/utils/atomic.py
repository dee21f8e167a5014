"""Files that are there whole or not at all.

The content goes to a temporary file in the same folder, is flushed to the disk and takes its final name with one
``os.replace``. A reader, or a run that is killed in the middle, meets the old file or the new one, never half of
one. After a kill -9 the temporary file stays behind; its name starts with a dot and ends in ``.tmp``, and
:func:`remove_abandoned` takes it away: the writer holds a lock on it, which the system opens when the writer is gone.
"""
import contextlib
import errno
import os
import re
import uuid
from pathlib import Path
from typing import IO, Iterator, List, Union

try:
    import fcntl
except ImportError:  # Windows: no locks, so nothing there is known to be abandoned
    fcntl = None

PathLike = Union[str, 'os.PathLike[str]']

_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{8}\.tmp')
_NO_ROOM = {errno.ENOSPC: 'the disk is full', errno.EDQUOT: 'the disk quota is used up',
            errno.EFBIG: 'the file would be larger than this system or a limit of this process (ulimit -f) allows'}


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power failure, where the system can open folders (not Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(file: IO) -> bool:
    """Whether nobody else holds ``file``; from then on this process does, until it closes it or dies."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    return True


@contextlib.contextmanager
def atomic_open(path: PathLike, mode: str = 'w') -> Iterator[IO]:
    """``open`` for writing; the file appears under its name when the block ends without an error.

    Args:
        path: the file. Missing folders are made; a symbolic link stays one, and the file it points to is replaced.
        mode: 'w' for UTF-8 text, 'wb' for bytes.

    Raises:
        ValueError: for another mode; appending or updating in place cannot be atomic.
        OSError: with the errno of the system, naming the file, if there is no room for it. What had this name before
            is as it was, and the temporary file is gone.
    """
    if mode not in ('w', 'wb'):
        raise ValueError(f"atomic_open writes whole files: mode must be 'w' or 'wb', got {mode!r}.")
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.tmp')
    # newline='' keeps what is written as it is: the csv module and pandas end their lines themselves.
    text = {} if 'b' in mode else dict(encoding='utf-8', newline='')
    try:
        with open(temporary, mode.replace('w', 'x'), **text) as file:
            _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # also Ctrl-C
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            before = 'the file of this name from before is unchanged' if path.exists() else 'there is no such file now'
            raise OSError(error.errno, f'{os.strerror(error.errno)}: {_NO_ROOM[error.errno]}. Nothing half-written was '
                          f'left, and {before}. Make room and start again (a training: with --resume)',
                          str(path)) from error
        raise
    _sync_folder(path.parent)


def atomic_write_text(path: PathLike, text: str) -> None:
    """Replace ``path`` by this text, UTF-8."""
    with atomic_open(path, 'w') as file:
        file.write(text)


def atomic_write_bytes(path: PathLike, data: bytes) -> None:
    """Replace ``path`` by these bytes."""
    with atomic_open(path, 'wb') as file:
        file.write(data)


def remove_abandoned(folder: PathLike) -> List[Path]:
    """Remove, in ``folder`` and below, the temporary files whose writer was killed; returns what was removed.

    A file that some process is still writing is locked and stays. Where the system has no locks everything stays.
    """
    removed = []
    for path in sorted(Path(folder).rglob('.*.tmp')):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError), open(path, 'rb') as file:
                if _lock(file):
                    path.unlink()
                    removed.append(path)
    return removed
