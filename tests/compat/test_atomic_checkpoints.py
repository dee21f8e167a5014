"""Checkpoints are whole or absent: full disks, cut files, kills between writing one and deleting another."""
import contextlib
import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
import torch
from mmaction.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.runner import CheckpointLoader, runner

from tconv_mmaction.compat.checkpoints import DamagedCheckpointError
from tconv_mmaction.compat.whole_files import damage, newest_whole
from tconv_mmaction.utils import atomic, atomic_open, atomic_write_bytes, atomic_write_text, remove_abandoned

BIG = dict(state_dict=dict(weight=torch.arange(50_000, dtype=torch.float64)))


@contextlib.contextmanager
def largest_file(size):
    """No file of this process may grow beyond that many bytes; Python ignores the signal, write() fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullDisk:
    """``open`` on a disk with room for 100 bytes."""

    def __init__(self, code):
        self.code = code

    def __call__(self, path, mode, **text):
        file = open(path, mode, **text)
        write, left = file.write, [100]

        class Limited:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(limited, data):
                if len(data) > left[0]:
                    write(data[:left[0]])
                    raise OSError(self.code, os.strerror(self.code))
                left[0] -= len(data)
                return write(data)

        return Limited()


# ---- a full disk ----

@pytest.mark.parametrize('code, words', [(errno.ENOSPC, 'the disk is full'), (errno.EDQUOT, 'quota is used up')])
def test_full_disk_names_the_file_and_keeps_the_old_one(code, words, tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    atomic_write_bytes(path, b'old')
    monkeypatch.setattr(atomic, 'open', FullDisk(code), raising=False)
    with pytest.raises(OSError, match=f'{words}.*the file of this name from before is unchanged') as error:
        LocalBackend().put(b'x' * 1000, path)
    assert error.value.errno == code and error.value.filename == str(path)
    with pytest.raises(OSError, match='there is no such file now'):
        LocalBackend().put_text('x' * 1000, tmp_path / 'new.json')
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['epoch_1.pth']


REALLY_FULL = '''
import os, runpy, sys
write = runpy.run_path(sys.argv[1])['atomic_write_bytes']  # without the package, which takes seconds to import
write('epoch_1.pth', b'1' * 600_000)
try:
    write('epoch_2.pth', b'2' * 600_000)
except OSError as error:
    print(error.errno, error)
try:
    write('epoch_1.pth', b'3' * 600_000)
except OSError as error:
    print(error.errno, error)
print(os.listdir(), set(open('epoch_1.pth').read()), os.path.getsize('epoch_1.pth'))
write('small.txt', b'there is room for this one')
'''


def test_a_file_system_that_is_full_in_earnest(tmp_path):
    def in_a_small_file_system(*command):
        mount = 'mount -t tmpfs -o size=1m none "$0" && cd "$0" && exec "$@"'
        alone = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', mount]
        return subprocess.run([*alone, tmp_path, *command], capture_output=True, text=True, timeout=120)

    if shutil.which('unshare') is None or in_a_small_file_system('true').returncode:
        pytest.skip('needs a file system of its own: unshare(1) and the right to mount a tmpfs in a user namespace')
    done = in_a_small_file_system(sys.executable, '-c', REALLY_FULL, atomic.__file__)
    first, second, after = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert first.startswith(f'{errno.ENOSPC} ') and 'epoch_2.pth' in first and 'there is no such file now' in first
    assert second.startswith(f'{errno.ENOSPC} ') and 'the file of this name from before is unchanged' in second
    assert after == "['epoch_1.pth'] {'1'} 600000"


def test_another_error_in_the_block_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError, match='elsewhere'), atomic_open(tmp_path / 'x'):
        raise FileNotFoundError(errno.ENOENT, 'elsewhere')
    assert os.listdir(tmp_path) == []


def test_a_file_beyond_the_limit_of_the_process(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    atomic_write_bytes(path, b'old')
    with largest_file(100_000), pytest.raises(OSError, match='ulimit -f'):
        atomic_write_bytes(path, b'x' * 1_000_000)
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['epoch_1.pth']


class Hub:
    """A runner as CheckpointHook sees it, whose checkpoint is a tensor of the size that is asked for."""

    def __init__(self, folder, resumed=None):
        self.work_dir, self.epoch, self.iter, self.logger = str(folder), 0, 0, self
        self.message_hub = MessageHub(f'hub {folder} {os.urandom(4).hex()}')
        self.info = self.warning = lambda text: None
        if resumed is not None:
            self.message_hub.load_state_dict(resumed)
        self.written = []

    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        path = os.path.join(out_dir, filename)
        self.written.append((filename, sorted(name for name in os.listdir(out_dir) if name.endswith('.pth'))))
        file = dict(BIG, message_hub=self.message_hub.state_dict())
        with io.BytesIO() as buffer:
            torch.save(file, buffer)
            LocalBackend().put(buffer.getvalue(), path)


def hook_for(run, **kwargs):
    hook = HOOKS.build(dict(type='CheckpointHook', interval=1, **kwargs))
    assert type(hook) is CheckpointHook and is_main_process()
    hook.before_train(run)
    return hook


def save_epoch(hook, run, score=None):
    hook._save_checkpoint(run)
    run.epoch, run.iter = run.epoch + 1, run.iter + 4
    if score is not None:
        hook.after_val_epoch(run, {'acc/top1': score})


def test_the_old_checkpoint_is_deleted_after_the_new_one_is_written(tmp_path):
    run = Hub(tmp_path)
    hook = hook_for(run, max_keep_ckpts=1, save_best='acc/top1', rule='greater')
    save_epoch(hook, run, 0.5)
    save_epoch(hook, run, 0.6)
    # epoch_2 while epoch_1 is there, the new best one while the old one is
    assert run.written == [
        ('epoch_1.pth', []), ('best_acc_top1_epoch_1.pth', ['epoch_1.pth']),
        ('epoch_1.pth', ['best_acc_top1_epoch_1.pth', 'epoch_1.pth']),
        ('epoch_2.pth', ['best_acc_top1_epoch_1.pth', 'epoch_1.pth']),
        ('best_acc_top1_epoch_2.pth', ['best_acc_top1_epoch_1.pth', 'epoch_2.pth']),
        ('epoch_2.pth', ['best_acc_top1_epoch_1.pth', 'best_acc_top1_epoch_2.pth', 'epoch_2.pth'])]
    assert sorted(os.listdir(tmp_path)) == ['best_acc_top1_epoch_2.pth', 'epoch_2.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')


def test_a_checkpoint_that_finds_no_room_costs_none_of_the_earlier_ones(tmp_path):
    run = Hub(tmp_path)
    hook = hook_for(run, max_keep_ckpts=1, save_best='acc/top1', rule='greater')
    save_epoch(hook, run, 0.5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with largest_file(100_000), pytest.raises(OSError, match=r'epoch_2\.pth'):
        save_epoch(hook, run)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert damage(tmp_path / 'epoch_1.pth') is None


def test_what_a_killed_run_did_not_delete_is_deleted_when_it_resumes(tmp_path, monkeypatch):
    run = Hub(tmp_path)
    hook = hook_for(run, max_keep_ckpts=1)
    save_epoch(hook, run)
    elsewhere = tmp_path.parent / f'{tmp_path.name} epoch_9.pth'
    elsewhere.write_text('of another run')
    removed = []
    monkeypatch.setattr(LocalBackend, 'remove', lambda self, path: removed.append(path))  # the kill
    save_epoch(hook, run)
    monkeypatch.undo()
    assert removed == [str(tmp_path / 'epoch_1.pth')] and (tmp_path / 'epoch_1.pth').is_file()
    state = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['message_hub']
    state['runtime_info']['superfluous_checkpoints'] += [str(elsewhere), str(tmp_path / 'epoch_2.pth')]
    state['runtime_info']['last_ckpt'] = str(tmp_path / 'epoch_2.pth')
    hook_for(Hub(tmp_path, resumed=state), max_keep_ckpts=1)
    assert sorted(os.listdir(tmp_path)) == ['epoch_2.pth', 'last_checkpoint'] and elsewhere.is_file()


# ---- temporary files of the dead ----

def test_temporary_files_of_killed_writers_are_removed_and_of_living_ones_stay(tmp_path):
    child = os.fork()
    if child == 0:
        with atomic_open(tmp_path / 'dumps/a.npz', 'wb') as file:
            file.write(b'half')
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left, = (tmp_path / 'dumps').iterdir()
    (tmp_path / '.vimrc.tmp').write_text('not ours')
    with atomic_open(tmp_path / 'b.txt') as file:
        file.write('alive')
        assert remove_abandoned(tmp_path) == [left]
    assert (tmp_path / 'b.txt').read_text() == 'alive'
    assert sorted(os.listdir(tmp_path)) == ['.vimrc.tmp', 'b.txt', 'dumps'] and not os.listdir(tmp_path / 'dumps')


# ---- which files are whole ----

@pytest.fixture
def work_dir(tmp_path):
    for epoch in (1, 2, 3, 10):
        torch.save(dict(BIG, epoch=epoch), tmp_path / f'epoch_{epoch}.pth')
    torch.save(BIG, tmp_path / 'best_epoch_9.pth')
    atomic_write_text(tmp_path / 'last_checkpoint', str(tmp_path / 'epoch_3.pth'))
    return tmp_path


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_damage_of_every_kind_is_seen(work_dir):
    path = work_dir / 'epoch_3.pth'
    whole = path.read_bytes()
    assert damage(path) is None
    for size in (1, 2, 100, len(whole) // 2, len(whole) - 1):
        cut(path, size)
        assert damage(path), size
        path.write_bytes(whole)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes(changed)
    assert 'does not match its checksum' in damage(path) or 'CRC' in damage(path)
    torch.load(path)  # which PyTorch does not notice
    cut(path, 0)
    assert damage(path) == 'it is empty' and damage(work_dir / 'epoch_4.pth') == 'it does not exist'
    path.write_text('<html>404</html>')
    assert damage(path)
    torch.save(BIG, path, _use_new_zipfile_serialization=False)
    assert damage(path) is None
    cut(path, 3000)
    assert damage(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    assert 'not one that torch.save wrote' in damage(path)


@pytest.mark.parametrize('content', ['cut', 'zeros', 'gone'])
def test_auto_resume_takes_the_newest_whole_one_before(content, work_dir):
    last = work_dir / 'epoch_3.pth'
    if content == 'gone':
        last.unlink()
    elif content == 'cut':
        cut(last, 200_000)
    else:
        last.write_bytes(bytes(last.stat().st_size))
    cut(work_dir / 'epoch_2.pth', 0)
    messages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.logging.print_log', lambda text, *args, **kwargs: messages.append(text))
        assert runner.find_latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')  # not 10, from before
    assert str(last) in messages[-1] and 'epoch_2.pth: it is empty' in messages[-1] and 'epoch_1.pth' in messages[-1]


def test_auto_resume_with_a_whole_an_empty_and_no_record(work_dir):
    assert runner.find_latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_3.pth')
    (work_dir / 'last_checkpoint').write_text('')  # as mmengine leaves it when it is killed in between
    assert runner.find_latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_10.pth')
    (work_dir / 'last_checkpoint').unlink()
    assert runner.find_latest_checkpoint(str(work_dir)) is None
    assert newest_whole('s3://bucket/epoch_3.pth', str(work_dir)) == 's3://bucket/epoch_3.pth'


def test_a_work_dir_that_was_moved(work_dir):
    (work_dir / 'last_checkpoint').write_text('/old/place/epoch_2.pth')
    assert runner.find_latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_2.pth')
    cut(work_dir / 'epoch_2.pth', 7)
    assert runner.find_latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')


def test_no_whole_checkpoint_is_no_reason_to_start_over_in_silence(work_dir):
    for epoch in (1, 2, 3):
        cut(work_dir / f'epoch_{epoch}.pth', 1000)
    with pytest.raises(RuntimeError, match='no whole checkpoint .*epoch_3.*epoch_2.*epoch_1.*delete .* start over'):
        runner.find_latest_checkpoint(str(work_dir))


@pytest.mark.parametrize('zipped', [True, False])
def test_a_damaged_file_that_the_user_named_is_an_error_with_its_name(zipped, tmp_path):
    path = tmp_path / 'mine.pth'
    torch.save(BIG, path, _use_new_zipfile_serialization=zipped)
    cut(path, 100_000)
    with pytest.raises(DamagedCheckpointError, match='mine.pth is damaged or was cut short'):
        CheckpointLoader.load_checkpoint(str(path))
