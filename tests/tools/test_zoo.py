"""The model index as mim and MMEngine read it, the checkpoints of the repository, and what loads from other zoos."""
import hashlib
import json
import re
from pathlib import Path

import mmaction
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers.paths import ROOT
from helpers.scripts import load_script
from mmaction.models.backbones import ResNet, ResNet2Plus1d, ResNetTSM
from mmaction.registry import DATASETS, MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.runner import load_checkpoint
from torch import nn

from tconv_mmaction.backbones import R2Plus1d18, TemporalResNet3d
from tconv_mmaction.backbones.inflation import load_pretrained

FOLDERS = ('lenet5', 'tconv3', 'temporal_filters', 'clstm')
RESULTS = yaml.safe_load((ROOT / 'zoo/results.yml').read_text(encoding='utf-8'))


publish, public_3d, zoo_tables = (
    load_script(f'tools/{name}.py') for name in ('publish', 'convert/public_3d', 'zoo_tables'))


def metafile(path):
    return yaml.safe_load(Path(path).read_text(encoding='utf-8'))


def models():
    """Every entry, as MMEngine's inferencers and mim look them up."""
    return list(BaseInferencer._get_models_from_metafile(str(ROOT)))


# -- the index ---------------------------------------------------------------------------------------------------------

def test_the_index_has_every_config_once():
    names = [model['Name'] for model in models()]
    configs = [p for folder in FOLDERS for p in (ROOT / 'configs/recognition' / folder).glob('*.py')
               if not p.name.startswith('_base_')]
    assert sorted(names) == sorted(p.stem for p in configs) and len(set(names)) == len(names)
    assert {ROOT / model['Config'] for model in models()} == set(configs)


def test_fields_are_those_of_mmaction2():
    """Compared with the metafiles of the installed mmaction2: no key that it does not use, no required one missing."""
    theirs = Path(mmaction.__file__).parent / '.mim'
    index = metafile(theirs / 'model-index.yml')
    assert metafile(ROOT / 'model-index.yml').keys() == index.keys()
    known, metadata, collections = set(), set(), set()
    for path in (p for p in index['Import'] if p.startswith('configs/recognition/')):
        content = metafile(theirs / path)
        collections |= {key for collection in content['Collections'] for key in collection}
        for model in content['Models']:
            known |= model.keys()
            metadata |= model['Metadata'].keys()
    for path in metafile(ROOT / 'model-index.yml')['Import']:
        content = metafile(ROOT / path)
        assert content.keys() == {'Collections', 'Models'}
        collection, = content['Collections']
        assert collection.keys() == {'Name', 'README', 'Paper'} <= collections
        assert collection['Paper'].keys() == {'URL', 'Title'} and (ROOT / collection['README']).is_file()
        for model in content['Models']:
            assert {'Name', 'Config', 'In Collection', 'Metadata', 'Modality', 'Results'} <= model.keys() <= known
            assert model['In Collection'] == collection['Name']
            assert model['Metadata'].keys() <= metadata
            assert {'Architecture', 'Batch Size', 'FLOPs', 'Parameters', 'Training Data'} <= model['Metadata'].keys()
            assert re.fullmatch(r'[\d.e+]+G', model['Metadata']['FLOPs'])
            assert re.fullmatch(r'[\d.]+M', model['Metadata']['Parameters'])
            result, = model['Results']
            assert result.keys() == {'Dataset', 'Task', 'Metrics'} and result['Task'] == 'Action Recognition'
            # an accuracy and a checkpoint, or neither
            assert bool(result['Metrics']) == ('Weights' in model) == (model['Name'] in RESULTS)


def test_lookup_by_name():
    """What mim search and MMEngine's inferencers do, for a package that stands beside its configs."""
    assert BaseInferencer._get_repo_or_mim_dir('tconv_mmaction') == str(ROOT)
    found = {model['Name']: model for model in models()}
    for name, result in RESULTS.items():
        assert found[name]['Weights'] == result['weights']
        config = Config.fromfile(ROOT / found[name]['Config'])
        load_checkpoint(MODELS.build(config.model), str(ROOT / found[name]['Weights']), 'cpu', strict=True)


def some_of_each():
    """One config per folder and kind, quick to count, and all that were trained."""
    patterns = ('tconv3/resnet18-3t_scratch_*_jester-rgb', 'tconv3/googlenet-3t_scratch_*_jester-rgb',
                'temporal_filters/i3d-r18_ours_*_mini-sthv2*', 'clstm/clstm_*_sthv2*')
    paths = [next((ROOT / 'configs/recognition').glob(pattern + '.py')) for pattern in patterns]
    trained = [next((ROOT / 'configs/recognition').glob(f'*/{name}.py')) for name in RESULTS]
    return sorted({*paths, *trained})


