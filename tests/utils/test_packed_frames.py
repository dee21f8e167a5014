"""A pack gives back what was written, and loses no more than the video being written."""
import copy
import json
import os
import pickle
import signal

import numpy as np
import pytest

from tconv_mmaction.utils.packed_frames import OPEN_SHARDS, PackReader, PackSettings, ShardWriter, read_index


def clip(seed, frames=7, height=12, width=16):
    """Smooth colours, as JPEG likes them."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(40, 215, (frames, 2, 2, 3))
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top = corners[:, 0, 0, None, None] * (1 - x) + corners[:, 0, 1, None, None] * x
    bottom = corners[:, 1, 0, None, None] * (1 - x) + corners[:, 1, 1, None, None] * x
    return (top * (1 - y) + bottom * y).round().astype(np.uint8)


def write(folder, clips, quality=None, shard_bytes=1 << 30):
    folder.mkdir(exist_ok=True)
    PackSettings(quality=quality).save(folder)
    writer = ShardWriter(folder, quality, shard_bytes)
    for name, frames in clips.items():
        writer.add(name, [frames[:3], frames[3:]], (120, 160), 25., (1, 2))
    writer.close()
    return PackReader(folder), read_index(folder)


@pytest.mark.parametrize('shard_bytes', [1, 3000, 1 << 30])
def test_raw_frames_come_back_as_they_were(tmp_path, shard_bytes):
    clips = {f'{i}.mp4': clip(i, frames=4 + i, width=16 + i) for i in range(4)}
    reader, index = write(tmp_path / 'pack', clips, shard_bytes=shard_bytes)
    assert len({shard for shard, _ in index.values()}) == {1: 4, 3000: 3, 1 << 30: 1}[shard_bytes]
    for name, frames in clips.items():
        shard, row = index[name]
        assert (row.frames, row.height, row.width) == frames.shape[:3] and row.fps == 25
        assert (row.video_height, row.video_width, row.source) == (120, 160, [1, 2])
        wanted = [3, 0, 3, len(frames) - 1]
        given = reader.frames(shard, row, wanted)
        assert np.array_equal(given, frames[wanted]) and given.flags.writeable and given.flags.owndata
        assert reader.check(shard, row)


def test_jpeg_is_near_and_the_better_the_higher_its_quality(tmp_path):
    clips = {'a': clip(0, 9, 48, 64), 'b': clip(1, 3, 48, 64)}
    errors = {}
    for quality in (50, 95):
        reader, index = write(tmp_path / str(quality), clips, quality)
        for name, frames in clips.items():
            wanted = [2, 2, 0, 1]
            given = reader.frames(*index[name], wanted)
            assert np.array_equal(given[0], given[1])
            errors[quality] = np.abs(given.astype(float) - frames[wanted]).mean()
            assert index[name][1].bytes < frames.nbytes / 4
    assert errors[95] < errors[50] < 3 and errors[95] < 1


def test_frames_outside_of_the_video(tmp_path):
    reader, index = write(tmp_path / 'pack', dict(a=clip(0)))
    for wanted in ([7], [-1], [0, 100]):
        with pytest.raises(IndexError, match=r'a: frames .* are asked for, and 7 \(0 to 6\) are packed'):
            reader.frames(*index['a'], wanted)


def test_a_torn_line_and_its_bytes_are_cut_off(tmp_path):
    """As a kill leaves it: bytes of a second video without a row, half of a row."""
    folder = tmp_path / 'pack'
    write(folder, dict(a=clip(0)))
    with open(folder / 'shard-00000.bin', 'ab') as file:
        file.write(b'x' * 1000)
    with open(folder / 'shard-00000.jsonl', 'ab') as file:
        file.write(b'{"file": "b", "off')
    assert set(read_index(folder)) == {'a'}
    reader, index = write(folder, dict(c=clip(2)))
    assert set(index) == {'a', 'c'} and {shard for shard, _ in index.values()} == {'shard-00000.bin'}
    assert index['c'][1].offset == clip(0).nbytes
    for name, seed in (('a', 0), ('c', 2)):
        assert np.array_equal(reader.frames(*index[name], range(7)), clip(seed))


def test_a_video_that_fails_leaves_nothing(tmp_path):
    folder = tmp_path / 'pack'
    write(folder, dict(a=clip(0)))
    writer = ShardWriter(folder, None, 1 << 30)

    def broken():
        yield clip(1)
        raise RuntimeError('decoder')

    with pytest.raises(RuntimeError, match='decoder'):
        writer.add('b', broken(), (1, 1), 25., (1, 2))
    with pytest.raises(ValueError, match='c has frames of 16x12 and of 20x12 pixels'):
        writer.add('c', [clip(1), clip(1, width=20)], (1, 1), 25., (1, 2))
    with pytest.raises(ValueError, match='d has no frames'):
        writer.add('d', [], (1, 1), 25., (1, 2))
    assert (folder / 'shard-00000.bin').stat().st_size == clip(0).nbytes
    writer.add('e', [clip(5)], (1, 1), 25., (1, 2))
    index = read_index(folder)
    assert set(index) == {'a', 'e'}
    assert np.array_equal(PackReader(folder).frames(*index['e'], range(7)), clip(5))


def test_two_writers_take_two_shards_and_the_later_row_counts(tmp_path):
    folder = tmp_path / 'pack'
    write(folder, {})
    first, second = ShardWriter(folder, None, 1 << 30), ShardWriter(folder, None, 1 << 30)
    first.add('a', [clip(0)], (1, 1), 25., (1, 2))
    second.add('b', [clip(1)], (1, 1), 25., (1, 2))
    first.add('c', [clip(2)], (1, 1), 25., (1, 2))
    first.add('a', [clip(3, frames=4)], (1, 1), 25., (1, 3))
    index = read_index(folder)
    assert {name: shard for name, (shard, _) in index.items()} == {
        'a': 'shard-00000.bin', 'b': 'shard-00001.bin', 'c': 'shard-00000.bin'}
    assert np.array_equal(PackReader(folder).frames(*index['a'], range(4)), clip(3, frames=4))


def test_killed_while_writing(tmp_path):
    """kill -9 in the middle of a video: those before it stay."""
    folder = tmp_path / 'pack'
    write(folder, {})
    child = os.fork()
    if child == 0:
        writer = ShardWriter(folder, None, 1 << 30)
        writer.add('a', [clip(0)], (1, 1), 25., (1, 2))

        def killed():
            yield clip(1, frames=4000)
            os.kill(os.getpid(), signal.SIGKILL)

        writer.add('b', killed(), (1, 1), 25., (1, 2))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    reader, index = write(folder, dict(c=clip(2)))
    assert set(index) == {'a', 'c'} and index['c'][1].offset == clip(0).nbytes
    assert np.array_equal(reader.frames(*index['a'], range(7)), clip(0))


def test_damage_is_named(tmp_path):
    folder = tmp_path / 'pack'
    reader, index = write(folder, dict(a=clip(0, 9, 48, 64), b=clip(1, 9, 48, 64)), 95)
    shard, row = index['b']
    data = bytearray((folder / shard).read_bytes())
    data[row.offset:row.offset + 20] = bytes(20)
    (folder / shard).write_bytes(data)
    reader = PackReader(folder)
    assert reader.check(*index['a']) and not reader.check(shard, row)
    with pytest.raises(ValueError, match='b: frame 0 in .*shard-00000.bin is damaged'):
        reader.frames(shard, row, [0])
    os.truncate(folder / shard, row.offset + 5)
    with pytest.raises(ValueError, match=r'has \d+ bytes and \d+ are needed: it was cut off'):
        read_index(folder)
    (folder / 'shard-00000.jsonl').write_text('no json\n')
    with pytest.raises(ValueError, match='shard-00000.jsonl is damaged'):
        read_index(folder)


def test_settings(tmp_path):
    settings = PackSettings(None, (160, 120), 90, 'pyav')
    settings.save(tmp_path)
    assert PackSettings.load(tmp_path) == settings
    assert settings.describe() == '160x120, JPEG at quality 90, read by pyav'
    with pytest.raises(FileNotFoundError, match='is no folder of packed videos'):
        PackSettings.load(tmp_path / 'nowhere')
    values = json.loads((tmp_path / 'pack.json').read_text())
    (tmp_path / 'pack.json').write_text(json.dumps(dict(values, format=2)))
    with pytest.raises(ValueError, match='says format 2'):
        PackSettings.load(tmp_path)
    (tmp_path / 'pack.json').write_text('[]')
    with pytest.raises(ValueError, match='is damaged'):
        PackSettings.load(tmp_path)


def test_a_reader_travels(tmp_path):
    """Pickled, copied, and with more shards than maps that stay open."""
    clips = {str(i): clip(i, frames=2) for i in range(OPEN_SHARDS + 5)}
    reader, index = write(tmp_path / 'pack', clips, shard_bytes=1)
    for _ in range(2):
        for name, frames in clips.items():
            assert np.array_equal(reader.frames(*index[name], [1, 0]), frames[::-1])
    assert len(reader._maps) == OPEN_SHARDS and copy.deepcopy(reader) is reader
    other = pickle.loads(pickle.dumps(reader))
    assert not other._maps and np.array_equal(other.frames(*index['3'], [1]), clips['3'][1:])
