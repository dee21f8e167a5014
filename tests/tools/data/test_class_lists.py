"""Lists of Jester and Something-Something V2 from their official files, and subsets of classes."""
import json

import pytest
from helpers.scripts import load_script
from mmaction.datasets import RawframeDataset, VideoDataset

jester, sthv2, class_subset = (
    load_script(f'tools/data/{name}.py') for name in ('jester', 'sthv2', 'class_subset'))


@pytest.fixture
def jester_folder(tmp_path):
    folder = tmp_path / 'jester'
    folder.mkdir()
    (folder / 'jester-v1-labels.csv').write_text('Swiping Left\nSwiping Right\nDoing other things\n')
    (folder / 'jester-v1-train.csv').write_text('34870;Swiping Right\n56557;Swiping Left\n9;Doing other things\n')
    (folder / 'jester-v1-validation.csv').write_text('14;Swiping Left\n')
    for video, frames in {'34870': 37, '56557': 2, '9': 5, '14': 3}.items():
        (folder / 'frames' / video).mkdir(parents=True)
        for i in range(1, frames + 1):
            (folder / 'frames' / video / f'{i:05d}.jpg').touch()
    return folder


def test_jester(jester_folder, capsys):
    assert jester.main([str(jester_folder), str(jester_folder / 'frames')]) == 0
    train = jester_folder / 'jester_train_list_rawframes.txt'
    assert train.read_text() == '34870 37 1\n56557 2 0\n9 5 2\n'
    assert (jester_folder / 'jester_val_list_rawframes.txt').read_text() == '14 3 0\n'
    assert (jester_folder / 'classes.txt').read_text().splitlines()[1] == 'Swiping Right'
    assert 'jester_train_list_rawframes.txt: 3 videos, 3 classes' in capsys.readouterr().out
    info = RawframeDataset(str(train), pipeline=[], data_prefix=dict(img='frames')).get_data_info(0)
    assert (info['frame_dir'], info['total_frames'], info['label']) == ('frames/34870', 37, 1)


def test_jester_never_writes_half_a_list(jester_folder, capsys):
    for path in (jester_folder / 'frames/14').iterdir():
        path.unlink()
    (jester_folder / 'frames/9/00003.jpg').unlink()
    assert jester.main([str(jester_folder), str(jester_folder / 'frames')]) == 2
    assert 'numbers do not go from 00001 to 00004' in capsys.readouterr().err
    (jester_folder / 'frames/9/00003.jpg').touch()
    assert jester.main([str(jester_folder), str(jester_folder / 'frames')]) == 2
    assert '1 videos have no frames' in capsys.readouterr().err
    assert jester.main([str(jester_folder), str(jester_folder / 'frames'), '--allow-missing']) == 2
    assert 'no video of val has frames' in capsys.readouterr().err
    assert not list(jester_folder.glob('*.txt'))
    (jester_folder / 'jester-v1-validation.csv').write_text('14;Swiping Left\n9;Swiping Right\n')
    assert jester.main([str(jester_folder), str(jester_folder / 'frames'), '--allow-missing']) == 0
    assert 'left out, no frames: val 14' in capsys.readouterr().out
    assert (jester_folder / 'jester_val_list_rawframes.txt').read_text() == '9 5 1\n'
    (jester_folder / 'jester-v1-validation.csv').write_text('14;Waving\n')
    assert jester.main([str(jester_folder), str(jester_folder / 'frames')]) == 2
    assert "'14;Waving' is not" in capsys.readouterr().err
    (jester_folder / 'jester-v1-validation.csv').write_text('9;Swiping Left\n9;Swiping Left\n')
    assert jester.main([str(jester_folder), str(jester_folder / 'frames')]) == 2
    assert 'video 9 comes twice' in capsys.readouterr().err


@pytest.fixture
def sthv2_folder(tmp_path):
    folder = tmp_path / 'sthv2'
    (folder / 'videos').mkdir(parents=True)
    (folder / 'labels.json').write_text(json.dumps({
        'Holding something next to something': '1', 'Closing something': '0', 'Pulling two ends of something': '2'}))
    entries = dict(train=[('78687', 'Holding [something] next to [something]'), ('1', 'Closing [something]')],
                   validation=[('74225', 'Pulling two ends of [something]')])
    for split, videos in entries.items():
        (folder / f'something-something-v2-{split}.json').write_text(json.dumps(
            [dict(id=video, label='holding a mug', template=name, placeholders=['a mug']) for video, name in videos]))
        for video, _ in videos:
            (folder / f'videos/{video}.webm').touch()
    return folder


def test_sthv2(sthv2_folder, capsys):
    assert sthv2.main([str(sthv2_folder), str(sthv2_folder / 'videos')]) == 0
    train = sthv2_folder / 'sthv2_train_list_videos.txt'
    assert train.read_text() == '78687.webm 1\n1.webm 0\n'
    assert (sthv2_folder / 'sthv2_val_list_videos.txt').read_text() == '74225.webm 2\n'
    assert (sthv2_folder / 'classes.txt').read_text().splitlines()[0] == 'Closing something'
    assert 'sthv2_train_list_videos.txt: 2 videos, 3 classes' in capsys.readouterr().out
    info = VideoDataset(str(train), pipeline=[], data_prefix=dict(video='videos')).get_data_info(0)
    assert (info['filename'], info['label']) == ('videos/78687.webm', 1)


