"""What numpy 2, setuptools 84 and missing libraries broke in mmaction2: numbers, files and what is drawn."""
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms import ColorJitter
from mmaction.structures import ActionDataSample
from mmaction.visualization import ActionVisualizer
from mmengine.structures import LabelData
from PIL import Image

from tconv_mmaction.compat import drawing, numpy_two, script_libraries, whole_files

# ---- numpy 2 ----

@pytest.mark.parametrize('factor', [-0.5, -0.3, -0.1, 0.1, 0.25, 0.5])
def test_hue_is_turned_modulo_a_circle(factor):
    # 180 saturated colours, one per step of OpenCV's hue: turning permutes them
    hsv = np.stack([np.arange(180), np.full(180, 255), np.full(180, 255)], -1).astype(np.uint8)[None]
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    turned = ColorJitter.adjust_hue(image.astype(np.float32), factor)
    assert turned.dtype == np.float32
    # a hue survives the way through RGB to within one of its steps
    hues = cv2.cvtColor(turned.astype(np.uint8), cv2.COLOR_RGB2HSV)[0, :, 0].astype(int)
    expected = (np.arange(180) + int(factor * 255)) % 180
    assert np.minimum((hues - expected) % 180, (expected - hues) % 180).max() <= 1


def test_color_jitter_runs_over_its_whole_range():
    np.random.seed(0)
    clip = [np.random.randint(0, 255, (6, 5, 3), dtype=np.uint8) for _ in range(2)]
    jitter = ColorJitter(hue=0.5)
    for _ in range(20):
        assert all(frame.dtype == np.uint8 for frame in jitter(dict(imgs=clip))['imgs'])


def test_a_hue_that_is_right_is_left_alone(monkeypatch):
    monkeypatch.setattr(ColorJitter, 'adjust_hue', staticmethod(numpy_two.adjust_hue))
    for name in ('Inf', 'trapz', 'in1d'):
        monkeypatch.setattr(np, name, None, raising=False)  # as numpy 1 has them
    assert numpy_two.apply() == (False, f'mmaction2 and numpy {np.__version__} fit')


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < '2.0.0', reason='numpy 1 has the names itself')
def test_removed_names_are_where_they_are_used_and_nowhere_else():
    from mmaction.datasets.transforms import pose_transforms
    from mmaction.evaluation.functional import accuracy
    assert pose_transforms.np.Inf == np.inf
    assert accuracy.np.trapz([1., 3.], [0., 2.]) == 4.
    assert accuracy.np.in1d([[1, 2], [3, 4]], [2, 3]).tolist() == [False, True, True, False]
    assert pose_transforms.np.zeros is np.zeros and pose_transforms.np.random.rand is np.random.rand
    assert not hasattr(np, 'Inf') and not hasattr(np, 'trapz')


def test_a_pose_is_cropped_to_its_points():
    from mmaction.datasets.transforms import PoseCompact
    points = np.array([[[[20., 10.], [30., 25.], [0., 0.]]]])  # one person, one frame; (0, 0) is a missing point
    results = dict(keypoint=points, img_shape=(60, 80))
    compact = PoseCompact(padding=0., threshold=1)(results)
    assert compact['img_shape'] == (15, 10)  # rows 10 to 25, columns 20 to 30
    np.testing.assert_array_equal(compact['keypoint'][0, 0, :2], [[0., 0.], [10., 15.]])


def test_the_area_under_average_recall():
    from mmaction.evaluation.functional.accuracy import average_recall_at_avg_proposals
    truth = dict(a=np.array([[0., 10.]]))
    proposals = dict(a=np.array([[0., 10., .9], [20., 30., .8]]))
    recall, average, number, area = average_recall_at_avg_proposals(truth, proposals, 2)
    # the first proposal is the truth, so recall is 1 from one proposal on
    assert number[-1] == 2. and average[-1] == 1. and recall.shape[1] == len(number) and 0 < area <= 100


# ---- drawing ----

@pytest.fixture
def frames():
    return np.random.RandomState(0).randint(0, 255, (5, 40, 60, 3), dtype=np.uint8)


def drawn_text(sample, monkeypatch):
    """The lines that ActionVisualizer draws for a sample."""
    texts = []
    monkeypatch.setattr(ActionVisualizer, 'draw_texts', lambda self, text, *args, **kwargs: texts.append(text))
    ActionVisualizer(name='texts').add_datasample('clip', np.zeros((1, 20, 30, 3), np.uint8), sample)
    return texts[0].splitlines()[1:]


@pytest.mark.parametrize('names', ['new', 'old'])
def test_labels_of_both_generations_of_samples_are_drawn(names, monkeypatch):
    sample = ActionDataSample()
    if names == 'new':
        sample.set_gt_label(2)
        sample.set_pred_label(1)
        sample.set_pred_score(torch.tensor([.1, .7, .2]))
    else:
        sample.gt_labels = LabelData(item=torch.tensor([2]))
        sample.pred_labels = LabelData(item=torch.tensor([1]), score=torch.tensor([.1, .7, .2]))
    before = set(sample.keys())
    assert drawn_text(sample, monkeypatch) == ['Ground truth: 2', 'Prediction: 1, 0.70']
    assert set(sample.keys()) == before  # the sample itself is not changed


def test_a_gif_without_moviepy(frames, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'moviepy', None)
    visualizer = ActionVisualizer(name='gif')
    visualizer.add_datasample('clip', frames, out_type='gif', fps=10, out_path=str(tmp_path / 'clip.mp4'))
    with Image.open(tmp_path / 'clip.gif') as image:
        assert image.n_frames == 5 and image.size == (60, 40) and image.info['duration'] == 100


