"""Files from strangers: through every entry point, what they ask for is not done, and the message names the file."""
import ast
import functools
import io
import json
import os
import pickle
import re
import sys
import tarfile
import tempfile
from html.parser import HTMLParser

import mmengine
import numpy as np
import pytest
import torch
from helpers.attacks import ATTACKS, Call, guarded, is_guarded, write
from helpers.headless_chromium import Chromium, find_chromium
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import write_film
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import Runner

from tconv_mmaction.cli.main import run_script
from tconv_mmaction.compat.checkpoints import UnsafeCheckpointError
from tconv_mmaction.interpret import load_parameters
from tconv_mmaction.interpret.comparison.comparison_report import tables
from tconv_mmaction.interpret.comparison.model_comparison import MEASURES
from tconv_mmaction.interpret.report.page import ClipReport, ModelInfo, render_report
from tconv_mmaction.utils.read_dump import read_dump

CONFIG = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
RESNET = ROOT / 'configs/recognition/tconv3/resnet18-3t_scratch_1xb8-16x1x1-30e_folder-rgb.py'


# ---- kinds of files ----

def archive(attack, path):
    """What torch.save writes: a zip archive with a pickle."""
    write(attack, path)


def legacy(attack, path):
    """What torch.save wrote before 1.6: pickles one after the other."""
    torch.save(dict(state_dict=dict(weight=torch.ones(2)), message_hub=attack), path,
               _use_new_zipfile_serialization=False)


def bare(attack, path, protocol=2):
    """A pickle and nothing else, which torch.load takes too."""
    path.write_bytes(pickle.dumps(dict(state_dict=attack), protocol=protocol))