def test_sthv2_never_writes_half_a_list(sthv2_folder, capsys):
    (sthv2_folder / 'videos/1.webm').unlink()
    assert sthv2.main([str(sthv2_folder), str(sthv2_folder / 'videos')]) == 2
    assert '1 videos are not in' in capsys.readouterr().err and not list(sthv2_folder.glob('*.txt'))
    assert sthv2.main([str(sthv2_folder), str(sthv2_folder / 'videos'), '--allow-missing']) == 0
    assert 'left out, no file: train 1.webm' in capsys.readouterr().out
    assert (sthv2_folder / 'sthv2_train_list_videos.txt').read_text() == '78687.webm 1\n'
    broken = sthv2_folder / 'validation.json'  # the short name comes first
    for entries, message in (([dict(id='5')], 'no id and template'),
                             ([dict(id='5', template='Opening [x]')], "'Opening x' of video 5 is not in labels.json"),
                             ([dict(id='5', template='Closing [something]')] * 2, 'video 5 comes twice')):
        broken.write_text(json.dumps(entries))
        assert sthv2.main([str(sthv2_folder), str(sthv2_folder / 'videos')]) == 2
        assert message in capsys.readouterr().err
    (sthv2_folder / 'labels.json').write_text('{"Closing something": "0", "Opening something": "2"}')
    assert sthv2.main([str(sthv2_folder), str(sthv2_folder / 'videos')]) == 2
    assert 'labels of 2 classes are not 0 to 1' in capsys.readouterr().err
    (sthv2_folder / 'labels.json').unlink()
    assert sthv2.main([str(sthv2_folder), str(sthv2_folder / 'videos')]) == 2
    assert 'labels.json' in capsys.readouterr().err


def test_the_halves_of_seed_0_are_pinned():
    """They are part of what 'mini-SSv2' means here: a change would change every number measured on it."""
    mini_ssv2, mini_kinetics = class_subset.choose(174), class_subset.choose(400)
    assert (len(mini_ssv2), len(mini_kinetics)) == (87, 200)
    assert mini_ssv2[:12] == [0, 3, 10, 11, 13, 15, 16, 18, 23, 24, 25, 26]
    assert mini_kinetics[:12] == [0, 5, 7, 8, 10, 13, 14, 15, 16, 17, 18, 19]
    assert (sum(mini_ssv2), sum(mini_kinetics)) == (8029, 39930)
    assert class_subset.choose(174, seed=1) != mini_ssv2


def test_subset_lists(tmp_path, capsys):
    lines = [f'videos/{k}_{i}.mp4 {k}' for i in range(2) for k in range(10)]
    (tmp_path / 'train').write_text('\n'.join(lines) + '\n')
    (tmp_path / 'val').write_text('\n'.join(f'a folder/{k} 37 {k}' for k in range(10)))  # frame folders work as well
    (tmp_path / 'names').write_text('\n'.join(f'class {k}' for k in range(10)))
    out = tmp_path / 'mini'
    arguments = [str(out), '--train', str(tmp_path / 'train'), '--val', str(tmp_path / 'val'), '--num-classes', '10',
                 '--names', str(tmp_path / 'names')]
    assert class_subset.main(arguments) == 0
    chosen = class_subset.choose(10)
    assert (out / 'train.txt').read_text().splitlines() == [
        f'videos/{k}_{i}.mp4 {new}' for i in range(2) for new, k in enumerate(chosen)]
    assert (out / 'val.txt').read_text().splitlines() == [f'a folder/{k} 37 {new}' for new, k in enumerate(chosen)]
    assert (out / 'classes.txt').read_text().splitlines() == [f'{n} {k} class {k}' for n, k in enumerate(chosen)]
    assert 'train.txt: 10 of 20 videos, 5 of 10 classes (seed 0)' in capsys.readouterr().out


@pytest.mark.parametrize('train, message', [
    ('a.mp4 0\nb.mp4 2\n', "line 2: 'b.mp4 2' does not end in ' ' and a label from 0 to 1"),
    ('a.mp4 0\n', 'has no line of 1 of 2 classes: [1]'), ('a.mp4\n', 'line 1')])
def test_subset_of_a_broken_list(train, message, tmp_path, capsys):
    (tmp_path / 'train').write_text(train)
    (tmp_path / 'val').write_text('a.mp4 0\nb.mp4 1\n')
    arguments = [str(tmp_path / 'mini'), '--train', str(tmp_path / 'train'), '--val', str(tmp_path / 'val')]
    assert class_subset.main([*arguments, '--num-classes', '2', '--share', '1']) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'mini').exists()
    with pytest.raises(SystemExit):
        class_subset.main([*arguments, '--num-classes', '2'])
    assert 'fewer than two classes' in capsys.readouterr().err
