"""The switches of a training recipe (docs/recipes.md): each trains a tiny net, with the gradients it has without."""
import copy
import shutil

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.reduced_config import reduced
from mmaction.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from tconv_mmaction.hooks.channels_last_hook import ChannelsLastHook, channels_last
from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d, SeparableConv3d
from tconv_mmaction.optim.bf16_optim_wrapper import BF16OptimWrapper


def resnet(kind, **options):
    return dict(type='TemporalResNet3d', depth=18, base_channels=4, temporal_cfg=dict(type=kind), **options)


# backbone, clip (T, H, W). Not below 32 pixels for the ResNets: their last stage would begin at a height of 1, where
# oneDNN's kernel gradients in bfloat16 with a stride of 2 are wrong on processors with AVX-512 (docs/recipes.md).
NETS = {
    '3T': (resnet('Conv3T'), (4, 32, 32)), 'multi-branch': (resnet('MultiBranchConv3d'), (4, 32, 32)),
    'separable': (resnet('SeparableConv3d'), (4, 32, 32)), 'plain': (resnet('Conv3d'), (4, 32, 32)),
    'LeNet5': (dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, clip_shape=(12, 12, 12)),
               (12, 12, 12)),
    'GoogLeNet3d': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')), (13, 61, 61)),
    'InceptionI3d': (dict(type='InceptionI3d'), (8, 32, 32)),
    'R2Plus1d18': (dict(type='R2Plus1d18'), (4, 16, 16)),
}


