"""The list of a run's unreadable videos, written by many processes at once, each file in it once.

One JSON object per line, appended with O_APPEND under a lock (``flock``): data workers and ranks of a distributed run
see what the others wrote, and what a killed process wrote stays. Where the system has no ``flock`` (Windows) two
processes may list a file twice; readers count names.
"""
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from mmengine.logging import MMLogger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE_NAME = 'bad_videos.jsonl'


def in_work_dir() -> Optional[Path]:
    """The path of the list in the work_dir of the running experiment; None outside of one.

    A dataset is not told the work_dir; the Runner's logger, which writes WORK_DIR/TIMESTAMP/TIMESTAMP*.log, knows it.
    """
    log_file = MMLogger.get_current_instance().log_file
    if log_file is None:
        return None
    folder = Path(log_file).resolve().parent
    return (folder.parent if Path(log_file).name.startswith(folder.name) else folder) / FILE_NAME


def file_version(path: str) -> List[Optional[int]]:
    """Size in bytes and time of the last change in ns, to notice that a file was repaired; Nones if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return [None, None]
    return [status.st_size, status.st_mtime_ns]


class BadVideoList:
    """The entries of one annotation list in a file of bad videos.

    Args:
        path: the file; it is made with the first entry.
        source: the annotation list that the entries belong to. Other lists may share the file.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = Path(path), source
        self.entries: Dict[str, Dict[str, Any]] = {}  # by file name, for this source
        self._read_up_to = 0
        self._torn = False  # whether the file ends within a line

    def _read(self, descriptor: int) -> None:
        """Take in what was appended since the last time. A line without an end (power failure) is not one."""
        os.lseek(descriptor, self._read_up_to, os.SEEK_SET)
        data = b''.join(iter(lambda: os.read(descriptor, 1 << 20), b''))
        whole = data[:data.rfind(b'\n') + 1]
        self._read_up_to += len(whole)
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                if entry['list'] == self.source:
                    self.entries[entry['file']] = entry
            except (ValueError, KeyError, TypeError):
                continue  # the rest of a line that was cut off and then ended by _append
        self._torn = len(whole) < len(data)

    def _append(self, descriptor: int, entry: Dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b'\n'  # ASCII: names with a newline or odd bytes stay on one line
        os.write(descriptor, b'\n' + line if self._torn else line)

    def read(self) -> None:
        """Take in what is in the file, if there is one."""
        if self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                self._read(descriptor)
            finally:
                os.close(descriptor)

    def forget_outdated(self, names: Iterable[str], path_of: Any = str) -> None:
        """Drop entries of files that are no longer in the list, or that changed since they were found unreadable."""
        if not self.entries:
            return
        names = set(names)
        self.entries = {name: entry for name, entry in self.entries.items()
                        if name in names and file_version(path_of(name)) == entry.get('version')}

    def add(self, entry: Dict[str, Any]) -> bool:
        """Append ``entry`` (with 'file') unless the file is in the list; returns whether it is new.

        Raises:
            OSError: if the file cannot be written (full disk, no permission).
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # closing the file releases it, also by a kill
            self._read(descriptor)
            if entry['file'] in self.entries:
                return False
            self._append(descriptor, dict(entry, list=self.source))
            self.entries[entry['file']] = entry
            return True
        finally:
            os.close(descriptor)
