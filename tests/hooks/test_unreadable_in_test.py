"""Clips of a test that cannot be read: they stay in the list, count as wrong in every metric, and are named."""
import json

import numpy as np
import pytest
import torch
from helpers.many_processes import run_ranks
from helpers.videos import DECODE, PIPELINE, dataset_cfg, listed, make_videos
from mmaction.registry import DATASETS, HOOKS, METRICS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from tconv_mmaction.datasets import UnreadableSample
from tconv_mmaction.datasets.tolerant_video_dataset import TooManyBadVideosError
from tconv_mmaction.datasets.unreadable_sample import wrong_score
from tconv_mmaction.transforms import UnreadableVideoError
from tconv_mmaction.utils.read_dump import read_dump

CLASSES = 3


def run_of(folder, work_dir, workers=0, launcher='none', **dataset):
    """A test of LeNet-5-3T with random weights, with a dump of what it predicts."""
    pipeline = [DECODE[0], dict(DECODE[1], clip_len=16, test_mode=True), *PIPELINE[2:]]
    data = dict(dict(type='TolerantVideoDataset', ann_file=str(folder / 'list.txt'), pipeline=pipeline, test_mode=True,
                     data_prefix=dict(video=str(folder)), unreadable_in_test='wrong', max_bad_share=0.1), **dataset)
    if data['type'] == 'VideoDataset':
        data = {key: data[key] for key in ('type', 'ann_file', 'pipeline', 'test_mode', 'data_prefix')}
    torch.manual_seed(0)
    loader = dict(batch_size=3, num_workers=workers, dataset=data, sampler=dict(type='DefaultSampler', shuffle=False))
    metrics = [dict(type='AccMetric', metric_list=('top_k_accuracy', 'mean_class_accuracy'),
                    metric_options=dict(top_k_accuracy=dict(topk=(1, 2)))), dict(type='F1Metric', topk=(1, )),
               dict(type='DumpResults', out_file_path=str(work_dir / 'dump.pkl'))]
    return Runner.from_cfg(Config(dict(
        default_scope='mmaction', work_dir=str(work_dir), log_level='WARNING', experiment_name=work_dir.name,
        model=dict(type='Recognizer3D', backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), channels=(2, 3),
                                                      in_channels=3, clip_shape=(16, 20, 20)),
                   cls_head=dict(type='I3DHead', num_classes=CLASSES, in_channels=84, average_clips='prob'),
                   data_preprocessor=dict(type='ActionDataPreprocessor', mean=[20.] * 3, std=[40.] * 3,
                                          format_shape='NCTHW')),
        val_dataloader=loader, val_evaluator=metrics[:2], val_cfg=dict(),
        test_dataloader=loader, test_evaluator=metrics, test_cfg=dict(), launcher=launcher,
        default_hooks=dict(unreadable_clips=dict(type='UnreadableClipsHook')),
        env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=60)), randomness=dict(seed=0),
        visualizer=dict(type='ActionVisualizer', vis_backends=[]))))


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Eleven videos, one of them text; labels that the network gets right for 6 of the 10, and for a black clip.

    Returns (folder, index of the bad one, its label, the scores of the ten).
    """
    folder = tmp_path_factory.mktemp('test') / 'v'
    names = make_videos(folder, 10, [b'text'])
    whole = (folder / 'list.txt').read_text()
    bad = names.index('bad0.mp4')
    good = [name for name in names if name != 'bad0.mp4']
    (folder / 'list.txt').write_text(''.join(f'{name} 0\n' for name in good))
    runner = run_of(folder, folder.parent / 'first', type='VideoDataset')
    runner.test()
    scores = torch.stack([sample['pred_score'] for sample in read_dump(folder.parent / 'first/dump.pkl')])
    with torch.no_grad():
        clip = torch.zeros(1, 1, 3, 16, 20, 20)
        samples = runner.model.test_step(dict(inputs=[clip[0]], data_samples=[ActionDataSample().set_gt_label(0)]))
    black = int(samples[0].pred_label)
    assert len(scores.unique(dim=0)) == 10  # they tell the clips apart
    labels = [int(score.argmax()) if index < 6 else (int(score.argmax()) + 1) % CLASSES
              for index, score in enumerate(scores)]
    labels.insert(bad, black)
    assert len(whole.splitlines()) == 11
    (folder / 'list.txt').write_text(''.join(f'{name} {label}\n' for name, label in zip(names, labels)))
    return folder, bad, black, scores


def check(folder, bad, black, scores, work_dir, metrics):
    """Six right of eleven, by hand from the dump as well."""
    dump = read_dump(work_dir / 'dump.pkl')
    assert len(dump) == 11 and metrics['unreadable_clips'] == 1
    assert metrics['acc/top1'] == pytest.approx(6 / 11, abs=1e-12)
    labels = np.array([int(sample['gt_label']) for sample in dump])
    predicted = np.array([int(sample['pred_label']) for sample in dump])
    right = predicted == labels
    assert right.sum() == 6 and not right[bad] and labels[bad] == black
    recalls = [right[labels == k].mean() if (labels == k).any() else 0. for k in np.unique([labels, predicted])]
    assert metrics['acc/mean1'] == pytest.approx(np.mean(recalls), abs=1e-12)
    ranks = np.array([int((sample['pred_score'] > sample['pred_score'][sample['gt_label']]).sum()) for sample in dump])
    assert metrics['acc/top2'] == pytest.approx((ranks < 2).mean(), abs=1e-12) and ranks[bad] == CLASSES - 1
    kept = [sample for index, sample in enumerate(dump) if index != bad]
    torch.testing.assert_close(torch.stack([sample['pred_score'] for sample in kept]), scores, rtol=0, atol=1e-6)
    assert [index for index, sample in enumerate(dump) if 'unreadable' in sample] == [bad]
    assert dump[bad]['unreadable']['file'] == str(folder / 'bad0.mp4') and dump[bad]['unreadable']['kind'] == 'text'
    assert [entry['file'] for entry in listed(work_dir / 'bad_videos.jsonl')] == [str(folder / 'bad0.mp4')]


def test_one_of_eleven_counts_as_wrong_and_is_named(project, tmp_path):
    runner = run_of(project[0], tmp_path / 'run', workers=2)
    check(*project, tmp_path / 'run', runner.test())
    log = (tmp_path / 'run' / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert '1 of the 11 clips of this result could not be read and count as wrong in it:' in log
    assert log.count('bad0.mp4 cannot be read and counts as wrong') == 1 and 'is replaced' not in log


def distributed_test(folder, work_dir):
    return run_of(folder, work_dir, launcher='pytorch').test()


@pytest.mark.skipif(torch.cuda.is_available(), reason='ranks are forked, which a CUDA process cannot be')
def test_two_processes_give_the_same(project, tmp_path):
    """The sampler deals 12 clips."""
    found = run_ranks(distributed_test, 2, tmp_path, project[0], tmp_path / 'run')
    check(*project, tmp_path / 'run', found[0])
    assert found[1]['unreadable_clips'] == 1


def test_a_validation_says_it_too_and_in_the_scalars(project, tmp_path):
    runner = run_of(project[0], tmp_path / 'run')
    metrics = runner.val()
    assert metrics['unreadable_clips'] == 1 and metrics['acc/top1'] == pytest.approx(6 / 11)
    lines = [json.loads(line) for path in (tmp_path / 'run').glob('*/*.json') for line in path.read_text().splitlines()]
    assert not lines or lines[-1]['unreadable_clips'] == 1
    assert runner.message_hub.get_scalar('val/unreadable_clips').current() == 1


def test_without_the_option_the_test_ends_with_the_name(project, tmp_path):
    with pytest.raises(UnreadableVideoError, match=r"In test mode no video is replaced, .*bad0.mp4 .*='wrong'"):
        run_of(project[0], tmp_path / 'run', unreadable_in_test='error').test()
    assert not (tmp_path / 'run/dump.pkl').exists()


def test_more_than_the_share_ends_the_test(project, tmp_path):
    with pytest.raises(TooManyBadVideosError, match='1 of the 11 videos .*max_bad_share=0.05 allows: .*bad0.mp4'):
        run_of(project[0], tmp_path / 'run', max_bad_share=0.05).test()


def test_no_readable_video_at_all(tmp_path):
    make_videos(tmp_path / 'v', 0, [b''] * 3)
    data = DATASETS.build(dataset_cfg(tmp_path / 'v', test_mode=True, unreadable_in_test='wrong', max_bad_share=1.))
    with pytest.raises(TooManyBadVideosError, match='None of the first 3 videos .* the size of a clip is unknown'):
        data[1]


def test_what_is_not_known_is_refused(tmp_path):
    make_videos(tmp_path / 'v', 1)
    with pytest.raises(ValueError, match="unreadable_in_test must be 'error' .* got 'skip'"):
        DATASETS.build(dataset_cfg(tmp_path / 'v', unreadable_in_test='skip'))


# -- the sample -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('truth, expected', [
    ([0], [0., .5, .25, .25]), ([3], [.5, .25, .25, 0.]), ([1, 2], [.25, 0., 0., .5]),
    ([1, 0, 0, 1], [0., .5, .25, 0.]), ([0, 0, 0, 0], [.25, .5, .25, .25]),
])
def test_wrong_scores_by_hand(truth, expected):
    for score in (torch.rand(4), torch.rand(4, dtype=torch.float64), torch.rand(4).half()):
        found = wrong_score(score, torch.tensor(truth))
        assert found.dtype == score.dtype and found.tolist() == expected


def test_nothing_is_wrong_where_all_is_right():
    for score, truth in ((torch.rand(1), [0]), (torch.rand(2), [1, 1])):
        with pytest.raises(ValueError, match='each of its . classes is right'):
            wrong_score(score, torch.tensor(truth))
    with pytest.raises(ValueError, match=r'score of shape \(2, 3\) is not one value per class'):
        wrong_score(torch.rand(2, 3), torch.tensor([0]))


def test_several_modalities_and_mean_average_precision():
    """mAP over one class pair by hand: the failed clip has both its scores upside down."""
    sample = UnreadableSample.of(ActionDataSample().set_gt_label(1), 'a.mp4', 'text', 'it is text', 7)
    sample.set_pred_score(dict(rgb=torch.tensor([0., 1., 0.]), pose=torch.tensor([0., 1., 0.])))
    assert sample.pred_score['pose'].tolist() == pytest.approx([1 / 3, 0., 2 / 3]) and sample.scored_wrong
    evaluator = Evaluator(METRICS.build(dict(type='AccMetric', metric_list='mean_average_precision')))
    good = ActionDataSample().set_gt_label([1, 0]).set_pred_score(torch.tensor([.9, .1]))
    other = ActionDataSample().set_gt_label([0, 1]).set_pred_score(torch.tensor([.2, .8]))
    bad = UnreadableSample.of(ActionDataSample().set_gt_label([1, 0]), 'b', 'text', 'text', 0)
    bad.set_pred_score(torch.tensor([1., 0.])).set_pred_label(torch.tensor([0]))
    assert bad.pred_score.tolist() == [0., 1.] and bad.pred_label.tolist() == [1]
    evaluator.process([good, other, bad])
    # class 0: right at ranks 1 and 3 of 3: (1/1 + 2/3) / 2; class 1: its only one at rank 2
    assert evaluator.evaluate(3)['acc/mean_average_precision'] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_a_copy_on_another_device_stays_wrong():
    sample = UnreadableSample.of(ActionDataSample(metainfo=dict(img_shape=(3, 4))).set_gt_label(0), 'a', 'k', 'r', 1)
    moved = sample.to('cpu').set_pred_score(torch.tensor([1., 0.]))
    assert moved.img_shape == (3, 4) and moved.pred_score.tolist() == [0., 1.] and moved.scored_wrong


def test_a_head_that_goes_past_the_sample_is_refused():
    sample = UnreadableSample.of(ActionDataSample().set_gt_label(0), 'a.mp4', 'text', 'it is text', 3)
    hook = HOOKS.build(dict(type='UnreadableClipsHook'))
    sample.set_field(torch.tensor([.9, .1]), 'pred_score')
    with pytest.raises(RuntimeError, match='a.mp4 cannot be read and has to count as wrong'):
        hook.after_test_iter(None, 0, outputs=[sample])
    with pytest.raises(RuntimeError, match='without a call of its set_pred_score'):
        hook.after_val_iter(None, 0, outputs=[ActionDataSample(metainfo=sample.metainfo)])
