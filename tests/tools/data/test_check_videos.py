"""tools/data/check_videos.py: what it finds, that nothing stops it, and that it goes on where it was stopped."""
import csv
import faulthandler
import os
import runpy
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT
from mmaction.registry import DATASETS

from tconv_mmaction.setup_checks.data import DataOptions, Model, check_loader
from tconv_mmaction.setup_checks.problems import Problems
from tconv_mmaction.utils.lossless_video import write_video
from tconv_mmaction.utils.video_file import find_problem, stated_size, video_path

TOOL = ROOT / 'tools/data/check_videos.py'


@pytest.fixture
def tool():
    """The tool's functions; what a test replaces in them is seen by its forked workers."""
    return runpy.run_path(str(TOOL))


@pytest.fixture
def main(tool):
    return tool['main']


def patch(monkeypatch, tool, name, value):
    monkeypatch.setitem(tool['main'].__globals__, name, value)


def make_videos(folder, count, frames=6):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        clip = np.random.RandomState(index).randint(0, 256, (frames, 32, 32), dtype='uint8')
        write_video(folder / f'v{index:02d}.mkv', clip)


def rows_of(report):
    with open(report, newline='') as file:
        return {row['file']: row for row in csv.DictReader(file)}


def test_reports_bad_files_and_writes_the_clean_list(main, tmp_path, capsys):
    videos = tmp_path / 'videos'
    make_videos(videos, 3)
    (videos / 'empty.mp4').touch()
    (videos / 'text.mp4').write_text('404 not found\n')
    whole = (videos / 'v00.mkv').read_bytes()
    (videos / 'wrong_ending.avi').write_bytes(whole)
    (tmp_path / 'all.txt').write_text('v00.mkv 0\nempty.mp4 1\nv01.mkv 1\ntext.mp4 0\n\ngone.mp4 1\n'
                                      'wrong_ending.avi 1\nv02.mkv 0\nv00.mkv 0\n')
    report, clean = tmp_path / 'report.csv', tmp_path / 'clean.txt'
    code = main([str(tmp_path / 'all.txt'), '--data-prefix', str(videos), '--out', str(report), '--workers', '2',
                 '--clean-list', str(clean)])
    rows = rows_of(report)
    assert code == 1
    assert list(rows) == ['v00.mkv', 'empty.mp4', 'v01.mkv', 'text.mp4', 'gone.mp4', 'wrong_ending.avi', 'v02.mkv']
    assert {name: (row['status'], row['kind']) for name, row in rows.items() if row['status'] != 'ok'} == {
        'empty.mp4': ('bad', 'empty'), 'text.mp4': ('bad', 'text'), 'gone.mp4': ('bad', 'missing')}
    ok = rows['wrong_ending.avi']
    assert [ok[key] for key in ('header_frames', 'decord_frames', 'decodable_frames', 'width', 'height', 'bytes')] == [
        '6', '6', '6', '32', '32', str(len(whole))]
    assert clean.read_text() == 'v00.mkv 0\nv01.mkv 1\nwrong_ending.avi 1\nv02.mkv 0\nv00.mkv 0\n'
    out = capsys.readouterr().out
    assert '7 videos: 4 ok, 3 bad' in out and 'bad: text.mp4: the file holds text' in out
    assert main([str(clean), '--data-prefix', str(videos), '--out', str(tmp_path / 'again.csv'), '--workers', '1']) == 0


