"""What goes along when a layer becomes a plain convolution: freezing, hooks, masks, names, types; and what is said."""
import copy
import warnings

import pytest
import torch
from helpers.layer_cases import noise
from torch import nn
from torch.nn.utils import parametrize, prune

from tconv_mmaction.layers import Conv3T, DeployedConv3d, MultiBranchConv3d, SeparableConv3d, switch_to_deploy

BUILDS = {
    'Conv3T': lambda: Conv3T(4, 6, 3, padding=1, stride=(1, 2, 1), gain=True, gain_std=.3),
    'free': lambda: Conv3T(4, 6, (2, 3, 3), transform='free', padding_mode='replicate', padding=1, bias=False),
    'groups': lambda: Conv3T(4, 6, (3, 2, 3), groups=2, dilation=(1, 2, 1)),
    'MultiBranchConv3d': lambda: MultiBranchConv3d(4, 6, (5, 3, 3), padding=(2, 1, 1), bias=True, eta=3.),
    'without norms': lambda: MultiBranchConv3d(4, 6, 3, norm_cfg=None, padding='same'),
}


def random_layer(name):
    layer = BUILDS[name]().eval()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.add_(noise(p.shape, i, p.dtype), alpha=.2)
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(noise(module.running_mean.shape, 7))
                module.running_var.copy_(1 + noise(module.running_var.shape, 8).abs())
    return layer


def clip():
    return noise((2, 4, 6, 7, 8), 3, torch.float32)


def assert_same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.detach().abs().max()))


@pytest.mark.parametrize('name', BUILDS)
def test_computes_the_same_with_its_gradient(name):
    layer, x = random_layer(name), clip().requires_grad_()
    conv = switch_to_deploy(layer)
    assert type(conv) is nn.Conv3d and not conv.training
    y, want = conv(x), layer(x)
    assert_same(y, want)
    assert_same(*(torch.autograd.grad(t.square().sum(), x)[0] for t in (y, want)))
    assert conv.weight.is_leaf and all(p.requires_grad for p in conv.parameters())


