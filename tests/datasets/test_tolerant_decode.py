"""Unreadable videos: errors that name them, a data set that replaces and lists them, and a test that never does."""
import multiprocessing

import decord
import numpy as np
import pytest
import torch
from helpers.videos import DECODE, PIPELINE, dataset_cfg, listed, make_videos, smooth_clip, write_avi, write_film
from mmaction.datasets.transforms import DecordInit as PlainDecordInit
from mmaction.registry import DATASETS, TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tconv_mmaction.datasets.bad_video_list import BadVideoList
from tconv_mmaction.datasets.tolerant_video_dataset import TolerantVideoDataset, TooManyBadVideosError
from tconv_mmaction.transforms import UnreadableVideoError
from tconv_mmaction.transforms.decord_video import first_line
from tconv_mmaction.utils.lossless_video import write_video
from tconv_mmaction.utils.sample_seeds import seed_samples

# -- the error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name, data, kind, words', [
    ('gone.mp4', None, 'missing', 'there is no such file'),
    ('empty.mp4', b'', 'empty', '0 bytes'),
    ('page.mp4', b'<html>404</html>\n', 'text', 'text, no video'),
    ('picture.mp4', b'\x89PNG\r\n\x1a\n' + bytes(99), 'image', 'PNG image'),
    ('noise.mp4', bytes(range(256)) * 9, 'damaged', 'damaged'),
])
def test_an_unreadable_file_is_named(tmp_path, name, data, kind, words):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UnreadableVideoError) as caught:
        TRANSFORMS.build(DECODE[0])(dict(filename=str(path)))
    assert str(path) in str(caught.value) and words in str(caught.value) and caught.value.kind == kind
    assert 'tools/data/check_videos.py' in str(caught.value) and 'TolerantVideoDataset' in str(caught.value)
    assert '\n' not in str(caught.value) and 'Stack trace' not in str(caught.value)


def test_the_name_survives_a_worker(tmp_path):
    make_videos(tmp_path / 'v', 0, [b'text', b''])
    plain = dict(dataset_cfg(tmp_path / 'v'), type='VideoDataset')
    plain.pop('bad_videos_file')
    loader = DataLoader(DATASETS.build(plain), batch_size=None, num_workers=1)
    with pytest.raises(UnreadableVideoError, match=r'bad\d.mp4 cannot be read'):
        next(iter(loader))


def test_message_of_decord_is_one_line():
    error = decord.DECORDError('[11:12:13] /a/b/video_reader.cc:151: Check failed: x\n\nStack trace returned 9')
    assert first_line(error) == 'DECORDError: Check failed: x'


@pytest.mark.parametrize('height, width', [(27, 33), (30, 41), (61, 20)])
def test_odd_sizes_are_decoded(tmp_path, height, width):
    clip = smooth_clip(5, height, width)
    write_avi(tmp_path / 'odd.avi', clip)
    results = TRANSFORMS.build(DECODE[0])(dict(filename=str(tmp_path / 'odd.avi')))
    results['frame_inds'] = np.arange(results['total_frames'])
    frames = np.stack(TRANSFORMS.build(DECODE[2])(results)['imgs'])
    assert frames.shape == (5, height, width, 3)
    assert np.abs(frames.astype(int) - clip).mean() < 2 and np.abs(frames.astype(int) - clip).max() < 16  # JPEG


def test_one_frame_is_a_clip(tmp_path):
    (tmp_path / 'v').mkdir()
    write_avi(tmp_path / 'v/one.avi', np.full((1, 20, 20, 3), 7, dtype='uint8'))
    (tmp_path / 'v/list.txt').write_text('one.avi 1\n')
    inputs = DATASETS.build(dataset_cfg(tmp_path / 'v'))[0]['inputs']
    assert inputs.shape == (1, 3, 4, 20, 20) and (inputs == 7).all()


