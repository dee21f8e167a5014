"""The tools of tools/analysis that look at clips, run as their users do: config, checkpoint, video files."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import moving_square, write_film
from mmaction.apis import inference_recognizer
from mmengine.config import Config

from tconv_mmaction.interpret import (
    RecognizerScores,
    find_disjoint_masks,
    find_temporal_mask,
    grad_cam,
    primary_temporal_filters,
    saliency,
)
from tconv_mmaction.interpret.access.clips import ClipReader, class_names, load_recognizer
from tconv_mmaction.interpret.access.default_layer import last_map_layer
from tconv_mmaction.interpret.pictures.rendering import (
    beside,
    heat,
    overlay,
    strip,
    with_timeline,
    write_clip,
    write_image,
)

TOOLS = ROOT / 'tools/analysis'

THREE_D = '''
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, channels=(4, 6),
                  clip_shape=(12, 32, 32)),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=84, dropout_ratio=0., init_std=0.3, average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100., 110., 120.], std=[50., 55., 60.],
                           format_shape='NCTHW'))
sampling = dict(type='SampleFrames', clip_len=12, frame_interval=1, num_clips=2, test_mode=True)
crop, shape = dict(type='ThreeCrop', crop_size=32), 'NCTHW'
'''
TWO_D = '''
model = dict(
    type='Recognizer2D',
    backbone=dict(type='MobileNetV2', widen_factor=0.1, pretrained=None),
    cls_head=dict(type='TSNHead', num_classes=3, in_channels=1280, init_std=0.3, average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100., 110., 120.], std=[50., 55., 60.],
                           format_shape='NCHW'))
sampling = dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=5, test_mode=True)
crop, shape = dict(type='ThreeCrop', crop_size=32), 'NCHW'
'''
REST = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
test_pipeline = [dict(type='DecordInit'), sampling, dict(type='DecordDecode'), dict(type='Resize', scale=(-1, 32)),
                 crop, dict(type='FormatShape', input_format=shape), dict(type='PackActionInputs')]
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='VideoDataset', ann_file='{folder}/list.txt', data_prefix=dict(video='{folder}'), pipeline=test_pipeline,
    test_mode=True))
'''


def film(path, frames=20, size=(48, 64), start=0):
    """A bright square that moves right over a dark gradient."""
    return str(write_film(path, moving_square(frames, size, start=start, brightest=size[1] - 1)))


@torch.no_grad()
def spread_scores(model):
    """Scale the last layer so that different clips get different scores, neither all equal nor 0 and 1."""
    noise = torch.randn(16, 3, 12, 1, 1) + torch.randn(16, 3, 12, 32, 32)
    logits = RecognizerScores(model, 'logits')(noise)
    model.cls_head.fc_cls.weight /= logits.std(0)[:, None]
    model.cls_head.fc_cls.bias -= logits.mean(0) / logits.std(0)


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Two tiny models with configs and checkpoints, two films, a broken one and a list."""
    folder = tmp_path_factory.mktemp('project')
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    init_default_scope('mmaction')
    for name, text in (('three', THREE_D), ('two', TWO_D)):
        (folder / f'{name}.py').write_text(text + REST.replace('{folder}', folder.as_posix()))
        torch.manual_seed(1)
        model = MODELS.build(Config.fromfile(folder / f'{name}.py').model)
        model.init_weights()
        spread_scores(model.eval())
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    film(folder / 'a.mp4')
    film(folder / 'b.mp4', start=20, size=(96, 64))
    (folder / 'broken.mp4').write_bytes(b'no video at all' * 50)
    (folder / 'list.txt').write_text('a.mp4 2\nb.mp4 0\n')
    (folder / 'classes.txt').write_text('wave\npoint\nclap\n')
    return folder


@pytest.fixture
def tool():
    def run(name, *arguments):
        return load_script(f'tools/analysis/{name}.py').main([str(argument) for argument in arguments])
    return run


def video_size(path):
    capture = cv2.VideoCapture(str(path))
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), int(capture.get(3)), int(capture.get(4))