def test_a_cut_off_file_lies_about_its_frames(main, tmp_path, capsys):
    make_videos(tmp_path / 'videos', 1, frames=40)
    path = tmp_path / 'videos/v00.mkv'
    whole = path.read_bytes()
    assert stated_size(path) == len(whole)
    path.write_bytes(whole[:len(whole) // 2])
    assert stated_size(path) == len(whole) and find_problem(path).kind == 'truncated'
    command = [str(tmp_path / 'videos'), '--out', str(tmp_path / 'r.csv'), '--workers', '1']
    assert main(command) == 0
    row = rows_of(tmp_path / 'r.csv')['v00.mkv']
    assert row['status'] == 'lies' and row['kind'] == 'truncated' and row['header_frames'] == '40'
    assert 15 <= int(row['decodable_frames']) <= 20 and row['decord_frames'] == row['decodable_frames']
    assert main([*command, '--strict']) == 1


def test_crashes_and_hangs_are_rows_and_the_rest_is_checked(tool, main, tmp_path, monkeypatch):
    make_videos(tmp_path / 'videos', 6)
    check = tool['check_video']

    def dangerous(path, quick):
        name = Path(path).name  # the folder's own name may have any number
        if '01' in name:
            faulthandler.disable()  # pytest's would print the stack
            os.kill(os.getpid(), signal.SIGSEGV)
        if '03' in name:
            time.sleep(60)
        if '04' in name:
            os._exit(3)
        return check(path, quick)

    patch(monkeypatch, tool, 'check_video', dangerous)
    code = main([str(tmp_path / 'videos'), '--out', str(tmp_path / 'r.csv'), '--workers', '2', '--timeout', '4'])
    rows = rows_of(tmp_path / 'r.csv')
    assert code == 1
    assert {name: row['detail'] for name, row in rows.items() if row['status'] == 'bad'} == {
        'v01.mkv': 'the decoder crashed (SIGSEGV)', 'v03.mkv': 'not decoded within 4 s',
        'v04.mkv': 'the decoder crashed (exit code 3)'}
    assert sorted(name for name, row in rows.items() if row['status'] == 'ok') == ['v00.mkv', 'v02.mkv', 'v05.mkv']


def test_goes_on_where_it_was_stopped(tool, main, tmp_path, monkeypatch, capsys):
    videos, report = tmp_path / 'videos', tmp_path / 'r.csv'
    make_videos(videos, 5)
    command = [str(videos), '--out', str(report), '--workers', '1', '--quick']
    check_all = tool['check_all']
    checked = []

    def three(*args):
        for number, item in enumerate(check_all(*args)):
            if number == 3:
                raise KeyboardInterrupt
            checked.append(item[0])
            yield item

    patch(monkeypatch, tool, 'check_all', three)
    assert main(command) == 130
    assert 'the same command goes on' in capsys.readouterr().err
    assert checked == ['v00.mkv', 'v01.mkv', 'v02.mkv'] == list(rows_of(report))
    with open(report, 'ab') as file:
        file.write(b'v03.mkv,ok,,,')  # killed within a row
    checked.clear()
    assert main(command) == 0
    assert checked == ['v03.mkv', 'v04.mkv'] and list(rows_of(report)) == [f'v0{i}.mkv' for i in range(5)]
    checked.clear()
    (videos / 'v02.mkv').write_bytes(b'')  # another file under the same name
    assert main(command) == 1
    assert checked == ['v02.mkv'] and rows_of(report)['v02.mkv']['kind'] == 'empty'
    checked.clear()
    assert main([word for word in command if word != '--quick']) == 130  # rows of a quick check are no full ones
    assert len(checked) == 3


def test_wrong_calls(main, tmp_path, capsys):
    report = tmp_path / 'r.csv'
    assert main([str(tmp_path / 'none.txt'), '--out', str(report)]) == 2
    assert 'none.txt does not exist' in capsys.readouterr().err
    (tmp_path / 'folder').mkdir()
    assert main([str(tmp_path / 'folder'), '--out', str(report)]) == 2
    (tmp_path / 'list.txt').write_text('a.mp4 1\n')
    report.write_text('my own notes\n')
    assert main([str(tmp_path / 'list.txt'), '--out', str(report)]) == 2
    assert 'no report of this tool' in capsys.readouterr().err and report.read_text() == 'my own notes\n'
    for extra in (['--workers', '0'], ['--timeout', '0']):
        with pytest.raises(SystemExit):
            main([str(tmp_path / 'list.txt'), '--out', str(report), *extra])
    with pytest.raises(SystemExit):
        main([str(tmp_path / 'folder'), '--out', str(report), '--clean-list', 'x'])


def test_what_a_file_is(tmp_path):
    path = tmp_path / 'x.mp4'

    def kind(data):
        path.write_bytes(data)
        return find_problem(path).kind

    def box(name, payload, length=None):
        return (8 + len(payload) if length is None else length).to_bytes(4, 'big') + name + payload

    head = box(b'ftyp', b'isom\0\0\0\0')
    assert kind(b'') == 'empty' and kind(b'\xef\xbb\xbfhello \xc3\xa9\n') == 'text' and kind(b'\x89PNG\r\n') == 'image'
    assert kind(head + box(b'mdat', bytes(50), 99)) == 'truncated' and stated_size(path) == len(head) + 99
    assert kind(head + box(b'mdat', bytes(50)) + box(b'moov', bytes(9))) == 'damaged'
    large = (1).to_bytes(4, 'big') + b'mdat' + (10 ** 10).to_bytes(8, 'big')  # 64-bit length
    assert kind(head + large + bytes(9)) == 'truncated' and stated_size(path) == len(head) + 10 ** 10
    assert kind(head + box(b'moov', b'stsd....av01....')) == 'av1'
    assert kind(b'RIFF' + (100).to_bytes(4, 'little') + b'AVI ' + bytes(96)) == 'damaged' and stated_size(path) == 108
    assert kind(b'RIFF' + (101).to_bytes(4, 'little') + b'AVI ' + bytes(96)) == 'truncated'
    # a Segment of unknown length, as in a live stream, states nothing
    assert kind(b'\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x01' + b'\xff' * 7 + bytes(9)) == 'damaged'
    assert stated_size(path) is None
    assert kind(b'\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x40\x20' + bytes(31)) == 'truncated'  # 2-byte length: 0x20 = 32
    assert kind(b'\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x40\x20' + bytes(32)) == 'damaged'
    assert find_problem(tmp_path).kind == 'no file' and find_problem(tmp_path / 'y').kind == 'missing'
    assert video_path('a/b') == 'a/b.mp4' and video_path('a.x/b.avi') == 'a.x/b.avi'


def test_real_clips(main, shared, tmp_path):
    names = ['decord_corrupted.mp4', 'torchcodec_av1_video.mkv', 'hmdb51_vtest.avi', 'ucf11_v_biking_01_01.mpg',
             'decord_video_90.mov', 'twentybn_sense_test_video.mp4']
    (tmp_path / 'list.txt').write_text(''.join(f'{name};0\n' for name in names))
    assert main([str(tmp_path / 'list.txt'), '--data-prefix', str(shared / 'data/clips'), '--delimiter', ';', '--out',
                 str(tmp_path / 'r.csv'), '--workers', '2']) == 1
    keys = ('status', 'kind', 'header_frames', 'decord_frames', 'decodable_frames')
    assert {name: tuple(row[key] for key in keys) for name, row in rows_of(tmp_path / 'r.csv').items()} == {
        'decord_corrupted.mp4': ('bad', 'damaged', '50', '50', '28'),
        'torchcodec_av1_video.mkv': ('bad', 'av1', '', '', ''),
        'hmdb51_vtest.avi': ('lies', 'frame count', '49', '49', '48'),
        'ucf11_v_biking_01_01.mpg': ('lies', 'frame count', '150', '151', '151'),
        'decord_video_90.mov': ('ok', '', '3', '3', '3'),
        'twentybn_sense_test_video.mp4': ('ok', '', '13', '13', '13')}


def test_true_counts_in_the_list_are_what_is_sampled_from(main, tmp_path, capsys):
    """A file that was cut off: its header says 40 frames; the list then has what decodes, and the data set uses it."""
    make_videos(tmp_path / 'videos', 2, frames=40)
    path = tmp_path / 'videos/v00.mkv'
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    (tmp_path / 'all.txt').write_text('v00.mkv 1\nv01.mkv 0\n')
    counted = tmp_path / 'counted.txt'
    command = [str(tmp_path / 'all.txt'), '--data-prefix', str(tmp_path / 'videos'), '--out', str(tmp_path / 'r.csv'),
               '--workers', '1', '--counted-list', str(counted)]
    assert main(command) == 0
    frames = int(rows_of(tmp_path / 'r.csv')['v00.mkv']['decodable_frames'])
    assert 15 <= frames <= 20 and counted.read_text() == f'v00.mkv {frames} 1\nv01.mkv 40 0\n'

    def build(path, **more):
        return DATASETS.build(dict(
            type='TolerantVideoDataset', ann_file=str(path), data_prefix=dict(video=str(tmp_path / 'videos')),
            test_mode=True, pipeline=[dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=4)],
            **more))

    counted.write_text('v00.mkv 7 1\nv01.mkv 40 0\n')  # another number, to see where it comes from
    data = build(counted, counted=True)
    assert [data[i]['total_frames'] for i in range(2)] == [7, 40] and data[0]['frame_inds'].tolist() == [0, 2, 4, 6]
    assert [data.get_data_info(i)['label'] for i in range(2)] == [1, 0]
    with pytest.raises(ValueError, match=r'all.txt, line 1: with counted=True lines are "PATH FRAMES LABEL", got'):
        build(tmp_path / 'all.txt', counted=True)
    for path, message in ((counted, None), (tmp_path / 'all.txt', 'With counted=True lines are')):
        problems = Problems()
        check_loader(dict(batch_size=1, num_workers=0, dataset=dict(
            type='TolerantVideoDataset', counted=True, ann_file=str(path), data_prefix=dict(
                video=str(tmp_path / 'videos')), pipeline=[dict(type='DecordInit'), dict(
                    type='SampleFrames', clip_len=4), dict(type='DecordDecode'),
                    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')])),
            'train_dataloader', Model(2, True, 3), True, DataOptions(), problems)
        assert not problems if message is None else message in problems[0].text, problems
    for wrong in (command + ['--quick'], [str(tmp_path / 'videos'), *command[1:]]):
        with pytest.raises(SystemExit):
            main(wrong)