def test_one_frame_that_decord_cannot_count_is_named(tmp_path):
    path = tmp_path / 'one.mkv'
    write_film(path, np.zeros((1, 20, 20), dtype='uint8'), fps=30.)
    with pytest.raises(UnreadableVideoError, match='one.mkv cannot be read: .*number of frames') as caught:
        TRANSFORMS.build(DECODE[0])(dict(filename=str(path)))
    assert caught.value.kind == 'no count'


def test_a_cut_off_avi_gives_the_frames_that_are_there(tmp_path):
    """mmaction2's own DecordInit crashes the process on this file."""
    clip, path = smooth_clip(40, 64, 80), tmp_path / 'cut.avi'
    write_avi(path, clip)
    whole = path.read_bytes()
    cut = whole[:len(whole) // 2]
    path.write_bytes(cut)
    results = TRANSFORMS.build(DECODE[0])(dict(filename=str(path)))
    total = results['total_frames']
    assert total in (cut.count(b'00dc') - 1, cut.count(b'00dc')) and 15 < total < 30  # the last one is incomplete
    frames = TRANSFORMS.build(DECODE[2])(dict(results, frame_inds=np.arange(total - 1)))['imgs']
    assert np.abs(np.stack(frames).astype(int) - clip[:total - 1]).max() < 16


def test_a_width_that_decord_cannot_copy_is_named(tmp_path):
    write_avi(tmp_path / 'w48.avi', smooth_clip(3, 32, 48))
    results = TRANSFORMS.build(DECODE[0])(dict(filename=str(tmp_path / 'w48.avi')))
    with pytest.raises(UnreadableVideoError, match='w48.avi cannot be read: .*width'):
        TRANSFORMS.build(DECODE[2])(dict(results, frame_inds=np.arange(3)))


def test_reading_by_path_changes_no_frame(shared):
    for path in sorted((shared / 'data/clips').glob('*.*')):
        if path.name in ('decord_corrupted.mp4', 'torchcodec_av1_video.mkv', 'decord_flipping_a_pancake.mkv',
                         'k400_abseiling.mp4', 'mmaction2_demo.mp4'):  # unreadable, or long
            continue
        ours, theirs = (init(dict(filename=str(path)))['video_reader']
                        for init in (TRANSFORMS.build(DECODE[0]), PlainDecordInit()))
        assert len(ours) == len(theirs)
        indices = np.linspace(0, len(ours) - 1, 12).astype(int)
        assert np.array_equal(ours.get_batch(indices).asnumpy(), theirs.get_batch(indices).asnumpy()), path.name


def test_real_unreadable_clips(shared):
    clips = shared / 'data/clips'
    with pytest.raises(UnreadableVideoError, match='torchcodec_av1_video.mkv cannot be read: the file is AV1'):
        TRANSFORMS.build(DECODE[0])(dict(filename=str(clips / 'torchcodec_av1_video.mkv')))
    results = TRANSFORMS.build(DECODE[0])(dict(filename=str(clips / 'decord_corrupted.mp4')))
    assert results['total_frames'] == 50
    with pytest.raises(UnreadableVideoError, match='decord_corrupted.mp4 cannot be read: .*frames 30 to 45 of the'):
        TRANSFORMS.build(DECODE[2])(dict(results, frame_inds=np.arange(30, 46)))
    results = TRANSFORMS.build(DECODE[0])(dict(filename=str(clips / 'decord_video_90.mov')))
    assert np.stack(TRANSFORMS.build(DECODE[2])(dict(results, frame_inds=np.arange(3)))['imgs']).shape == (
        3, 568, 320, 3)  # turned upright


# -- the data set -----------------------------------------------------------------------------------------------------


def test_replaces_and_lists_each_file_once(tmp_path):
    folder = tmp_path / 'v'
    names = make_videos(folder, 38, [b'text', b''])
    data = DATASETS.build(dataset_cfg(folder))
    good = {int(name[1:4]) for name in names if name.startswith('v')}
    for _ in range(2):  # two epochs
        for index, name in enumerate(names):
            value = int(data[index]['inputs'][0, 0, 0, 0, 0])
            assert value == int(name[1:4]) if name.startswith('v') else value in good
    entries = listed(folder / 'bad.jsonl')
    assert [(entry['file'], entry['kind']) for entry in entries] == [
        (str(folder / name), {'bad0.mp4': 'text', 'bad1.mp4': 'empty'}[name]) for name in names if 'bad' in name]
    assert entries[0]['list'] == str(folder / 'list.txt')


def test_the_label_belongs_to_the_replacement(tmp_path):
    folder = tmp_path / 'v'
    names = make_videos(folder, 20, [b''])
    data = DATASETS.build(dataset_cfg(folder))
    labels = {int(name[1:4]): index % 2 for index, name in enumerate(names) if name.startswith('v')}
    for _ in range(20):
        sample = data[names.index('bad0.mp4')]
        assert sample['data_samples'].gt_label.item() == labels[int(sample['inputs'][0, 0, 0, 0, 0])]


@pytest.mark.parametrize('workers', [0, 1])
def test_same_seed_same_replacements(tmp_path, workers):
    folder = tmp_path / 'v'
    make_videos(folder, 20, [b''])

    def epochs():
        torch.manual_seed(3)
        np.random.seed(3)
        data = DATASETS.build(dataset_cfg(folder, max_bad_share=0.1))
        loader = DataLoader(data, batch_size=None, num_workers=workers)
        return [[int(sample['inputs'][0, 0, 0, 0, 0]) for sample in loader] for _ in range(3)]

    first = epochs()
    assert first == epochs()
    assert len({epoch[3] for epoch in first}) > 1  # drawn anew in every epoch


def test_replacements_do_not_depend_on_the_workers_where_samples_are_seeded(tmp_path):
    folder = tmp_path / 'v'
    make_videos(folder, 20, [b''])

    def values(workers):
        loader = DataLoader(DATASETS.build(dataset_cfg(folder)), batch_size=7, num_workers=workers,
                            collate_fn=pseudo_collate)
        seed_samples(loader, (5,), epoch=2)  # as ExactResumeHook does
        return [int(inputs[0, 0, 0, 0, 0]) for batch in loader for inputs in batch['inputs']]

    assert len(values(0)) == 21 and values(0) == values(2)


def test_more_than_the_share_stops(tmp_path):
    folder = tmp_path / 'v'
    names = make_videos(folder, 17, [b'', b'', b''])
    bad = [index for index, name in enumerate(names) if 'bad' in name]
    data = DATASETS.build(dataset_cfg(folder, max_bad_share=0.1))
    assert data[bad[0]] is not None and data[bad[1]] is not None and data[bad[1]] is not None  # 2 of 20 are allowed
    with pytest.raises(TooManyBadVideosError, match=r'3 of the 20 videos of .*list.txt cannot be read, more than '
                                                    r'max_bad_share=0.1 allows: .*bad.*bad.jsonl'):
        data[bad[2]]
    assert len(listed(folder / 'bad.jsonl')) == 3
    # A resumed run knows them: the first bad file that it meets stops it.
    with pytest.raises(TooManyBadVideosError, match='3 of the 20'):
        DATASETS.build(dataset_cfg(folder, max_bad_share=0.1))[bad[0]]
    # One was fetched again and one taken from the list: 1 of 19 is left.
    write_video(folder / 'new.mkv', np.full((6, 20, 20), 99, dtype='uint8'))
    (folder / names[bad[2]]).write_bytes((folder / 'new.mkv').read_bytes())
    (folder / 'list.txt').write_text(''.join(f'{name} 0\n' for name in names if name != names[bad[1]]))
    data = DATASETS.build(dataset_cfg(folder, max_bad_share=0.1))
    assert data[bad[0]] is not None and list(data.bad_videos.entries) == [str(folder / names[bad[0]])]


def test_all_bad_stops_at_once(tmp_path):
    make_videos(tmp_path / 'v', 0, [b''] * 8)
    data = DATASETS.build(dataset_cfg(tmp_path / 'v', max_bad_share=1., max_refetch=5))
    with pytest.raises(TooManyBadVideosError, match='6 videos in a row cannot be read, more than max_refetch=5'):
        data[0]


def test_a_second_try_can_succeed(tmp_path, monkeypatch):
    folder = tmp_path / 'v'
    make_videos(folder, 3)
    data = DATASETS.build(dataset_cfg(folder))
    init = data.pipeline.transforms[0]
    calls, read = [], init._get_video_reader

    def shaky(filename):
        calls.append(filename)
        if len(calls) == 1:
            raise UnreadableVideoError('x', filename, 'damaged', 'disk does not answer')
        return read(filename)

    monkeypatch.setattr(init, '_get_video_reader', shaky)
    assert (data[1]['inputs'] == 1).all() and len(calls) == 2
    assert not (folder / 'bad.jsonl').exists()


def test_other_errors_are_not_tolerated(tmp_path):
    folder = tmp_path / 'v'
    make_videos(folder, 3)
    steps = [*DECODE, dict(type='FormatShape', input_format='NCHW_of_another_world')]
    with pytest.raises(ValueError, match='The input format NCHW_of_another_world is invalid'):
        DATASETS.build(dataset_cfg(folder, pipeline=steps))[0]


def test_in_test_mode_nothing_is_replaced(tmp_path):
    folder = tmp_path / 'v'
    names = make_videos(folder, 5, [b''])
    data = DATASETS.build(dataset_cfg(folder, test_mode=True, max_bad_share=1.))
    with pytest.raises(UnreadableVideoError, match='In test mode no video is replaced, and .*bad0.mp4 cannot be read'):
        data[names.index('bad0.mp4')]
    assert not (folder / 'bad.jsonl').exists()


def test_outside_of_an_experiment_there_must_be_a_place_to_list(tmp_path, monkeypatch):
    from tconv_mmaction.datasets import tolerant_video_dataset
    monkeypatch.setattr(tolerant_video_dataset, 'in_work_dir', lambda: None)
    names = make_videos(tmp_path / 'v', 5, [b''])
    data = DATASETS.build(dataset_cfg(tmp_path / 'v', bad_videos_file=None))
    with pytest.raises(UnreadableVideoError, match='set bad_videos_file. .*bad0.mp4'):
        data[names.index('bad0.mp4')]


@pytest.mark.parametrize('wrong', [dict(max_bad_share=5), dict(max_bad_share=-0.1), dict(max_bad_share='5%'),
                                   dict(retries=-1), dict(max_refetch=1.5), dict(max_bad_share=True)])
def test_wrong_arguments(tmp_path, wrong):
    make_videos(tmp_path / 'v', 1)
    with pytest.raises(ValueError, match=f'{next(iter(wrong))} must be'):
        TolerantVideoDataset(**{**{k: v for k, v in dataset_cfg(tmp_path / 'v').items() if k != 'type'}, **wrong})


# -- the list ---------------------------------------------------------------------------------------------------------


def _add_all(path, names, barrier):
    entries = BadVideoList(path, 'list.txt')
    barrier.wait()
    for name in names:
        entries.add(dict(file=name, reason='x' * 3000))


def test_many_processes_list_each_file_once(tmp_path):
    path, context = tmp_path / 'bad.jsonl', multiprocessing.get_context('fork')
    barrier = context.Barrier(6)
    names = [f'a\n{index}.mp4' for index in range(40)]
    jobs = [context.Process(target=_add_all, args=(path, names[rank:] + names[:rank], barrier)) for rank in range(6)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 6
    assert sorted(entry['file'] for entry in listed(path)) == sorted(names)


def test_a_torn_line_costs_that_line_only(tmp_path):
    path = tmp_path / 'bad.jsonl'
    assert BadVideoList(path, 'l').add(dict(file='a')) and not BadVideoList(path, 'l').add(dict(file='a'))
    with open(path, 'a') as file:
        file.write('{"file": "b", "li')  # the power went
    entries = BadVideoList(path, 'l')
    assert entries.add(dict(file='c')) and entries.add(dict(file='b'))
    again = BadVideoList(path, 'l')
    again.read()
    assert list(again.entries) == ['a', 'c', 'b']
    assert BadVideoList(path, 'other').add(dict(file='a'))  # of another annotation list


# -- a training -------------------------------------------------------------------------------------------------------


def training(folder, work_dir, workers=2, **dataset):
    """LeNet-5 with 3T convolutions on clips of 16 frames of 20x20, two epochs with a checkpoint each."""
    pipeline = [DECODE[0], dict(DECODE[1], clip_len=16), *PIPELINE[2:]]
    data = dict(dict(type='TolerantVideoDataset', ann_file=str(folder / 'list.txt'), pipeline=pipeline,
                     data_prefix=dict(video=str(folder))), **dataset)
    return Runner.from_cfg(Config(dict(
        default_scope='mmaction', work_dir=str(work_dir), log_level='WARNING', experiment_name=work_dir.name,
        model=dict(type='Recognizer3D', backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(2, 3),
                                                      in_channels=3, clip_shape=(16, 20, 20)),
                   cls_head=dict(type='I3DHead', num_classes=2, in_channels=84),
                   data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.] * 3, std=[255.] * 3,
                                          format_shape='NCTHW')),
        train_dataloader=dict(batch_size=10, num_workers=workers, dataset=data,
                              sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=2), randomness=dict(seed=0),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        visualizer=dict(type='ActionVisualizer', vis_backends=[]))))