@pytest.mark.parametrize('name', ['three', 'two'])
def test_clips_are_what_inference_sees(project, name):
    model = load_recognizer(str(project / f'{name}.py'), str(project / f'{name}.pth'))
    views = 6 if name == 'three' else 3
    clips = [ClipReader(model, view).video(str(project / 'a.mp4')) for view in range(views)]
    with torch.no_grad():
        scores = torch.cat([RecognizerScores(model)(clip.inputs) for clip in clips])
        logits = torch.cat([RecognizerScores(model, 'logits')(clip.inputs) for clip in clips])
    expected = inference_recognizer(model, str(project / 'a.mp4')).pred_score
    # of several views mmaction2 averages the probabilities in 3D, the logits of all frames in 2D
    mean = scores.mean(0) if name == 'three' else logits.mean(0).softmax(0)
    torch.testing.assert_close(mean, expected)
    assert scores.std(0).max() > 1e-4 and torch.isfinite(logits).all()
    for clip in clips:  # what is shown, normalised, is what the network gets
        frames = torch.from_numpy(clip.frames).float()
        normalised = (frames - torch.tensor([100., 110., 120.])) / torch.tensor([50., 55., 60.])
        torch.testing.assert_close(clip.inputs[0], normalised.permute(3, 0, 1, 2))
    middle = ClipReader(model).video(str(project / 'a.mp4'))
    assert torch.equal(middle.inputs, clips[views // 2].inputs) and middle.label is None
    sample = ClipReader(model).sample('test', 1)
    assert sample.label == 0
    torch.testing.assert_close(sample.inputs, ClipReader(model).video(str(project / 'b.mp4')).inputs)
    with pytest.raises(ValueError, match=r'there is no view 9'):
        ClipReader(model, 9).video(str(project / 'a.mp4'))


def test_temporal_masks(project, tool, tmp_path, capsys):
    code = tool('temporal_masks', project / 'three.py', project / 'three.pth', project / 'a.mp4',
                project / 'broken.mp4', project / 'b.mp4', project / 'nowhere.mp4', '--out', tmp_path,
                '--iterations', 5, '--classes', project / 'classes.txt')
    assert code == 1  # the good ones are done, the others named
    errors = capsys.readouterr().err
    assert 'broken.mp4' in errors and 'there is no video' in errors and '2 of 4 clip(s) skipped' in errors
    table = pd.read_csv(tmp_path / 'masks.csv').set_index('clip')
    assert list(table.index) == ['a', 'b']
    model = load_recognizer(str(project / 'three.py'), str(project / 'three.pth'))
    clip = ClipReader(model).video(str(project / 'a.mp4'))
    found = find_temporal_mask(model, clip.inputs, iterations=5)
    masks = np.load(tmp_path / 'masks.npz')
    np.testing.assert_allclose(masks['mask/a'], found.mask[0], atol=1e-6)
    np.testing.assert_allclose(masks['loss/a'], found.losses[0], atol=1e-6)
    row = table.loc['a']
    assert [row.original, row.freeze, row.reverse] == pytest.approx(
        [float(found.original[0]), float(found.freeze[0]), float(found.reverse[0])], abs=1e-6)
    assert row.class_name in ('wave', 'point', 'clap') and row.frames == 12
    summary = pd.read_csv(tmp_path / 'table_4.csv').set_index('metric')
    assert summary.loc['mask length', 'mean'] == pytest.approx(table['length'].mean())
    assert summary.loc['drop difference', 'mean'] == pytest.approx((table.reverse - table.freeze).mean())
    count, width, height = video_size(tmp_path / 'a.mp4')
    assert count == 12 and width > height > 0 and cv2.imread(str(tmp_path / 'a.png')) is not None


def test_temporal_masks_of_another_perturbation(project, tool, tmp_path):
    assert tool('temporal_masks', project / 'three.py', project / 'three.pth', project / 'a.mp4', '--out', tmp_path,
                '--iterations', 5, '--perturbation', 'grey', '--disjoint', 2) == 0
    model = load_recognizer(str(project / 'three.py'), str(project / 'three.pth'))
    clip = ClipReader(model).video(str(project / 'a.mp4')).inputs
    several = find_disjoint_masks(model, clip, count=2, iterations=5, perturbation='grey')
    np.testing.assert_allclose(np.load(tmp_path / 'masks.npz')['mask/a'], several[0].mask[0], atol=1e-6)
    table = pd.read_csv(tmp_path / 'disjoint.csv')
    assert table['freeze'].tolist() == pytest.approx([float(mask.freeze[0]) for mask in several], abs=1e-6)


@pytest.mark.parametrize('name', ['three', 'two'])
def test_grad_cam(project, tool, tmp_path, name):
    config, checkpoint = project / f'{name}.py', project / f'{name}.pth'
    assert tool('grad_cam', config, checkpoint, '--dataset', 'test', '--target', 'label', '--out', tmp_path, '--format',
                'gif') == 0
    table = pd.read_csv(tmp_path / 'blobs.csv')
    assert table['target'].tolist() == [2, 0] == table['label'].tolist()
    model = load_recognizer(str(config), str(checkpoint))
    clip = ClipReader(model).sample('test', 0)
    layer = {'three': 'backbone.conv2', 'two': 'backbone.layer4'}[name]
    assert set(table['layer']) == {last_map_layer(model, RecognizerScores(model), clip.inputs)}
    if name == 'three':
        assert set(table['layer']) == {layer}
    stored = np.load(tmp_path / 'test_00000.npz')
    np.testing.assert_allclose(stored['maps'], grad_cam(model, clip.inputs, 2, str(stored['layer']))[0], atol=1e-6)
    assert stored['maps'].shape[0] == (2 if name == 'three' else 5)  # steps of the layer: 12 / 2 - 4, and one per frame
    count, width, height = video_size(tmp_path / 'test_00000.gif')
    assert count == len(clip.frames) and (width, height) == (5 * (2 * 32 + 4), 5 * 32)
    summary = pd.read_csv(tmp_path / 'table_3.csv').set_index('metric')
    assert list(summary.index) == ['blob count', 'blob size', 'centre distance']
    steps = stored['maps'].shape[0]  # each map of the two clips counts once, not once per frame
    assert table['maps'].tolist() == [steps] * 2 and summary.loc['blob count', 'count'] == 2 * steps


@pytest.mark.filterwarnings('ignore:layer .* has one time step')
def test_one_time_step_is_one_map_and_no_evidence_is_said(project, tool, tmp_path, capsys):
    """Four frames leave one time step; class 1 has no weights in the head, so that nothing can speak for it."""
    state = torch.load(project / 'three.pth')
    state['state_dict']['cls_head.fc_cls.weight'][1] = 0
    torch.save(state, tmp_path / 'silent.pth')
    options = ('--dataset', 'test', '--classes', project / 'classes.txt')
    assert tool('grad_cam', project / 'three.py', tmp_path / 'silent.pth', *options, '--target', 'point', '--out',
                tmp_path / 'silent') == 0
    out = capsys.readouterr().out
    sentence = 'nothing in backbone.conv2 speaks for point'
    assert out.count(sentence) == 2 and 'blob size: no values (n = 0)' in out and 'nan ±' not in out
    assert pd.read_csv(tmp_path / 'silent/blobs.csv')['note'].tolist() == [sentence] * 2
    band = cv2.imread(str(tmp_path / 'silent/test_00000.png'))[2 * 32 + 2:]
    assert len(band) > 15 and (band == (234, 243, 253)).all(-1).mean() > .5 and (band < 100).any()  # letters on paper
    assert video_size(tmp_path / 'silent/test_00000.mp4')[2] > 4 * 32

    two = (project / 'two.py', project / 'two.pth', *options, '--cfg-options', 'test_pipeline.1.num_clips=1',
           'test_dataloader.dataset.pipeline.1.num_clips=1')
    assert tool('grad_cam', *two, '--target', 'label', '--out', tmp_path / 'two') == 0
    table = pd.read_csv(tmp_path / 'two/blobs.csv')
    assert table['maps'].tolist() == [1, 1] and table['note'].str.endswith('has one time step: where, not when').all()
    assert pd.read_csv(tmp_path / 'two/table_3.csv')['count'][0] == 2


@pytest.mark.parametrize('name, file, options', [
    ('grad_cam', 'blobs.csv', ()), ('temporal_masks', 'masks.csv', ('--iterations', 1)), ('saliency', None, ()),
    ('class_channels', 'channels.csv', ('--max-layers', 1))])
def test_classes_by_name_in_every_tool(project, tool, tmp_path, capsys, name, file, options):
    three = (project / 'three.py', project / 'three.pth', project / 'a.mp4', *options)
    assert tool(name, *three, '--classes', project / 'classes.txt', '--target', 'Clap', '--out', tmp_path) == 0
    if file is None:
        assert 'a: clap' in capsys.readouterr().out and np.load(tmp_path / 'a.npz')['target'] == 2
    else:
        table = pd.read_csv(tmp_path / file)
        assert set(table['class' if name == 'class_channels' else 'class_name']) == {'clap'}
    assert tool(name, *three, '--classes', project / 'classes.txt', '--target', 'clip', '--out', tmp_path / 'no') == 2
    assert "'clip' is no class" in capsys.readouterr().err and not (tmp_path / 'no').exists()


def test_labels_names_and_samples(project, tool, tmp_path, capsys):
    """Several labels, labels of files, names of the checkpoint, and a sample that is no first class only."""
    config = (project / 'three.py', project / 'three.pth')
    run = ('--classes', project / 'classes.txt', '--target', 'label', '--out')
    (tmp_path / 'several.txt').write_text('a.mp4 0 2\nb.mp4 1\n')
    several = ('--cfg-options', f'test_dataloader.dataset.ann_file={tmp_path}/several.txt',
               'test_dataloader.dataset.multi_class=True', 'test_dataloader.dataset.num_classes=3')
    assert tool('grad_cam', *config, '--dataset', 'test', *run, tmp_path / 'several', *several) == 1
    error = capsys.readouterr().err
    assert "has several labels (wave, clap); give a class: --target 'wave'" in error
    assert pd.read_csv(tmp_path / 'several/blobs.csv')['target'].tolist() == [1]

    assert tool('grad_cam', *config, project / 'a.mp4', *run, tmp_path / 'no') == 2
    assert 'has no label: --target label needs --dataset or --labels' in capsys.readouterr().err
    (tmp_path / 'list.txt').write_text('a.mp4 clap\n')
    assert tool('grad_cam', *config, project / 'a.mp4', '--labels', tmp_path / 'list.txt', *run, tmp_path / 'list') == 0
    assert pd.read_csv(tmp_path / 'list/blobs.csv')['label'].tolist() == [2]

    (tmp_path / 'sorted.txt').write_text('a.mp4 0\n' * 4 + 'b.mp4 2\n' * 3)
    ordered = ('--cfg-options', f'test_dataloader.dataset.ann_file={tmp_path}/sorted.txt')
    assert tool('grad_cam', *config, '--dataset', 'test', '--limit', 4, *run, tmp_path / 'some', *ordered) == 0
    assert pd.read_csv(tmp_path / 'some/blobs.csv')['label'].tolist() == [0, 0, 2, 2]

    state = dict(torch.load(config[1]), meta=dict(dataset_meta=dict(classes=('x', 'y', 'z'))))
    torch.save(state, tmp_path / 'named.pth')
    assert ClipReader(load_recognizer(str(config[0]), str(tmp_path / 'named.pth'))).class_names() == ['x', 'y', 'z']


def test_saliency(project, tool, tmp_path):
    assert tool('saliency', project / 'three.py', project / 'three.pth', project / 'a.mp4', '--out', tmp_path,
                '--layer', 'backbone.conv2', '--channels', 2, '--steps', 4, '--target', 1, '--method', 'saliency') == 0
    model = load_recognizer(str(project / 'three.py'), str(project / 'three.pth'))
    clip = ClipReader(model).video(str(project / 'a.mp4'))
    stored = np.load(tmp_path / 'a.npz')
    np.testing.assert_allclose(stored['saliency'], saliency(model, clip.inputs, 1)[0], atol=1e-6)
    channels = stored['channels'].tolist()
    torch.testing.assert_close(torch.from_numpy(stored['channel_saliency'][1]),
                               saliency(model, clip.inputs, channels[1], 'backbone.conv2')[0])
    maximal = stored['maximal_input']
    assert maximal.shape == (2, 3, 12, 32, 32) and (maximal == maximal[:, :, :1]).all()  # 3T: one frame, stacked
    assert pd.read_csv(tmp_path / 'channels.csv')['channel'].tolist() == channels
    assert cv2.imread(str(tmp_path / 'a_channels.png')) is not None
    assert tool('saliency', project / 'two.py', project / 'two.pth', project / 'a.mp4', '--out', tmp_path / 'two') == 0


def test_a_clip_of_one_frame_is_named(project, tool, tmp_path, capsys):
    code = tool('temporal_masks', project / 'two.py', project / 'two.pth', project / 'a.mp4', '--out', tmp_path,
                '--cfg-options', 'test_pipeline.1.num_clips=1')
    assert code == 2 and 'T = 1 frame(s); this needs at least 2' in capsys.readouterr().err


def test_temporal_filters(project, tool, tmp_path, capsys):
    assert tool('temporal_filters', project / 'three.py', project / 'three.pth', '--out', tmp_path) == 0
    table = pd.read_csv(tmp_path / 'energy.csv').set_index('layer')
    assert list(table.index) == ['backbone.conv1', 'backbone.conv2'] and table['filters'].tolist() == [12, 24]
    model = load_recognizer(str(project / 'three.py'), str(project / 'three.pth'))
    found = primary_temporal_filters(model.backbone.conv1.kernel())
    np.testing.assert_allclose(np.load(tmp_path / 'filters.npz')['backbone.conv1/weights'], found.weights, atol=1e-5)
    # at its initialisation a 3T kernel repeats its slice: all of its energy is the average's
    assert table['average'].to_numpy() == pytest.approx(1)
    assert cv2.imread(str(tmp_path / 'distributions.png')) is not None
    assert tool('temporal_filters', project / 'two.py', project / 'two.pth', '--out', tmp_path) == 2
    assert 'no 3D convolution' in capsys.readouterr().err


def test_receptive_field(project, tool, tmp_path, capsys):
    assert tool('receptive_field', project / 'three.py', project / 'three.pth', '--out', tmp_path, '--shape', 3, 12, 32,
                32, '--repeats', 2) == 0
    stored = np.load(tmp_path / 'field.npz')
    assert stored['field'].shape == (12, 32, 32) and stored['time'].sum() == pytest.approx(1)
    np.testing.assert_allclose(pd.read_csv(tmp_path / 'time.csv')['share'], stored['time'])
    assert tool('receptive_field', project / 'two.py', project / 'two.pth', '--out', tmp_path, '--shape', 3, 12, 32,
                32) == 2
    capsys.readouterr()


def test_wrong_arguments_are_one_line(project, tool, tmp_path, capsys):
    three = (project / 'three.py', project / 'three.pth')
    for arguments, message in (
            ((*three,), 'give video files or --dataset'),
            ((*three, project / 'a.mp4', '--layer', 'conv2'), 'Close to it: backbone.conv2'),
            ((project / 'three.py', project / 'two.pth', project / 'a.mp4'), 'does not hold the weights'),
            ((project / 'three.py', project / 'no.pth', project / 'a.mp4'), 'there is no checkpoint'),
            ((project / 'no.py', project / 'three.pth', project / 'a.mp4'), 'no.py'),
            ((*three, project / 'a.mp4', '--target', 'best'), "'best' is no class: neither a name, nor an index"),
            ((*three, project / 'a.mp4', '--target', '7'), 'outside the 3 classes')):
        assert tool('grad_cam', *arguments, '--out', tmp_path) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_class_names(tmp_path):
    (tmp_path / 'names.txt').write_text('a\nb\n')
    assert class_names(str(tmp_path / 'names.txt'), 2) == ['a', 'b'] and class_names(None, 2) == ['class 0', 'class 1']
    with pytest.raises(ValueError, match='2 names, the model 3 classes'):
        class_names(str(tmp_path / 'names.txt'), 3)


def test_rendering_by_hand(tmp_path):
    frames = np.full((2, 4, 6, 3), 100, dtype=np.uint8)
    maps = np.zeros((2, 4, 6))
    maps[1, 2, 3] = 1
    painted = overlay(frames, maps, strength=0.5)
    changed = (painted != frames).any(-1)
    assert changed.sum() == 1 and changed[1, 2, 3]
    colour = cv2.applyColorMap(np.array([[255]], dtype=np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    np.testing.assert_allclose(painted[1, 2, 3], (100 + colour.astype(float)) / 2, atol=1)
    assert heat(2 * maps)[1, 2, 3].tolist() == [255] * 3 and heat(maps).sum() == 3 * 255
    assert strip([frames, frames]).shape == (2 * 4 + 2, 2 * 6 + 2, 3)
    assert beside([frames, frames]).shape == (2, 4, 16, 3)
    line = with_timeline(frames, [0., 1.], height=6)
    assert line.shape == (2, 10, 6, 3)
    assert line[0, -1, 0].tolist() == [190] * 3 and line[0, -1, 5].tolist() == [230, 120, 20]
    assert line[0, 4, 0].tolist() == [0] * 3 and line[1, 4, 0].tolist() == [190] * 3
    image = np.random.randint(0, 255, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / 'x.png', image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'x.png'))[..., ::-1], image)
    for ending in ('mp4', 'gif'):
        write_clip(tmp_path / f'x.{ending}', frames, min_size=None)
        assert video_size(tmp_path / f'x.{ending}') == (2, 6, 4)
    with pytest.raises(ValueError, match=r'\.mp4 or \.gif'):
        write_clip(tmp_path / 'x.avi', frames)
    with pytest.raises(ValueError, match='do not fit'):
        overlay(frames, maps[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['x.gif', 'x.mp4', 'x.png']
