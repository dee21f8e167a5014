"""tools/data/pack_clips.py: what it packs, says and refuses, and that it goes on where it was stopped."""
import os
import runpy
import shutil
import signal
import time
from collections import namedtuple

import numpy as np
import pytest
from helpers.paths import ROOT

from tconv_mmaction.datasets import pack_worker
from tconv_mmaction.utils.lossless_video import write_video
from tconv_mmaction.utils.packed_frames import PackReader, read_index

TOOL = ROOT / 'tools/data/pack_clips.py'
FRAMES = 6


def clip(index):
    return np.random.default_rng(index).integers(0, 256, (FRAMES + index, 40, 56), dtype=np.uint8)


@pytest.fixture
def main():
    return runpy.run_path(str(TOOL))['main']


@pytest.fixture
def videos(tmp_path):
    """Grey lossless videos v0.mkv, ..., and a list of three of them."""
    (tmp_path / 'videos').mkdir()
    for index in range(4):
        write_video(tmp_path / f'videos/v{index}.mkv', clip(index), fps=10)
    (tmp_path / 'train.txt').write_text('v0.mkv 0\nv1.mkv 1\n')
    (tmp_path / 'val.txt').write_text('v2.mkv 0\nv1.mkv 1\n')
    return tmp_path


def command(folder, *more, lists=('train.txt', 'val.txt')):
    return [*(str(folder / name) for name in lists), '--data-prefix', str(folder / 'videos'), '--out',
            str(folder / 'pack'), '--workers', '2', *map(str, more)]


def check(folder, indices):
    """The pack holds exactly these videos, as they are."""
    index, reader = read_index(folder / 'pack'), PackReader(folder / 'pack')
    assert set(index) == {f'v{i}.mkv' for i in indices}
    for i in indices:
        shard, row = index[f'v{i}.mkv']
        frames = reader.frames(shard, row, range(FRAMES + i))
        assert np.array_equal(frames, np.repeat(clip(i)[..., None], 3, axis=-1)) and row.fps == 10


def test_packs_says_how_much_and_goes_on(main, videos, capsys):
    assert main(command(videos, '--dry-run')) == 0
    bytes_needed = sum(FRAMES + i for i in range(3)) * 40 * 56 * 3
    said = capsys.readouterr().out
    assert '3 videos: 0 packed before, 0 known to be bad, 3 to do; own size, raw' in said
    assert f'they take {bytes_needed / 1e6:.1f} MB; ' in said and not (videos / 'pack').exists()
    assert main(command(videos, '--verify')) == 0
    said = capsys.readouterr().out
    assert '3 of 3 videos, 21 frames' in said and '3 videos read back: as written' in said
    check(videos, range(3))
    before = {path: path.stat().st_mtime_ns for path in (videos / 'pack').glob('shard*')}
    (videos / 'more.txt').write_text('v3.mkv 0\n')
    assert main(command(videos, lists=('train.txt', 'more.txt'))) == 0
    assert '3 videos: 2 packed before, 0 known to be bad, 1 to do' in capsys.readouterr().out
    check(videos, range(4))
    assert sum(path.stat().st_mtime_ns != before.get(path) for path in (videos / 'pack').glob('shard*')) == 2
    # a video that changed is packed again
    write_video(videos / 'videos/v0.mkv', clip(0)[::-1].copy(), fps=10)
    assert main(command(videos)) == 0
    assert '1 to do' in capsys.readouterr().out
    shard, row = read_index(videos / 'pack')['v0.mkv']
    assert np.array_equal(PackReader(videos / 'pack').frames(shard, row, [0])[0, ..., 1], clip(0)[-1])


