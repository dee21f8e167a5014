"""KTH preparation on generated AVIs with the names and the sequence file of the data set."""
import copy

import decord
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import write_film
from mmengine.config import Config
from mmengine.runner import Runner

kth = load_script('tools/data/kth/prepare.py')

HEADER = '''Training:   person11, 12, 13, 14, 15, 16, 17, 18
Test:       person22, 02, 03, 05, 06, 07, 08, 09, 10

'''
# the layout of the published file: tabs, four ranges or fewer, one video marked as missing
LINES = '''person01_boxing_d1\t\tframes\t1-5, 6-9
person01_boxing_d4\t\tframes\t1-6, 7-12, 14-20
person13_handclapping_d3\t*missing*
person16_walking_d2\t\tframes\t1-4
person17_running_d1\t\tframes\t3-8,  9-12
person25_handwaving_d4\t\tframes\t1-3
'''


def write_brighter(path, frames, colour=False):
    """Frames that grow brighter with time, so that each is known by its mean."""
    images = np.stack([np.full((120, 160, 3), 10 * (t + 1), np.uint8) for t in range(frames)])
    if colour:
        images[..., 0] = 0
    write_film(path, images, fps=25.)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / 'archives'
    for name, frames in dict(person01_boxing_d1=9, person01_boxing_d4=9, person16_walking_d2=4, person17_running_d1=13,
                             person25_handwaving_d4=3).items():
        write_brighter(source / name.split('_')[1] / f'{name}_uncomp.avi', frames)
    (source / '00sequences.txt').write_text(HEADER + LINES)
    return source