def rows_of(path):
    """{config: cells} of the table in a README."""
    table = zoo_tables.TABLE.search((path.parent / 'README.md').read_text(encoding='utf-8'))[0]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines() if '](' in line]
    return {re.match(r'\[([^\]]+)\]', row[0])[1]: row for row in cells}


@pytest.mark.parametrize('path', some_of_each(), ids=lambda path: path.stem)
def test_tables_and_metafiles_agree_with_the_networks(path):
    folder = path.parent.name
    made, row = zoo_tables.entry(path, zoo_tables.COLLECTIONS[folder][0], RESULTS)
    written = {model['Name']: model for model in metafile(path.parent / 'metafile.yml')['Models']}
    assert written[path.stem] == made
    cells = rows_of(path)[path.stem]
    assert cells == [cell for cell in row if cell or len(cells) == len(row)]
    assert cells[5] == (f'{RESULTS[path.stem]["metrics"]["Top 1 Accuracy"]:.2f}' if path.stem in RESULTS else
                        'not trained here')


def test_numbers_of_the_papers_are_in_the_tables():
    rows = {name: row for folder in FOLDERS for name, row in rows_of(ROOT / f'configs/recognition/{folder}/x').items()}
    for prefix, column, value in (('resnet18-3t_scratch_1xb32', 2, '11,222,619'),
                                  ('resnet18-3t_scratch_1xb32', 3, '33,217,755'),
                                  ('googlenet-3t_scratch_1xb20', 2, '7,419,121'),
                                  ('lenet5-3t_', 2, '254,058'), ('lenet5-3t_', 3, '263,906'),
                                  ('clstm_scratch_8xb8', 2, '1,324,014'),
                                  ('i3d-r50_orig_imagenet-pretrained_8xb3', 4, '257'),
                                  ('i3d-r50_t11111', 4, '131')):
        matching = [row for name, row in rows.items() if name.startswith(prefix)]
        assert matching and all(row[column] == value for row in matching), prefix


@pytest.mark.slow
def test_every_table_and_metafile_is_what_the_tool_writes(capsys):
    assert zoo_tables.main(['--check']) == 0, capsys.readouterr().out


def test_the_page_has_the_networks_on_real_video():
    """Each with its accuracies, and with those of the runs of other seeds and folds, computed here by hand."""
    page = (ROOT / 'docs/zoo.md').read_text()
    on_real_video = {name: result for name, result in RESULTS.items() if 'backwards' in result['correct']}
    assert len(on_real_video) >= 8 and {data for data in zoo_tables.REAL_VIDEO if f'_{data}-rgb' in str(RESULTS)} == {
        'miracl', 'jhmdb5'}
    for name, result in on_real_video.items():
        row, = (row for row in page.splitlines() if Path(result['weights']).name in row)
        clips = 500 if 'miracl' in name else 67
        where = dict(result['runs'])
        runs = [run for run in map(json.loads, (ROOT / where.pop('log')).read_text().splitlines())
                if where.items() <= run.items()]
        values = np.array([[run['accuracy'], run['accuracy_reversed']] for run in runs])
        mean, deviation = values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else None
        texts = [f'{m:.1f}' if deviation is None else f'{m:.1f} ± {deviation[i]:.1f}' for i, m in enumerate(mean)]
        assert [cell.strip() for cell in row.split('|')[4:8]] == [
            *(f"{100 * result['correct'][part] / clips:.1f}" for part in ('all', 'backwards')),
            f'{texts[0]} ({len(runs)})', texts[1]], name


# -- the checkpoints ---------------------------------------------------------------------------------------------------

def videos_of(config, request):
    """The test list of a config; those on real videos skip without them."""
    settings = config.test_dataloader.dataset
    if settings.type == 'VideoDataset':
        data = request.getfixturevalue('shared') / settings.ann_file.rsplit('/', 1)[0]  # data/miracl, data/jhmdb
        settings.ann_file, settings.data_prefix.video = str(data / Path(settings.ann_file).name), str(data / 'videos')
    return DATASETS.build(settings)


