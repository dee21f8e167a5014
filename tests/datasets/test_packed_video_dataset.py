"""PackedVideoDataset: pixels and labels of VideoDataset with a Resize, for every transform that samples frames."""
import random
import runpy

import cv2
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from mmaction.registry import DATASETS
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, DistributedSampler

from tconv_mmaction.datasets import packed_video_dataset
from tconv_mmaction.setup_checks.data import DataOptions, Model, check_loader
from tconv_mmaction.setup_checks.problems import Problems

TOOL = ROOT / 'tools/data/pack_clips.py'
SAMPLERS = [
    dict(type='SampleFrames', clip_len=4, frame_interval=2, num_clips=2),
    dict(type='SampleFrames', clip_len=4, frame_interval=3, num_clips=1, temporal_jitter=True),
    dict(type='SampleFrames', clip_len=6, frame_interval=2, num_clips=2, target_fps=15),
    dict(type='SampleFrames', clip_len=8, frame_interval=5, num_clips=1, out_of_bound_opt='repeat_last'),
    dict(type='SampleFrames', clip_len=4, frame_interval=1, num_clips=3, test_mode=True),
    dict(type='UniformSample', clip_len=5),
    dict(type='UniformSampleFrames', clip_len=5, num_clips=2, test_mode=True),
    dict(type='DenseSampleFrames', clip_len=3, frame_interval=2, num_clips=2),
    dict(type='UntrimmedSampleFrames', clip_len=1, clip_interval=4),
    dict(type='RandomRateSampleFrames', clip_len=4),
    dict(type='WholeVideoSampleFrames', clip_len=40, short='duplicate_ends'),
    dict(type='WholeVideoSampleFrames', clip_len=7),
]


