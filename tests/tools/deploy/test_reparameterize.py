"""Fusing whole nets: TemporalResNet3d, the hook that tests the fused model, and the tool that writes it."""
import copy
import runpy
import sys

import pytest
import torch
from helpers.norms import randomise
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.tiny_project import make_project
from mmaction.apis import init_recognizer
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmengine.runner.priority import get_priority
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tconv_mmaction.backbones import TemporalResNet3d
from tconv_mmaction.backbones.inflation import inflate_state_dict
from tconv_mmaction.hooks import DeployModelHook
from tconv_mmaction.layers import MultiBranchConv3d, accept_single_filters, switch_to_deploy

TOOL = ROOT / 'tools/deploy/reparameterize_model.py'
MULTI = dict(type='MultiBranchConv3d', eta=2.0)
SEPARABLE = dict(type='SeparableConv3d', temporal_cfg=MULTI)


def small_resnet(temporal_cfg, depth=18, **options):
    options = dict(dict(temporal_kernels=(1, 1, 3, 3, 5), base_channels=4), **options)
    net = TemporalResNet3d(depth, temporal_cfg=temporal_cfg, **options)
    net.init_weights()
    return net


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('cfg', [MULTI, dict(MULTI, eta='inf'), SEPARABLE, dict(type='Conv3T')], ids=str)
def test_resnets_fuse(cfg, depth):
    net = randomise(small_resnet(cfg, depth)).double().eval()
    x = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
        fused = switch_to_deploy(net)
        scale = expected.abs().max()
        assert (fused(x) - expected).abs().max() < 1e-10 * scale
        assert (fused.float()(x.float()) - expected).abs().max() < 1e-5 * scale
    assert not any(hasattr(module, 'switch_to_deploy') for module in fused.modules())


def without_norms(net):
    """The net with every norm that follows a convolution folded into it, as one deploys a single-filter net."""
    for module in net.modules():
        if isinstance(module, ConvModule) and module.with_norm:
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.with_norm = False
            delattr(module, module.norm_name)
    return net


def test_fused_parameters_and_flops_equal_the_single_filter_nets():
    fused = switch_to_deploy(small_resnet(MULTI).eval())
    single = small_resnet(dict(type='Conv3d')).eval()
    counts = [get_model_complexity_info(without_norms(net), inputs=torch.randn(1, 3, 8, 32, 32))
              for net in (fused, single)]
    assert counts[0]['flops'] == counts[1]['flops'] > 0
    assert counts[0]['params'] == counts[1]['params']
    trained = get_model_complexity_info(small_resnet(MULTI).eval(), inputs=torch.randn(1, 3, 8, 32, 32))
    assert trained['flops'] > 1.3 * counts[0]['flops']  # a branch of one frame beside each of three: 4/3 of its layer


