"""3T networks of the configs as plain 3D networks: fused, exported to ONNX, and counted by mmaction2's get_flops.py."""
import copy
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine import analysis
from mmengine.analysis import print_helper
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tconv_mmaction.cli.mim_scripts import run_script
from tconv_mmaction.layers import Conv3T, switch_to_deploy
from tconv_mmaction.utils.complexity import count_complexity, count_parameters

CONFIGS = ROOT / 'configs/recognition'


export_onnx, reparameterize_model = (
    load_script(f'tools/deploy/{name}.py') for name in ('export_onnx', 'reparameterize_model'))


def build(pattern):
    path, = (path for path in CONFIGS.glob(pattern) if '-bf16-' not in path.name)
    config = Config.fromfile(path)
    config.model.cls_head.pop('loss_cls', None)  # its class weights come from the user's training list
    return MODELS.build(config.model), config


@torch.no_grad()
def randomise(model, shape):
    """Random transforms, and batch norms with statistics that fit the features but are not exactly theirs."""
    for module in model.modules():
        if isinstance(module, Conv3T):
            for name, mean in dict(scale=1, rotate=0, translate_x=0, translate_y=0).items():
                getattr(module, name).normal_(mean, .2)
        elif isinstance(module, _BatchNorm):
            module.momentum = None  # running statistics are those of all clips seen
            module.weight.uniform_(.5, 1.5)
            module.bias.normal_(0, .3)
    model.train()
    model.backbone(torch.randn(4, *shape))
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.add_(torch.randn_like(module.running_mean), alpha=.1)
            module.running_var.mul_(.7 + .6 * torch.rand_like(module.running_var))
    model.cls_head.fc_cls.weight.normal_(0, .3)
    return model


@pytest.fixture(scope='module', params=['resnet18', 'googlenet'])
def trained(request):
    torch.manual_seed(0)
    init_default_scope('mmaction')
    model, _ = build(f'tconv3/{request.param}-3t_scratch_*_jester-rgb.py')
    shape, count = dict(resnet18=((3, 8, 48, 56), 17), googlenet=((3, 13, 64, 72), 20))[request.param]
    return randomise(model, shape), shape, count


@torch.no_grad()
def test_fused_networks_give_the_same(trained):
    model, shape, count = trained
    fused = switch_to_deploy(model)
    assert sum(isinstance(module, Conv3T) for module in model.modules()) == count
    assert not any(isinstance(module, Conv3T) for module in fused.modules())
    convolutions = [name for name, module in model.named_modules() if isinstance(module, Conv3T)]
    assert all(type(fused.get_submodule(name)) is nn.Conv3d for name in convolutions)
    clips = torch.randn(2, 1, *shape)
    want, got = (net.cls_head(net.extract_feat(clips, test_mode=True)[0]) for net in (model, fused))
    assert want.std() > .05 and want.std(0).min() > 1e-3  # the scores tell classes and clips apart
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    samples = [[ActionDataSample() for _ in clips] for _ in range(2)]
    predicted = [net.predict(clips, samples[i]) for i, net in enumerate((model, fused))]
    for a, b in zip(*predicted):
        torch.testing.assert_close(b.pred_score, a.pred_score, rtol=1e-4, atol=1e-6)
        assert a.pred_label == b.pred_label


@torch.no_grad()
def test_onnxruntime_gives_the_same(trained):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    model, shape, _ = trained
    raw = copy.deepcopy(model)
    raw.cls_head.average_clips = None  # scores before the softmax
    onnx_file = export_onnx.export(switch_to_deploy(raw), shape, 17)
    session = onnxruntime.InferenceSession(onnx_file, providers=['CPUExecutionProvider'])
    assert [i.shape for i in session.get_inputs()] == [['N', *shape]]
    for batch in (1, 3):  # exported with 2
        clips = torch.randint(0, 256, (batch, *shape)).float()
        got = torch.from_numpy(session.run(None, {'clips': clips.numpy()})[0])
        inputs = model.data_preprocessor(dict(inputs=list(clips[:, None]), data_samples=None))['inputs']
        want = model.cls_head(model.extract_feat(inputs, test_mode=True)[0])
        assert got.shape == (batch, 27)
        assert (got - want).abs().max() < 1e-4 * want.abs().max()