def brightness(clip):
    """The frame number, from 1, that every frame of a clip was made with."""
    frames = decord.VideoReader(str(clip)).get_batch(range(len(decord.VideoReader(str(clip))))).asnumpy()
    return np.rint(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


def test_clips_and_lists(folder, tmp_path, capsys):
    out = tmp_path / 'kth'
    assert kth.main([str(folder), str(out)]) == 0
    said = capsys.readouterr().out
    assert (out / 'train.txt').read_text().splitlines() == [
        'clips/person01_boxing_d1_1.mkv 0', 'clips/person01_boxing_d1_2.mkv 0', 'clips/person01_boxing_d4_1.mkv 0',
        'clips/person01_boxing_d4_2.mkv 0', 'clips/person16_walking_d2_1.mkv 5']
    assert (out / 'test.txt').read_text().splitlines() == [
        'clips/person17_running_d1_1.mkv 4', 'clips/person17_running_d1_2.mkv 4',
        'clips/person25_handwaving_d4_1.mkv 2']
    assert (out / 'classes.txt').read_text().split() == list(kth.ACTIONS)
    assert brightness(out / 'clips/person01_boxing_d1_1.mkv') == [1, 2, 3, 4, 5]  # both ends included
    assert brightness(out / 'clips/person01_boxing_d1_2.mkv') == [6, 7, 8, 9]
    assert brightness(out / 'clips/person17_running_d1_1.mkv') == [3, 4, 5, 6, 7, 8]
    assert brightness(out / 'clips/person01_boxing_d4_2.mkv') == [7, 8, 9]  # the video ends before the range
    assert 'person01_boxing_d4: 7-12 ends at frame 9, the last that decodes' in said
    assert 'person01_boxing_d4: 14-20 left out, the video has only 9 frames' in said
    assert 'person13_handclapping_d3: marked as missing' in said
    assert '5 videos, 9 sequences, 3 of subjects 17-25 (published: 599, 2391 and 863)' in said
    assert 'train.txt: 5 sequences of 2 subjects; boxing 4, handclapping 0, handwaving 0, jogging 0, running 0' in said


def test_validation_subjects_come_out_of_the_training_list(folder, tmp_path):
    out = tmp_path / 'kth'
    assert kth.main([str(folder), str(out), '--val-subjects', '16']) == 0
    assert (out / 'val.txt').read_text() == 'clips/person16_walking_d2_1.mkv 5\n'
    assert 'person16' not in (out / 'train.txt').read_text()
    assert kth.main([str(folder), str(out), '--val-subjects', '17']) == 2


def test_a_missing_video_stops_before_any_list(folder, tmp_path, capsys):
    (folder / 'walking/person16_walking_d2_uncomp.avi').unlink()
    write_brighter(folder / 'boxing/person02_boxing_d1_uncomp.avi', 2)
    out = tmp_path / 'kth'
    assert kth.main([str(folder), str(out)]) == 2
    assert '1 of 5 videos of 00sequences.txt are not below' in capsys.readouterr().err
    assert not out.exists()
    assert kth.main([str(folder), str(out), '--allow-deviations']) == 0
    said = capsys.readouterr().out
    assert 'person16_walking_d2: no file, left out' in said
    assert 'person02_boxing_d1_uncomp.avi is not in 00sequences.txt, left out' in said


def test_an_interrupted_run_goes_on_and_leaves_no_list(folder, tmp_path, monkeypatch):
    out, written, write = tmp_path / 'kth', [], kth.write_video

    def stop_at_the_third(path, *args, **kwargs):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *args, **kwargs)

    monkeypatch.setattr(kth, 'write_video', stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        kth.main([str(folder), str(out)])
    assert not list(out.glob('*.txt'))

    def write_on(path, *args, **kwargs):
        written.append(path.name)
        write(path, *args, **kwargs)

    monkeypatch.setattr(kth, 'write_video', write_on)
    assert kth.main([str(folder), str(out)]) == 0
    assert written.count('person01_boxing_d1_1.mkv') == 1 and len((out / 'train.txt').read_text().splitlines()) == 5


def test_colour_is_said(folder, tmp_path, capsys):
    write_brighter(folder / 'boxing/person01_boxing_d1_uncomp.avi', 9, colour=True)
    assert kth.main([str(folder), str(tmp_path / 'kth')]) == 0
    assert 'person01_boxing_d1: is in colour' in capsys.readouterr().out


def whole_file(four=4):
    """A sequence file of the published size: 599 videos, 2391 sequences, 863 of them of subjects 17 to 25."""
    lines, short = [], 5
    for subject in range(1, 26):
        for action in kth.ACTIONS:
            for setting in range(1, 5):
                name = f'person{subject:02d}_{action}_d{setting}'
                ranges = ['1-2', '3-4', '5-6', '7-8'][:four]
                if name == 'person13_handclapping_d3':
                    lines.append(f'{name}\t*missing*')
                    continue
                # 599 * 4 = 2396, so five videos have three; 9 * 24 * 4 = 864, so one of them is a test video
                if (short > 1 and subject == 2) or (short == 1 and subject == 20):
                    ranges, short = ranges[:3], short - 1
                lines.append(f'{name}\tframes\t{", ".join(ranges)}')
    return '\n'.join(lines)


def test_the_published_counts_are_checked_when_the_file_is_whole(folder, tmp_path, capsys):
    videos, missing = kth.parse_sequences(HEADER + whole_file())
    assert (len(videos), sum(map(len, videos.values())), missing) == (599, 2391, ['person13_handclapping_d3'])
    (folder / '00sequences.txt').write_text(whole_file())
    assert kth.main([str(folder), str(tmp_path / 'kth'), '--allow-deviations']) == 0
    (folder / '00sequences.txt').write_text(whole_file(3))
    assert kth.main([str(folder), str(tmp_path / 'other')]) == 2
    assert '(published: 599, 2391 and 863). Nothing was written' in capsys.readouterr().err
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('line, message', [
    ('person01_boxing_d1 frames', r'line 1 .*no ranges of frames'),
    ('person01_boxing_d1 frames 9-5', '9-5 is no range'), ('person01_boxing_d1 frames 0-5', 'frames count from 1'),
    ('person26_boxing_d1 frames 1-5', 'no such action or subject'),
    ('person01_jumping_d1 frames 1-5', 'no such action or subject'),
    ('person01_boxing_d1 frames 1-5\nperson01_boxing_d1 frames 6-9', 'line 2 .*was there before'),
    ('nothing', 'no line starts with a name')])
def test_bad_sequence_files(line, message):
    with pytest.raises(ValueError, match=message):
        kth.parse_sequences(line)


def test_other_errors(folder, tmp_path, capsys):
    assert kth.main([str(tmp_path / 'nowhere'), str(tmp_path / 'kth')]) == 2
    write_brighter(folder / 'again/person01_boxing_d1_uncomp.avi', 3)
    assert kth.main([str(folder), str(tmp_path / 'kth')]) == 2
    assert 'are the same video' in capsys.readouterr().err
    (folder / 'again/person01_boxing_d1_uncomp.avi').unlink()
    (folder / '00sequences.txt').write_text(LINES.split('person17')[0])
    assert kth.main([str(folder), str(tmp_path / 'kth')]) == 2
    assert 'no sequence for test' in capsys.readouterr().err and not list((tmp_path / 'kth').glob('*.txt'))


@pytest.mark.parametrize('name', ['clstm_scratch_1xb16-u32-100e_kth-rgb', 'i3d_scratch_1xb16-u32-100e_kth-rgb'])
def test_the_kth_configs_train_test_and_test_reversed_on_the_lists(name, folder, tmp_path):
    out = tmp_path / 'kth'
    assert kth.main([str(folder), str(out)]) == 0
    config = Config.fromfile(ROOT / f'configs/recognition/clstm/{name}.py')
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.ann_file = str(out / ('train.txt' if split == 'train' else 'test.txt'))
        loader.dataset.data_prefix.video = str(out)
    if name.startswith('i3d'):  # smaller clips, for speed
        for loader in (config.train_dataloader, config.test_dataloader, config.val_dataloader):
            loader.dataset.pipeline[1].clip_len = 8
            next(t for t in loader.dataset.pipeline if t.type == 'Resize').scale = (48, 40)
    else:
        config.model.backbone.hidden_channels = config.model.cls_head.in_channels = 4
    config.model.cls_head.average_clips = 'score'  # probabilities of so young a network may be all 0 and 1
    config.train_cfg.max_epochs = 1
    config.update(work_dir=str(tmp_path / 'work'), launcher='none')
    config.default_hooks.checkpoint.update(interval=-1, save_last=False, max_keep_ckpts=-1)
    runner = Runner.from_cfg(config)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    assert all(not torch.equal(before[n], p) for n, p in runner.model.named_parameters()), 'a parameter did not train'
    best = list((tmp_path / 'work').glob('best_f1_mean_epoch_*.pth'))
    assert len(best) == 1  # the hooks watch the F1

    def predictions(**pipeline_2):
        loader = copy.deepcopy(config.test_dataloader)
        loader.dataset.pipeline[2].update(pipeline_2)
        scores, runner._test_dataloader, runner._test_loop = [], loader, dict(config.test_cfg)
        handle = runner.model.register_forward_hook(lambda m, a, samples: scores.extend(s.pred_score for s in samples))
        metrics = runner.test()
        handle.remove()
        assert {'f1/mean', 'f1/top1', 'f1/top5'} <= set(metrics)
        return torch.stack(scores)

    forwards, backwards = predictions(), predictions(enabled=True)
    assert forwards.shape == (3, 6) and (forwards - backwards).abs().max() > 1e-5
