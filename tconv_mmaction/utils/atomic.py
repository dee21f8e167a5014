"""Files that are there whole or not at all.

The content goes to a temporary file in the same folder, is flushed to the disk and takes its final name with one
``os.replace``. A reader, or a run that is killed in the middle, meets the old file or the new one, never half of
one. After a kill -9 the temporary file may stay behind; its name starts with a dot and ends in ``.tmp``.
"""
import contextlib
import os
import uuid
from pathlib import Path
from typing import IO, Iterator, Union

PathLike = Union[str, 'os.PathLike[str]']


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power failure, where the system can open folders (not Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_open(path: PathLike, mode: str = 'w') -> Iterator[IO]:
    """``open`` for writing; the file appears under its name when the block ends without an error.

    Args:
        path: the file. Missing folders are made; a symbolic link stays one, and the file it points to is replaced.
        mode: 'w' for UTF-8 text, 'wb' for bytes.

    Raises:
        ValueError: for another mode; appending or updating in place cannot be atomic.
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
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # also Ctrl-C
        temporary.unlink(missing_ok=True)
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
