"""The data parts of tools/benchmarks/recipes.py: what is compared, and that every clip is read. Times are ignored."""
import argparse
import os

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from mmaction.registry import TRANSFORMS
from torch.utils.data import DataLoader

ONCE = argparse.Namespace(rounds=1, device='cpu')


@pytest.fixture
def recipes(benchmark_script):
    return benchmark_script('recipes')


def test_decode_rows(recipes, tmp_path):
    """The same frames for 'forward', others for key frames, near ones at a reduced size."""
    small, large = (str(recipes['write_video'](tmp_path / f'{width}.mp4', width, height, count))
                    for width, height, count in ((112, 80, 70), (640, 360, 64)))
    rows = recipes['decode_rows'](small, ONCE, large)
    assert [(row['clip'], row['candidate'], row['peer']) for row in rows] == [
        ('112x80, one clip', "mode='forward'", 'default'), ('112x80, one clip', 'num_threads=2', 'default'),
        ('112x80, one clip', "mode='efficient'", 'default'),
        ('112x80, one clip backwards', "mode='forward'", 'default'),
        ('112x80, ten clips', "mode='forward'", 'default'),
        ('112x80 to 40', 'short_side=40', 'Resize((-1, 40))'),
        ('640x360 to 256', 'short_side=256', 'Resize((-1, 256))')]
    differences = [(row['mean_abs_difference'], row['PSNR_dB']) for row in rows]
    assert [d for d, row in zip(differences, rows) if row['candidate'] in ("mode='forward'", 'num_threads=2')] == [
        (0, float('inf'))] * 4
    assert differences[2][0] > 5 and differences[2][1] < 25  # key frames: another picture
    assert all(0 < d < 5 and psnr > 30 for d, psnr in differences[-2:]), differences


def test_the_frames_of_a_decoding(recipes, tmp_path):
    """Ten clips are 320 frames, backwards turns them round, and the size is that of Resize."""
    video = str(recipes['write_video'](tmp_path / 'v.mp4', 112, 80, 70))
    clip = recipes['decoding'](video, {}, {})()
    assert clip.shape == (32, 80, 112, 3) and recipes['frame_size'](video) == (112, 80)
    assert np.array_equal(recipes['decoding'](video, {}, {}, backwards=True)(), clip[::-1])
    ten = recipes['decoding'](video, {}, dict(mode='forward'), num_clips=10)()
    assert ten.shape == (320, 80, 112, 3) and np.abs(ten[:32].astype(int) - ten[-32:]).mean() > 1
    resized = TRANSFORMS.build(dict(type='Resize', scale=(-1, 40)))(dict(imgs=list(clip), img_shape=(80, 112)))['imgs']
    assert np.array_equal(recipes['decoding'](video, {}, {}, short_side=40)(), resized)


class Workers(torch.utils.data.Dataset):
    """Samples that tell the process that made them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index, os.getpid()]))


@pytest.mark.parametrize('persistent', [False, True])
def test_timed_epochs(recipes, persistent):
    seen = []

    def collate(samples):
        return dict(inputs=torch.stack([sample['inputs'] for sample in samples]))

    class Seen(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(batch['inputs'])
                yield batch

    loader = Seen(Workers(), batch_size=5, num_workers=2, collate_fn=collate, persistent_workers=persistent)
    epochs = recipes['timed_epochs'](loader, 3)
    assert [samples for _, _, samples in epochs] == [12, 12, 12]
    assert all(0 < first <= whole for first, whole, _ in epochs)
    rows = torch.cat(seen)
    assert rows[:, 0].tolist() == [*range(12)] * 3
    processes = [set(rows[12 * epoch:12 * (epoch + 1), 1].tolist()) for epoch in range(3)]
    assert os.getpid() not in set.union(*processes) and all(len(group) == 2 for group in processes)
    assert len(set.union(*processes)) == (2 if persistent else 6)


def test_loader_rows(recipes, tmp_path, monkeypatch):
    settings = recipes['loader_rows'].__globals__
    monkeypatch.setitem(settings, 'CLIPS', 8)
    monkeypatch.setitem(settings, 'EPOCHS', 2)
    rows = recipes['loader_rows'](tmp_path, ONCE)
    assert [(row['epoch'], row['time']) for row in rows] == [
        (epoch, time) for epoch in (1, 2) for time in ('to the first batch', 'whole epoch')]
    assert {row['candidate'] for row in rows} == {'persistent_workers=True'}
    assert {row['peer'] for row in rows} == {'persistent_workers=False'}
    for first, whole in (rows[:2], rows[2:]):
        assert 0 < first['ms'] <= whole['ms'] and 0 < first['peer_ms'] <= whole['peer_ms']


def test_parts_alone(recipes, tmp_path, monkeypatch, capsys):
    """--parts measures what it names and writes that table; without it everything, with --switches the steps."""
    settings, ran = recipes['main'].__globals__, []

    def fake(name):
        return lambda *args, **kwargs: (ran.append(name), [dict(case='3t-resnet18', candidate='a', peer='b', ratio=1.,
                                                                quartiles='1 - 1', ms=1., peer_ms=1., rounds=1)])[1]

    for name in ('step', 'decode', 'loader'):
        monkeypatch.setitem(settings, f'{name}_rows', fake(name))
    out = ['--out-dir', str(tmp_path), '--quick', '--video', 'is not opened']
    recipes['main'](['--parts', 'decode', 'loader', *out])
    assert ran == ['decode', 'loader']
    assert sorted(path.name for path in tmp_path.glob('*.csv')) == ['decode_cpu.csv', 'loader_cpu.csv']
    assert len(pd.read_csv(tmp_path / 'loader_cpu.csv')) == 1
    for arguments, expected in ((['--parts', 'loader'], ['loader']), (['--switches', 'bf16'], ['step']),
                                (['--switches', 'bf16', '--parts', 'decode', 'steps'], ['step', 'decode']),
                                ([], ['step', 'decode', 'loader'])):
        ran.clear()
        recipes['main']([*arguments, *out])
        assert ran == expected, arguments
    with pytest.raises(SystemExit):
        recipes['main'](['--parts', 'none'])


def test_written_videos(recipes, tmp_path):
    video = recipes['write_video'](tmp_path / 'v.mp4', 170, 128, 9)
    capture = cv2.VideoCapture(str(video))
    sizes = [capture.read()[1].shape for _ in range(9)]
    assert sizes == [(128, 170, 3)] * 9 and not capture.read()[0]


def test_the_page_has_a_place_for_the_tables():
    page = (ROOT / 'docs/recipes.md').read_text(encoding='utf-8')
    assert all(f'<!-- table: {name}_cpu -->' in page for name in ('recipes', 'decode', 'loader'))
