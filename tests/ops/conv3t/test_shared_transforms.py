"""A network that computes its layers' transforms together gets what the layers would find by themselves."""
import copy
import pickle

import pytest
import torch
from helpers.many_processes import run_ranks
from mmaction.registry import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from tconv_mmaction.layers import TEMPORAL_PARAMETERS, Conv3T, share_transforms
from tconv_mmaction.ops import use
from tconv_mmaction.ops.conv3t import shared_transforms


class Net(nn.Module):
    """3x3x3 layers, one of them strided and one with groups, and some that cannot take part."""

    def __init__(self, evaluation='auto'):
        super().__init__()
        torch.manual_seed(0)
        kwargs = dict(padding=1, evaluation=evaluation)
        self.stem = Conv3T(3, 10, 5, padding=2)
        self.layers = nn.ModuleList([Conv3T(10, 20, 3, **kwargs), Conv3T(20, 10, 3, groups=2, bias=False, padding=1),
                                     Conv3T(10, 14, 3, stride=2, padding=1), Conv3T(14, 12, 3, **kwargs)])
        self.others = nn.Sequential(Conv3T(12, 10, 3, padding=1, transform='free'), Conv3T(10, 10, (3, 2, 2)),
                                    Conv3T(10, 11, (1, 3, 3), padding=1), Conv3T(11, 10, (2, 3, 3), padding=1))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.split('.')[-1] in TEMPORAL_PARAMETERS:
                    parameter += torch.randn_like(parameter) / 3
                elif parameter.dim() > 1:
                    parameter /= parameter[0].numel()**.5
        self.double()

    def run(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x).relu()
        return self.others(x)

    def forward(self, x):
        with share_transforms(self):
            return self.run(x)


@pytest.fixture
def clip():
    return torch.randn(2, 3, 6, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(run, net, x):
    x = x.clone().requires_grad_()
    y = run(x)
    trained = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(y.square().sum(), [x, *trained], allow_unused=True)
    return [y.detach(), *grads]


def count_nodes(monkeypatch):
    calls = []
    apply = shared_transforms._Together.apply
    monkeypatch.setattr(shared_transforms._Together, 'apply', lambda *a: calls.append(len(a)) or apply(*a))
    return calls


def assert_same(got, want):
    for a, b in zip(got, want):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def nothing_is_lent():
    return not shared_transforms._lent.get()


@pytest.mark.parametrize('evaluation', ['auto', 'factored'])
@pytest.mark.parametrize('training', [True, False])
def test_equals_layer_by_layer(evaluation, training, clip, monkeypatch):
    net = Net(evaluation).train(training)
    want = gradients(net.run, net, clip)
    calls = count_nodes(monkeypatch)
    assert_same(gradients(net, net, clip), want)
    assert calls == [1 + 4 * 4]  # the four layers of 3x3x3, and no other
    assert nothing_is_lent()
    with torch.no_grad():
        torch.testing.assert_close(net(clip), want[0], rtol=1e-11, atol=1e-11)
    assert len(calls) == 1


def test_a_part_within_a_whole_shares_with_it(clip, monkeypatch):
    net = Net()
    want, calls = gradients(net.run, net, clip), count_nodes(monkeypatch)

    def run(x):
        with share_transforms(net):
            return net(x)  # which shares by itself, too

    assert_same(gradients(run, net, clip), want)
    assert calls == [1 + 4 * 4] and nothing_is_lent()


def test_frozen_and_unused_layers(clip, monkeypatch):
    """A layer that takes no part in the loss gets no gradient; one that is frozen keeps its own way."""
    net = Net()
    net.layers.append(Conv3T(12, 4, 3).double())  # never run
    net.layers[0].requires_grad_(False)
    net.layers[1].scale.requires_grad_(False)
    net.run = lambda x: net.layers[3](net.layers[2](net.layers[1](net.layers[0](net.stem(x)))))
    calls = count_nodes(monkeypatch)
    got = gradients(net, net, clip)
    assert calls == [1 + 4 * 4]
    assert_same(got, gradients(net.run, net, clip))
    net(clip).sum().backward()
    assert all(p.grad is None for p in net.layers[4].parameters())
    assert all(p.grad is None for p in net.layers[0].parameters()) and net.layers[1].scale.grad is None
    assert net.layers[1].rotate.grad is not None


def test_second_derivatives(clip):
    net = Net()

    def penalty(run):
        x = clip.clone().requires_grad_()
        grad, = torch.autograd.grad(run(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), list(net.parameters()), allow_unused=True)

    got = penalty(net)
    with use('reference'):
        assert_same(got, penalty(net.run))


@pytest.mark.parametrize('change', ['in place', 'data', 'replaced'])
def test_a_hook_that_changes_a_transform_within_the_pass_is_heard(change, clip):
    """Output and gradients are those of the values that the layer has when it runs."""
    net = Net()

    def turn(layer, inputs):
        if change == 'replaced':
            layer.rotate = nn.Parameter(layer.rotate.detach() + .3)
        elif change == 'data':
            layer.rotate.data += .3
        else:
            with torch.no_grad():
                layer.rotate += .3

    handle = net.layers[1].register_forward_pre_hook(turn)
    y = net(clip)
    handle.remove()
    parameters = list(net.parameters())
    got = torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)
    with use('reference'):
        want = net.run(clip)
    assert_same([y, *got], [want, *torch.autograd.grad(want.square().sum(), parameters, allow_unused=True)])


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_checkpointed_parts_find_their_own(use_reentrant, clip):
    net = Net()
    want = gradients(net.run, net, clip)

    def run(x):
        with share_transforms(net):
            x = net.layers[0](net.stem(x)).relu()
            x = checkpoint(lambda x: net.layers[2](net.layers[1](x).relu()).relu(), x, use_reentrant=use_reentrant)
            return net.others(net.layers[3](x).relu())

    got = [run(clip.requires_grad_())]
    got[0].square().sum().backward()
    assert_same([got[0], clip.grad, *(p.grad for p in net.parameters())], want)