def tar(attack, path):
    """What torch.save wrote before 0.1.10."""
    with tarfile.open(path, 'w') as file:
        for name in ('sys_info', 'pickle', 'storages', 'tensors'):
            data = pickle.dumps(attack, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


FORMATS = dict(archive=archive, legacy=legacy, tar=tar, **{
    f'pickle {protocol}': functools.partial(bare, protocol=protocol) for protocol in range(6)})


# ---- ways in ----

def tool(name):
    """``main`` of a tool, in this process."""
    return load_script(name).main


def call(name, *arguments):
    def enter(file, folder, monkeypatch):
        monkeypatch.syspath_prepend(str((ROOT / name).parent))
        monkeypatch.setattr(sys, 'argv', [name, *filled(arguments, file, folder)])
        main = tool(name)
        return main() if name.endswith('batch_statistics.py') else main(filled(arguments, file, folder))
    return enter


def script(name, *arguments):
    return lambda file, folder, monkeypatch: run_script(name, filled(arguments, file, folder))


def filled(arguments, file, folder):
    places = {'FILE': str(file), 'CONFIG': str(CONFIG), 'RESNET': str(RESNET), 'OUT': str(folder / 'out'),
              'VIDEO': str(folder / 'video.mp4')}
    return [re.sub(r'\b(FILE|CONFIG|RESNET|OUT|VIDEO)\b', lambda match: places[match[1]], text) for text in arguments]


@functools.cache
def runner():
    return Runner(MODELS.build(Config.fromfile(CONFIG).model), tempfile.mkdtemp())


def load_checkpoint_of_a_runner(resume):
    def enter(file, folder, monkeypatch):
        runner().resume(str(file)) if resume else runner().load_checkpoint(str(file))
    return enter


def pretrained(**arguments):
    def enter(file, folder, monkeypatch):
        given = json.loads(json.dumps(arguments).replace('FILE', str(file)))
        MODELS.build(dict(type='TemporalResNet3d', depth=18, base_channels=2, **given)).init_weights()
    return enter


def initialized(file, folder, monkeypatch):
    """init_cfg of a module that leaves it to MMEngine."""
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    module.layer = torch.nn.Linear(2, 1)
    module.init_weights()


def last_checkpoint(file, folder, monkeypatch):
    """--resume without a path: the name stands in a text file of the work_dir."""
    (folder / 'work').mkdir()
    (folder / 'work/last_checkpoint').write_text(str(file))
    return run_script('train.py', [str(CONFIG), '--work-dir', str(folder / 'work'), '--resume'])


def inferencer(file, folder, monkeypatch):
    from mmaction.apis import init_recognizer
    init_recognizer(str(CONFIG), str(file), device='cpu')


LIBRARY = {
    'Runner.load_checkpoint': load_checkpoint_of_a_runner(False),
    'Runner.resume': load_checkpoint_of_a_runner(True),
    'pretrained': pretrained(pretrained='FILE'),
    'init_cfg': pretrained(init_cfg=dict(type='Pretrained', checkpoint='FILE')),
    "init_cfg, MMEngine's": initialized,
    'init_recognizer': inferencer,
}
TOOLS = {
    'tools/train.py load_from': script('train.py', 'CONFIG', '--work-dir', 'OUT', '--cfg-options', 'load_from=FILE'),
    'tools/train.py --resume FILE': script('train.py', 'CONFIG', '--work-dir', 'OUT', '--resume', 'FILE'),
    'tools/train.py --resume': last_checkpoint,
    'tools/test.py': script('test.py', 'CONFIG', 'FILE', '--work-dir', 'OUT'),
    'tools/publish.py': call('tools/publish.py', 'FILE', 'OUT.pth'),
    'run deployment/publish_model.py': script('deployment/publish_model.py', 'FILE', 'OUT.pth'),
    'tools/convert/inflate_2d.py': call('tools/convert/inflate_2d.py', 'RESNET', 'FILE', 'OUT.pth'),
    'tools/convert/public_3d.py': call('tools/convert/public_3d.py', 'FILE', 'OUT.pth'),
    'tools/deploy/reparameterize_model.py': call('tools/deploy/reparameterize_model.py', 'CONFIG', 'FILE', 'OUT.pth'),
    'tools/deploy/export_onnx.py': call('tools/deploy/export_onnx.py', 'CONFIG', 'FILE', 'OUT.onnx'),
    'tools/demo/stream_clstm.py': call('tools/demo/stream_clstm.py', 'VIDEO', 'CONFIG', 'FILE'),
    'tools/demo/video_demo.py': call('tools/demo/video_demo.py', 'RESNET', 'FILE', 'VIDEO', '--out',
                                     'OUT.mp4'),
    'tools/analysis/temporal_params.py': call('tools/analysis/temporal_params.py', 'CONFIG', 'FILE', '--out-dir',
                                              'OUT'),
    'tools/analysis/fit.py': call('tools/analysis/fit.py', 'CONFIG', 'FILE', '--out', 'OUT'),
    'tools/convert/fit_3t.py': call('tools/convert/fit_3t.py', 'CONFIG', 'FILE', 'OUT.pth'),
    'tools/analysis/temporal_filters.py': call('tools/analysis/temporal_filters.py', 'CONFIG', 'FILE', '--out', 'OUT'),
    'tools/analysis/compare_models.py': call('tools/analysis/compare_models.py', 'CONFIG', 'FILE', 'CONFIG', 'FILE',
                                             '--out', 'OUT', '--names', 'a', 'b', '--device', 'cpu'),
    'experiments/batch_statistics.py': call('projects/clstm_against_i3d/configs/batch_statistics.py', 'CONFIG', 'FILE',
                                            'OUT'),
    **{f'tools/analysis/{name}.py': call(f'tools/analysis/{name}.py', 'CONFIG', 'FILE', '--out', 'OUT', '--device',
                                         'cpu', '--dataset', 'test')
       for name in ('class_channels', 'film_strips', 'grad_cam', 'report', 'saliency', 'temporal_masks')},
    'tools/analysis/kernel_slices.py': call('tools/analysis/kernel_slices.py', 'CONFIG', 'FILE', '--out', 'OUT'),
}
WAYS = {**LIBRARY, **TOOLS}
# read no checkpoint of a user: they take none, or make their own
WITHOUT = {'tools/compare_runs.py',
           'tconv_mmaction/cli/clip_tool.py', 'tools/analysis/paper_tables.py', 'tools/analysis/receptive_field.py',
           'tools/analysis/show_augmentations.py'}


def enter(way, file, folder, monkeypatch, capsys):
    """What a way in says about the file: error, output, and the exit code if there is one."""
    code, said = None, ''
    try:
        code = WAYS[way](file, folder, monkeypatch)
    except SystemExit as error:
        code = error.code
    except Exception as error:
        said, code = f'{type(error).__name__}: {error}', type(error)
    printed = capsys.readouterr()
    return code, said + printed.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'it-ran.py').write_text(f'open({str(tmp_path / "it-ran")!r}, "w")')
    torch.save(Call(os.system, f'touch {tmp_path / "it-ran"}'), tmp_path / 'it-ran.pth')
    write_film(tmp_path / 'video.mp4', np.zeros((16, 48, 64, 3), np.uint8))
    return tmp_path


