"""tools/data/class_folders.py: every video is in exactly one list, with its class's label."""
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.tiny_project import run_here
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR

from tconv_mmaction.cli.folder_config import Clip, config_text, lstm_layers, resnet18_strides
from tconv_mmaction.setup_checks import check_config
from tconv_mmaction.utils.lossless_video import write_video

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


def lists_in(folder):
    return {part: (folder / f'{part}.txt').read_text().split('\n')[:-1] for part in ('train', 'val', 'test')}


def make_people(folder, people=6, takes=3):
    """wave and point by persons, of some of whom there are more takes."""
    for name in ('wave', 'point'):
        (folder / name).mkdir(parents=True)
        for person in range(people):
            for take in range(takes + (person == 0)):
                (folder / name / f'person{person}_take{take}.mp4').write_bytes(b'')


def test_groups_stay_together(tmp_path):
    make_people(tmp_path)
    done = run(tmp_path, '--groups', 'person([0-9]+)_')
    assert done.returncode == 0, done.stderr
    lists = lists_in(tmp_path)
    people = {part: {line.split('person')[1][0] for line in lines} for part, lines in lists.items()}
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 6  # nobody in two lists
    assert len(sum(lists.values(), [])) == 38 and {part: len(who) for part, who in people.items()} == dict(
        train=4, val=1, test=1)
    for lines in lists.values():
        assert {line.split()[-1] for line in lines} == {'0', '1'}
    first = lists
    assert run(tmp_path, '--groups', 'person([0-9]+)_').returncode == 0 and lists_in(tmp_path) == first
    assert run(tmp_path, '--groups', 'person([0-9]+)_', '--seed', 1).returncode == 0 and lists_in(tmp_path) != first


@pytest.mark.parametrize('val', [0.2, 0])
def test_folds(tmp_path, val):
    """Every video is tested once; no person is in two lists of a fold."""
    make_people(tmp_path / 'videos')
    done = run(tmp_path / 'videos', '--groups', 'person([0-9]+)_', '--folds', 3, '--out-dir', tmp_path, '--val', val)
    assert done.returncode == 0, done.stderr
    tested = []
    for fold in (1, 2, 3):
        lists = lists_in(tmp_path / f'fold{fold}')
        tested += lists['test']
        people = [{line.split('person')[1][0] for line in lines} for lines in lists.values()]
        assert sum(map(len, people)) == 6 and len(people[2]) == 2 and len(people[1]) == (2 if val else 0)
    assert len(tested) == len(set(tested)) == 38
    assert (tmp_path / 'classes.txt').read_text() == 'point\nwave\n'


@pytest.mark.parametrize('arguments, message', [
    (('--groups', 'person([a-z]+)'), "finds nothing in 'point/person0_take0.mp4'"),
    (('--groups', '/(p|x)'), "gets no video of class 'point': it has 19 video(s) in 1 group(s)"),
    (('--folds', '7', '--groups', 'person([0-9])'), 'gets no video of class'),
    (('--folds', '2'), '--folds 2: a fold each for the test and for val'), (('--groups', '('), 'no regular expression'),
    (('--pack', 'packed'), 'give --config, too'), (('--size', '1', '2', '3'), 'one or two numbers'),
    (('--frames', '0'), '--frames 0 must be at least 1')])