def test_whatever_stands_in_for_a_parameter_is_used(clip, monkeypatch):
    """functional_call, a copy made within the context, an error within it."""
    net = Net()
    doubled = {name: value.detach() * 2 for name, value in net.layers[0].named_parameters()}
    want = torch.func.functional_call(net.layers[0], doubled, net.stem(clip))
    with share_transforms(net):
        got = torch.func.functional_call(net.layers[0], doubled, net.stem(clip))
        again = pickle.loads(pickle.dumps(copy.deepcopy(net.layers[0])))
    torch.testing.assert_close(got, want)
    assert not any('transforms' in name for name in vars(again))
    calls = count_nodes(monkeypatch)
    values = {name: value * 2 for name, value in net.named_parameters()}
    torch.func.functional_call(net, values, clip).sum().backward()
    assert not calls
    with pytest.raises(ValueError, match='in_channels=3'):
        net(clip[:, :2])
    assert nothing_is_lent()


def test_a_compiled_network_is_one_graph(clip):
    """While a network is traced nothing is shared: the graph has every layer's own operations."""
    net = Net()
    want = gradients(net, net, clip)
    assert_same(gradients(torch.compile(net, backend='eager', fullgraph=True), net, clip), want)


def sharded(use_orig_params, each):
    """A network under FSDP, as a whole or with a unit for each layer too: its output and the norm of its gradients."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrap(module):
        return FullyShardedDataParallel(module, use_orig_params=use_orig_params, device_id=torch.device('cpu'))

    torch.distributed.init_process_group('gloo')
    net = Net()
    if each:
        for i, layer in enumerate(net.layers):
            net.layers[i] = wrap(layer)
    y = wrap(net)(torch.randn(2, 3, 6, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    y.square().sum().backward()
    norm = torch.stack([p.grad.square().sum() for p in net.parameters() if p.grad is not None]).sum()
    torch.distributed.all_reduce(norm)
    return y.detach(), norm


@pytest.mark.parametrize('use_orig_params', [True, False])
@pytest.mark.parametrize('each', [True, False])
def test_parameters_that_are_yet_to_be_gathered_are_left_alone(use_orig_params, each, clip, tmp_path):
    """Under FSDP a layer has its parameters only while it runs."""
    net = Net()
    y = net.run(clip)
    grads = torch.autograd.grad(y.square().sum(), list(net.parameters()), allow_unused=True)
    for got, norm in run_ranks(sharded, 2, tmp_path, use_orig_params, each):
        torch.testing.assert_close(got, y.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(norm, sum(g.square().sum() for g in grads if g is not None), rtol=1e-8, atol=0)


@pytest.mark.parametrize('cfg', [dict(type='GoogLeNet3d'), dict(type='TemporalResNet3d', depth=18, base_channels=16,
                                                                temporal_kernels=(7, 3, 3, 3, 3))])
def test_backbones_share(cfg, monkeypatch):
    torch.manual_seed(0)
    net = MODELS.build(dict(temporal_cfg=dict(type='Conv3T'), **cfg))
    calls = count_nodes(monkeypatch)
    net(torch.randn(2, 3, 16, 64, 64))
    layers = [m for m in net.modules() if isinstance(m, Conv3T) and m.kernel_size == (3, 3, 3)]
    assert calls == [1 + 4 * len(layers)] and len(layers) > 10
