"""Checkpoints of MMEngine that are there whole or not at all, also when a training is killed while it writes one.

mmengine 0.10 writes a checkpoint straight under its final name, deletes the one that ``max_keep_ckpts`` or a better
score makes superfluous BEFORE the new one is written, and resumes from whatever ``last_checkpoint`` names. A kill, a
full disk or a lost power supply at such a moment leaves half a file, or none. Four small changes:

* what MMEngine's local backend and CheckpointHook write goes through :mod:`tconv_mmaction.utils.atomic`;
* CheckpointHook deletes old files only once the new ones are on the disk, and a resumed run deletes those that the
  killed one did not come to;
* ``--resume`` without a path looks whether the last checkpoint is whole. If not, it says so and takes the newest whole
  one before it; if there is none, it stops instead of starting over in silence;
* it also removes temporary files that a killed process left in the work_dir.
"""
import functools
import logging
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

from ..utils.atomic import atomic_open, atomic_write_bytes, remove_abandoned

_SUPERFLUOUS = 'superfluous_checkpoints'


def damage(path: Any) -> Optional[str]:
    """Why this file is no whole checkpoint, in words; None if it is one. Reads all of it and runs nothing in it.

    torch.load itself notices a file that was cut short, but not a block that was lost in the middle of the weights:
    the checksums that torch.save writes are looked at here.
    """
    path = Path(path)
    if not path.is_file():
        return 'it does not exist'
    if path.stat().st_size == 0:
        return 'it is empty'
    with open(path, 'rb') as file:
        zipped = file.read(2) == b'PK'
    try:
        if not zipped:  # the format of PyTorch before 1.6, or no checkpoint
            torch.load(path, map_location='cpu', weights_only=True)
            return None
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith('data.pkl') for name in archive.namelist()):
                return 'it is a zip archive, but not one that torch.save wrote'
            # with its checksums switched off torch.save writes arbitrary numbers there
            bad = archive.testzip() if getattr(torch.serialization, 'get_crc32_options', lambda: True)() else None
            return bad and f'the content of {bad} does not match its checksum'
    except Exception as error:  # zipfile and pickle raise many kinds on damaged files
        return f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no further reason"}'


def _number(name: str, like: str) -> Optional[int]:
    """The number in ``name`` if it is ``like`` with another number, such as epoch_7.pth to epoch_12.pth."""
    parts = re.fullmatch(r'(.*?)(\d+)(\D*)', like)
    found = parts and re.fullmatch(f'{re.escape(parts[1])}(\\d+){re.escape(parts[3])}', name)
    return int(found[1]) if found else None


def _earlier(named: Path, folder: Path) -> List[Path]:
    """Checkpoints named like ``named`` with a smaller number, the newest first."""
    like = named.name or 'epoch_0.pth'
    last = _number(named.name, like) if named.name else None
    numbered = [(_number(path.name, like), path) for path in folder.glob('*') if path.is_file()]
    return [path for number, path in sorted(numbered, key=lambda item: item[0] or 0, reverse=True)
            if number is not None and (last is None or number < last)]


def newest_whole(record: str, work_dir: str) -> str:
    """The checkpoint to resume from: the recorded one, or the newest whole one before it.

    Args:
        record: what the file ``last_checkpoint`` says, a path.
        work_dir: where that file lies.

    Raises:
        RuntimeError: naming all files and what is wrong with each, if none is whole.
    """
    from mmengine.logging import print_log
    if '://' in record or os.path.isdir(record):  # remote, or a folder of shards: nothing that could be looked into
        return record
    named, folder = Path(record), Path(work_dir)
    if record and not named.exists() and (folder / named.name).is_file():
        print_log(f'{record}, which {folder / "last_checkpoint"} names, is gone, but the work_dir has a file of that '
                  'name: it was probably moved, and that one is used.', logger='current', level=logging.WARNING)
        named = folder / named.name
    elif record and named.parent.is_dir():
        folder = named.parent
    if record and (reason := damage(named)) is None:
        return str(named)
    problems = [f'{named}: {reason}' if record else f'{folder / "last_checkpoint"}: it is empty']
    for path in _earlier(named, folder):
        reason = damage(path)
        if reason is None:
            print_log('The last checkpoint is not whole and is not used. ' + '; '.join(problems) + '. Resuming from '
                      f'the newest whole one before it, {path}.', logger='current', level=logging.WARNING)
            return str(path)
        problems.append(f'{path}: {reason}')
    raise RuntimeError(f'--resume: no whole checkpoint in {folder}. {"; ".join(problems)}. Copy a whole one there and '
                       f'name it (--resume PATH), or delete {Path(work_dir) / "last_checkpoint"} to start over.')