def refused(code, said, file, mark):
    assert not mark.exists()
    assert code not in (0, None), said
    assert file.name in said and re.search('nothing (in it was run|of it was loaded)', said, re.IGNORECASE), said
    assert 'weights_only=False' not in said


@guarded
@pytest.mark.parametrize('way', TOOLS)
@pytest.mark.parametrize('kind', ['archive', pytest.param('pickle 4', marks=pytest.mark.slow)])
def test_no_tool_runs_what_a_checkpoint_asks_for(way, kind, folder, monkeypatch, capsys):
    file, mark = folder / 'evil.pth', folder / 'it-ran'
    FORMATS[kind](ATTACKS['os.system'](mark), file)
    code, said = enter(way, file, folder, monkeypatch, capsys)
    refused(code, said, file, mark)
    assert not list(folder.glob('out*')) or not any(path.is_file() for path in folder.glob('out*')), said


def attacks_by_ways():
    """Every attack through one way and every way with one attack; the other pairs are for ``-m slow``."""
    first = next(iter(LIBRARY))
    for way in LIBRARY:
        for name in ATTACKS:
            marks = [*getattr(is_guarded(name), 'marks', ())]
            if way != first and name != 'os.system':
                marks.append(pytest.mark.slow)
            yield pytest.param(way, name, marks=marks)


@pytest.mark.parametrize('way, name', attacks_by_ways())
def test_no_way_of_loading_runs_any_of_them(way, name, folder, monkeypatch, capsys):
    file, mark = folder / 'evil.pth', folder / 'it-ran'
    archive(ATTACKS[name](mark), file)
    code, said = enter(way, file, folder, monkeypatch, capsys)
    assert code is UnsafeCheckpointError, said
    refused(code, said, file, mark)


@guarded
@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('way', LIBRARY)
def test_no_kind_of_file_gets_through(way, kind, folder, monkeypatch, capsys):
    file, mark = folder / 'evil.pth', folder / 'it-ran'
    FORMATS[kind](ATTACKS['eval'](mark), file)
    code, said = enter(way, file, folder, monkeypatch, capsys)
    refused(code, said, file, mark)


def test_every_tool_that_takes_a_checkpoint_is_in_the_list():
    takes = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py')
             if path.parent.name in ('analysis', 'convert', 'deploy', 'demo') or path.parent == ROOT / 'tools'
             if re.search('checkpoint', path.read_text(encoding='utf-8'), re.IGNORECASE)}
    named = {way.split()[0] for way in TOOLS}
    assert takes - named - WITHOUT - {'tools/zoo_tables.py'} == set()
    assert {f'tools/{name}.py' for name in ('train', 'test', 'publish')} <= named


# ---- other files ----

def test_results_of_a_test_are_read_as_plain_values(folder):
    results = [dict(pred_score=torch.tensor([.25, .75]), gt_label=torch.tensor([1]), pred_label=torch.tensor([1]),
                    num_classes=2, name='clip')]
    mmengine.dump(results, folder / 'scores.pkl')
    loaded = read_dump(folder / 'scores.pkl')
    assert loaded[0]['pred_score'].tolist() == [.25, .75] and loaded[0]['name'] == 'clip' and len(loaded) == 1
    assert loaded[0]['gt_label'].dtype == torch.int64


@pytest.mark.parametrize('name', map(is_guarded, [*ATTACKS, 'storage']))
def test_results_that_ask_for_more_are_refused(name, folder):
    mark, path = folder / 'it-ran', folder / 'scores.pkl'
    inner = io.BytesIO()
    torch.save(Call(os.system, f'touch {mark}'), inner)
    attack = Call(torch.storage._load_from_bytes, inner.getvalue()) if name == 'storage' else ATTACKS[name](mark)
    path.write_bytes(pickle.dumps([dict(pred_score=attack)]))
    with pytest.raises(UnsafeCheckpointError, match=r'scores.pkl was refused, and nothing in it was run'):
        read_dump(path)
    assert not mark.exists()
    if name in ('os.system', 'eval', 'storage'):
        mmengine.load(path)  # the attack is real
        assert mark.exists()