def test_frozen_stages_and_norm_eval():
    net = randomise(small_resnet(MULTI, frozen_stages=2, norm_eval=True)).train()
    frozen = [net.conv1, net.layer1, net.layer2]
    assert not any(p.requires_grad for module in frozen for p in module.parameters())
    assert all(p.requires_grad for module in (net.layer3, net.layer4) for p in module.parameters())
    before = copy.deepcopy(dict(net.named_buffers()))
    net(torch.randn(2, 3, 8, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    layers = [module for module in net.layer4.modules() if isinstance(module, MultiBranchConv3d)]
    assert len(layers) == 4
    assert all(branch.weight.grad.abs().sum() > 0 for layer in layers for branch in layer.branches)
    assert net.conv1.conv.branches[0].weight.grad is None


def test_zero_init_residual_zeroes_every_branch():
    net = small_resnet(MULTI, zero_init_residual=True)
    layer = net.layer4[1].conv2.conv
    assert all((norm.weight == 0).all() for norm in layer.norms)
    x = torch.randn(1, 3, 8, 32, 32)
    assert (net.layer4[1].conv2(net.layer4[1].conv1(net.layer4[0](net.layer3(net.layer2(net.layer1(
        net.maxpool(net.conv1(x)))))))) == 0).all()


@pytest.mark.parametrize('temporal, kernels', [(MULTI, (1, 1, 3, 3, 5)), (dict(MULTI, eta='inf'), (1, 1, 3, 3, 5)),
                                               (SEPARABLE, (1, 1, 3, 3, 5))], ids=str)
def test_trained_single_filter_net_is_the_start_of_the_multi_branch_net(temporal, kernels, tmp_path):
    separable = temporal['type'] == 'SeparableConv3d'
    single = small_resnet(dict(type='SeparableConv3d') if separable else dict(type='Conv3d'),
                          temporal_kernels=(1, 1, 3, 3, 3))
    randomise(single).eval()
    net = accept_single_filters(small_resnet(temporal, temporal_kernels=kernels))
    net.load_state_dict(single.state_dict())
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        expected = single(x)
        assert (net.eval()(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize('temporal', [MULTI, dict(MULTI, eta='inf')], ids=str)
@pytest.mark.parametrize('depth', [18, 50])
def test_inflated_net_is_the_start_of_the_multi_branch_net(temporal, depth):
    """From the same 2D net, with its norms, as TemporalResNet3d reads it."""
    image_net = randomise(small_resnet(dict(type='Conv3d'), depth, temporal_kernels=(1, ) * 5))
    state = {key: value.squeeze(2) if value.dim() == 5 else value for key, value in image_net.state_dict().items()}
    nets = []
    for cfg in (dict(type='Conv3d'), temporal):
        net = small_resnet(cfg, depth)
        new, report = inflate_state_dict(state, net, net.key_from_2d)
        assert not report.missing and not report.skipped
        net.load_state_dict(new, strict=False)
        nets.append(net.eval())
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        expected = nets[0](x)
        assert (nets[1](x) - expected).abs().max() < 1e-5 * expected.abs().max()
        fused = switch_to_deploy(nets[1])
        assert (fused(x) - expected).abs().max() < 1e-5 * expected.abs().max()


# -- the tool and the hook on a trained net -----------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(config, folder) of a multi-branch net that was trained for two epochs on the clips of the tiny project."""
    folder = tmp_path_factory.mktemp('project')
    config = Config.fromfile(_with_components(make_project(folder)))
    config.model.backbone = dict(type='TemporalResNet3d', depth=18, in_channels=1, base_channels=4, conv1_stride_s=1,
                                 pool1_stride_s=1, temporal_kernels=(1, 1, 3, 3, 5), temporal_cfg=dict(MULTI))
    config.model.cls_head.in_channels = 32
    config.train_cfg.max_epochs = 2
    config.custom_hooks = []
    config.optim_wrapper.optimizer.lr = 0.01
    config.work_dir = str(folder / 'work')
    config.randomness = dict(seed=0)
    config.dump(folder / 'multi.py')
    Runner.from_cfg(Config.fromfile(folder / 'multi.py')).train()
    return folder / 'multi.py', folder


def _with_components(config):
    if str(config.parent) not in sys.path:
        sys.path.insert(0, str(config.parent))
    return config


def predictions(config, checkpoint, work_dir, hooks=()):
    """Scores of all test clips, the accuracy, and the number of multi-branch layers during the test."""
    cfg = Config.fromfile(config) if not isinstance(config, Config) else config
    cfg.load_from, cfg.work_dir, cfg.custom_hooks = str(checkpoint), str(work_dir), list(hooks)
    cfg.experiment_name = f'test_{work_dir.name}'
    cfg.test_evaluator = [dict(type='AccMetric'), dict(type='DumpResults', out_file_path=str(work_dir / 'out.pkl'))]
    seen = []
    runner = Runner.from_cfg(cfg)
    forward = type(runner.model).test_step

    def count(self, data):
        seen.append(sum(isinstance(module, MultiBranchConv3d) for module in self.modules()))
        return forward(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runner.model), 'test_step', count)
        metrics = runner.test()
    import pickle
    with open(work_dir / 'out.pkl', 'rb') as file:
        scores = torch.stack([sample['pred_score'] for sample in pickle.load(file)])
    return scores, metrics, seen[0], runner


def test_fused_and_unfused_accuracy_are_equal(trained, tmp_path, capsys):
    config, folder = trained
    checkpoint = folder / 'work/epoch_2.pth'
    for name in ('plain', 'hook', 'tool'):
        (tmp_path / name).mkdir()
    expected, metrics, layers, _ = predictions(config, checkpoint, tmp_path / 'plain')
    assert layers == 1 + 4 * 4 and expected.std() > 1e-3  # the scores tell clips apart

    scores, hooked, layers, runner = predictions(config, checkpoint, tmp_path / 'hook', [dict(type='DeployModelHook')])
    assert layers == 0 and hooked == metrics
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    assert sum(isinstance(module, MultiBranchConv3d) for module in runner.model.modules()) == 17  # put back

    out = tmp_path / 'fused.pth'
    load_script('tools/deploy/reparameterize_model.py').main([str(config), str(checkpoint), str(out)])
    assert '17 layers fused' in capsys.readouterr().out
    saved = torch.load(out)
    assert 'optimizer' not in saved and saved['meta']['epoch'] == 2 and saved['meta']['dataset_meta'] is not None
    scores, tooled, layers, _ = predictions(tmp_path / 'fused.py', out, tmp_path / 'tool')
    assert layers == 0 and tooled == metrics
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)

    model = init_recognizer(str(tmp_path / 'fused.py'), str(out), device='cpu')
    x = torch.rand(1, 1, 12, 12, 12)
    with torch.no_grad():
        original = init_recognizer(str(config), str(checkpoint), device='cpu')
        torch.testing.assert_close(model.backbone(x), original.backbone(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match='DeployedConv3d'):  # not loaded halfway with a warning in the log
        init_recognizer(str(config), str(out), device='cpu')


def test_hook_in_validation_leaves_the_training_alone(trained, tmp_path):
    """With val=True the fused copy is validated; the weights after training are those without the hook."""
    config, _ = trained
    states = []
    for name, hooks in (('without', []), ('with', [dict(type='DeployModelHook', val=True)])):
        cfg = Config.fromfile(config)
        cfg.custom_hooks, cfg.work_dir = hooks, str(tmp_path / name)
        cfg.train_cfg.max_epochs, cfg.experiment_name = 1, f'val_{name}'
        runner = Runner.from_cfg(cfg)
        states.append(runner.train().state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_hook_comes_after_ema_and_refuses_a_net_without_layers_to_fuse():
    assert get_priority(DeployModelHook.priority) > get_priority(EMAHook.priority)

    class Loop:
        model = nn.Sequential(nn.Conv3d(1, 1, 1))

    with pytest.raises(ValueError, match='no layer that can be fused'):
        DeployModelHook().before_test_epoch(Loop())


def test_tool_mistakes(trained, tmp_path, capsys):
    config, folder = trained
    checkpoint = str(folder / 'work/epoch_2.pth')
    tool = load_script('tools/deploy/reparameterize_model.py')
    for arguments, match in (([str(config), checkpoint, 'fused.onnx'], 'must end in'),
                             ([str(config), checkpoint, checkpoint], 'would replace'),
                             ([str(config), checkpoint, str(config.with_suffix('.pth'))], 'would replace')):
        with pytest.raises(SystemExit):
            tool.main(arguments)
        assert match in capsys.readouterr().err
    out = str(tmp_path / 'fused.pth')
    with pytest.raises(FileNotFoundError):
        tool.main([str(config), str(tmp_path / 'nothing.pth'), out])
    with pytest.raises(ValueError, match='does not fit'):
        tool.main([str(config), checkpoint, out, '--cfg-options', 'model.backbone.depth=34'])
    plain = Config.fromfile(config)
    plain.model.backbone.temporal_cfg = dict(type='Conv3d')
    plain.dump(tmp_path / 'plain.py')
    torch.save(dict(state_dict=MODELS.build(plain.model).state_dict()), tmp_path / 'plain.pth')
    with pytest.raises(ValueError, match='no layer to fuse'):
        tool.main([str(tmp_path / 'plain.py'), str(tmp_path / 'plain.pth'), out])
    assert not (tmp_path / 'fused.pth').exists() and not (tmp_path / 'fused.py').exists()


@pytest.mark.parametrize('cfg, expected', [
    (dict(type='Conv3T', transform='free', evaluation='kernel'), dict(type='Conv3d')),
    (SEPARABLE, dict(type='SeparableConv3d', temporal_cfg=dict(type='DeployedConv3d'))),
], ids=str)
def test_tool_fuses_other_layers(cfg, expected, trained, tmp_path):
    config = Config.fromfile(trained[0])
    config.model.backbone.temporal_cfg = copy.deepcopy(cfg)
    config.dump(tmp_path / 'config.py')
    model = randomise(MODELS.build(config.model)).eval()
    torch.save({f'module.{key}': value for key, value in model.state_dict().items()}, tmp_path / 'raw.pth')
    tool = load_script('tools/deploy/reparameterize_model.py')
    tool.main([str(tmp_path / 'config.py'), str(tmp_path / 'raw.pth'), str(tmp_path / 'fused.pth')])
    fused = init_recognizer(str(tmp_path / 'fused.py'), str(tmp_path / 'fused.pth'), device='cpu')
    assert fused.cfg.model.backbone.temporal_cfg == expected
    x = torch.rand(1, 1, 12, 12, 12)
    with torch.no_grad():
        before = model.backbone(x)
        assert (fused.backbone(x) - before).abs().max() < 1e-5 * before.abs().max()


def test_tool_runs_as_a_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), 'no-such-config.py', 'x.pth', 'y.pth'])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert end.value.code == 2 and 'no-such-config.py' in capsys.readouterr().err