def test_one_percent_unreadable_trains_to_the_end(tmp_path):
    """1 of 100, in two epochs with two workers, which may both meet it: one line in the work_dir."""
    folder, work_dir = tmp_path / 'v', tmp_path / 'run'
    write_video(tmp_path / 'long.mkv', np.random.RandomState(0).randint(0, 256, (9, 20, 20), dtype='uint8'))
    cut = (tmp_path / 'long.mkv').read_bytes()[:700]  # before the end of the first frame
    make_videos(folder, 99, [cut])
    runner = training(folder, work_dir)
    runner.train()
    assert runner.iter == 2 * 10 and runner.epoch == 2 and (work_dir / 'epoch_2.pth').exists()
    entries = listed(work_dir / 'bad_videos.jsonl')
    assert [(entry['file'], entry['kind']) for entry in entries] == [(str(folder / 'bad0.mp4'), 'truncated')]
    log = (work_dir / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert log.count('is replaced by another sample') == 1 and 'bad0.mp4' in log and '(1 of 100 so far' in log


def test_six_percent_unreadable_stops_with_the_names(tmp_path):
    folder, work_dir = tmp_path / 'v', tmp_path / 'run'
    make_videos(folder, 47, [b'text'] * 3)
    with pytest.raises(TooManyBadVideosError, match=r'3 of the 50 videos .*max_bad_share=0.05 allows: .*bad\d.mp4'):
        training(folder, work_dir).train()
    assert {entry['file'] for entry in listed(work_dir / 'bad_videos.jsonl')} == {
        str(folder / f'bad{index}.mp4') for index in range(3)}


def test_without_the_option_training_names_the_file(tmp_path):
    make_videos(tmp_path / 'v', 20, [b'text'])
    with pytest.raises(UnreadableVideoError, match='bad0.mp4 cannot be read: the file holds text'):
        training(tmp_path / 'v', tmp_path / 'run', workers=1, type='VideoDataset').train()
