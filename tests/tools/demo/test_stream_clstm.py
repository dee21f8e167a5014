"""The streaming demo gives at every frame what the network gives on the clip up to that frame."""

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import write_film
from mmaction.apis import inference_recognizer, init_recognizer
from mmengine.config import Config

demo = load_script('tools/demo/stream_clstm.py')

CONFIGS = ROOT / 'configs/recognition/clstm'


@pytest.fixture
def video(tmp_path):
    """Twenty frames of 64x48 with a moving square, without loss."""
    frames = np.full((20, 48, 64, 3), 40, np.uint8)
    for t, frame in enumerate(frames):
        frame[10:30, 2 * t:2 * t + 20] = (200, 90, 30)
    return write_film(tmp_path / 'video.avi', frames, 'FFV1', 25.)


@pytest.fixture
def project(tmp_path):
    """A function: 'all' or 'last' to the path of a reduced KTH config and of a checkpoint with generic numbers."""
    def make(steps):
        name = 'clstm_scratch_1xb16-u32-100e_kth-rgb' if steps == 'all' else 'clstm_scratch_1xb16-u32-last-100e_kth-rgb'
        config = Config.fromfile(CONFIGS / f'{name}.py')
        config.model.backbone.update(hidden_channels=4, kernel_size=3)
        config.model.cls_head.update(in_channels=4, feature_size=(3, 4), clip_len=8 if steps == 'all' else None)
        pipeline = config.test_dataloader.dataset.pipeline
        pipeline[1].clip_len = 8
        next(t for t in pipeline if t.type == 'Resize').scale = (64, 48)
        config.test_pipeline = pipeline
        path = tmp_path / f'{steps}.py'
        config.dump(path)
        model = init_recognizer(str(path), device='cpu')
        for buffer in model.backbone.norms.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.2, 0.5)
        torch.nn.init.normal_(model.cls_head.fc_cls.weight, std=0.5)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / f'{steps}.pth')
        return path, tmp_path / f'{steps}.pth', model
    return make


def offline(model, pipeline, video, total):
    """mmaction2's own inference on the first frames of the video."""
    class Truncate:
        def __call__(self, results):
            results['total_frames'] = total
            return results

    from mmcv.transforms import Compose
    steps = [*pipeline[:1], Truncate(), *pipeline[1:]]
    return inference_recognizer(model, str(video), test_pipeline=Compose(steps)).pred_score


def test_every_frame_of_a_last_step_stream_is_the_clip_that_ends_there(project, video):
    _, _, model = project('last')
    pipeline = model.cfg.test_dataloader.dataset.pipeline
    _, images = demo.split_pipeline(pipeline)
    reader = demo.decord.VideoReader(str(video))
    steps = list(demo.classify(demo.StreamClassifier(model, images), demo.read_frames(reader)))
    assert [s.frame for s in steps] == list(range(20)) and [s.steps for s in steps] == list(range(1, 21))
    for t in (1, 2, 7, 20):
        whole = [dict(t_) for t_ in pipeline]
        whole[1] = dict(type='WholeVideoSampleFrames', clip_len=t)  # of the first t frames: all of them
        torch.testing.assert_close(steps[t - 1].probabilities, offline(model, whole, video, t), rtol=1e-5, atol=1e-6)
    assert (steps[0].probabilities - steps[-1].probabilities).abs().max() > 0.01  # the stream matters


def test_an_all_step_stream_ends_at_the_clips_score(project, video):
    _, _, model = project('all')
    pipeline = model.cfg.test_dataloader.dataset.pipeline
    sampler, images = demo.split_pipeline(pipeline)
    indices = demo.TRANSFORMS.build(sampler)(dict(total_frames=20, start_index=0))['frame_inds'].tolist()
    frames = demo.decord.VideoReader(str(video)).get_batch(range(20)).asnumpy()
    steps = list(demo.classify(demo.StreamClassifier(model, images), frames, indices))
    assert [s.frame for s in steps] == indices == [0, 3, 5, 8, 11, 14, 16, 19]
    torch.testing.assert_close(steps[-1].probabilities, offline(model, pipeline, video, 20), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        clip = torch.from_numpy(frames[indices]).permute(3, 0, 1, 2)[None].float()
        running = model.cls_head.running_scores(model.backbone((clip - 127.5) / 127.5)).softmax(-1)[0]
    torch.testing.assert_close(torch.stack([s.probabilities for s in steps]), running, rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_and_frames_are_taken_one_by_one(project):
    _, _, model = project('last')
    classifier, taken = demo.StreamClassifier(model), []

    def endless():
        while True:
            taken.append(len(taken))
            yield np.full((48, 64, 3), len(taken) % 255, np.uint8)

    stream, sizes = demo.classify(classifier, endless()), set()
    for t in range(1, 60):
        next(stream)
        assert len(taken) == t
        tensors = [x for pair in classifier.state for x in pair] + [classifier.scores]
        sizes.add(sum(x.untyped_storage().nbytes() for x in tensors))
        assert all(x.grad_fn is None for x in tensors)
    assert len(sizes) == 1
    classifier.reset()
    assert classifier.steps == 0 and classifier.state is None


def test_command(project, video, tmp_path, capsys):
    config, checkpoint, model = project('all')
    classes = tmp_path / 'classes.txt'
    classes.write_text('boxing\nhandclapping\nhandwaving\njogging\nrunning\nwalking\n')
    assert demo.main([str(video), str(config), str(checkpoint), '--classes', str(classes)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('frame')]
    score = offline(model, model.cfg.test_dataloader.dataset.pipeline, video, 20)
    best = classes.read_text().split()[int(score.argmax())]
    assert len(lines) == 8 and lines[-1].split() == ['frame', '19', 'step', '8', f'{score.max():.2f}', best]
    config, checkpoint, _ = project('last')
    assert demo.main([str(video), str(config), str(checkpoint)]) == 0
    assert sum(line.startswith('frame') for line in capsys.readouterr().out.splitlines()) == 20
    assert demo.main([str(video), str(config), str(checkpoint), '--sampled']) == 0
    assert sum(line.startswith('frame') for line in capsys.readouterr().out.splitlines()) == 8


def test_errors(project, video, tmp_path, capsys):
    config, checkpoint, _ = project('all')
    assert demo.main([str(tmp_path / 'none.mp4'), str(config), str(checkpoint)]) == 2
    assert 'none.mp4 is no file' in capsys.readouterr().err
    (tmp_path / 'two.txt').write_text('a\nb\n')
    assert demo.main([str(video), str(config), str(checkpoint), '--classes', str(tmp_path / 'two.txt')]) == 2
    assert '2 names for 6 classes' in capsys.readouterr().err
    with pytest.raises(ValueError, match='must sample, decode and end in FormatShape'):
        demo.split_pipeline([dict(type='DecordInit')])
    with pytest.raises(ValueError, match='needs a ConvLSTMNet with a SequenceHead, got Identity'):
        model = torch.nn.Module()
        model.backbone = model.cls_head = torch.nn.Identity()
        demo.StreamClassifier(model)


def test_a_video_that_ends_early_is_said(project, shared, capsys):
    broken = shared / 'data/clips/decord_corrupted.mp4'  # the header says 50 frames, those past 28 do not decode
    config, checkpoint, _ = project('last')
    assert demo.main([str(broken), str(config), str(checkpoint)]) == 0
    assert 'ended after frame' in capsys.readouterr().err
