"""Inference by mmaction2's interfaces and by tools/demo/video_demo.py: the numbers, and videos that browsers play."""
import csv
import json
import sys
import tempfile

import cv2
import numpy as np
import pytest
import torch
from helpers.headless_chromium import Chromium, find_chromium
from helpers.scripts import load_script
from mmaction.apis import MMAction2Inferencer, inference_recognizer, init_recognizer
from mmaction.structures import ActionDataSample
from mmengine.config import Config

from tconv_mmaction.compat.inference import frame_folder
from tconv_mmaction.transforms import ToGrey
from tconv_mmaction.transforms.whole_video import whole_video_indices
from tconv_mmaction.utils.browser_video import write_video
from tconv_mmaction.utils.lossless_video import write_video as write_lossless

HEIGHT, WIDTH, FRAMES, CLIP = 24, 32, 20, 6
CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='TemporalResNet3d', depth=18, base_channels=4, temporal_cfg=dict(type='Conv3T', init='paper'),
                  num_stages=2, temporal_kernels=(3, 3, 3), out_indices=(1, ), spatial_strides=(1, 2),
                  temporal_strides=(1, 2), dilations=(1, 1)),
    cls_head=dict(type='I3DHead', num_classes=4, in_channels=8, dropout_ratio=0., average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[120., 110., 100.], std=[50., 60., 70.],
                           format_shape='NCTHW'))
