"""A long measurement that may be killed at any time: one line of JSON per finished clip, and what it was made with.

The folder holds ``run.json``, the fingerprint of the run, and ``rows/rank0.jsonl``, ``rows/rank1.jsonl``, ... A process
appends to its own file and reads all of them, so a run may go on with another number of processes. Lines are written
with one system call and synced; half a line, which a power failure can leave, is not a row.
"""
import hashlib
import json
import os
from pathlib import Path
from typing import Dict, Iterable, List, Tuple

from ...utils import atomic_write_text

Key = Tuple[int, int]  # model, index of the clip


def file_hash(path: str) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(2**20), b''):
            digest.update(block)
    return digest.hexdigest()


def text_hash(value) -> str:
    """SHA-256 of a value of dicts, lists, numbers and texts; the order of a dict's keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def check_run(folder: Path, fingerprint: Dict[str, str]) -> bool:
    """Whether the folder holds a run with this fingerprint already (True) or is a fresh one (False).

    Args:
        fingerprint: {what it is, in words: its value}; all of them texts or numbers.

    Raises:
        ValueError: if the run there was made with something else; the message names all that differs.
    """
    path = folder / 'run.json'
    if not path.is_file():
        return False
    with open(path, encoding='utf-8') as file:
        stored = json.load(file)
    now = json.loads(json.dumps(fingerprint))
    changed = [f'{name}: {_short(stored.get(name))} then, {_short(now.get(name))} now'
               for name in {**stored, **now} if stored.get(name) != now.get(name)]
    if changed:
        raise ValueError(f'{folder} holds rows of another comparison. Different: ' + '; '.join(changed) +
                         '. Rows of both cannot be put together: choose another --out, or delete that folder.')
    return True


def _short(value) -> str:
    return f'{value[:12]}...' if isinstance(value, str) and len(value) == 64 else repr(value)


def start_run(folder: Path, fingerprint: Dict[str, str]) -> None:
    """Write the fingerprint, before the first row."""
    atomic_write_text(folder / 'run.json', json.dumps(fingerprint, indent=1) + '\n')


def read_rows(folder: Path) -> Tuple[Dict[Key, dict], int]:
    """All finished rows, {(model, index): row}, and how many lines were cut off."""
    rows: Dict[Key, dict] = {}
    broken = 0
    for path in sorted((folder / 'rows').glob('rank*.jsonl')):
        with open(path, encoding='utf-8', errors='replace') as file:
            for line in file:
                try:
                    row = json.loads(line) if line.endswith('\n') else None
                except json.JSONDecodeError:
                    row = None
                if row is None:
                    broken += line.strip() != ''
                else:
                    rows[row['model'], row['index']] = row
    return rows, broken


class RowLog:
    """Appends the rows of one process.

    Args:
        folder: of the run.
        rank: of the process; no other process writes to its file.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / 'rows' / f'rank{rank}.jsonl'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and self.path.stat().st_size:
            with open(self.path, 'rb+') as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b'\n':  # half a line of a run that was cut off: the next row gets its own
                    file.write(b'\n')

    def append(self, rows: Iterable[dict]) -> None:
        """Add rows with the keys 'model' and 'index'; they are on the disk when this returns."""
        lines: List[str] = []
        for row in rows:
            if not {'model', 'index'} <= row.keys():
                raise ValueError(f"a row needs 'model' and 'index', got {sorted(row)}.")
            lines.append(json.dumps(row, allow_nan=False) + '\n')
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            data = ''.join(lines).encode()
            while data:
                data = data[os.write(descriptor, data):]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
