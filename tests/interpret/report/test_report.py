"""The report page: its numbers are the methods', its HTML is sound whatever the names, and it works in a browser."""
import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.headless_chromium import Chromium, find_chromium
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import moving_square, write_film
from mmengine.config import Config
from torch import nn

from tconv_mmaction.interpret import (
    RecognizerScores,
    find_temporal_mask,
    grad_cam,
    kernel_sizes,
    most_active_channels,
    normalise_maps,
    temporal_parameters,
    upsample_maps,
)
from tconv_mmaction.interpret.access.clips import Clip, ClipReader, load_recognizer
from tconv_mmaction.interpret.pictures.temporal_figures import filter_trajectory
from tconv_mmaction.interpret.report.clip_analysis import analyse_clip, data_uri, default_channel_layers, downscaled
from tconv_mmaction.interpret.report.html_text import script_json
from tconv_mmaction.interpret.report.page import ClipReport, ModelInfo, render_report

TOOLS = ROOT / 'tools/analysis'
EVIL = '<script>window.hacked=1<!--&"\'.mp4'  # a file name
EVIL_CLASS = '</script><img src=x onerror="window.hacked=2">'
VOID = {'meta', 'link', 'img', 'input', 'br'}

CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='LeNet5', temporal_cfg=dict(type='{kind}'), in_channels=3, channels=(4, 6),
                  clip_shape=({frames}, 32, 32)),
    cls_head=dict(type='I3DHead', num_classes=3, in_channels=84, dropout_ratio=0., init_std=0.3, average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100., 110., 120.], std=[50., 55., 60.],
                           format_shape='NCTHW'))
test_pipeline = [
    dict(type='DecordInit'),
    dict(type='SampleFrames', clip_len={frames}, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='DecordDecode'), dict(type='Resize', scale=(-1, 32)), dict(type='CenterCrop', crop_size=32),
    dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='VideoDataset', ann_file='{folder}/list.txt', data_prefix=dict(video='{folder}'), pipeline=test_pipeline,
    test_mode=True))