# -- the tool ----------------------------------------------------------------------------------------------------------

TINY = '''
custom_imports = dict(imports=['tconv_mmaction'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(type='TemporalResNet3d', depth=18, base_channels=4, temporal_cfg=dict(type='Conv3T'),
                  num_stages=2, temporal_kernels=(3, 3, 3), out_indices=(1, ), spatial_strides=(1, 2),
                  temporal_strides=(1, 2), dilations=(1, 1)),
    cls_head=dict(type='I3DHead', num_classes=4, in_channels=8, average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[120., 110., 100.], std=[50., 60., 70.],
                           format_shape='NCTHW'))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='WholeVideoSampleFrames', clip_len=6), dict(type='Resize', scale=(-1, 20)),
    dict(type='CenterCrop', crop_size=(18, 16)), dict(type='FormatShape', input_format='NCTHW')]))
'''


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    model = randomise(MODELS.build(Config.fromfile(tmp_path / 'tiny.py').model), (3, 6, 16, 18))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'tiny.pth')
    return model, [str(tmp_path / name) for name in ('tiny.py', 'tiny.pth', 'tiny.onnx')]


def test_tool(tiny, tmp_path, capsys):
    onnxruntime = pytest.importorskip('onnxruntime')
    model, arguments = tiny
    export_onnx.main(arguments)
    out = capsys.readouterr().out
    assert "9 layers fused; 'clips' (N, 3, 6, 16, 18) -> 'scores' (N, 4)" in out
    session = onnxruntime.InferenceSession(arguments[2], providers=['CPUExecutionProvider'])
    clips = torch.randint(0, 256, (5, 3, 6, 16, 18), dtype=torch.uint8)
    got = session.run(['scores'], {'clips': clips.float().numpy()})[0]
    samples = [ActionDataSample() for _ in clips]
    want = torch.stack([s.pred_score for s in model.test_step(dict(inputs=list(clips[:, None]), data_samples=samples))])
    assert want.std(0).max() > 1e-2
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-6)
    # a fused checkpoint gives the same file's scores; channels in the other order are swapped inside
    fused = [str(tmp_path / name) for name in ('fused.py', 'fused.pth', 'fused.onnx')]
    reparameterize_model.main([*arguments[:2], fused[1]])
    export_onnx.main([*fused, '--cfg-options', 'model.data_preprocessor.to_rgb=True'])
    assert '0 layers fused' in capsys.readouterr().out
    session = onnxruntime.InferenceSession(fused[2], providers=['CPUExecutionProvider'])
    again = session.run(['scores'], {'clips': clips.flip(1).float().numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(again), want, rtol=1e-4, atol=1e-6)
    export_onnx.main([*arguments, '--shape', '4', '20', '24'])
    assert "'clips' (N, 3, 4, 20, 24)" in capsys.readouterr().out


@pytest.mark.parametrize('change, message', [
    (['--cfg-options', 'model.cls_head.num_classes=5'], 'does not fit'),
    (['--cfg-options', 'model.type=Recognizer2D'], 'only Recognizer3D'),
    (['--tolerance', '0'], r'more than --tolerance 0\.0e\+00')])
def test_tool_writes_nothing_where_something_is_wrong(tiny, tmp_path, change, message):
    pytest.importorskip('onnxruntime')
    with pytest.raises(ValueError, match=message):
        export_onnx.main([*tiny[1], *change])
    assert sorted(p.name for p in tmp_path.iterdir()) == ['tiny.pth', 'tiny.py']


def test_mistakes_on_the_command_line(tiny, tmp_path, capsys):
    config, checkpoint, out = tiny[1]
    for arguments, message in (([config, checkpoint, 'net.pth'], 'must end in .onnx'),
                               ([config, checkpoint, out, '--shape', '0', '8', '8'], 'three positive integers')):
        with pytest.raises(SystemExit):
            export_onnx.main(arguments)
        assert message in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match='gone.pth'):
        export_onnx.main([config, str(tmp_path / 'gone.pth'), out])
    Path(config).write_text(TINY.replace("dict(type='CenterCrop', crop_size=(18, 16)), ", ''))
    with pytest.raises(ValueError, match='give --shape T H W'):
        export_onnx.main([config, checkpoint, out])