@pytest.mark.parametrize('name', ['os.system', 'eval', 'open'])
def test_parameter_files_with_pickles_are_refused(name, folder):
    mark = folder / 'it-ran'
    np.savez(folder / 'params.npz', **{'backbone.conv1/scale': np.array([ATTACKS[name](mark)], dtype=object)})
    with pytest.raises(ValueError, match='params.npz|allow_pickle=False'):
        load_parameters(folder / 'params.npz')
    assert not mark.exists()
    np.load(folder / 'params.npz', allow_pickle=True)['backbone.conv1/scale']
    assert mark.exists()


# ---- no unsafe call in the sources ----

UNSAFE = {
    'eval': 'runs text', 'exec': 'runs text', 'compile': 'runs text', 'os.system': 'a shell', 'os.popen': 'a shell',
    'pickle.load': 'runs code', 'pickle.loads': 'runs code', 'pickle.Unpickler': 'runs code', 'marshal.loads': '',
    'shelve.open': 'pickles', 'dill.load': '', 'joblib.load': 'pickles', 'cloudpickle.load': '',
    'pd.read_pickle': 'pickles', 'pandas.read_pickle': 'pickles', 'yaml.load': 'runs code', 'yaml.unsafe_load': '',
    'mmengine.load': 'runs what a .pkl asks for', 'mmengine.fileio.load': 'the same',
    'torch.load': 'use CheckpointLoader', 'torch.jit.load': 'runs code', 'tempfile.mktemp': 'a race',
    'runpy.run_path': 'runs a file',
    'subprocess.getoutput': 'a shell',
}
# (file, call): why it may stand there
ALLOWED = {
    ('tconv_mmaction/cli/main.py', 'exec'): 'runs a script of tools/ by its name',
    ('tconv_mmaction/cli/main.py', 'compile'): 'the same',
    ('tools/data/class_folders.py', 'runpy.run_path'): 'runs tools/data/pack_clips.py',
    ('tconv_mmaction/compat/checkpoints.py', 'torch.load'): 'in place of the loader of a fork; weights_only is forced',
    ('tconv_mmaction/cli/mim_scripts.py', 'runpy.run_path'): "runs mmaction2's own scripts by name",
    ('tools/reliability/interrupts.py', 'runpy.run_path'): 'runs tools/train.py, to interrupt it',
}


def dotted(node):
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f'{inner}.{node.attr}' if inner else None
    return node.id if isinstance(node, ast.Name) else None


def unsafe_calls(text):
    """(line, what) of calls that could run what a file asks for."""
    tree = ast.parse(text)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name.split('.')[0]: alias.name if alias.asname else
                          alias.name.split('.')[0] for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names})
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name is None:
            continue
        head, _, rest = name.partition('.')
        full = names.get(head, head) + ('.' + rest if rest else '')
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        constants = {key: value.value for key, value in keywords.items() if isinstance(value, ast.Constant)}
        if full in UNSAFE and not (full == 'torch.load' and constants.get('weights_only') is True):
            yield node.lineno, full
        if constants.get('allow_pickle', 'allow_pickle' in keywords) is not False \
                or constants.get('weights_only') is False:
            yield node.lineno, f'{full} that trusts'
        if constants.get('shell') is True:
            yield node.lineno, f'{full} with a shell'
        if full.endswith(('.extractall', '.extract')) and 'filter' not in keywords:
            yield node.lineno, f'{full} without a filter'