'''


def film(path, frames=16, size=(48, 64), grey=False):
    """A bright square that moves right over a dark gradient."""
    images = moving_square(frames, size, min(size) // 4, brightest=90)
    return str(write_film(Path(path), images[..., 2] if grey else images, 'FFV1' if grey else 'mp4v'))


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A 3T model of 12 frames and a 3D model of 16, with checkpoints; films, one with a hostile name, and odd ones."""
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    init_default_scope('mmaction')
    folder = tmp_path_factory.mktemp('project')
    for name, kind, frames in (('three', 'Conv3T', 12), ('plain', 'Conv3d', 16)):
        text = CONFIG.replace('{kind}', kind).replace('{frames}', str(frames)).replace('{folder}', folder.as_posix())
        (folder / f'{name}.py').write_text(text)
        torch.manual_seed(1)
        model = MODELS.build(Config.fromfile(folder / f'{name}.py').model)
        model.init_weights()
        for layer in temporal_parameters(model):
            module = model.get_submodule(layer)
            for parameter in (module.scale, module.rotate, module.translate_x, module.translate_y):
                nn.init.normal_(parameter, mean=float(parameter is module.scale), std=0.1)
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    film(folder / 'a.mp4')
    film(folder / EVIL, size=(96, 64))
    (folder / 'broken.mp4').write_bytes(b'no video at all' * 50)
    (folder / 'list.txt').write_text('a.mp4 2\na.mp4 0\n')
    (folder / 'classes.txt').write_text(f'wave\n{EVIL_CLASS}\nclap & "go"\n')
    return folder


@pytest.fixture
def report(project):
    """``report(arguments)`` runs the tool on the 3T model and returns its exit code."""
    module = load_script('tools/analysis/report.py')

    def run(*arguments):
        return module.main([str(argument) for argument in (project / 'three.py', project / 'three.pth', *arguments,
                                                           '--device', 'cpu')])
    return run


class Page(HTMLParser):
    """A parsed page; raises where elements are not closed in their order."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.ids = [], [], {}, []
        self.feed(path.read_text(encoding='utf-8') if isinstance(path, Path) else path)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        self.data = json.loads(''.join(self.texts['script report-data']))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.ids += [attributes['id']] if 'id' in attributes else []
        if tag not in VOID:
            self.open.append(f'{tag} {attributes.get("id", "")}'.strip())

    def handle_startendtag(self, tag, attributes):  # SVG's
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop().split()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def decoded(uri):
    kind, _, data = uri.partition(';base64,')
    assert kind in ('data:image/png', 'data:image/jpeg')
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_numbers_are_those_of_the_methods(project, report, tmp_path):
    assert report(project / 'a.mp4', project / EVIL, '--out', tmp_path, '--iterations', 5, '--channels', 2,
                  '--classes', project / 'classes.txt', '--target', 1) == 0
    assert [path.name for path in tmp_path.iterdir()] == ['index.html']
    page = Page(tmp_path / 'index.html')
    model = load_recognizer(str(project / 'three.py'), str(project / 'three.pth'))
    assert [clip['name'] for clip in page.data['clips']] == ['a.mp4', EVIL]
    for name, clip_data in zip(('a.mp4', EVIL), page.data['clips']):
        numbers, = clip_data['models']
        clip = ClipReader(model).video(str(project / name))
        found = find_temporal_mask(model, clip.inputs, 1, iterations=5)
        with torch.no_grad():
            scores = RecognizerScores(model)(clip.inputs)[0]
        maps = normalise_maps(upsample_maps(grad_cam(model, clip.inputs, 1, 'backbone.conv2'), clip.frames.shape[:3]))
        assert (numbers['target'], numbers['label'], numbers['layer']) == (1, None, 'backbone.conv2')
        np.testing.assert_allclose(numbers['scores'], scores, atol=1e-6)
        np.testing.assert_allclose(numbers['mask'], found.mask[0], atol=1e-6)
        np.testing.assert_allclose([numbers['original'], numbers['freeze'], numbers['reverse']],
                                   [float(x) for x in (found.original, found.freeze, found.reverse)], atol=1e-6)
        np.testing.assert_allclose(numbers['attention'], maps[0].mean((1, 2)), atol=1e-6)
        assert numbers['runs'] == [list(run) for run in found.runs[0]]
        assert [(c['layer'], c['channel']) for c in numbers['channels']] == [
            (layer, channel) for layer in ('backbone.conv1', 'backbone.conv2')
            for channel in most_active_channels(model, clip.inputs, layer, 2).channels[0].tolist()]
        for channel in numbers['channels']:
            layer = channel['layer']
            path = filter_trajectory(temporal_parameters(model)[layer], channel['channel'], kernel_sizes(model)[layer])
            np.testing.assert_allclose(channel['path'], path.path)
            np.testing.assert_allclose(channel['zoom'], path.zoom)
            np.testing.assert_allclose(channel['clockwise'], path.clockwise)


def test_page_loads_nothing_and_escapes_everything(project, report, tmp_path):
    out = tmp_path / 'page.html'
    assert report(project / 'a.mp4', project / EVIL, '--compare', project / 'plain.py', project / 'plain.pth', '--out',
                  out, '--iterations', 2, '--channels', 1, '--classes', project / 'classes.txt', '--target', 1,
                  '--title', '<b>&', '--titles', '3T <i>', 'plain') == 0
    page, text = Page(out), out.read_text(encoding='utf-8')
    assert [a for a in page.attributes('script')] == [dict(type='application/json', id='report-data'), {}]
    assert text.count('</script') == 2 and '<script>window.hacked' not in text and '<img src=x' not in text
    assert page.texts['title'] == ['<b>&'] and page.texts['h1'] == ['<b>&']
    assert page.texts['h2 clip-1-name'] == [EVIL] and page.texts['h2 clip-0-name'] == ['a.mp4']
    assert page.data['models'][0]['classes'][1] == EVIL_CLASS and page.data['models'][0]['title'] == '3T <i>'
    for _, attributes in page.tags:
        assert not any(name.startswith('on') for name in attributes)
        for name in ('src', 'href'):
            assert attributes.get(name, 'data:').startswith(('data:', '#'))
    policy, = (a['content'] for a in page.attributes('meta') if 'content' in a and 'http-equiv' in a)
    assert "default-src 'none'" in policy and '://' not in text
    images = page.attributes('img')
    # per clip and model: frames and overlays in the strip, two views; the 3T model's channels with two pictures each
    assert len(images) == 2 * ((2 * 12 + 2 + 2 * 2) + (2 * 16 + 2))
    assert all(a['alt'] for a in images) and all(a['aria-label'] for a in page.attributes('svg'))
    sliders = page.attributes('input')
    assert [a['max'] for a in sliders] == ['15', '15']  # of the model with most frames
    assert all(EVIL in a['aria-label'] for a in sliders[1:])
    small = decoded(images[0]['src'])
    clip = ClipReader(load_recognizer(str(project / 'three.py'), str(project / 'three.pth'))).video(
        str(project / 'a.mp4'))
    assert any((small == frame).all() for frame in clip.frames)  # 32x32 is kept as it is


def test_odd_clips_are_done_or_reported(project, report, tmp_path, capsys):
    odd = dict(one=film(tmp_path / 'one.mp4', frames=1), grey=film(tmp_path / 'grey.mkv', grey=True),
               portrait=film(tmp_path / 'portrait.mp4', size=(128, 40)),
               large=film(tmp_path / 'large.mp4', frames=4, size=(1080, 1920)))
    out = tmp_path / 'page'
    assert report(odd['one'], project / 'broken.mp4', odd['grey'], tmp_path / 'nowhere.mp4', odd['portrait'],
                  odd['large'], '--out', out, '--iterations', 2, '--channels', 0) == 1
    page, printed = Page(out / 'index.html'), capsys.readouterr()
    names = ['one.mp4', 'broken.mp4', 'grey.mkv', 'nowhere.mp4', 'portrait.mp4', 'large.mp4']
    assert [page.texts[f'h2 clip-{i}-name'] for i in range(6)] == [[name] for name in names]
    errors = {clip['name']: clip['models'][0].get('error') for clip in page.data['clips']}
    assert [name for name, error in errors.items() if error] == ['broken.mp4', 'nowhere.mp4']
    assert 'there is no video' in errors['nowhere.mp4'] and 'cannot read' in errors['broken.mp4']
    assert f'Skipped: {errors["broken.mp4"]}' in page.texts['p']
    assert [a['href'] for a in page.attributes('a')] == ['#clip-1', '#clip-3']
    assert 'skipped broken.mp4' in printed.err and '2 of 6 clip(s) skipped' in printed.err

    assert report(project / 'broken.mp4', '--out', out) == 2  # nothing done, but the page says so
    assert 'clip-0' in Page(out / 'index.html').ids


def three_models(project, tmp_path, *arguments):
    """The 3T model, the 3D one, and the 3T one again by another checkpoint of the same file name."""
    (tmp_path / 'again').mkdir(exist_ok=True)
    state = torch.load(project / 'three.pth')
    state['state_dict']['cls_head.fc_cls.bias'] = torch.tensor([0., 4., 0.])  # it answers class 1
    torch.save(state, tmp_path / 'again/three.pth')
    return (*arguments, '--compare', project / 'plain.py', project / 'plain.pth', '--compare', project / 'three.py',
            tmp_path / 'again/three.pth', '--iterations', 2, '--channels', 4)


def test_several_models_explain_one_class(project, report, tmp_path):
    (tmp_path / 'x').mkdir()
    for folder in (tmp_path / 'x', tmp_path):
        film(folder / 'a.mp4')
    clips = (tmp_path / 'x/a.mp4', tmp_path / 'a.mp4')
    common = three_models(project, tmp_path, *clips, '--channels', 0, '--out', tmp_path / 'out')
    common = (*common[:-1], 0)  # no channels: they cost time

    def targets(*options):
        assert report(*common, *options) == 0
        data = Page(tmp_path / 'out/index.html').data
        return data, [[found['target'] for found in clip['models']] for clip in data['clips']]

    data, found = targets()
    names = [clip['name'] for clip in data['clips']]
    assert len(set(names)) == 2 and names[0] == 'x/a.mp4' and names[1].endswith('/a.mp4')
    assert [model['checkpoint'] for model in data['models']][1] == 'plain.pth'
    assert data['models'][0]['checkpoint'] != data['models'][2]['checkpoint'] == 'again/three.pth'
    assert len({model['title'] for model in data['models']}) == 3
    for clip, chosen in zip(data['clips'], found):  # the class with the highest mean score
        mean = np.mean([model['scores'] for model in clip['models']], axis=0)
        assert chosen == [int(mean.argmax())] * 3
        best = f'Explained: “class {mean.argmax()}”, the class with the highest mean score of all models.'
        assert clip['explained'] == best
    (tmp_path / 'list.txt').write_text('x/a.mp4 wave\na.mp4 2\n')
    data, found = targets('--classes', project / 'classes.txt', '--labels', tmp_path / 'list.txt')
    assert found == [[0] * 3, [2] * 3] and [m['label'] for m in data['clips'][1]['models']] == [2] * 3
    assert data['clips'][0]['explained'] == 'Explained: “wave”, the true class.'
    data, found = targets('--classes', project / 'classes.txt', '--target', 'clap & "go"')
    assert found == [[2] * 3] * 2 and data['clips'][0]['explained'].endswith('given by --target.')
    data, found = targets('--target', 'prediction')
    assert found == [[int(np.argmax(model['scores'])) for model in clip['models']] for clip in data['clips']]
    assert 'explains its own prediction' in data['clips'][0]['explained']


def test_scores_of_methods_are_shown(project, report, tmp_path, capsys):
    (tmp_path / 's.json').write_text('{"grad_cam": [0.2, 0.6, [0.3, 0.5]], "<b>": [0.5, 0.25, null]}')
    assert report(project / 'a.mp4', '--out', tmp_path, '--iterations', 1, '--channels', 0, '--scores',
                  tmp_path / 's.json') == 0
    page = Page(tmp_path / 'index.html')
    assert page.data['models'][0]['scores'] == {
        'grad_cam': dict(auc_deletion=.2, auc_insertion=.6, interval=[.3, .5]),
        '<b>': dict(auc_deletion=.5, auc_insertion=.25, interval=None)}
    assert page.texts['td'][:8] == ['0.200', '0.600', '0.400', '0.300 to 0.500', '0.500', '0.250', '-0.250', '–']
    (tmp_path / 's.json').write_text('{"grad_cam": [0.2, "high"]}')
    for options, message in (((tmp_path / 's.json', ), "s.json: auc_insertion of 'grad_cam' must be a number"),
                             ((tmp_path / 's.json', tmp_path / 's.json'), "auc_insertion of 'grad_cam'"),
                             ((tmp_path / 'no.json', ), 'no.json')):
        assert report(project / 'a.mp4', '--out', tmp_path / 'none', '--scores', *options) == 2
        assert message in capsys.readouterr().err


def test_one_model_fails_the_other_is_shown(project):
    reader = ClipReader(load_recognizer(str(project / 'three.py'), str(project / 'three.pth')))
    found = analyse_clip(reader.model, reader.video(str(project / 'a.mp4')), iterations=2, channels=0)
    models = [ModelInfo(name, f'{name}.py', f'{name}.pth', ['a', 'b', 'c']) for name in 'xy']
    page = Page(render_report('t', models, [ClipReport('clip', ['no <view>', found])]))
    assert [a.get('data-model') for a in page.attributes('div') if a.get('class') == 'panel'] == [None, '1']
    assert 'Skipped: no <view>' in page.texts['p'] and page.data['clips'][0]['models'][0] == {'error': 'no <view>'}
    with pytest.raises(ValueError, match='1 analyses for 2 model'):
        render_report('t', models, [ClipReport('clip', [found])])
    with pytest.raises(ValueError, match='fps must be positive'):
        render_report('t', models, [], fps=0)


def test_clips_of_the_data_set(project, report, tmp_path, capsys):
    assert report('--dataset', 'test', '--indices', 1, 5, '--target', 'label', '--out', tmp_path, '--iterations', 2,
                  '--channel-layers', 'backbone.conv2', '--channels', 1) == 1
    first, second = Page(tmp_path / 'index.html').data['clips']
    assert (first['name'], second['name']) == ('test 1', 'test 5')
    assert first['models'][0]['label'] == first['models'][0]['target'] == 0
    assert [c['layer'] for c in first['models'][0]['channels']] == ['backbone.conv2']
    assert 'has 2 clips (0 to 1), there is no clip 5' in second['models'][0]['error']
    capsys.readouterr()
    for arguments, message in (
            ((), 'give video files or --dataset'), ((project / 'a.mp4', '--indices', 0), '--indices needs --dataset'),
            ((project / 'a.mp4', '--layer', 'conv2'), 'Close to it: backbone.conv2'),
            ((project / 'a.mp4', '--layer', 'backbone', 'a', 'b'), 'one for each of the 1 models; got 3'),
            ((project / 'a.mp4', '--fps', 0), '--fps must be positive'),
            ((project / 'a.mp4', '--titles', 'a', 'b'), '1 model(s) need as many names'),
            ((project / 'a.mp4', '--compare', project / 'plain.py', project / 'no.pth'), 'there is no checkpoint')):
        assert report(*arguments, '--out', tmp_path / 'none') == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'none').exists()


class Brightness(nn.Module):
    """Class 1 by how bright the frames 5 to 9 are on average."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv3d(3, 1, 1, bias=False))
        nn.init.constant_(self.backbone[0].weight, 1 / 3)

    def forward(self, clip):
        bright = self.backbone(clip)[:, 0, 5:10].mean((1, 2, 3))
        return torch.stack([1 - bright, bright], 1)


def hand_clip(frames=16):
    images = np.zeros((frames, 8, 8, 3), dtype=np.uint8)
    images[5:10, 2:6, 2:6] = 255
    inputs = torch.from_numpy(images).permute(3, 0, 1, 2)[None].float() / 255
    return Clip('hand', inputs, images, 1)


def test_analysis_by_hand():
    found = analyse_clip(Brightness(), hand_clip(), target=1)
    # 16 of 64 pixels are 1 in each of the five frames
    assert found.original == pytest.approx(0.25) and found.scores == pytest.approx([0.75, 0.25])
    # Grad-CAM: the gradient is positive in frames 5 to 9, the activation in their patch: 1 there, 0 elsewhere
    np.testing.assert_allclose(found.attention, [0.25 if 5 <= t < 10 else 0 for t in range(16)], atol=1e-6)
    changed = [(decoded(a) != decoded(b)).any() for a, b in zip(found.frames, found.painted)]
    assert changed == [5 <= t < 10 for t in range(16)]
    assert (found.label, found.channels, found.notes, found.layer) == (1, [], [], 'backbone.0')
    assert all(5 <= t < 10 or found.mask[t] < 0.7 for t in range(16)) and found.freeze < 0.01
    model = [ModelInfo('x', 'x.py', 'x.pth', ['dark', 'bright'])]
    useless = 'this mask says nothing'
    assert useless not in render_report('t', model, [ClipReport('clip', [found])])
    assert useless in render_report('t', model, [ClipReport('clip', [found._replace(freeze=found.original)])])
    with pytest.raises(ValueError, match='at least 2'):
        analyse_clip(Brightness(), hand_clip()._replace(inputs=torch.ones(1, 3, 1, 8, 8), frames=np.zeros(
            (1, 8, 8, 3), np.uint8)), target=0)
    with pytest.raises(ValueError, match='is no 3T layer'):
        analyse_clip(Brightness(), hand_clip(), channel_layers=['backbone.0'], iterations=1)
    dark = analyse_clip(Brightness(), hand_clip(), target=0, iterations=1)  # brightness speaks against class 0
    assert dark.silent and not found.silent and dark.frames == dark.painted
    page = render_report('t', model, [ClipReport('clip', [dark])])
    assert 'Grad-CAM is nowhere positive: nothing in backbone.0 speaks for “dark”.' in page
    assert '<figcaption>nothing in backbone.0 speaks for “dark”</figcaption>' in page and 'Grad-CAM of “' not in page
    assert default_channel_layers(Brightness()) == []


def test_pictures():
    large = np.random.RandomState(0).randint(0, 255, (2, 1080, 1920, 3), dtype=np.uint8)
    assert downscaled(large).shape == (2, 126, 224, 3)
    assert downscaled(large.transpose(0, 2, 1, 3)).shape == (2, 224, 126, 3)
    assert downscaled(large[:, :10, :12]) is not None and downscaled(large[:, :10, :12]).shape == (2, 10, 12, 3)
    tiny = large[0, :28, :28]
    np.testing.assert_array_equal(decoded(data_uri(tiny)), tiny)
    smooth = np.tile(np.linspace(0, 255, 200, dtype=np.uint8)[:, None], (100, 1, 3))
    assert data_uri(smooth).startswith('data:image/jpeg') and np.abs(decoded(data_uri(smooth)) - smooth.astype(int)
                                                                     ).max() < 8


def test_json_in_a_script():
    data = {'a</script>': [float('nan'), 1.5, (2, float('inf'))], 'b': '<!--<script>\u2028&\ud800'}
    text = script_json(data)
    assert not set('<>&\u2028') & set(text)
    assert json.loads(text) == {'a</script>': [None, 1.5, [2, None]], 'b': '<!--<script>\u2028&\ud800'}


@pytest.mark.skipif(find_chromium() is None, reason='needs Chromium or Chrome on the PATH, and there is none')
def test_in_a_browser(project, report, tmp_path):
    assert report(project / 'a.mp4', project / EVIL, project / 'broken.mp4', '--compare', project / 'plain.py',
                  project / 'plain.pth', '--out', tmp_path, '--iterations', 2, '--channels', 2, '--classes',
                  project / 'classes.txt', '--target', 1, '--fps', 20) == 1
    state = '''(() => { const s = document.querySelector('#clip-1'); return {
        value: Number(s.querySelector('input').value), text: s.querySelector('output').textContent,
        panels: [...s.querySelectorAll('.panel')].map(p => { const b = [...p.querySelectorAll('.strip button')];
            const t = b.findIndex(x => x.hasAttribute('aria-current')); const i = b[t].querySelectorAll('img');
            return {t, same: p.querySelector('.view-frame').src === i[0].src &&
                             p.querySelector('.view-painted').src === i[1].src,
                    alt: p.querySelector('.view-painted').alt, src: p.querySelector('.view-frame').src,
                    readout: p.querySelector('.readout').textContent}; })}; })()'''
    with Chromium(tmp_path / 'profile') as browser:
        for width in (390, 1280):
            browser.open(tmp_path / 'index.html', width, 900)
            assert browser.run('[innerWidth, document.documentElement.scrollWidth]') == [width, width]
            outside = '''[...document.querySelectorAll('main *')].filter(e => !e.closest('.strip') &&
                e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))'''
            assert browser.run(outside) == []
        assert browser.run("document.querySelectorAll('section[data-clip]').length") == 3
        assert browser.run("document.querySelectorAll('#clip-2 .warning').length") == 2
        assert browser.run('Promise.all([...document.images].map(i => i.decode())).then(() => document.images.length)')
        assert browser.run('typeof window.hacked') == 'undefined'

        browser.run("document.querySelector('#clip-1 input').focus()")
        browser.press('Home', 36)
        first = browser.run(state)
        assert first['value'] == 0 and [panel['t'] for panel in first['panels']] == [0, 0]
        for _ in range(8):
            browser.press('ArrowRight', 39)
        eighth = browser.run(state)
        assert eighth['value'] == 8 and eighth['text'] == 'frame 8 of 0–15'
        assert [panel['t'] for panel in eighth['panels']] == [6, 8]  # 12 and 16 frames: the same share of the clip
        for before, after in zip(first['panels'], eighth['panels']):
            assert before['src'] != after['src'] and before['same'] and after['same']
            assert after['alt'] == f'Grad-CAM on frame {after["t"]}'
        mask = Page(tmp_path / 'index.html').data['clips'][1]['models'][0]['mask'][6]
        assert eighth['panels'][0]['readout'].startswith(f'Frame 6: mask {mask:.2f}')
        browser.run("document.querySelectorAll('#clip-1 .panel')[0].querySelectorAll('.strip button')[11].click()")
        assert browser.run(state)['value'] == 15

        browser.run("document.querySelector('#clip-1 .play').focus()")
        browser.press('End', 35)
        moved = '''new Promise(done => { const s = document.querySelector('#clip-1'), i = s.querySelector('input');
            s.querySelector('.play').click(); const start = i.value; const w = setInterval(() => {
            if (i.value !== start) { clearInterval(w); done(s.querySelector('.play').textContent); } }, 10); })'''
        assert browser.run(moved) == 'Pause'
        browser.run("document.querySelector('#clip-1 .play').click()")
        assert browser.run("document.querySelector('#clip-1 .play').textContent") == 'Play'
        assert browser.errors == []
        assert {url.partition(':')[0] for url in browser.requests} == {'file', 'data'}
        assert [url for url in browser.requests if url.startswith('file')] == [(tmp_path / 'index.html').as_uri()] * 2


@pytest.mark.skipif(find_chromium() is None, reason='needs Chromium or Chrome on the PATH, and there is none')
def test_three_models_on_a_desk_and_on_a_phone(project, report, tmp_path):
    """Nothing beyond the window, figures of a size to be seen, cards folded, and the third model beside the others."""
    assert report(*three_models(project, tmp_path, project / 'a.mp4', project / EVIL), '--classes',
                  project / 'classes.txt', '--out', tmp_path) == 0
    open_all = "document.querySelectorAll('details').forEach(d => d.open = true)"
    outside = '''[...document.querySelectorAll('main *')].filter(e => !e.closest('.strip') &&
        e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))'''
    sides = "[...document.querySelectorAll('{}')].map(e => [e.clientWidth, e.clientHeight])"
    height = 'document.documentElement.scrollHeight'
    with Chromium(tmp_path / 'profile') as browser:
        for width in (1280, 390):
            browser.open(tmp_path / 'index.html', width, 900)
            folds = browser.run("[...document.querySelectorAll('details[data-channels]')].map(d => d.open)")
            assert folds == [False] * 4  # of two clips and two 3T models
            assert browser.run("document.getElementById('legend').open") == (width > 700)
            folded = browser.run(height)
            assert browser.run('document.documentElement.scrollWidth') == width and browser.run(outside) == []
            views = browser.run(sides.format('.views img'))
            assert len(views) == 12 and all(120 <= w <= width and 60 <= h <= 330 for w, h in views)
            cells = browser.run(sides.format('.strip img'))
            assert all(w >= 24 and h >= 24 for w, h in cells)
            tops = browser.run("[...document.querySelectorAll('#clip-0 .panel')].map(p => p.offsetTop)")
            if width == 1280:
                assert len(set(tops)) == 1  # three beside each other
            assert browser.run('''[...document.querySelectorAll('#clip-0 .panel')].every(panel =>
                [...document.querySelectorAll('#clip-0 .channel')].every(card => panel.compareDocumentPosition(card) &
                Node.DOCUMENT_POSITION_FOLLOWING))''')
            browser.run("document.querySelector('details[data-channels] summary').click()")  # as a reader opens it
            assert browser.run("document.querySelectorAll('details[data-channels][open] .channel').length") == 8
            browser.run(open_all)
            assert browser.run('document.documentElement.scrollWidth') == width and browser.run(outside) == []
            plots = browser.run(sides.format('.plots svg'))
            assert len(plots) == 2 * 2 * 8 * 3 and all(w >= 70 for w, _ in plots)
            if width == 390:
                assert folded < browser.run(height) / 2  # half of what a reader on a phone had to scroll through
        assert browser.errors == []