def test_mistakes_in_splits(tmp_path, arguments, message):
    make_people(tmp_path)
    done = run(tmp_path, *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not list(tmp_path.rglob('*.txt'))


@pytest.mark.parametrize('frames, strides', [
    (4, (1, 1, (1, 1, 1, 1))), (8, (2, 2, (1, 1, 1, 1))), (16, (2, 2, (1, 2, 1, 1))), (30, (2, 2, (1, 2, 2, 1))),
    (64, (2, 2, (1, 2, 2, 2)))])
def test_strides_that_keep_every_slice_alive(frames, strides):
    """By hand, for 16: conv1 leaves 8, the pool 4, stages 4, 2, 2, 2; with one halving more the last stage had 1."""
    assert resnet18_strides(frames) == strides


@pytest.mark.parametrize('model', ['3t', '3d', 'r2plus1d', 'clstm', 'i3d-ours'])
def test_models(tmp_path, monkeypatch, model):
    """Each config passes the setup check, which runs its network on the meta device; T_max is open."""
    make(tmp_path / 'videos', dict(a=5, b=5, c=6))
    write_video(tmp_path / 'real.mkv', np.zeros((20, 90, 160), np.uint8))
    for video in (tmp_path / 'videos').rglob('*.mp4'):
        video.write_bytes((tmp_path / 'real.mkv').read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path / 'videos', '--out-dir', tmp_path / 'lists').returncode == 0
    text = config_text(tmp_path / 'mine.py', ROOT / 'configs/recognition', model, Clip(12, 64, 96), 3,
                       tmp_path / 'lists', tmp_path / 'videos')
    assert "lists = 'lists'\n" in text and "videos = 'videos'\n" in text  # relative to where commands are started
    (tmp_path / 'mine.py').write_text(text)
    config = Config.fromfile(tmp_path / 'mine.py')
    check_config(config, 'train')
    check_config(config, 'test')
    steps = config.train_dataloader.dataset.pipeline
    assert [step.scale for step in steps if step.type == 'Resize'] == [(110, 73), (96, 64)]
    assert not any('Crop' in step.type for step in config.test_dataloader.dataset.pipeline)
    assert 'T_max' not in config.param_scheduler[0] and config.default_hooks.checkpoint.max_keep_ckpts == 1
    assert config.default_hooks.checkpoint.save_best == 'auto'
    if model in ('3t', '3d'):
        assert tuple(config.model.backbone.temporal_strides) == resnet18_strides(12)[2]
        assert config.model.backbone.temporal_cfg.type == dict([('3t', 'Conv3T'), ('3d', 'Conv3d')])[model]


def test_the_config_says_which_slices_see_no_frame(tmp_path):
    """R(2+1)D halves the frames three times, whatever their number."""
    make(tmp_path / 'videos', dict(a=5, b=5))
    for frames, dead in ((8, True), (16, False)):
        done = run(tmp_path / 'videos', '--out-dir', tmp_path, '--config', tmp_path / 'mine.py', '--model', 'r2plus1d',
                   '--frames', frames, '--size', 16)
        assert done.returncode == 0, done.stderr
        assert ('see no frame of a clip of 8: they learn nothing' in done.stdout) == dead
        assert ('every slice of every temporal kernel sees frames' in done.stdout) != dead


def test_the_clstm_has_as_many_layers_as_the_frames_have_room_for(tmp_path, capsys):
    """By hand for 32x64: a layer leaves a quarter of each side, so 8x16, 2x4, and nothing after a third."""
    assert lstm_layers(Clip(8, 32, 64)) == (2, (2, 4)) and lstm_layers(Clip(8, 48, 64)) == (3, (1, 1))
    assert lstm_layers(Clip(8, 8, 8)) == (1, (2, 2))
    make(tmp_path / 'videos', dict(a=5, b=5))
    tool = load_script('tools/data/class_folders.py')
    assert tool.main([str(tmp_path / 'videos'), '--out-dir', str(tmp_path), '--config', str(tmp_path / 'mine.py'),
                      '--model', 'clstm', '--frames', '4', '--size', '32', '64']) == 0
    assert 'of the 3 layers of the C-LSTM 2 are taken' in capsys.readouterr().out
    model = MODELS.build(Config.fromfile(tmp_path / 'mine.py').model).eval()
    assert len(model.backbone.norms) == 2 and model.backbone.norm_statistics == 'clip'
    features, _ = model.extract_feat(torch.zeros(1, 1, 3, 4, 32, 64), test_mode=True)
    assert model.cls_head(features).shape == (1, 2)


def test_the_schedule_follows_max_epochs(tmp_path):
    """mmengine's default for an open T_max: the cosine ends at 0 with the last epoch."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    for epochs in (8, 60):
        optimizer = torch.optim.SGD([parameter], lr=1.)
        schedule = CosineAnnealingLR(optimizer, eta_min=0, by_epoch=True, end=epochs)  # as the runner fills it in
        for _ in range(epochs):
            optimizer.step()
            schedule.step()
        assert abs(schedule.get_last_value()[0]) < 1e-3 if epochs == 60 else schedule.get_last_value()[0] < 0.05


def test_packed(tmp_path):
    """--pack decodes the videos at the size of the config's first Resize, which reads them from there."""
    for name in ('a', 'b'):
        (tmp_path / 'videos' / name).mkdir(parents=True)
        for i in range(3):
            write_video(tmp_path / f'videos/{name}/{i}.mkv', np.full((9, 30, 50), 40 * i, np.uint8))
    done = run(tmp_path / 'videos', '--config', tmp_path / 'mine.py', '--pack', tmp_path / 'packed', '--size', 28, 56,
               '--frames', 8)
    assert done.returncode == 0, done.stderr
    config = Config.fromfile(tmp_path / 'mine.py')
    for part, count in (('train', 2), ('val', 2), ('test', 2)):
        data = DATASETS.build(config[f'{part}_dataloader'].dataset)
        assert type(data).__name__ == 'PackedVideoDataset' and len(data) == count
        assert data[0]['inputs'].shape == (1, 3, 8, 28, 56)
    assert data.pack.settings.size == (64, 32)


def test_no_validation(tmp_path):
    make(tmp_path / 'videos', dict(a=5, b=5))
    for model in ('3t', '3d'):
        done = run(tmp_path / 'videos', '--val', 0, '--config', tmp_path / 'mine.py', '--size', 16, '--model', model)
        assert done.returncode == 0, done.stderr
        config = Config.fromfile(tmp_path / 'mine.py')
        assert config.val_dataloader is None and config.default_hooks.checkpoint.save_best is None
        assert config.default_hooks.logger.interval == 5 and config.test_dataloader is not None