def test_the_search_finds_what_it_looks_for():
    found = unsafe_calls('import numpy as np\nimport pickle as p\nfrom mmengine.fileio import load as x\n'
                         'from os import system\np.loads(b)\nnp.load(f, allow_pickle=b)\n'
                         'np.load(f, allow_pickle=True)\nx(f)\nsystem(c)\neval(t)\n'
                         'torch.load(f, weights_only=False)\nsubprocess.run(c, shell=True)\nt.extractall(d)\n'
                         'np.load(f, allow_pickle=False)\nmodel.eval()\n')
    assert sorted({line for line, _ in found}) == [5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_no_unsafe_call_stands_in_the_sources():
    paths = [path for part in ('tconv_mmaction', 'tools') for path in sorted((ROOT / part).rglob('*.py'))]
    assert len(paths) > 80
    found = [(path.relative_to(ROOT).as_posix(), line, what) for path in paths
             for line, what in unsafe_calls(path.read_text(encoding='utf-8'))]
    assert [entry for entry in found if (entry[0], entry[2]) not in ALLOWED] == []
    # no allowance that nothing needs
    assert {(path, what) for path, _, what in found} == {entry for entry in ALLOWED if (ROOT / entry[0]).is_file()}


# ---- pages ----

EVIL = ['<script>window.hacked=1</script>', '</title><script>window.hacked=2</script>',
        '"><img src=x onerror="window.hacked=3">',
        "'onmouseover='window.hacked=4", '<!--', ']]></svg><script>window.hacked=5</script>', '&lt;b&gt;', '{{7*7}}',
        'javascript:window.hacked=6', '</script><script>window.hacked=7</script>', '\u2028\u2029', '\ud800.mp4']


class Elements(HTMLParser):
    """Names of the elements, attributes that run scripts, and the text of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.handlers, self.links, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attributes if name.startswith('on')]
        self.links += [value for name, value in attributes if name in ('src', 'href') and value]

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text.append(data)


def page_of(names):
    """A page whose title, models, clips, classes and reasons are ``names``; nothing of it was analysed."""
    models = [ModelInfo(name, name, name, list(names)) for name in names[:2]]
    clips = [ClipReport(name, [f'ValueError: {name}'] * 2) for name in names]
    return render_report(names[0], models, clips)


def test_a_page_of_hostile_names_has_the_elements_of_a_harmless_one():
    harmless, evil = Elements(page_of(['name'] * len(EVIL))), Elements(page_of(EVIL))
    assert evil.tags == harmless.tags and evil.handlers == harmless.handlers == []
    assert [link for link in evil.links if not link.startswith(('#', 'data:'))] == []
    text = ''.join(evil.text)
    for name in EVIL[:-2]:
        assert name in text


def test_hostile_names_stay_in_their_cell_of_a_markdown_table():
    measures = {name: dict(models=[dict(mean=1., std=0., count=2)] * 2, welch=dict(note='same'),
                           welch_clips=dict(note='same')) for name in MEASURES}
    scores = dict(classes={'0': .5, '1': .5}, mean=.5)
    comparison = dict(f1=[scores, scores], accuracy=[.5, .5], clips=2, silent=[0, 1], maps=[4, 8],
                      measures=measures)
    evil = tables(comparison, ['<script>x</script>', 'a|b\nc'], ['"><img src=x>', '|' + 20 * '-'])
    plain = tables(comparison, ['one', 'two'], ['three', 'four'])
    assert len(evil.splitlines()) == len(plain.splitlines()) and '<' not in evil
    for line, harmless in zip(evil.splitlines(), plain.splitlines()):
        assert len(re.findall(r'(?<!\\)\|', line)) == len(re.findall(r'(?<!\\)\|', harmless))


@pytest.mark.skipif(find_chromium() is None, reason='needs Chromium or Chrome on the PATH, and there is none')
def test_a_page_of_hostile_names_in_a_browser(tmp_path):
    path = tmp_path / 'page.html'
    path.write_text(page_of(EVIL), encoding='utf-8')
    with Chromium(tmp_path / 'profile') as browser:
        browser.open(path)
        assert browser.run('typeof window.hacked') == 'undefined'
        assert browser.run('document.title') == EVIL[0]
        assert browser.run('document.querySelectorAll("[data-clip] h2").length') == len(EVIL)
        assert browser.run('[...document.querySelectorAll("[data-clip] h2")].map(h => h.textContent)')[:10] == EVIL[:10]
        assert browser.run('document.querySelectorAll("script:not([type])").length') <= 1
        assert [url for url in browser.requests if not url.startswith(('file:', 'data:'))] == []
        assert browser.errors == []