@pytest.mark.parametrize('pattern, shape', [
    ('tconv3/resnet18-3t_scratch_*_jester-rgb.py', (30, 150, 224)),
    ('tconv3/googlenet-3t_scratch_*_ucf101-rgb.py', (30, 168, 224)),
    ('tconv3/*_folder-rgb.py', (16, 112, 112)),
    ('temporal_filters/i3d-r50_ours_*_mini-sthv2-rgb.py', (32, 256, 256)),
    ('clstm/clstm_*_sthv2-rgb.py', (16, 224, 224)),
    ('clstm/clstm_scratch_1xb16-u32-100e_kth-rgb.py', (32, 120, 160))])
def test_default_shape(pattern, shape):
    path, = (path for path in CONFIGS.glob(pattern) if '-bf16-' not in path.name)
    assert export_onnx.shape_of_the_pipeline(Config.fromfile(path)) == shape


# -- mmaction2's get_flops.py ------------------------------------------------------------------------------------------

def get_flops(config, shape, monkeypatch, capsys):
    """What the script prints, and the exact number behind it."""
    exact = []
    theirs = analysis.get_model_complexity_info

    def record(model, *args, **kwargs):
        result = theirs(model, *args, **kwargs)
        exact.append(result['flops'])
        return result

    monkeypatch.setattr(analysis, 'get_model_complexity_info', record)
    argv = sys.argv
    run_script('analysis_tools/get_flops.py', [str(config), '--shape', *map(str, shape)])
    assert sys.argv is argv
    lines = capsys.readouterr().out.splitlines()
    flops, = (line.split(': ')[1] for line in lines if line.startswith('Flops: '))
    params, = (line.split(': ')[1] for line in lines if line.startswith('Params: '))
    assert flops == print_helper._format_size(exact[0])
    return exact[0], params


@pytest.mark.parametrize('pattern, shape', [
    ('lenet5/lenet5-3d_*.py', (1, 1, 30, 28, 28)),
    ('temporal_filters/i3d-r18_orig_*_mini-sthv2-rgb.py', (1, 3, 4, 32, 32)),
    ('tconv3/resnet18-3d_scratch_*_ucf101-rgb.py', (1, 3, 8, 32, 32))])
def test_get_flops_prints_our_numbers(pattern, shape, monkeypatch, capsys):
    """It counts backbones only, and linear layers with them; ``total`` has the classifier too."""
    path, = (path for path in CONFIGS.glob(pattern) if '-bf16-' not in path.name)
    flops, params = get_flops(path, shape, monkeypatch, capsys)
    model = build(pattern)[0]
    with torch.device('meta'):
        counts = count_complexity(model.backbone.to('meta'), shape)
    assert flops == counts.total
    assert params == print_helper._format_size(count_parameters(model))


def test_get_flops_of_a_fused_3t_network(tiny, tmp_path, monkeypatch, capsys):
    """As it is trained, the making of the kernels is counted too; fused, the number is that of the 3D network."""
    model, arguments = tiny
    shape = (1, 3, 6, 16, 18)
    unfused, _ = get_flops(arguments[0], shape, monkeypatch, capsys)
    out = str(tmp_path / 'fused.pth')
    reparameterize_model.main([*arguments[:2], out])
    fused, _ = get_flops(tmp_path / 'fused.py', shape, monkeypatch, capsys)
    plain = MODELS.build({**Config.fromfile(arguments[0]).model.backbone, 'temporal_cfg': dict(type='Conv3d')})
    assert fused == count_complexity(plain, shape).total == count_complexity(model.backbone, shape).total
    assert unfused > fused