def correct(name, request, step=1, backwards=False):
    """Of every ``step``-th video of the test list, those that the checkpoint gets right, and how many the list has."""
    path, = (ROOT / 'configs/recognition').glob(f'*/{name}.py')
    config = Config.fromfile(path)
    videos = videos_of(config, request)
    model = MODELS.build(config.model).eval()
    load_checkpoint(model, str(ROOT / RESULTS[name]['weights']), 'cpu', strict=True)
    right, indices = 0, range(0, len(videos), step)
    for start in range(0, len(indices), 20):
        batch = [videos[i] for i in indices[start:start + 20]]
        clips = [sample['inputs'].flip(2) if backwards else sample['inputs'] for sample in batch]
        samples = model.test_step(dict(inputs=clips, data_samples=[sample['data_samples'] for sample in batch]))
        right += sum(int(sample.pred_label == sample.gt_label) for sample in samples)
    return right, len(videos)


@pytest.mark.parametrize('name', RESULTS)
def test_checkpoint_file(name):
    """Plain data under the hash in its name."""
    path = ROOT / RESULTS[name]['weights']
    data = path.read_bytes()
    assert path.stem.endswith('-' + hashlib.sha256(data).hexdigest()[:8]) and len(data) < 3e6
    with publish.nothing_allowed():
        contents = torch.load(path, weights_only=True)
    assert publish.stripped(contents)[1] == [] and contents['meta']['seed'] == 0
    assert not re.search(r'/(root|home|tmp|work)\b', contents['meta']['cfg'])


@pytest.mark.parametrize('name', RESULTS)
def test_checkpoint(name, request):
    """On every fifth test video what zoo/results.yml says."""
    result = RESULTS[name]
    right, count = correct(name, request, 5)
    assert right == result['correct']['every_fifth']
    assert result['metrics']['Top 1 Accuracy'] == round(100 * result['correct']['all'] / count, 2)


@pytest.mark.slow
@pytest.mark.parametrize('name', RESULTS)
def test_accuracy_of_the_table(name, request):
    assert correct(name, request)[0] == RESULTS[name]['correct']['all']
    if 'backwards' in RESULTS[name]['correct']:
        assert correct(name, request, backwards=True)[0] == RESULTS[name]['correct']['backwards']


# -- other zoos (I3D and SlowOnly: tests/backbones/test_temporal_resnet3d.py) ------------------------------------------

def with_statistics(net):
    """Norms that are not as they were initialised."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value, low, high in ((module.weight, .5, 1.5), (module.bias, -.3, .3), (module.running_mean, -.3, .3),
                                     (module.running_var, .5, 2.)):
                nn.init.uniform_(value, low, high)
    net.eval()  # mmaction2's returns None
    return net


@pytest.mark.parametrize('depth', [18, pytest.param(50, marks=pytest.mark.slow)])
def test_tsn_and_c2d_checkpoints_inflate(depth, tmp_path):
    """A still clip gives the features of mmaction2's own ResNet, which TSN, TRN and C2D checkpoints hold."""
    frames = torch.randn(3, 3, 32, 32)
    theirs = with_statistics(ResNet(depth=depth))
    state = {f'backbone.{name}': value for name, value in theirs.state_dict().items()}
    state['cls_head.fc_cls.weight'] = torch.zeros(400, 512)
    torch.save(dict(state_dict=state, meta=dict(epoch=1)), tmp_path / 'tsn.pth')
    ours = TemporalResNet3d(depth, temporal_kernels=(1, 1, 1, 1, 1), pretrained=str(tmp_path / 'tsn.pth'))
    ours.init_weights()
    with torch.no_grad():
        want, got = theirs(frames), ours.eval()(frames[:, :, None].expand(-1, -1, 4, -1, -1))
    assert want.std(0).max() > .1
    assert (got - want[:, :, None]).abs().max() < 1e-5 * want.abs().max()


def test_what_does_not_load_says_so(tmp_path):
    """TSM wraps its convolutions, and mmaction2's R(2+1)D is another network than torchvision's."""
    tsm = {f'backbone.{name}': value for name, value in ResNetTSM(
        depth=18, pretrained2d=False, num_segments=4).state_dict().items()}
    torch.save(dict(state_dict=tsm), tmp_path / 'tsm.pth')
    net = TemporalResNet3d(18)
    report = load_pretrained(net, str(tmp_path / 'tsm.pth'), net.key_from_2d)
    shifted = {f'layer{stage}.{block}.conv1.conv' for stage in range(1, 5) for block in range(2)}
    assert report.skipped.keys() == {f'{name}.net.weight' for name in shifted}
    assert report.missing == [f'{name}.weight' for name in sorted(shifted)]
    theirs = ResNet2Plus1d(depth=18, pretrained=None, pretrained2d=False, conv_cfg=dict(type='Conv2plus1d'),
                           conv1_kernel=(3, 7, 7), conv1_stride_t=1, pool1_stride_t=1, with_pool2=False).state_dict()
    torch.save(dict(state_dict=theirs), tmp_path / 'r2plus1d.pth')
    with pytest.raises(ValueError, match='Not one name in .*r2plus1d.pth is in the model'):
        R2Plus1d18(pretrained=str(tmp_path / 'r2plus1d.pth')).init_weights()