def test_bad_videos_are_listed_and_the_rest_is_packed(main, videos, capsys):
    (videos / 'videos/empty.mkv').touch()
    (videos / 'videos/text.mkv').write_text('404 not found\n')
    (videos / 'bad.txt').write_text('empty.mkv 0\nv0.mkv 0\ntext.mkv 0\ngone.mkv 0\nv1.mkv 0\n')
    assert main(command(videos, lists=['bad.txt'])) == 1
    said = capsys.readouterr().out
    assert 'bad: empty.mkv: the file has 0 bytes' in said and 'bad: text.mkv: the file holds text' in said
    assert 'bad: gone.mkv: there is no such file' in said and '2 of 5 videos' in said
    check(videos, range(2))
    assert main(command(videos, lists=['bad.txt'])) == 1
    assert '2 packed before, 3 known to be bad, 0 to do' in capsys.readouterr().out
    shutil.copy(videos / 'videos/v2.mkv', videos / 'videos/empty.mkv')  # it was fetched again
    assert main(command(videos, lists=['bad.txt'])) == 1
    assert '2 packed before, 2 known to be bad, 1 to do' in capsys.readouterr().out
    assert 'empty.mkv' in read_index(videos / 'pack')


def test_a_decoder_that_crashes_or_hangs_costs_one_video(main, videos, capsys, monkeypatch):
    read_through = pack_worker.read_through

    def dangerous(path, decoder):
        if path.endswith('v0.mkv'):
            os.kill(os.getpid(), signal.SIGKILL)
        if path.endswith('v2.mkv'):
            time.sleep(60)
        return read_through(path, decoder)

    monkeypatch.setattr(pack_worker, 'read_through', dangerous)
    (videos / 'all.txt').write_text(''.join(f'v{i}.mkv 0\n' for i in range(4)))
    assert main(command(videos, '--timeout', 3, lists=['all.txt'])) == 1
    said = capsys.readouterr().out
    assert 'bad: v0.mkv: the decoder crashed (SIGKILL)' in said and 'bad: v2.mkv: not decoded within 3 s' in said
    check(videos, (1, 3))


def test_killed_and_started_again(main, videos):
    """kill -9 of the tool and its worker after the first video; the second call packs the rest."""
    add, done = pack_worker.ShardWriter.add, []

    def slow(self, *args):
        time.sleep(300 if done else 0)
        done.append(1)
        return add(self, *args)

    arguments = command(videos, '--workers', 1)
    child = os.fork()
    if child == 0:
        os.setsid()
        pack_worker.ShardWriter.add = slow
        main(arguments)
        os._exit(0)
    try:
        deadline = time.monotonic() + 60
        while not (videos / 'pack').is_dir() or not read_index(videos / 'pack'):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(read_index(videos / 'pack')) == 1
    assert main(arguments) == 0
    check(videos, range(3))


Usage = namedtuple('Usage', 'total used free')


@pytest.mark.parametrize('more, message', [
    (('--short-side', 20), 'a pack with other settings (own size, raw, read by decord) than asked for (short side 20'),
    (('--jpeg', 90), 'than asked for (own size, JPEG at quality 90')])
def test_other_settings_are_refused(main, videos, capsys, more, message):
    assert main(command(videos)) == 0
    assert main(command(videos, *more)) == 2
    assert message in capsys.readouterr().err


def test_no_room(main, videos, capsys, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(1 << 40, 1 << 40, 1000))
    assert main(command(videos)) == 2
    assert 'there is no room for 0.1 MB in' in capsys.readouterr().err
    assert not (videos / 'pack').exists()


def test_wrong_calls(main, videos, capsys):
    assert main(command(videos, lists=['nowhere.txt'])) == 2
    assert 'nowhere.txt is no annotation list' in capsys.readouterr().err
    (videos / 'empty.txt').write_text('\n')
    assert main(command(videos, lists=['empty.txt'])) == 2
    assert 'empty.txt names no video' in capsys.readouterr().err
    (videos / 'pack').mkdir()
    (videos / 'pack/mine').touch()
    assert main(command(videos)) == 2
    assert 'is not empty and holds no pack' in capsys.readouterr().err
    for wrong in (['--jpeg', '0'], ['--short-side', '0'], ['--workers', '0'], ['--size', '0', '4'], ['--timeout', '0']):
        with pytest.raises(SystemExit):
            main(command(videos, *wrong))
        assert wrong[0] in capsys.readouterr().err