class Model(nn.Module):
    """What the hooks and wrappers meet: a backbone and a loss."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        y = self.backbone(x)
        return sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum()
                   for part in (y if isinstance(y, tuple) else (y,)))


def gradients(model, x):
    model(x).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def build(name, **options):
    torch.manual_seed(0)
    cfg, size = NETS[name]
    model = Model(MODELS.build(dict(cfg, **options))).double()
    return model, torch.randn(2, 3, *size, dtype=torch.float64)


def assert_same_gradients(actual, expected, tolerance=1e-8):
    assert set(actual) == set(expected)
    scale = max(float(g.abs().max()) for g in expected.values())
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=tolerance * scale,
                                   msg=lambda m, name=name: name + m)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[pytest.mark.slow] if name in ('GoogLeNet3d', 'InceptionI3d', 'R2Plus1d18') else [])
    for name in NETS])
def test_channels_last_has_the_same_gradients(name):
    model, x = build(name)
    other = copy.deepcopy(model)
    channels_last(other)
    seen = []
    next(m for m in other.modules() if isinstance(m, (nn.Conv3d, Conv3T, MultiBranchConv3d))).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last_3d)))
    assert_same_gradients(gradients(other, x), gradients(model, x))
    assert seen == [True]
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=1e-8, atol=1e-8)


def test_channels_last_hook_names_what_it_cannot_convert(tmp_path):
    hook = HOOKS.build(dict(type='ChannelsLastHook'))
    runner = type('Runner', (), {})()
    runner.model = Model(MODELS.build(dict(type='ConvLSTMNet', num_layers=1)))
    with pytest.raises(ValueError, match='Model has no kernel .* in its backbone'):
        hook.before_train(runner)
    runner.model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='Linear has no backbone'):
        hook.before_test(runner)


def norm_statistics(model):
    return {name: value for name, value in model.state_dict().items() if 'running' in name}


@pytest.mark.parametrize('name', ['3T', 'multi-branch', 'separable', 'plain'])
def test_checkpointing_has_the_same_gradients_and_statistics(name):
    (model, x), (other, _) = build(name), build(name, with_cp=True)
    other.load_state_dict(model.state_dict())
    assert_same_gradients(gradients(other, x), gradients(model, x), 1e-13)
    torch.testing.assert_close(norm_statistics(other), norm_statistics(model), rtol=0, atol=1e-13)


def test_accumulated_gradients_are_those_of_the_batch():
    """LeNet-5-3T has no BatchNorm: two halves and a whole make the same step, of mean losses."""
    model, x = build('LeNet5')
    x = torch.cat([x, x.flip(2)])
    whole, halves = model, copy.deepcopy(model)
    for net, parts in ((whole, 1), (halves, 2)):
        wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=1e-3), accumulative_counts=parts)
        for part in x.chunk(parts):
            wrapper.update_params(net.backbone(part).pow(2).mean())
    torch.testing.assert_close(halves.state_dict(), whole.state_dict(), rtol=0, atol=1e-13)


@pytest.mark.parametrize('name', ['3T', 'multi-branch', 'separable', 'LeNet5'])
def test_bf16(name):
    """Gradients in float32, near those of float32; the step is that of the wrapped optimizer."""
    model, x = build(name)
    model, x = model.float().eval(), x.float()  # statistics of so few values would magnify every rounding
    other = copy.deepcopy(model)
    wrapper = OPTIM_WRAPPERS.build(dict(type='BF16OptimWrapper', optimizer=torch.optim.SGD(other.parameters(), lr=1.)))
    with wrapper.optim_context(other):
        assert torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu') == torch.bfloat16
        loss = other(x)
    assert not torch.is_autocast_enabled('cpu')
    loss.backward()
    expected, actual = (torch.cat([g.flatten() for g in grads.values()]) for grads in (
        gradients(model, x), {name: p.grad for name, p in other.named_parameters() if p.grad is not None}))
    assert actual.dtype == torch.float32 and torch.isfinite(actual).all()
    # squares of gradients of a network without statistics leave the range of float32
    assert torch.nn.functional.cosine_similarity(actual.double(), expected.double(), dim=0) > 0.9
    before = [p.detach().clone() for p in other.parameters()]
    wrapper.step()
    for p, b in zip(other.parameters(), before):
        if p.grad is not None:
            torch.testing.assert_close(p, b - p.grad)


def test_bf16_with_auxiliary_classifiers():
    """Their scores reach the loss, and numpy, as float32; outside the wrapper's context the head is as before."""
    from mmaction.structures import ActionDataSample
    torch.manual_seed(0)
    model = nn.Module()
    model.cls_head = MODELS.build(dict(type='GoogLeNetHead', num_classes=6, in_channels=8, aux_channels=(4, ),
                                       aux_dropout_ratio=0., dropout_ratio=0.)).eval()
    model.cls_head.init_weights()
    features = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 8, 2, 2, 3)
    samples = [ActionDataSample().set_gt_label(k) for k in (0, 1)]

    def losses():
        model.cls_head.training = True  # the head alone: its norm keeps its statistics
        return {name: value for name, value in model.cls_head.loss(features, samples).items() if 'loss' in name}

    wrapper = OPTIM_WRAPPERS.build(dict(type='BF16OptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=1.)))
    expected = losses()
    with wrapper.optim_context(model):
        actual = losses()
        assert model.cls_head.aux1.fc2(torch.ones(2, 1024)).dtype == torch.bfloat16
    assert set(actual) == {'loss_cls', 'loss_cls_aux1'} and all(v.dtype == torch.float32 for v in actual.values())
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=0)
    assert not any(m._forward_hooks for m in model.modules())


LAYERS = {
    'Conv3T kernel': (lambda: Conv3T(3, 4, 3, padding=1, evaluation='kernel'), 5),
    'Conv3T factored': (lambda: Conv3T(3, 4, 3, padding=1, evaluation='factored'), 5),
    'Conv3T free': (lambda: Conv3T(3, 4, 3, padding=1, transform='free'), 5),
    'MultiBranchConv3d': (lambda: MultiBranchConv3d(3, 4, 3, padding=1), 5),
    'SeparableConv3d': (lambda: SeparableConv3d(3, 4, 3, padding=1, norm_cfg=dict(type='BN3d'),
                                                act_cfg=dict(type='ReLU')), 5),
    'ConvLSTM2d': (lambda: ConvLSTM2d(3, 4, 3), 5),
}


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'eval'])
def test_layers_compile_to_one_graph(name, training):
    layer = LAYERS[name][0]().train(training)
    torch._dynamo.reset()
    with torch.set_grad_enabled(training):
        found = torch._dynamo.explain(layer)(torch.randn(2, 3, 4, 6, 6))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.parametrize('name', LAYERS)