WIDTHS = (64, 128, 256, 512)


def public_r3d_18(num_classes=5):
    """A state dict with torchvision's names and shapes, random; norms vary a little."""
    state = {}

    def conv(name, inputs, outputs, *kernel):
        state[f'{name}.0.weight'] = torch.randn(outputs, inputs, *kernel) * (
            1 / (inputs * kernel[0] * kernel[1] * kernel[2]))**.5
        state[f'{name}.1.weight'], state[f'{name}.1.bias'] = .7 + .6 * torch.rand(outputs), torch.randn(outputs) * .2
        state[f'{name}.1.running_mean'] = torch.randn(outputs) * .2
        state[f'{name}.1.running_var'] = .7 + .6 * torch.rand(outputs)
        state[f'{name}.1.num_batches_tracked'] = torch.tensor(7)

    conv('stem', 3, 64, 3, 7, 7)
    inputs = 64
    for stage, width in enumerate(WIDTHS, 1):
        for block in range(2):
            conv(f'layer{stage}.{block}.conv1', inputs, width, 3, 3, 3)
            conv(f'layer{stage}.{block}.conv2', width, width, 3, 3, 3)
            if inputs != width:
                conv(f'layer{stage}.{block}.downsample', inputs, width, 1, 1, 1)
            inputs = width
    state['fc.weight'], state['fc.bias'] = torch.randn(num_classes, 512) / 20, torch.randn(num_classes)
    return state


def r3d_18_scores(state, x):
    """(N, 3, T, H, W) -> scores, by the definition: stem without pool, strides of 2 in all three at stages 2 to 4."""

    def conv(x, name, stride, relu=True):
        weight = state[f'{name}.0.weight']
        x = F.conv3d(x, weight, stride=stride, padding=tuple(k // 2 for k in weight.shape[2:]))
        x = F.batch_norm(x, *(state[f'{name}.1.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')))
        return F.relu(x) if relu else x

    x = conv(x, 'stem', (1, 2, 2))
    for stage in range(1, 5):
        for block in range(2):
            name = f'layer{stage}.{block}'
            down = f'{name}.downsample.0.weight' in state
            y = conv(conv(x, f'{name}.conv1', 2 if down else 1), f'{name}.conv2', 1, relu=False)
            x = F.relu((conv(x, f'{name}.downsample', 2, relu=False) if down else x) + y)
    return F.linear(x.mean((2, 3, 4)), state['fc.weight'], state['fc.bias'])


def test_r3d_18_of_torchvision(tmp_path, capsys):
    state = public_r3d_18()
    torch.save(state, tmp_path / 'r3d_18.pth')
    public_3d.main([str(tmp_path / 'r3d_18.pth'), str(tmp_path / 'ours.pth')])
    assert f'{len(state)} tensors, 2 of them of the classifier' in capsys.readouterr().out
    model = MODELS.build(dict(
        type='Recognizer3D',
        backbone=dict(type='TemporalResNet3d', depth=18, temporal_strides=(1, 2, 2, 2), with_pool1=False),
        cls_head=dict(type='I3DHead', num_classes=5, in_channels=512, dropout_ratio=0., average_clips='score')))
    load_checkpoint(model, str(tmp_path / 'ours.pth'), 'cpu', strict=True)
    clips = torch.randn(2, 3, 5, 24, 28)
    with torch.no_grad():
        samples = model.eval()(clips[:, None], [ActionDataSample() for _ in clips], mode='predict')
        want = r3d_18_scores(state, clips)
    assert (want[0] - want[1]).abs().max() > .01
    torch.testing.assert_close(torch.stack([s.pred_score for s in samples]), want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="layer1.0.gate.weight is no name of torchvision's r3d_18"):
        public_3d.recognizer_state_dict({**state, 'layer1.0.gate.weight': torch.zeros(1)})
