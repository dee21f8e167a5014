"""tools/benchmarks/decoders.py: what it says of files that decord reads right and wrong. Times are ignored."""
import numpy as np
import pytest
from helpers.ffmpeg_videos import ffmpeg_frames, make, needs_ffmpeg


@pytest.fixture
def decoders(benchmark_script):
    needs_ffmpeg()
    return benchmark_script('decoders')


def test_rows(decoders, tmp_path):
    for name in ('plain.mp4', 'edit_list.mp4', 'rotated_90.mp4'):
        assert np.array_equal(decoders['ffmpeg_frames'](make(tmp_path, name)), ffmpeg_frames(tmp_path / name))
    (tmp_path / 'text.mp4').write_text('no video')
    decoders['rows'].__globals__['offered'] = lambda: {'decord': decoders['Decord']}
    plain, cut = decoders['rows']([tmp_path / 'plain.mp4', tmp_path / 'edit_list.mp4'], 1)
    assert (plain['video'], plain['frames'], plain['decord']) == ('plain.mp4', 40, 'exact')
    assert cut['frames'] == 25 and cut['decord'].startswith('says 28 frames; ')
    assert decoders['verdict'](decoders['Decord'], tmp_path / 'text.mp4', np.zeros((1, 2, 2, 3), np.uint8)) == (
        'does not open')


def test_other_frames_and_other_colours_are_told_apart(decoders):
    expected = np.random.default_rng(0).integers(20, 230, (5, 8, 8, 3), dtype=np.uint8)
    given = expected[[0, 1, 4, 3]].copy()
    given[1] += 2
    given[3] += 10
    wrong = decoders['compare'](given, [0, 1, 2, 3], expected)
    assert wrong == (1, 10., 2)