def test_compiled_layers_have_the_same_gradients(name):
    """Traced by dynamo and AOT autograd; inductor's code is left to the slow test, a C++ compiler takes long."""
    torch.manual_seed(0)
    layer = LAYERS[name][0]()
    x = torch.randn(2, 3, 4, 6, 6)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(layer), backend='aot_eager', fullgraph=True)

    def run(module):
        y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        return y.detach()

    torch.testing.assert_close(run(compiled), run(layer), rtol=1e-4, atol=1e-4)
    for (key, ours), theirs in zip(compiled.named_parameters(), layer.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f'{key}: {m}')


@pytest.mark.slow
def test_compiled_lenet_has_the_same_loss_and_gradients():
    """The code that inductor makes, by a C++ compiler."""
    if shutil.which('g++') is None and shutil.which('clang++') is None:
        pytest.skip('needs a C++ compiler for inductor, and finds neither g++ nor clang++')
    model, x = build('LeNet5')
    model, x = model.float(), x.float()
    compiled = copy.deepcopy(model)
    torch._dynamo.reset()
    run = torch.compile(compiled)
    loss, expected = run(x), model(x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward(), expected.backward()
    assert_same_gradients(*({name: p.grad for name, p in net.named_parameters()} for net in (compiled, model)), 1e-5)


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        from mmaction.structures import ActionDataSample
        clip = np.random.RandomState(index).randint(0, 255, (1, 1, 12, 12, 12), dtype='uint8')
        return dict(inputs=torch.from_numpy(clip), data_samples=ActionDataSample().set_gt_label(index % 2))


SWITCHES = {
    'channels last': dict(custom_hooks=[dict(type='ChannelsLastHook')]),
    'accumulation': dict(optim_wrapper=dict(accumulative_counts=2), batch=2),
    'bf16': dict(optim_wrapper=dict(type='BF16OptimWrapper')), 'compile': dict(compile=dict(backend='eager')),
    'activation checkpointing': dict(activation_checkpointing=['backbone.conv2']),  # see docs/recipes.md
}


def trained(tmp_path, name, custom_hooks=(), optim_wrapper=None, batch=4, **options):
    """A LeNet-5-3T after one pass over four clips by the Runner, as {parameter: value}."""
    backbone = dict(type='LeNet5', temporal_cfg=dict(type='Conv3T', init='paper'), channels=(3, 4),
                    clip_shape=(12, 12, 12))
    model = dict(
        type='Recognizer3D', backbone=backbone,
        cls_head=dict(type='I3DHead', num_classes=2, in_channels=84, dropout_ratio=0., average_clips='prob'),
        data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.], std=[255.], format_shape='NCTHW'))
    runner = Runner(
        model, str(tmp_path / name), experiment_name=f'{tmp_path.name}-{name}', default_scope='mmaction',
        train_dataloader=dict(batch_size=batch, num_workers=0, dataset=Clips(), collate_fn=dict(
            type='pseudo_collate'), sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1), custom_hooks=list(custom_hooks), randomness=dict(seed=0),
        optim_wrapper={'type': 'OptimWrapper', 'optimizer': dict(type='SGD', lr=0.1), **(optim_wrapper or {})},
        default_hooks=dict(checkpoint=None), cfg=options)
    runner.train()
    return {key: value.detach().clone() for key, value in runner.model.state_dict().items()}


