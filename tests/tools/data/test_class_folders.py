"""tools/data/class_folders.py: every video is in exactly one list, with its class's label."""
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.tiny_project import run_here
from mmengine.config import Config

TOOL = ROOT / 'tools/data/class_folders.py'


def run(*arguments):
    return run_here(['python', TOOL, *arguments], ROOT, check=False)


def make(folder, classes):
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f'{i:02d}.mp4').write_bytes(b'')


def test_lists(tmp_path):
    make(tmp_path, dict(wave=10, point=5))
    (tmp_path / 'wave/notes.txt').write_text('not a video')
    done = run(tmp_path, '--val', 0.2, '--test', 0.2)
    assert done.returncode == 0, done.stderr
    lists = {part: (tmp_path / f'{part}.txt').read_text().split('\n')[:-1] for part in ('train', 'val', 'test')}
    assert {part: len(lines) for part, lines in lists.items()} == dict(train=9, val=3, test=3)
    videos = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*.mp4'))
    lines = sum(lists.values(), [])
    assert sorted(line.split()[0] for line in lines) == videos  # each once
    assert all(int(line.split()[1]) == ['point', 'wave'].index(line.split('/')[0]) for line in lines)
    assert (tmp_path / 'classes.txt').read_text() == 'point\nwave\n'
    assert 'notes.txt' in done.stdout
    assert run(tmp_path).returncode == 0  # again, over its own lists: they are not reported as strays
    first = lists['train']
    assert (tmp_path / 'train.txt').read_text().split('\n')[:-1] == first  # and the same split


@pytest.mark.parametrize('classes, arguments, message', [
    (dict(wave=3), (), 'at least two classes'),
    (dict(wave=9, point=2), (), "class 'point' has 2 video"),
    ({'wave': 5, 'point at': 5}, (), "'point at/00.mp4' contains ' '"),
    (dict(wave=5, point=5), ('--val', 0.6, '--test', 0.4), 'must be shares')])
def test_errors(tmp_path, classes, arguments, message):
    make(tmp_path, classes)
    done = run(tmp_path, *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert not list(tmp_path.glob('*.txt'))  # no half list


def test_config(tmp_path):
    make(tmp_path / 'videos', dict(a=5, b=5, c=6))
    done = run(tmp_path / 'videos', '--out-dir', tmp_path / 'lists', '--config', tmp_path / 'configs/mine.py')
    assert done.returncode == 0, done.stderr
    config = Config.fromfile(tmp_path / 'configs/mine.py')
    assert config.model.cls_head.num_classes == 3 and config.model.backbone.temporal_cfg.type == 'Conv3T'
    for part in ('train', 'val', 'test'):
        dataset = config[f'{part}_dataloader'].dataset
        lines = Path(dataset.ann_file).read_text().split('\n')[:-1]
        assert lines and all((Path(dataset.data_prefix.video) / line.split()[0]).is_file() for line in lines)


def test_missing_folder_and_delimiter(tmp_path):
    assert 'is no folder' in run(tmp_path / 'nowhere').stderr
    make(tmp_path, {'a b': 5, 'c': 5})
    assert run(tmp_path, '--delimiter', ';').returncode == 0
    assert 'a b/' in (tmp_path / 'train.txt').read_text() and ';0\n' in (tmp_path / 'train.txt').read_text()
