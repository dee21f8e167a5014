"""Pipelines on frames without content: the same shapes as real ones give, and no draw or file changes."""
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose

from tconv_mmaction.setup_checks.dry_run import (
    MOST_FRAMES,
    Output,
    Sample,
    check_outputs,
    probe_video,
    probe_videos,
    try_pipeline,
)
from tconv_mmaction.setup_checks.frames import numbered
from tconv_mmaction.setup_checks.problems import Problems

SHAPE = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
PIPELINES = {
    'one clip': [dict(type='SampleFrames', clip_len=4), dict(type='DecordDecode'), dict(type='Resize', scale=(-1, 16)),
                 dict(type='CenterCrop', crop_size=16)],
    'clips and crops': [dict(type='SampleFrames', clip_len=4, num_clips=3, test_mode=True), dict(type='DecordDecode'),
                        dict(type='Resize', scale=(-1, 16)), dict(type='ThreeCrop', crop_size=16)],
    'more frames than are tried': [dict(type='SampleFrames', clip_len=8, num_clips=MOST_FRAMES // 8 + 2),
                                   dict(type='DecordDecode'), dict(type='Resize', scale=(16, 12), keep_ratio=False)],
    'at random': [dict(type='RandomRateSampleFrames', clip_len=4), dict(type='DecordDecode'),
                  dict(type='RandomResizedCrop'), dict(type='Resize', scale=(12, 12), keep_ratio=False),
                  dict(type='Flip')],
    'ten crops': [dict(type='WholeVideoSampleFrames', clip_len=5), dict(type='DecordDecode'),
                  dict(type='TenCrop', crop_size=20)]}


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp('film') / 'a film.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (40, 32))
    for _ in range(20):
        writer.write(np.zeros((32, 40, 3), dtype=np.uint8))
    writer.release()
    return str(path)


def test_the_size_in_the_header(film, tmp_path):
    assert probe_video(film) == Sample(film, 40, 32, 20, 10.)
    for name, content in (('text.mp4', b'no video ' * 9), ('short.mp4', b'x')):
        (tmp_path / name).write_bytes(content)
        assert probe_video(str(tmp_path / name)) is None
    problems = Problems()
    paths = [(1, film), (2, str(tmp_path / 'text.mp4')), (3, str(tmp_path / 'nothing.mp4'))]
    assert [sample.path for sample in probe_videos(paths, 'list.txt', True, 'key', problems)] == [film] and not problems
    probe_videos(paths, 'list.txt', False, 'key', problems)
    assert [problem.key for problem in problems] == ['key'] and 'line 2' in problems[0].text


@pytest.mark.parametrize('name', PIPELINES)
def test_the_shape_is_that_of_the_pipeline_on_the_video(name, film):
    pipeline = [dict(type='DecordInit'), *PIPELINES[name], *SHAPE]
    real = Compose(pipeline)(dict(filename=film, label=0, start_index=0, modality='RGB'))['inputs']
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    problems = Problems()
    outputs, = try_pipeline(pipeline, [probe_video(film)], 0, 'pipeline', problems)
    assert outputs.shape == tuple(real.shape) and not problems and not problems.notes
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_each_size_is_tried_once_and_three_at_most():
    samples = [Sample('a', 40, 32, 20), Sample('b', 40, 32, 30), Sample('c', 32, 40, 20), Sample('d', 50, 40, 9),
               Sample('e', 60, 40, 9)]
    pipeline = [dict(type='SampleFrames', clip_len=4), dict(type='DecordDecode'), *SHAPE]
    outputs = try_pipeline(pipeline, samples, 0, 'pipeline', Problems())
    assert [(one.sample.path, one.shape) for one in outputs] == [
        ('a', (1, 3, 4, 32, 40)), ('c', (1, 3, 4, 40, 32)), ('d', (1, 3, 4, 40, 50))]


class Opens:
    """A transform of a user's that reads the video."""

    def __call__(self, results):
        results['video_reader'].seek(0)
        return results


def test_what_needs_a_video_is_a_note_and_what_takes_another_sample_is_nothing():
    sample, problems = Sample('a', 40, 32, 20), Problems()
    head = [dict(type='SampleFrames', clip_len=4), dict(type='DecordDecode')]
    assert try_pipeline([*head, Opens(), *SHAPE], [sample], 0, 'pipeline', problems) == []
    assert not problems and 'Opens could not be tried without a video' in problems.notes[0]
    assert try_pipeline([*head, lambda results: None, *SHAPE], [sample], 0, 'pipeline', Problems()) == []


def test_batches_of_one_may_differ_in_size():
    outputs = [Output((1, 3, 4, 32, 40), Sample('a', 40, 32, 20)), Output((1, 3, 4, 40, 32), Sample('c', 32, 40, 20))]
    for size, count in ((1, 0), (2, 1)):
        problems = Problems()
        check_outputs(outputs, size, True, 3, 'pipeline', problems)
        assert len(problems) == count


@pytest.mark.parametrize('names, expected', [
    (['img_00001.jpg', 'img_00002.jpg'], ('img_{:05}.jpg', [1, 2])), (['7.png', '10.png'], ('{}.png', [7, 10])),
    (['cover.jpg', 'f001.jpg', 'f002.jpg'], ('f{:03}.jpg', [1, 2])), (['notes.txt'], (None, [])), ([], (None, []))])
def test_the_template_of_a_folder(names, expected, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    template, numbers, _ = numbered(str(tmp_path))
    assert (template, numbers) == expected
    if template:
        assert all((tmp_path / template.format(number)).exists() for number in numbers)