@pytest.mark.parametrize('name', BUILDS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_type_and_the_layer_itself_stay(name, dtype):
    layer = random_layer(name).to(dtype)
    before = copy.deepcopy(layer.state_dict())
    conv = switch_to_deploy(layer)
    assert conv.weight.dtype is dtype
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])
    if dtype is torch.float64:
        torch.testing.assert_close(conv(clip().double()), layer(clip().double()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('name', BUILDS)
def test_frozen_layers_stay_frozen(name):
    network = nn.ModuleDict({'frozen': random_layer(name).requires_grad_(False), 'learning': random_layer(name)})
    next(network['learning'].parameters()).requires_grad_(False)  # some of its parameters
    fused = switch_to_deploy(network)
    assert not any(p.requires_grad for p in fused['frozen'].parameters())
    assert all(p.requires_grad for p in fused['learning'].parameters())
    assert not network['frozen'].weight.requires_grad if hasattr(network['frozen'], 'weight') else True


def test_training_mode_of_a_3t_layer_goes_along():
    layer = random_layer('Conv3T')
    assert switch_to_deploy(layer.train()).training and not switch_to_deploy(layer.eval()).training


@pytest.mark.parametrize('name', BUILDS)
def test_hooks_go_along_in_their_order(name):
    layer, calls = random_layer(name), []
    layer.register_forward_pre_hook(lambda module, args: calls.append('pre') or (args[0] * 2, ))
    layer.register_forward_pre_hook(lambda module, args, kwargs: calls.append('pre with kwargs') or (args, kwargs),
                                    with_kwargs=True)
    layer.register_forward_hook(lambda module, args, y: calls.append('hook') or y + 1)
    layer.register_forward_hook(lambda module, args, kwargs, y: calls.append('hook with kwargs') or y * 3,
                                with_kwargs=True)
    layer.register_forward_hook(lambda module, args, y: calls.append('always'), always_call=True)
    layer.register_forward_pre_hook(lambda module, args: calls.append('first'), prepend=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        conv = switch_to_deploy(layer)
    assert_same(conv(clip()), layer(clip()))
    assert calls[:len(calls) // 2] == calls[len(calls) // 2:]
    assert calls[0] == 'first' and 'always' in calls
    calls.clear()
    with pytest.raises(RuntimeError):
        conv(clip()[:, :3])
    assert 'always' in calls


def test_the_handle_of_a_hook_removes_it_from_the_layer_only():
    layer, calls = random_layer('Conv3T'), []
    handle = layer.register_forward_hook(lambda *a: calls.append(1))
    conv = switch_to_deploy(layer)
    handle.remove()
    layer(clip())
    assert not calls
    conv(clip())
    assert calls == [1]


@pytest.mark.parametrize('register', ['register_full_backward_hook', 'register_full_backward_pre_hook'])
def test_backward_hooks_are_left_with_a_warning(register):
    layer = random_layer('Conv3T')
    getattr(layer, register)(lambda *a: None)
    with pytest.warns(UserWarning, match='backward hooks of a Conv3T do not go along'):
        conv = switch_to_deploy(layer)
    assert not conv._backward_hooks and not conv._backward_pre_hooks


@pytest.mark.parametrize('trained', [False, True])
@pytest.mark.parametrize('apply', [
    lambda m: prune.l1_unstructured(m, 'weight', .5), lambda m: prune.ln_structured(m, 'weight', .3, 2, 0),
    nn.utils.weight_norm, nn.utils.spectral_norm], ids=['l1', 'filters', 'weight norm', 'spectral norm'])
@pytest.mark.parametrize('name', ['Conv3T', 'without norms'])
def test_masks_and_norms_are_part_of_the_numbers(name, apply, trained):
    network = nn.Sequential(random_layer(name), nn.Conv3d(6, 2, 1)).eval()
    layer = network[0]
    for module in (layer if name == 'Conv3T' else layer.branches[0], network[1]):
        apply(module)
    if trained:
        network.train()
        network(clip()).sum().backward()
        network.eval()
    else:
        with torch.no_grad():
            network(clip())
    fused = switch_to_deploy(network)
    assert type(fused[0]) is nn.Conv3d and not fused[0]._forward_pre_hooks
    assert fused[1]._forward_pre_hooks  # a plain convolution is left as it is
    assert_same(fused(clip()), network(clip()))
    assert_same(fused(clip()), network(clip()))
    fused[0](clip()).sum().backward()


def test_parametrisations_are_part_of_the_numbers():

    class Doubled(nn.Module):

        def forward(self, weight):
            return 2 * weight

    layer = random_layer('Conv3T')
    plain = layer.kernel().detach()
    parametrize.register_parametrization(layer, 'weight', Doubled())
    conv = switch_to_deploy(layer)
    torch.testing.assert_close(conv.weight, 2 * plain)
    assert type(conv) is nn.Conv3d and not parametrize.is_parametrized(conv)


def test_a_layer_in_two_places_stays_one():
    layer = random_layer('groups')
    network = nn.ModuleDict({'a': layer, 'b': nn.Sequential(layer)})
    fused = switch_to_deploy(network)
    assert fused['a'] is fused['b'][0] and network['a'] is layer


def test_gradients_and_kept_kernels_do_not_disturb():
    layer = random_layer('Conv3T')
    with torch.no_grad():
        layer(clip())
    layer(clip()).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert_same(switch_to_deploy(layer)(clip()), layer(clip()))


def test_multi_branch_layers_in_training_mode_are_refused():
    layer = random_layer('MultiBranchConv3d').train()
    for model in (layer, nn.Sequential(layer)):
        with pytest.raises(RuntimeError, match=r'eval mode only.*model\.eval\(\)'):
            switch_to_deploy(model)
    layer.eval().norms[1].train()
    with pytest.raises(RuntimeError, match='eval mode only'):
        switch_to_deploy(layer)


def test_separable_layers_keep_their_parts():
    layer = SeparableConv3d(4, 6, 3, padding=1, temporal_cfg=dict(type='MultiBranchConv3d')).eval()
    fused = switch_to_deploy(nn.Sequential(layer))
    assert type(fused[0]) is SeparableConv3d and type(fused[0].temporal) is nn.Conv3d
    assert_same(fused(clip()), layer(clip()))


def test_a_state_dict_of_the_fused_layer_fits_the_registered_one():
    conv = switch_to_deploy(random_layer('MultiBranchConv3d'))
    again = DeployedConv3d(4, 6, (5, 3, 3), padding=(2, 1, 1))
    again.load_state_dict(conv.state_dict())
    assert torch.equal(again(clip()), conv(clip()))


def test_infinite_and_missing_numbers():
    layer = random_layer('Conv3T')
    with torch.no_grad():
        layer.translate_x[0, 1] = float('inf')
        layer.rotate[1, 2] = float('nan')
    conv = switch_to_deploy(layer)
    assert not conv.weight[1, :, 1:].any() and conv.weight[1, :, 0].any()
    assert conv.weight[2, :, 2].isnan().all() and conv.weight[2, :, :2].isfinite().all()
    torch.testing.assert_close(conv(clip()), layer(clip()), rtol=1e-4, atol=1e-4, equal_nan=True)