def test_the_runner_takes_every_switch(tmp_path):
    still = trained(tmp_path, 'still', dict(), dict(optimizer=dict(type='SGD', lr=0.)))
    expected = trained(tmp_path, 'none')
    assert max(float((still[key] - expected[key]).abs().max()) for key in still) > 1e-3  # there is a step to compare
    for name, options in SWITCHES.items():
        actual = trained(tmp_path, name, **copy.deepcopy(options))
        if name == 'bf16':  # rounding of 2^-8 in every product: the step as a whole points the same way
            steps = [torch.cat([(state[key] - still[key]).flatten() for key in still]) for state in (actual, expected)]
            assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.98
            assert all(value.dtype == torch.float32 for value in actual.values())
            continue
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5, msg=lambda m, name=name: f'{name}: {m}')


BF16 = sorted((ROOT / 'configs/recognition').rglob('*-bf16-*.py'))  # tests/configs/test_configs.py trains each one step


@pytest.mark.parametrize('path', BF16, ids=lambda path: path.stem)
def test_the_bf16_configs_add_and_replace_nothing_else(path):
    """The wrapper keeps its optimizer, no hook is gone, and the rest is the config's without -bf16."""
    plain, changed = Config.fromfile(str(path).replace('-bf16-', '-')), Config.fromfile(path)
    assert OPTIM_WRAPPERS.get(changed.optim_wrapper.type) is BF16OptimWrapper
    hook = changed.default_hooks.pop('channels_last', None)
    assert (hook is None) == (changed.model.backbone.type == 'ConvLSTMNet')
    assert hook is None or HOOKS.get(hook.type) is ChannelsLastHook
    changed.optim_wrapper.type = plain.optim_wrapper.type
    assert changed.to_dict() == plain.to_dict()


@pytest.mark.parametrize('path', [
    pytest.param(path, id=path.stem, marks=[] if 'clstm' in path.stem else [pytest.mark.slow]) for path in BF16])
def test_the_bf16_configs_train_in_bfloat16(path, tmp_path):
    runner = Runner.from_cfg(reduced(path, tmp_path))
    seen = []

    def look(module, inputs):
        precision = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else torch.float32
        last = inputs[0].is_contiguous(memory_format=torch.channels_last_3d)
        seen.append((module.training, precision, last))
    first = next(runner.model.backbone.children())
    if isinstance(first, torch.nn.ModuleList):  # is never called, and ConvLSTMNet runs the cells step by step itself
        first = runner.model.backbone
    first.register_forward_pre_hook(look)
    runner.train()
    in_training = [rest for training, *rest in seen if training]  # the clip that CheckSetupHook passes through is not
    assert in_training[0] == [torch.bfloat16, 'clstm' not in path.stem]
    assert {parameter.dtype for parameter in runner.model.parameters()} == {torch.float32}


def test_there_is_a_bf16_config_for_every_family():
    text = (ROOT / 'docs/recipes.md').read_text(encoding='utf-8')
    for family in ('resnet18-3t', 'googlenet-3t', 'i3d-r50_ours', 's3d-r50_ours', 'r2plus1d18', 'clstm'):
        assert any(path.name.startswith(family) for path in BF16), family
    assert all(path.relative_to(ROOT).as_posix() in text for path in BF16)


@pytest.fixture
def recipes(benchmark_script):
    return benchmark_script('recipes')


def test_psnr(recipes):
    frames = np.full((2, 3), 100, dtype=np.uint8)
    assert recipes['psnr'](frames, frames) == float('inf')
    assert recipes['psnr'](frames + 255 // 3, frames) == pytest.approx(20 * np.log10(3))


def test_benchmark_of_the_switches(recipes, monkeypatch):
    """A tiny net with each switch: the step runs, and the difference is what the switch makes."""
    monkeypatch.setitem(recipes['CASES'], 'tiny', (resnet('Conv3T'), (4, 32, 32), 4, None))
    args = type('Args', (), dict(rounds=1, device='cpu'))()
    rows = recipes['step_rows']('tiny', ['bf16', 'channels last', 'checkpointing', 'accumulation'], args)
    differences = {row['candidate']: float(row['difference']) for row in rows}
    assert differences['checkpointing'] < 1e-6 and differences['channels last'] < 1e-3
    assert 1e-4 < differences['bf16'] and 0.01 < differences['accumulation']