def write_video(path, frames=20, width=64, height=48, seed=0):
    """Colours that wander, as MPEG-4 with key frames only: decord's seeks are right then."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 25, (width, height))
    picture = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = cv2.resize(picture, (width + 2 * frames, height + frames), interpolation=cv2.INTER_CUBIC)
    for t in range(frames):
        writer.write(np.ascontiguousarray(picture[t:t + height, 2 * t:2 * t + width]))
    writer.release()


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    """A folder with videos, their list, and packs of them by name of the size."""
    folder = tmp_path_factory.mktemp('packed')
    (folder / 'videos').mkdir()
    for i, (width, height) in enumerate([(64, 48), (52, 64), (66, 40), (64, 48)]):
        write_video(folder / f'videos/{i}.avi', 20 + 3 * i, width, height, i)
    (folder / 'list.txt').write_text(''.join(f'{i}.avi {i % 3}\n' for i in range(4)))
    tool = runpy.run_path(str(TOOL))
    for name, size in dict(side=['--short-side', '24'], exact=['--size', '32', '24'], own=[],
                           jpeg=['--short-side', '24', '--jpeg', '95']).items():
        assert tool['main']([str(folder / 'list.txt'), '--data-prefix', str(folder / 'videos'), '--out',
                             str(folder / name), '--workers', '2', *size]) == 0
    return folder


def build(kind, folder, prefix, pipeline, **more):
    return DATASETS.build(dict(type=kind, ann_file=str(folder / 'list.txt'), data_prefix=dict(video=str(prefix)),
                               pipeline=pipeline, **more))


def seed(value):
    np.random.seed(value)
    random.seed(value)


RESIZE = dict(side=dict(type='Resize', scale=(-1, 24)), exact=dict(type='Resize', scale=(32, 24), keep_ratio=False),
              own=dict(type='Resize', scale=(-1, 30)))


@pytest.mark.parametrize('sampler, size', [(sampler, 'side') for sampler in SAMPLERS] + [
    (SAMPLERS[0], 'exact'), (SAMPLERS[0], 'own')])
def test_the_clips_are_those_of_video_dataset(packed, sampler, size):
    """A whole pipeline, with the same seed: tensors, labels and what is said of shapes."""
    pipeline = [dict(type='DecordInit'), sampler, dict(type='DecordDecode'), RESIZE[size],
                dict(type='RandomResizedCrop'), dict(type='Resize', scale=(16, 16), keep_ratio=False),
                dict(type='Flip', flip_ratio=0.5), dict(type='FormatShape', input_format='NCTHW'),
                dict(type='PackActionInputs')]
    expected = build('VideoDataset', packed, packed / 'videos', pipeline)
    given = build('PackedVideoDataset', packed, packed / size, pipeline)
    assert len(given) == len(expected) == 4
    for index in (1, 2):
        seed(index)
        theirs = expected[index]
        seed(index)
        ours = given[index]
        assert torch.equal(ours['inputs'], theirs['inputs'])
        assert ours['data_samples'].gt_label.tolist() == theirs['data_samples'].gt_label.tolist()
        assert ours['data_samples'].metainfo == theirs['data_samples'].metainfo


def test_keys_that_a_transform_sees(packed):
    """Of a video of 66x40 at half its size; the frames may be written to, and repeated ones are apart."""
    seen = []

    def look(results):
        seen.append(dict(results))
        results['imgs'][0][:] = 0
        assert results['imgs'][1].any()
        return results

    pipeline = [dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=52), dict(type='DecordDecode'),
                dict(type='Resize', scale=(-1, 24)), look, lambda results: results]
    build('VideoDataset', packed, packed / 'videos', pipeline)[2]
    given = build('PackedVideoDataset', packed, packed / 'side', pipeline)
    given[2], given[2]
    theirs, ours, again = seen
    assert np.array_equal(ours['imgs'], again['imgs'])  # the pack is as it was
    for key in ('total_frames', 'avg_fps', 'original_shape', 'img_shape', 'label', 'modality', 'start_index'):
        assert ours[key] == theirs[key], key
    np.testing.assert_allclose(ours['scale_factor'], theirs['scale_factor'], rtol=1e-6)
    assert ours['original_shape'] == (40, 66) and ours['img_shape'] == (24, 40) and ours['total_frames'] == 26
    assert ours['filename'] == str(packed / 'side' / '2.avi')


def test_jpeg_frames_are_near(packed):
    pipeline = [dict(type='WholeVideoSampleFrames', clip_len=8), dict(type='PackedDecode'),
                dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
    raw, jpeg = (build('PackedVideoDataset', packed, packed / name, pipeline) for name in ('side', 'jpeg'))
    for index in range(4):
        difference = (raw[index]['inputs'].float() - jpeg[index]['inputs']).abs()
        assert 0 < difference.mean() < 2


@pytest.mark.parametrize('workers, context, pin', [
    (0, None, False), (2, 'fork', True), pytest.param(1, 'spawn', False, marks=pytest.mark.slow)])
def test_workers_ranks_and_epochs(packed, workers, context, pin, recwarn):
    """Every clip once over two ranks, in two epochs of persistent workers, the same as without workers."""
    pipeline = [dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=3), dict(type='DecordDecode'),
                dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
    data = build('PackedVideoDataset', packed, packed / 'side', pipeline)
    expected = [data[i] for i in range(4)]
    for rank in range(2 if context != 'spawn' else 1):  # a spawned worker takes seconds to import everything
        loader = DataLoader(data, batch_size=2, num_workers=workers, collate_fn=pseudo_collate, pin_memory=pin,
                            sampler=DistributedSampler(data, 2, rank, shuffle=False), persistent_workers=workers > 0,
                            multiprocessing_context=context)
        for _ in range(2):
            batch, = loader
            for place, index in enumerate((rank, rank + 2)):
                assert torch.equal(batch['inputs'][place], expected[index]['inputs'])
                assert batch['data_samples'][place].gt_label == expected[index]['data_samples'].gt_label


def test_what_is_missing_is_named(packed, tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(packed_video_dataset, 'print_log', lambda message, *args: messages.append(message))
    (tmp_path / 'list.txt').write_text('0.avi 0\ngone.avi 1\n')
    pipeline = [dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=3), dict(type='DecordDecode')]
    with pytest.raises(ValueError, match=r'1 of the 2 videos of .*list.txt are not in .*side: gone.avi\. Run tools'):
        build('PackedVideoDataset', tmp_path, packed / 'side', pipeline)
    assert len(build('PackedVideoDataset', tmp_path, packed / 'side', pipeline, missing='leave_out')) == 1
    message, = messages
    assert 'gone.avi. They are left out.' in message


@pytest.mark.parametrize('change, error, message', [
    (dict(data_prefix=dict(video='')), ValueError, r'data_prefix must be dict\(video=FOLDER\)'),
    (dict(data_prefix=dict(video='nowhere')), FileNotFoundError, 'nowhere is no folder of packed videos'),
    (dict(missing='ignore'), ValueError, "missing must be 'error' or 'leave_out', got 'ignore'"),
    (dict(start_index=1), ValueError, 'count from 0, got start_index=1'),
    (dict(pipeline=[dict(type='DecordInit')]), ValueError, 'nothing in the pipeline gives frames'),
    (dict(pipeline=[dict(type='PyAVInit'), dict(type='PyAVDecodeMotionVector')]), ValueError, 'motion vectors')])
def test_mistakes(packed, change, error, message):
    settings = dict(type='PackedVideoDataset', ann_file=str(packed / 'list.txt'),
                    data_prefix=dict(video=str(packed / 'side')), pipeline=[dict(type='PackedDecode')])
    with pytest.raises(error, match=message):
        DATASETS.build({**settings, **change})


def test_only_the_resize_behind_the_decoding_keeps_frames():
    from tconv_mmaction.datasets.packed_video_dataset import packed_pipeline
    resize = dict(type='Resize', scale=(4, 4), keep_ratio=False)
    steps = packed_pipeline([dict(type='DecordInit'), dict(type='DecordDecode'), resize, resize])
    assert steps == [dict(type='PackedDecode'), dict(resize, type='PackedResize'), resize]
    from mmaction.registry import TRANSFORMS
    step = TRANSFORMS.build(steps[1])
    frames = [np.full((4, 4, 3), i, np.uint8) for i in range(2)]
    assert all(a is b for a, b in zip(step(dict(imgs=frames, img_shape=(4, 4)))['imgs'], frames))
    given = step(dict(imgs=[np.zeros((8, 4, 3), np.uint8)], img_shape=(8, 4)))
    assert given['imgs'][0].shape == (4, 4, 3) and given['img_shape'] == (4, 4)


def test_packed_decode_alone():
    from tconv_mmaction.transforms import PackedDecode
    with pytest.raises(KeyError, match='PackedVideoDataset gives'):
        PackedDecode()(dict(frame_inds=np.arange(3)))


def test_a_pack_smaller_than_the_pipeline_asks_for_is_said(packed, monkeypatch):
    """The Resize would blow up what was thrown away; the other way round nothing is lost."""
    messages = []
    monkeypatch.setattr(packed_video_dataset, 'print_log', lambda message, *args: messages.append(message))

    def said(scale, **more):
        messages.clear()
        build('PackedVideoDataset', packed, packed / 'side', [
            dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=3), dict(type='DecordDecode'),
            dict(type='Resize', scale=scale, **more)])
        return ''.join(messages)

    for scale, more, warned in (((-1, 32), {}, True), ((-1, 24), {}, False), ((-1, 20), {}, False),
                                ((64, 30), dict(keep_ratio=False), True), ((16, 16), dict(keep_ratio=False), False)):
        assert ('are packed at short side 24' in said(scale, **more)) == warned, scale


@pytest.mark.parametrize('change, message', [
    ({}, None),
    (dict(pipeline=[dict(type='OpenCVInit'), dict(type='SampleFrames', clip_len=3), dict(type='RawFrameDecode'),
                    dict(type='Resize', scale=(24, 24), keep_ratio=False),
                    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]), None),
    (dict(pipeline=[dict(type='DecordInit'), dict(type='SampleFrames', clip_len=3), dict(type='DecordDecode'),
                    dict(type='CenterCrop', crop_size=28), dict(type='FormatShape', input_format='NCTHW'),
                    dict(type='PackActionInputs')]), 'of 32x24 pixels'),
    (dict(data_prefix=dict(video='videos')), 'videos is no folder of packed videos'),
    (dict(ann_file='other.txt'), 'line 2: gone.avi is not in the pack'),
    (dict(ann_file='other.txt', missing='leave_out'), None)])
def test_the_setup_check_looks_into_the_pack(packed, change, message):
    (packed / 'other.txt').write_text('0.avi 0\ngone.avi 1\n')
    problems = Problems()
    pipeline = [dict(type='DecordInit'), dict(type='SampleFrames', clip_len=3), dict(type='DecordDecode'),
                dict(type='Resize', scale=(24, 24), keep_ratio=False), dict(type='FormatShape', input_format='NCTHW'),
                dict(type='PackActionInputs')]
    dataset = dict(type='PackedVideoDataset', ann_file='list.txt', data_root=str(packed), pipeline=pipeline,
                   data_prefix=dict(video='side'))
    check_loader(dict(batch_size=2, num_workers=0, dataset=dict(dataset, **change)), 'train_dataloader',
                 Model(3, True, 3), True, DataOptions(), problems)
    texts = [problem.text for problem in problems]
    assert not texts if message is None else texts and message in texts[0], texts