test_dataloader = dict(dataset=dict(type='VideoDataset', pipeline=[
    dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=6), dict(type='DecordDecode'),
    dict(type='Resize', scale=(32, 24), keep_ratio=False), dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs')]))
visualizer = dict(type='ActionVisualizer', vis_backends=[dict(type='LocalVisBackend')])
'''
OF_FRAMES = (("dict(type='DecordInit'), ", ''), ("dict(type='DecordDecode')", "dict(type='RawFrameDecode')"),
             ("'VideoDataset'", "'RawframeDataset'"))


video_demo = load_script('tools/demo/video_demo.py')


def moving(seed):
    """Grey frames (T, H, W) of a bright square on its way over faint noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    for t, frame in enumerate(frames):
        row, column = (4 + seed * 3, t) if seed % 2 else (t // 2, 20)
        frame[row:row + 8, column:column + 8] = 255
    return frames


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Config, checkpoint, a video a.mkv and a folder b of frames, beside the frames of both."""
    folder = tmp_path_factory.mktemp('inference')
    (folder / 'net.py').write_text(CONFIG)
    text = CONFIG
    for old, new in OF_FRAMES:
        assert old in text
        text = text.replace(old, new)
    (folder / 'frames_net.py').write_text(text)
    torch.manual_seed(0)
    model = init_recognizer(str(folder / 'net.py'), device='cpu')
    with torch.no_grad():
        model.cls_head.fc_cls.weight.normal_(0, 1.)
        for module in model.modules():
            if hasattr(module, 'momentum'):
                module.momentum = None  # running statistics are those of the clips seen
        clips = torch.stack([clip_of(moving(seed)) for seed in range(4)])
        model.train()(clips.sub(110) / 60, mode='tensor')
        model.eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'net.pth')
    a, b = moving(0), moving(1)
    write_lossless(folder / 'a.mkv', a)
    (folder / 'b').mkdir()
    for t, frame in enumerate(b):
        cv2.imwrite(str(folder / f'b/shot_{t + 7}.png'), frame)
    return folder, model, a, b


def clip_of(frames):
    """(T, H, W) grey to what the pipeline packs, (1, 3, CLIP, H, W)."""
    chosen = frames[whole_video_indices(len(frames), CLIP)]
    return torch.from_numpy(chosen).float().expand(3, -1, -1, -1)[None]


def scores_of(model, frames):
    sample, = model.test_step(dict(inputs=[clip_of(frames)], data_samples=[ActionDataSample()]))
    return sample.pred_score


def close(got, want):
    torch.testing.assert_close(torch.as_tensor(got, dtype=torch.float32), want, rtol=1e-5, atol=1e-6)


# -- mmaction2's interfaces --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('config', ['net.py', 'frames_net.py'])
def test_inference_recognizer(project, config):
    """A config without test_pipeline, for a data set of videos or of frames; both kinds of input, and a list."""
    folder, model, a, b = project
    wanted = scores_of(model, a), scores_of(model, b)
    assert (wanted[0] - wanted[1]).abs().max() > .05 and wanted[0].std() > .05
    loaded = init_recognizer(str(folder / config), str(folder / 'net.pth'), device='cpu')
    close(inference_recognizer(loaded, str(folder / 'a.mkv')).pred_score, wanted[0])
    close(inference_recognizer(loaded, folder / 'b').pred_score, wanted[1])
    for got, want in zip(inference_recognizer(loaded, [str(folder / 'b'), folder / 'a.mkv']), wanted[::-1]):
        close(got.pred_score, want)
        assert got.pred_score.sum() == pytest.approx(1, abs=1e-5) and got.pred_label == want.argmax()


def test_a_test_pipeline_of_the_config_or_the_caller_comes_first(project, tmp_path):
    folder, model, a, _ = project
    (tmp_path / 'net.py').write_text(CONFIG + '''
test_pipeline = [dict(type='DecordInit'), dict(type='SampleFrames', clip_len=6, frame_interval=1, num_clips=2,
                      test_mode=True), dict(type='DecordDecode'), dict(type='FormatShape', input_format='NCTHW'),
                 dict(type='PackActionInputs')]
''')
    loaded = init_recognizer(str(tmp_path / 'net.py'), str(folder / 'net.pth'), device='cpu')
    got = inference_recognizer(loaded, str(folder / 'a.mkv')).pred_score
    offsets = [0, 14]  # SampleFrames in test mode: from the first place to the last one
    want = torch.stack([scores_of(model, a[s:s + 6]) for s in offsets]).mean(0)
    close(got, want)


@pytest.mark.parametrize('config', ['net.py', 'frames_net.py'])
def test_inferencer(project, tmp_path, config):
    folder, model, a, b = project
    wanted = {str(folder / 'a.mkv'): scores_of(model, a), str(folder / 'b'): scores_of(model, b)}
    inferencer = MMAction2Inferencer(rec=str(folder / config), rec_weights=str(folder / 'net.pth'), device='cpu')
    names = list(wanted)
    for inputs in (names[0], names[1], names, [names[1], names[0], names[1]]):
        done = inferencer(inputs, batch_size=2, pred_out_file=str(tmp_path / 'out.json'))['predictions']
        inputs = [inputs] if isinstance(inputs, str) else inputs
        assert len(done) == len(inputs) and json.loads((tmp_path / 'out.json').read_text())['predictions'] == done
        for name, prediction in zip(inputs, done):
            close(prediction['rec_scores'][0], wanted[name])
            assert prediction['rec_labels'] == [[wanted[name].argmax()]]
    by_option = MMAction2Inferencer(rec=str(folder / config), rec_weights=str(folder / 'net.pth'), device='cpu',
                                    input_format='rawframes')
    close(by_option(names[1])['predictions'][0]['rec_scores'][0], wanted[names[1]])


def test_drawn_videos_of_all_inputs_without_moviepy(project, tmp_path, monkeypatch):
    folder, model, a, b = project
    for name in ('moviepy', 'moviepy.editor'):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    (tmp_path / 'classes.txt').write_text('left\nright\nup\ndown\n')
    inferencer = MMAction2Inferencer(rec=str(folder / 'net.py'), rec_weights=str(folder / 'net.pth'), device='cpu',
                                     label_file=str(tmp_path / 'classes.txt'))
    texts = []
    visualizer = inferencer.actionrecog_inferencer.visualizer
    draw = visualizer.draw_texts
    monkeypatch.setattr(visualizer, 'draw_texts', lambda text, **cfg: (texts.append(text), draw(text, **cfg)))
    a, b = a[:6], b[3:9]  # drawing takes time
    write_lossless(tmp_path / 'a.mkv', a)
    (tmp_path / 'b').mkdir()
    for t, frame in enumerate(b):
        cv2.imwrite(str(tmp_path / f'b/{t}.png'), frame)
    inputs = [str(tmp_path / 'a.mkv'), str(tmp_path / 'b')]
    drawn = inferencer(inputs, vid_out_dir=str(tmp_path / 'vis'), target_resolution=(128, 96), fps=25)
    assert sorted(p.name for p in (tmp_path / 'vis').iterdir()) == ['a.mp4', 'b.mp4']
    classes = ('left', 'right', 'up', 'down')
    for name, frames, pictures, lines in zip('ab', (a, b), drawn['visualization'], (texts[:6], texts[6:])):
        scores = scores_of(model, frames)
        best = int(scores.argmax())
        assert len(lines) == 6
        assert all(line.endswith(f'Prediction: {best}, {scores[best]:.2f} ({classes[best]})') for line in lines)
        written = read(tmp_path / f'vis/{name}.mp4')
        assert written.shape == (6, 96, 128, 3)
        assert np.abs(written.astype(int) - pictures[..., ::-1]).mean() < 6


@pytest.mark.parametrize('names, want', [
    (['img_00001.jpg', 'img_00002.jpg'], ('img_{:05}.jpg', 1, 2)),
    ([f'{i}.png' for i in range(8, 12)], ('{:01}.png', 8, 4)),
    (['a{b}_010.JPG', 'a{b}_011.JPG', 'notes.txt'], ('a{{b}}_{:03}.JPG', 10, 2))])
def test_frame_folders(names, want, tmp_path):
    for name in names:
        (tmp_path / name).write_bytes(b'')
    found = frame_folder(tmp_path)
    assert (found['filename_tmpl'], found['start_index'], found['total_frames']) == want
    frames = [found['filename_tmpl'].format(found['start_index'] + i) for i in range(found['total_frames'])]
    assert sorted(frames) == sorted(name for name in names if not name.endswith('.txt'))


@pytest.mark.parametrize('names, error, message', [
    (['cover.png'], FileNotFoundError, 'no frames'),
    (['a_1.png', 'b_1.png'], ValueError, r'several series of images \(a_\*\.png, b_\*\.png\)'),
    (['a_1.png', 'a_2.png', 'a_5.png'], ValueError, 'frames 1 to 5, and number 3 is missing'),
    (['a_1.png', 'a_02.png'], ValueError, 'not written with one number of digits')])
def test_frame_folders_that_are_none(names, error, message, tmp_path):
    for name in names:
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(error, match=message):
        frame_folder(tmp_path)


def test_mistakes(project):
    folder, _, _, _ = project
    model = init_recognizer(str(folder / 'net.py'), str(folder / 'net.pth'), device='cpu')
    with pytest.raises(FileNotFoundError, match=r'no video and no folder of frames .*gone\.mp4'):
        inference_recognizer(model, str(folder / 'gone.mp4'))
    with pytest.raises(TypeError, match='got int'):
        inference_recognizer(model, 3)
    model.cfg.test_dataloader.dataset.pipeline = [dict(type='FormatShape', input_format='NCTHW')]
    with pytest.raises(ValueError, match=r"decodes no files .*\['FormatShape'\]"):
        inference_recognizer(model, str(folder / 'a.mkv'))


def test_to_grey():
    rng = np.random.default_rng(0)
    colour, grey = rng.integers(0, 256, (5, 6, 3), np.uint8), rng.integers(0, 256, (5, 6, 1), np.uint8)
    out = ToGrey()(dict(imgs=[colour, grey, np.repeat(grey, 3, 2)]))['imgs']
    assert np.abs(out[0][..., 0] - colour @ np.array([.299, .587, .114])).max() < .51
    assert (out[1] == grey).all() and (out[2] == grey).all()
    with pytest.raises(ValueError, match=r'got \(5, 6\)'):
        ToGrey()(dict(imgs=[grey[..., 0]]))


# -- videos for browsers -----------------------------------------------------------------------------------------------

def read(path):
    """All frames of a video, RGB, by OpenCV."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while True:
        more, frame = reader.read()
        if not more:
            return np.array(frames)[..., ::-1]
        frames.append(frame)


@pytest.mark.parametrize('ending, code', [('.mp4', b'vp09'), ('.webm', b'V_VP9')])
def test_write_video(ending, code, tmp_path):
    frames = np.zeros((15, 45, 63, 3), np.uint8)  # odd sides
    for t, frame in enumerate(frames):
        frame[:] = (200, 40, 40)
        frame[10:30, 2 * t:2 * t + 20] = (30, 60, 220)
    path = tmp_path / f'sub/clip{ending}'
    used = write_video(path, iter(frames), 12.5)
    data = path.read_bytes()
    assert code in data if used.lower().startswith('vp') else b'avc1' in data
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    back = read(path)
    assert back.shape == (15, 46, 64, 3)
    assert np.abs(back[:, :45, :63].astype(int) - frames).mean() < 4  # lossy, colours at half the resolution
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, abs=.01)


def test_write_video_mistakes(tmp_path, capfd):
    frame = np.zeros((4, 4, 3), np.uint8)
    for frames, name, fps, message in (([], 'a.mp4', 5, 'no frames'), ([frame], 'a.avi', 5, 'browsers play'),
                                       ([frame], 'a.mp4', 0, 'fps must be positive'),
                                       ([frame, frame[:2]], 'a.mp4', 5, r'frame 1 of .* is \(2, 4, 3\)')):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())
    write_video(tmp_path / 'a.mp4', [frame], 5)
    assert capfd.readouterr().err == ''  # nothing about the encoders that were tried


# -- the demo ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def demo(project):
    """What tools/demo/video_demo.py writes for two videos one after the other: folder, frames, output."""
    folder, _, a, b = project
    frames = np.concatenate([a, b])
    write_lossless(folder / 'both.mkv', frames, fps=10)
    (folder / 'classes.txt').write_text('links\nrechts\nüber\nпод\n')
    video_demo.main([str(folder / name) for name in ('net.py', 'net.pth', 'both.mkv')] + [
        '--out', str(folder / 'out.mp4'), '--classes', str(folder / 'classes.txt'), '--window', '12', '--stride', '5',
        '--top', '2', '--scores', str(folder / 'scores.csv'), '--height', '48', '--device', 'cpu'])
    return folder, frames


def test_demo_scores_are_those_of_the_windows(demo, project):
    folder, frames = demo
    model = project[1]
    with open(folder / 'scores.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    ends = [11, 16, 21, 26, 31, 36, 39]
    assert [int(row['last_frame']) for row in rows] == ends
    assert [int(row['first_frame']) for row in rows] == [end - 11 for end in ends]
    assert [float(row['seconds']) for row in rows] == pytest.approx([(end + 1) / 10 for end in ends], abs=1e-3)
    for end, row in zip(ends, rows):
        close([float(row[name]) for name in ('links', 'rechts', 'über', 'под')],
              scores_of(model, frames[end - 11:end + 1]))


def test_demo_video_shows_the_frames_and_a_caption_per_window(demo):
    folder, frames = demo
    back = read(folder / 'out.mp4')
    row = video_demo.Captions(64, 2, []).row
    assert back.shape == (40, 48 + 2 * row, 64, 3)
    picture = frames.repeat(2, 1).repeat(2, 2)[..., None]
    assert np.abs(back[:, :48].astype(int) - picture).mean() < 10
    strips = back[:, 48:].astype(int)
    apart = np.abs(np.diff(strips, axis=0)).mean((1, 2, 3))  # from frame t to t + 1
    ends = [11, 16, 21, 26, 31, 36, 39]
    assert {int(t) + 1 for t in np.argsort(apart)[-4:]} <= set(ends) and apart[10] > 4 * np.median(apart)


def test_captions():
    draw = video_demo.Captions(200, 2, ['links', 'под'])
    picture = draw([(1, .5), (0, .25)])
    assert picture.shape == (36, 200, 3)
    bar = (picture == video_demo.BAR).all(-1)
    assert bar[1].sum() == 100 and bar[19].sum() == 50  # bars as long as the scores
    assert draw([(1, .5), (0, .25)]) is picture and not (draw([(1, .5), (0, .26)]) == picture).all()
    other = video_demo.Captions(200, 1, ['под', 'тд?'])
    assert not (other([(0, .5)]) == other([(1, .5)])).all()


def test_a_short_video_is_one_window(project, tmp_path, capsys):
    folder, model, a, _ = project
    write_lossless(tmp_path / 'short.mkv', a[:5])
    video_demo.main([str(folder / 'net.py'), str(folder / 'net.pth'), str(tmp_path / 'short.mkv'), '--out',
                     str(tmp_path / 'out.webm'), '--device', 'cpu', '--scores', str(tmp_path / 's.csv')])
    out = capsys.readouterr().out
    assert '5 frames, 1 windows of 5: class' in out and '6 frames of the whole video (5), as the test' in out
    row = list(csv.reader((tmp_path / 's.csv').open()))[1]
    close([float(value) for value in row[3:]], scores_of(model, a[:5]))
    assert len(read(tmp_path / 'out.webm')) == 5


def test_a_network_of_whole_videos_sees_the_whole_video(project, tmp_path, capsys):
    """The sampler takes 6 frames over all of it: not windows of 6 consecutive ones."""
    folder, model, a, b = project
    frames = np.concatenate([a, b])
    write_lossless(tmp_path / 'long.mkv', frames, fps=10)
    video_demo.main([str(folder / 'net.py'), str(folder / 'net.pth'), str(tmp_path / 'long.mkv'), '--out',
                     str(tmp_path / 'out.mp4'), '--device', 'cpu', '--scores', str(tmp_path / 's.csv')])
    rows = list(csv.reader((tmp_path / 's.csv').open()))[1:]
    assert len(rows) == 1 and rows[0][:2] == ['0', '39']
    close([float(value) for value in rows[0][3:]], scores_of(model, frames))
    out = capsys.readouterr().out
    assert '6 frames of the whole video (40), as the test pipeline takes them: WholeVideoSampleFrames(clip_len=6' in out


@pytest.mark.parametrize('kind, step, frames, span', [
    ('Recognizer3D', dict(type='SampleFrames', clip_len=8, frame_interval=4, num_clips=1, test_mode=True), 8, 32),
    ('Recognizer3D', dict(type='SampleFrames', clip_len=16, num_clips=10, test_mode=True), 16, 16),
    ('Recognizer3D', dict(type='RandomRateSampleFrames', clip_len=32, test_mode=True), 32, 64),
    ('Recognizer3D', dict(type='UniformSample', clip_len=8, test_mode=True), 8, None),
    ('Recognizer3D', dict(type='UniformSampleFrames', clip_len=48, num_clips=10, test_mode=True), 48, None),
    ('Recognizer3D', dict(type='WholeVideoSampleFrames', clip_len=16), 16, None),
    ('Recognizer2D', dict(type='SampleFrames', clip_len=1, num_clips=8, test_mode=True), 8, None),
    ('Recognizer2D', dict(type='DenseSampleFrames', clip_len=1, num_clips=8, num_sample_positions=1, test_mode=True),
     8, 64)])
def test_what_a_pipeline_covers(kind, step, frames, span):
    config = Config(dict(model=dict(type=kind), test_pipeline=[dict(type='DecordInit'), step]))
    found = video_demo.clip_sampling(config)
    assert (found.frames, found.span) == (frames, span) and found.sampler.startswith(step['type'])


def test_demo_mistakes(project, tmp_path, capsys):
    folder = project[0]
    start = [str(folder / 'net.py'), str(folder / 'net.pth')]
    for options, message in ((['--out', 'x.avi'], 'must end in .mp4 or .webm'),
                             (['--out', 'x.mp4', '--stride', '0'], '--stride must be at least 1')):
        with pytest.raises(SystemExit):
            video_demo.main([*start, str(folder / 'a.mkv'), *options])
        assert message in capsys.readouterr().err
    out = ['--out', str(tmp_path / 'x.mp4')]
    with pytest.raises(FileNotFoundError, match='no video'):
        video_demo.main([*start, str(folder / 'gone.mkv'), *out])
    (tmp_path / 'noise.mp4').write_bytes(b'no video')
    with pytest.raises(ValueError, match='cannot be decoded'):
        video_demo.main([*start, str(tmp_path / 'noise.mp4'), *out])
    assert not (tmp_path / 'x.mp4').exists()


@pytest.mark.skipif(find_chromium() is None, reason='needs Chromium on the PATH')
def test_a_browser_plays_it(demo):
    folder, frames = demo
    page = folder / 'page.html'
    page.write_text('<video id="v" muted src="out.mp4"></video>')
    with tempfile.TemporaryDirectory() as profile, Chromium(profile) as chromium:
        chromium.open(page)
        state = chromium.run('''new Promise((done, fail) => {
            const v = document.getElementById("v");
            v.onerror = () => done({error: v.error.message});
            v.onseeked = () => done({width: v.videoWidth, height: v.videoHeight, seconds: v.duration,
                                     at: v.currentTime});
            const seek = () => { v.currentTime = 2.05; };
            if (v.readyState >= 1) seek(); else v.onloadedmetadata = seek;
        })''')
    assert 'error' not in state, state
    row = video_demo.Captions(64, 2, []).row
    assert (state['width'], state['height']) == (64, 48 + 2 * row)
    assert state['seconds'] == pytest.approx(4., abs=.11) and state['at'] == pytest.approx(2.05, abs=.1)
