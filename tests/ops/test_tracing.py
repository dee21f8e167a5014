"""torch.compile, torch.export, torch.jit.trace and make_fx of the layers: the reference's numbers, for any clips."""
import io

import pytest
import torch
from helpers.layer_cases import OneTensor, build, clip, noise
from torch.fx.experimental.proxy_tensor import make_fx

from tconv_mmaction import ops
from tconv_mmaction.layers import MultiBranchConv3d, SeparableConv3d

NAMES = ['gain', 'free', 'norms', 'lstm', 'separable']


def model_of(name):
    if name != 'separable':
        return build(name, torch.float32)
    torch.manual_seed(0)
    return OneTensor(SeparableConv3d(4, 4, 3, padding=1, temporal_cfg=dict(type='MultiBranchConv3d')))


def clips_of(name):
    x = noise((2, 4, 4, 5, 6), 1, torch.float32) if name == 'separable' else clip(name, torch.float32)
    return x, torch.cat([x, x[:1]])


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.detach().abs().max()))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('asked', ['auto', 'kept_kernel', 'factored'])
def test_compiled(name, asked):
    if asked != 'auto' and name != 'gain':
        pytest.skip('one layer is enough to see that a name changes nothing')
    model, (x, _) = model_of(name), clips_of(name)
    torch._dynamo.reset()
    for train in (True, False):
        model.train(train)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)):
            norm.momentum = 0  # so that two calls see the same statistics
        found = []
        for call in (model, torch.compile(model, backend='aot_eager', fullgraph=True)):
            inner = x.clone().requires_grad_()
            with ops.use('reference' if call is model else asked):
                y = call(inner)
                found.append([y, *torch.autograd.grad(y.square().sum(), [inner, *model.parameters()])])
        for want, got in zip(*found):
            close(got, want)


@pytest.mark.parametrize('name', NAMES)
def test_exported_for_any_batch(name):
    model, (x, more) = model_of(name).eval(), clips_of(name)
    with torch.no_grad():
        model(x)  # a kernel is kept, which no program may hold
        program = torch.export.export(model, (x, ), dynamic_shapes=(dict([(0, torch.export.Dim('batch'))]), ))
        for clips in (x, more):
            close(program.module()(clips), model(clips))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)
        program = torch.export.export(model, (x, ))
        close(program.module()(x), model(x))


@pytest.mark.parametrize('name', NAMES)
def test_traced_by_jit(name):
    model, (x, more) = model_of(name).eval(), clips_of(name)
    with torch.no_grad():
        model(x)
        traced = torch.jit.trace(model, x)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        for program in (traced, torch.jit.load(file)):
            for clips in (x, more):
                close(program(clips), model(clips))
    inner = x.clone().requires_grad_()
    close(*(torch.autograd.grad(call(inner).square().sum(), inner)[0] for call in (torch.jit.trace(model, x), model)))


@pytest.mark.parametrize('name', ['gain', 'norms', 'lstm'])
def test_traced_by_make_fx(name):
    model, (x, _) = model_of(name).eval(), clips_of(name)
    with torch.no_grad():
        model(x)
        for mode in ('real', 'fake'):
            graph = make_fx(model, tracing_mode=mode, _allow_non_fake_inputs=True)(x)
            close(graph(x), model(x))
            assert not any('mkldnn' in str(node.target) for node in graph.graph.nodes)


def test_a_traced_layer_holds_parameters_and_not_a_kernel():
    model, (x, _) = model_of('gain').eval(), clips_of('gain')
    with torch.no_grad():
        model(x)
        traced = torch.jit.trace(model, x)
        model.layer.weight.mul_(2)  # shared with the program
        close(traced(x), model(x))


def test_branches_with_names_of_their_own_compile():
    """The layers without one weight answer attribute errors themselves, which dynamo goes through."""
    torch._dynamo.reset()
    layer = MultiBranchConv3d(4, 4, 3, padding=1).eval()
    x = noise((2, 4, 4, 5, 6), 1, torch.float32)
    close(torch.compile(layer, backend='eager', fullgraph=True)(x), layer(x))