def test_equal_frames_of_a_gif_are_kept(tmp_path):
    drawing.write_gif(tmp_path / 'still.gif', [np.full((8, 8, 3), 90, np.uint8)] * 3, fps=4)
    with Image.open(tmp_path / 'still.gif') as image:
        total = 0
        for number in range(image.n_frames):
            image.seek(number)
            total += image.info['duration']
    assert total == 750


def test_tensorboard_gets_an_animation_without_moviepy(frames, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    monkeypatch.setitem(sys.modules, 'moviepy', None)
    visualizer = ActionVisualizer(name='board', save_dir=str(tmp_path),
                                  vis_backends=[dict(type='TensorboardVisBackend')])
    visualizer.add_datasample('clip', frames, step=3)
    visualizer.close()
    board = EventAccumulator(str(tmp_path / 'vis_data'))
    board.Reload()
    event, = board.Images('clip')
    assert event.step == 3 and event.encoded_image_string[:6] == b'GIF89a' and (event.width, event.height) == (60, 40)


@pytest.mark.parametrize('kind', ['3D', '2D'])
def test_the_frames_of_a_sample(kind, frames):
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # T, C, H, W
    sample = torch.stack([clip.transpose(0, 1), 255 - clip.transpose(0, 1)]) if kind == '3D' else clip
    np.testing.assert_array_equal(drawing.frames_of(sample), frames)


def test_a_sample_without_colours_is_refused_by_name():
    with pytest.raises(ValueError, match=r'\(1, 2, 5, 8, 8\) cannot be drawn.*three channels.*enable=False'):
        drawing.frames_of(torch.zeros(1, 2, 5, 8, 8))


def test_the_visualization_hook_draws_every_second_sample(tmp_path, frames):
    from mmaction.engine.hooks import VisualizationHook
    ActionVisualizer.get_instance('hooked', vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path))
    hook = VisualizationHook(enable=True, interval=2, out_dir=str(tmp_path / 'out'))
    samples = []
    for number in range(5):
        sample = ActionDataSample()
        sample.set_gt_label(0)
        sample.set_metainfo(dict(filename=f'videos/v{number}.mp4'))
        samples.append(sample)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
    runner = types.SimpleNamespace()
    for index, part in enumerate((samples[:3], samples[3:])):  # the last batch is smaller
        hook.after_test_iter(runner, index, dict(inputs=[clip] * len(part)), part)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['v0.mp4_0', 'v2.mp4_0', 'v4.mp4_0']
    assert len(list((tmp_path / 'out/v4.mp4_0/frames_0').glob('*.png'))) == 5
    VisualizationHook(enable=False).after_test_iter(runner, 0, dict(inputs=[]), [])


# ---- libraries of single scripts ----

def test_a_curve_without_seaborn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'seaborn', None)
    with script_libraries.available('analysis_tools/analyze_logs.py'):
        import seaborn
        seaborn.set_style('dark')
        with pytest.raises(ValueError, match="no style 'pink'"):
            seaborn.set_style('pink')
    assert sys.modules['seaborn'] is None


def test_a_video_of_grad_cam_without_moviepy(frames, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'moviepy', None)
    with script_libraries.available('visualizations/vis_cam.py'):
        from moviepy.editor import ImageSequenceClip
        ImageSequenceClip(list(frames), fps=5).write_gif(str(tmp_path / 'cam.gif'))
        ImageSequenceClip(list(frames), fps=5).write_videofile(str(tmp_path / 'cam.mp4'), remove_temp=True)
    assert cv2.VideoCapture(str(tmp_path / 'cam.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 5
    with Image.open(tmp_path / 'cam.gif') as image:
        assert image.n_frames == 5


def test_an_installed_library_is_left_alone(monkeypatch):
    real = types.ModuleType('seaborn')
    monkeypatch.setitem(sys.modules, 'seaborn', real)
    with script_libraries.available('analyze_logs.py'):
        assert sys.modules['seaborn'] is real
    with script_libraries.available('another.py'):
        assert sys.modules['seaborn'] is real


# ---- checkpoints ----

class Backend:
    """A file backend that counts what it is asked."""

    def __init__(self, **kinds):
        self.kinds, self.asked, self.removed = kinds, [], []

    def isfile(self, path):
        self.asked.append(path)
        return self.kinds.get(path) == 'file'

    def isdir(self, path):
        self.asked.append(path)
        return self.kinds.get(path) == 'folder'

    def remove(self, path):
        self.removed.append(('file', path))

    def rmtree(self, path):
        self.removed.append(('folder', path))


def test_what_the_hook_asked_a_backend_is_not_asked_again():
    backend, hub = Backend(), types.SimpleNamespace(update_info=lambda *args: None)
    later = whole_files._DeleteLater(backend, hub)
    later.remove('a')
    later.rmtree('b')
    later.remove('kept')
    later.delete(keep=('kept', ))
    assert backend.removed == [('file', 'a'), ('folder', 'b')] and not backend.asked


def test_what_an_earlier_run_left_is_asked_for():
    backend, hub = Backend(a='file', b='folder'), types.SimpleNamespace(update_info=lambda *args: None)
    later = whole_files._DeleteLater(backend, hub)
    later.paths = ['a', 'b', 'gone']
    later.delete(keep=())
    assert backend.removed == [('file', 'a'), ('folder', 'b')]


