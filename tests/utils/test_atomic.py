"""Atomic files: old or new, never half, and nothing left behind."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tconv_mmaction.utils import atomic_open, atomic_write_bytes, atomic_write_text


def test_content_folders_and_no_leftovers(tmp_path):
    path = tmp_path / 'a/b/list.txt'
    atomic_write_text(path, 'één\r\ntwo\n')
    assert path.read_bytes() == 'één\r\ntwo\n'.encode()
    atomic_write_bytes(path, b'\x00\x01')
    assert path.read_bytes() == b'\x00\x01'
    with atomic_open(path, 'wb') as file:
        np.savez(file, x=np.arange(3))
    np.testing.assert_array_equal(np.load(path, allow_pickle=False)['x'], [0, 1, 2])
    assert os.listdir(path.parent) == ['list.txt']


def test_an_error_in_the_block_keeps_the_old_file(tmp_path):
    path = tmp_path / 'x.csv'
    atomic_write_text(path, 'old')
    with pytest.raises(RuntimeError, match='half way'), atomic_open(path) as file:
        file.write('new, but')
        raise RuntimeError('half way')
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['x.csv']


def test_kill_in_the_middle_keeps_the_old_file(tmp_path):
    path = tmp_path / 'x.csv'
    atomic_write_text(path, 'old')
    code = ('import os, signal, sys\n'
            'from tconv_mmaction.utils.atomic import atomic_open\n'
            'with atomic_open(sys.argv[1]) as file:\n'
            '    file.write("new" * 100000); file.flush()\n'
            '    os.kill(os.getpid(), signal.SIGKILL)\n')
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_text() == 'old'


def test_links_modes_and_permissions(tmp_path):
    target, link, plain = tmp_path / 'target.txt', tmp_path / 'link.txt', tmp_path / 'plain.txt'
    target.write_text('old')
    link.symlink_to(target)
    atomic_write_text(link, 'new')
    assert link.is_symlink() and target.read_text() == 'new'
    plain.write_text('')
    assert target.stat().st_mode == plain.stat().st_mode  # not the 0600 of tempfile
    with pytest.raises(ValueError, match="mode must be 'w' or 'wb', got 'a'"), atomic_open(target, 'a'):
        pass