class _DeleteLater:
    """A file backend that keeps in mind what is to be deleted, and writes it into the run's checkpoints."""

    def __init__(self, backend: Any, message_hub: Any) -> None:
        self.backend, self.message_hub = backend, message_hub
        self.paths: List[str] = []
        self.folders: Dict[str, bool] = {}  # of those that the hook has looked at in this run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def _later(self, path: Any, folder: bool) -> None:
        self.paths.append(str(path))
        self.folders[str(path)] = folder
        self.message_hub.update_info(_SUPERFLUOUS, list(self.paths))

    def remove(self, path: Any) -> None:
        self._later(path, folder=False)

    def rmtree(self, path: Any) -> None:
        self._later(path, folder=True)

    def delete(self, keep: Tuple[str, ...]) -> None:
        """Now; ``keep`` are files that were written in the meantime."""
        for path in self.paths:
            if path in keep:
                continue
            folder = self.folders.get(path)  # the hook asked the backend, perhaps over a network, before it called us
            if folder is None and (self.backend.isfile(path) or self.backend.isdir(path)):
                folder = self.backend.isdir(path)
            if folder is not None:
                (self.backend.rmtree if folder else self.backend.remove)(path)
        self.message_hub.update_info(_SUPERFLUOUS, [])


def _in_use(hook: Any) -> Tuple[str, ...]:
    best = getattr(hook, 'best_ckpt_path_dict', None) or {'': getattr(hook, 'best_ckpt_path', None)}
    numbered = [hook.file_backend.join_path(hook.out_dir, hook.filename_tmpl.format(step))
                for step in getattr(hook, 'keep_ckpt_ids', ())]
    return tuple(str(path) for path in [hook.last_ckpt, *best.values(), *numbered] if path)


def _write_first(method: Any) -> Any:
    """A saving method of CheckpointHook that deletes nothing before all that it writes is on the disk."""

    @functools.wraps(method)
    def save(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
        backend = getattr(self, 'file_backend', None)
        # none yet in a validation without a training; and the outer of two saves deletes for both
        if backend is None or isinstance(backend, _DeleteLater):
            return method(self, runner, *args, **kwargs)
        self.file_backend = _DeleteLater(backend, runner.message_hub)
        try:
            method(self, runner, *args, **kwargs)
            later = self.file_backend
        finally:
            self.file_backend = backend
        later.delete(keep=_in_use(self))

    return save


def _patch_checkpoint_hook() -> None:
    from mmengine.dist import is_main_process
    from mmengine.hooks import CheckpointHook, checkpoint_hook

    checkpoint_hook.open = lambda path, mode='r', **kwargs: (  # for the text file last_checkpoint
        atomic_open(path) if mode == 'w' else open(path, mode, **kwargs))
    for name in ('_save_checkpoint_with_step', '_save_best_checkpoint'):
        setattr(CheckpointHook, name, _write_first(getattr(CheckpointHook, name)))
    before_train = CheckpointHook.before_train

    @functools.wraps(before_train)
    def before_train_and_clean(self: Any, runner: Any) -> None:
        before_train(self, runner)
        left = _DeleteLater(self.file_backend, runner.message_hub)
        # only in the folder of this run, wherever the checkpoint came from
        left.paths = [path for path in runner.message_hub.get_info(_SUPERFLUOUS, [])
                      if os.path.dirname(path) == str(self.out_dir)]
        if left.paths and is_main_process():
            left.delete(keep=_in_use(self))

    CheckpointHook.before_train = before_train_and_clean


def _patch_resume() -> None:
    from mmengine.dist import is_main_process
    from mmengine.logging import print_log
    from mmengine.runner import _flexible_runner, checkpoint, runner

    find_latest = checkpoint.find_latest_checkpoint

    @functools.wraps(find_latest)
    def find_latest_whole(path: str) -> Optional[str]:
        record = find_latest(path)
        if is_main_process() and (removed := remove_abandoned(path)):
            print_log(f'Removed what a killed process was writing: {", ".join(map(str, removed))}', logger='current')
        return None if record is None else newest_whole(record, path)

    # each has a name of its own for it
    for module in (checkpoint, runner, _flexible_runner, sys.modules['mmengine.runner']):
        module.find_latest_checkpoint = find_latest_whole


def apply() -> Tuple[bool, str]:
    """Write checkpoints atomically, delete old ones last, and resume from a whole one."""
    from mmengine.fileio import LocalBackend

    def put(self: Any, obj: bytes, filepath: Any) -> None:
        """Write bytes to a file, whole or not at all."""
        atomic_write_bytes(filepath, obj)

    def put_text(self: Any, obj: str, filepath: Any, encoding: str = 'utf-8') -> None:
        """Write text to a file, whole or not at all."""
        atomic_write_bytes(filepath, obj.encode(encoding))

    LocalBackend.put, LocalBackend.put_text = put, put_text
    _patch_checkpoint_hook()
    _patch_resume()
    return True, 'checkpoints are written whole or not at all, and --resume passes over damaged ones'
