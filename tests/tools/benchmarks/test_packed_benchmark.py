"""tools/benchmarks/packed.py: the four forms hold the same clips, and every row is filled. Times are ignored."""
import argparse

import numpy as np
import pytest


@pytest.fixture
def packed(benchmark_script):
    return benchmark_script('packed')


def test_rows(packed, benchmark_script, tmp_path, monkeypatch):
    (tmp_path / 'videos').mkdir()
    write_video = benchmark_script('recipes')['write_video']
    for i in range(2):
        write_video(tmp_path / f'videos/{i}.mp4', 160, 128, 36)
    (tmp_path / 'videos/text.mp4').write_text('no video')
    data = packed['Data'](tmp_path, tmp_path / 'videos')
    assert data.names == ['0.mp4', '1.mp4'] and data.counts == {'0.mp4': 36, '1.mp4': 36}
    clips = dict.fromkeys(packed['CLIPS'], 8)
    monkeypatch.setitem(packed['rows'].__globals__, 'CLIPS', clips)
    rows = packed['rows'](data, argparse.Namespace(rounds=1), [1])
    assert [row['data'] for row in rows] == list(clips)
    assert {row['workers'] for row in rows} == {1} and rows[0]['times_VideoDataset'] == 1
    looks = {row['data']: (row['equal'], row['PSNR_dB']) for row in rows}
    assert looks['VideoDataset'] == looks['PackedVideoDataset (raw)'] == ('2 of 2', float('inf'))
    assert all(equal == '0 of 2' and 30 < psnr < 60 for name, (equal, psnr) in looks.items() if 'JPEG' in name), looks
    assert all(row['clips_per_s'] > 0 for row in rows)
    sample = data.build('PackedVideoDataset (raw)', 3)[2]['inputs']
    assert sample.shape == (1, 3, 32, 112, 112) and np.asarray(sample).any()
