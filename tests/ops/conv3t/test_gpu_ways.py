"""The ways in which a 3T layer makes its kernel on a GPU, on CPU tensors: the maths is the same there."""
import pytest
import torch

from tconv_mmaction import ops
from tconv_mmaction.layers import Conv3T
from tconv_mmaction.ops.conv3t import implementations, shared_transforms


def moved_layer(*arguments, **settings):
    return Conv3T(*arguments, motion_std=(.3, .3, .1), **settings).double()


@pytest.mark.parametrize('arguments, settings', [
    ((4, 6, 3), dict(padding=1)), ((3, 4, (2, 5, 5)), dict(padding=2, gain=True, gain_std=.3)),
    ((4, 4, 3), dict(groups=2, stride=2, padding=1, bias=False))])
def test_product_with_written_out_transforms(arguments, settings):
    layer = moved_layer(*arguments, **settings)
    x = torch.randn(2, arguments[0], 5, 6, 7, dtype=torch.float64, requires_grad=True)
    clips, geometry = layer.lay_out(x)
    leaves, found = [x, *layer.parameters()], []
    for run in (implementations._run_product, implementations._run_reference):
        y = run(layer, clips, geometry)
        grads = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
        found.append([y, *grads, *second])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_gradients_of_shared_transforms_are_put_in_order():
    filters, together = [3, 5, 1], [torch.randn(2, 9) for _ in range(4)]
    want = [part for of_all in together for part in of_all.split(filters, 1)]
    got = shared_transforms._ordered(together, filters)
    assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(got, want)) and len(got) == len(want)


def test_the_kernel_is_made_as_the_convolution_reads_it():
    layer, x = Conv3T(4, 4, 3), torch.randn(2, 4, 5, 6, 7)
    assert implementations._wanted(layer, x) == (torch.float32, False)
    assert implementations._wanted(layer, x.contiguous(memory_format=torch.channels_last_3d)) == (torch.float32, True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert implementations._wanted(layer, x) == (torch.bfloat16, False)


def test_on_a_cpu_they_are_refused_with_the_reason():
    why = ops.explain(Conv3T(4, 4, 3), torch.randn(2, 4, 5, 6, 7))
    assert 'for a GPU' in why['kernel_triton'] and 'for a GPU' in why['kernel_product']


@pytest.mark.gpu
@pytest.mark.parametrize('way', ['kernel_triton', 'kernel_product', 'kept_kernel', 'reference'])
@pytest.mark.parametrize('last', [False, True])
def test_on_cuda(way, last, monkeypatch):
    if way == 'kernel_triton':
        pytest.importorskip('triton')
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    exact = moved_layer(16, 8, 3, padding=1)
    layer = Conv3T(16, 8, 3, padding=1)
    layer.load_state_dict({name: value.float() for name, value in exact.state_dict().items()})
    layer.cuda().train(way != 'kept_kernel').requires_grad_(way != 'kept_kernel')
    exact.requires_grad_(way != 'kept_kernel')
    x = torch.randn(2, 16, 5, 9, 9, dtype=torch.float64)
    own = x.float().cuda().contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
    results = []
    for module, clip in ((exact, x), (layer, own)):
        clip.requires_grad_()
        with ops.use('auto' if module is exact else way):
            y = module(clip)
        y.square().sum().backward()
        results.append([y.detach(), clip.grad, *(p.grad for p in module.parameters() if p.grad is not None)])
    for want, got in zip(*results):
        assert (got.double().cpu() - want).norm() < 1e-4 * want.norm()
