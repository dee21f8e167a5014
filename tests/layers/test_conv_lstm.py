"""ConvLSTM2d: against the golden files, a naive loop in float64, and itself in chunks, checkpointed, compiled."""
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import golden
from mmaction.registry import MODELS
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tconv_mmaction.layers import ConvLSTM2d, conv_lstm2d
from tconv_mmaction.ops.conv3d import minimal_filtering

GOLDEN = golden('conv_lstm_*.npz')
EXACT = dict(rtol=0, atol=1e-10)


def naive(layer, x, h, c):
    """Step by step and gate by gate, two convolutions per step."""
    outputs = []
    for t in range(x.shape[2]):
        i, f, g, o = (
            F.conv2d(x[:, :, t], w_ih, bias, layer.stride, layer.padding) + F.conv2d(h, w_hh, None, 1, layer.padding)
            for w_ih, w_hh, bias in zip(layer.weight_ih.chunk(4), layer.weight_hh.chunk(4), layer.bias.chunk(4)))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, dim=2), (h, c)


def make(channels=3, hidden=4, kernel=5, stride=2, **kwargs):
    """A float64 cell with generic parameters."""
    layer = ConvLSTM2d(channels, hidden, kernel, stride, **kwargs).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer


def clip(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize('name', GOLDEN)
def test_golden(name):
    data = {key: torch.from_numpy(value) for key, value in GOLDEN[name].items()}
    channels, hidden, kernel = data['x'].shape[1], data['y'].shape[1], data['weight_ih'].shape[-1]
    layer = ConvLSTM2d(channels, hidden, kernel, int(data['stride'])).double()
    layer.load_state_dict({key: data[key] for key in ('weight_ih', 'weight_hh', 'bias')})
    y, (h, _) = layer(data['x'].transpose(0, 1)[None])
    torch.testing.assert_close(y[0].transpose(0, 1), data['y'], **EXACT)
    torch.testing.assert_close(h[0], data['y'][-1], **EXACT)


@pytest.mark.parametrize('kernel, stride, size', [(5, 2, (11, 14)), (3, 1, (6, 5)), ((3, 5), (1, 3), (7, 8)),
                                                 (1, 1, (1, 1))])
@pytest.mark.parametrize('chunk_bytes', [1, 5000, 2**23])  # one step, a few steps, all steps at once
@pytest.mark.parametrize('outputs', [None, 4])  # the states convolved as they are, and by minimal filtering
def test_outputs_states_and_gradients_equal_a_naive_loop(kernel, stride, size, chunk_bytes, outputs, monkeypatch):
    monkeypatch.setattr(conv_lstm2d, 'CHUNK_BYTES', chunk_bytes)
    monkeypatch.setattr(minimal_filtering, 'choose', lambda *args: outputs)
    layer = make(kernel=kernel, stride=stride)
    x = clip(2, 3, 5, *size).requires_grad_()
    state = tuple(clip(*layer.state_shape(x)).requires_grad_() for _ in 'hc')
    for given, start in ((state, state), (None, [torch.zeros_like(s) for s in state])):
        y, (h, c) = layer(x, given)
        y_ref, (h_ref, c_ref) = naive(layer, x, *start)
        for ours, theirs in zip((y, h, c), (y_ref, h_ref, c_ref)):
            torch.testing.assert_close(ours, theirs, **EXACT)
        wrt = [x, *layer.parameters(), *(state if given else [])]
        weights = clip(*y.shape)
        ours = torch.autograd.grad((y * weights).sum() + c.sum(), wrt)
        theirs = torch.autograd.grad((y_ref * weights).sum() + c_ref.sum(), wrt)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize('used', [('y', ), ('h', ), ('c', ), ('y', 'h', 'c')])
@pytest.mark.parametrize('wanted', [('x', ), ('weight_hh', ), ('weight_ih', 'bias'), ('h', 'c'), ('c', 'x')])
def test_any_part_of_the_result_and_of_the_gradients(used, wanted):
    """What is not used gets no gradient, what is not wanted is left out, and a graph can be gone through twice."""
    layer, x = make(), clip(2, 3, 4, 7, 6)
    start = tuple(clip(*layer.state_shape(x)) for _ in 'hc')
    leaves = dict(layer.named_parameters(), x=x, h=start[0], c=start[1])
    for name, leaf in leaves.items():
        leaf.requires_grad_(name in wanted)
    found = []
    for run in (layer, lambda x, state: naive(layer, x, *state)):
        y, (h, c) = run(x, start)
        results = dict(y=y, h=h, c=c)
        loss = sum((i + 1) * results[name].square().sum() for i, name in enumerate(used))
        grads = [torch.autograd.grad(loss, [leaves[name] for name in wanted], retain_graph=again) for again in (1, 0)]
        for a, b in zip(*grads):
            torch.testing.assert_close(a, b, **EXACT)
        found.append(grads[0])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_graph_free_pass_leaves_the_given_state_alone():
    layer, x = make(), clip(2, 3, 5, 9, 9)
    start = tuple(clip(*layer.state_shape(x)) for _ in 'hc')
    before = [s.clone() for s in start]
    y, last = layer(x, start)
    with torch.no_grad():
        again, end = layer(x, start)
    torch.testing.assert_close((again, *end), (y, *last), **EXACT)
    torch.testing.assert_close(start, tuple(before), rtol=0, atol=0)
    assert not again.requires_grad


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_closed_output_gate_has_the_gradients_of_autograd(dtype):
    """tanh(c) is h over the gate in the backward pass; a gate of 0, or nearly, spoils nothing."""
    torch.manual_seed(0)
    layer = make(stride=1).to(dtype)
    with torch.no_grad():
        layer.bias[-4:] = torch.tensor([-1e4, -720. if dtype == torch.float64 else -90., 0., 30.])
    x = clip(2, 3, 4, 6, 5).to(dtype)
    weight = clip(2, 4, 4, 6, 5).to(dtype)
    found = []
    for run in (lambda: layer(x)[0], lambda: naive(layer, x, *(x.new_zeros(2, 4, 6, 5) for _ in range(2)))[0]):
        y = run()
        found.append([y, *torch.autograd.grad((y * weight).sum(), list(layer.parameters()))])
    assert (found[0][0][:, 0] == 0).all() and (found[0][0][:, 1].abs() < 1e-30).all()
    tolerance = dict(rtol=1e-3, atol=1e-4) if dtype == torch.float32 else dict(rtol=1e-10, atol=1e-10)
    for got, want in zip(*found):
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got, want, **tolerance)


def test_second_derivatives():
    layer = make(2, 2, 3, 1)
    x, start = clip(1, 2, 3, 3, 4), tuple(clip(1, 2, 3, 4) for _ in 'hc')
    values = [t.requires_grad_() for t in (x, *start, *layer.parameters())]

    def outputs(x, h, c, *p):
        y, (_, last) = torch.func.functional_call(layer, dict(zip(('weight_ih', 'weight_hh', 'bias'), p)),
                                                  (x, (h, c)))
        return y, last

    assert torch.autograd.gradgradcheck(outputs, values)


def test_large_states_are_filtered_and_stay_close_in_float32(monkeypatch):
    """As layers choose it: a state of 32 channels and 5x5 filters at 64x64."""
    torch.manual_seed(0)
    layer, x = ConvLSTM2d(3, 32, 5, 2), torch.randn(2, 3, 4, 112, 112)
    used = []
    add_to = minimal_filtering.MinimalFilter.add_to
    monkeypatch.setattr(minimal_filtering.MinimalFilter, 'add_to', lambda *a, **k: used.append(1) or add_to(*a, **k))
    found = []
    for enabled in (True, False):
        if not enabled:
            monkeypatch.setattr(minimal_filtering, 'choose', lambda *args: None)
        y, _ = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))])
        assert len(used) == 3  # every step but the first, the first time only
    for filtered, plain in zip(*found):
        torch.testing.assert_close(filtered, plain, rtol=1e-4, atol=1e-5 * float(plain.detach().abs().max()))


def test_gradcheck():
    layer = make(2, 2, 3, 1)
    x = clip(1, 2, 3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: torch.func.functional_call(
        layer, dict(zip(('weight_ih', 'weight_hh', 'bias'), p)), x)[0], (x, *layer.parameters()))


@pytest.mark.parametrize('lengths', [(1, 6), (3, 4), (1,) * 7])
def test_a_stream_in_chunks_is_the_stream_in_one_go(lengths):
    layer = make()
    x, state, parts = clip(2, 3, 7, 9, 9), None, []
    whole, last = layer(x)
    for chunk in x.split(lengths, dim=2):
        part, state = layer(chunk, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


def test_one_layer_takes_any_size_batch_and_memory_layout():
    layer = make()
    x = clip(3, 3, 4, 9, 12)
    together = layer(x)[0]
    for n in range(3):
        torch.testing.assert_close(layer(x[n:n + 1])[0][0], together[n], **EXACT)
    frames_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(layer(frames_first)[0], together, **EXACT)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last_3d))[0], together, **EXACT)
    assert layer(clip(1, 3, 2, 20, 31))[0].shape == (1, 4, 2, 10, 16)
    assert layer(x[:0])[0].shape == (0, 4, 4, 5, 6)


class Allocated(TorchDispatchMode):
    """Remembers every buffer that operators make, without keeping it alive."""

    def __init__(self):
        super().__init__()
        self.buffers = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.buffers[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return result

    def alive(self):
        """Bytes of those that something still holds."""
        return sum(size for reference, size in self.buffers.values() if not reference.expired())


@pytest.mark.parametrize('steps', [1, 3, 7, 20])
def test_checkpointing_changes_memory_and_no_number(steps):
    layer = make()
    x = clip(2, 3, 7, 9, 9).requires_grad_()
    start = tuple(clip(*layer.state_shape(x)).requires_grad_() for _ in 'hc')
    results = []
    for checkpoint_steps in (None, steps):
        layer.checkpoint_steps = checkpoint_steps
        y, (h, c) = layer(x, start)
        results.append((y, h, c, *torch.autograd.grad(y.square().sum() + c.sum(), [x, *start, *layer.parameters()])))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, **EXACT)  # weight gradients are summed in another order


def test_checkpointing_keeps_states_at_the_borders_only():
    x, kept = clip(1, 3, 16, 20, 20), {}
    for steps in (None, 4):
        layer = make(hidden=8, checkpoint_steps=steps)
        with Allocated() as memory:
            y, _ = layer(x)
        kept[steps] = memory.alive() - x.untyped_storage().nbytes()
        y.sum().backward()  # what was kept was needed until here
    maps = 8 * 10 * 10 * 8  # bytes of one h
    assert kept[4] <= (16 + 4 * 2) * maps  # the output, and h and c at the borders of four segments
    assert kept[None] >= 16 * (1 + 5) * maps  # the output, and four gates and c of every step


def test_forget_bias_and_initialisation():
    layer = ConvLSTM2d(3, 4, 5, forget_bias=1.)
    assert layer.bias.tolist() == [0.] * 4 + [1.] * 4 + [0.] * 8
    assert ConvLSTM2d(3, 4, 5).bias.abs().sum() == 0
    for gate in layer.weight_hh.flatten(1).chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)
    bound = (6 / (25 * 3 + 25 * 4))**0.5  # Xavier: fan in and fan out of one gate
    assert 0.9 * bound < layer.weight_ih.abs().max() <= bound
    assert sum(p.numel() for p in layer.parameters()) == 16 * 3 * 25 + 16 * 4 * 25 + 16
    assert 'forget_bias=1.0' in repr(layer)
    built = MODELS.build(dict(type='ConvLSTM2d', in_channels=1, hidden_channels=2, kernel_size=3))
    assert isinstance(built, ConvLSTM2d)


@pytest.mark.parametrize('autocast', [True, False])
def test_low_precision_keeps_the_cell_state_in_float32(autocast):
    layer = make().float()
    x = clip(2, 3, 6, 9, 9).float()
    exact, _ = layer(x)
    if autocast:
        with torch.autocast('cpu', torch.bfloat16):
            y, (h, c) = layer(x)
            again, _ = layer(x[:, :, :2], (h, c))
    else:
        layer, x = layer.bfloat16(), x.bfloat16()
        y, (h, c) = layer(x)
        again, _ = layer(x[:, :, :2], (h, c))
    assert (y.dtype, h.dtype, c.dtype, again.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16)
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.05)
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_compiles_into_one_graph():
    layer = make(checkpoint_steps=None)
    x = clip(1, 3, 4, 9, 9).requires_grad_()
    y, _ = layer(x)
    compiled, _ = torch.compile(layer, fullgraph=True, backend='aot_eager')(x)
    torch.testing.assert_close(compiled, y, **EXACT)
    ours, theirs = (torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]) for out in (compiled, y))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **EXACT)


def test_every_parameter_gets_a_gradient_from_a_clip_of_one_step():
    layer = make()
    layer(clip(1, 3, 1, 9, 9))[0].sum().backward()
    assert layer.weight_hh.grad is not None  # DistributedDataParallel asks for it


@pytest.mark.parametrize('arguments, message', [
    (dict(kernel_size=4), 'must be odd.*got 4'), (dict(kernel_size=(3, 3, 3)), 'kernel_size must be a positive'),
    (dict(stride=0), 'stride must be a positive integer.*got 0'),
    (dict(hidden_channels=0), 'hidden_channels must be a positive integer, got 0'),
    (dict(checkpoint_steps=0), 'checkpoint_steps must be a positive number of steps or None, got 0')])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvLSTM2d(**{**dict(in_channels=3, hidden_channels=4, kernel_size=5), **arguments})


def test_wrong_inputs():
    layer = make()
    x = clip(2, 3, 4, 9, 9)
    _, state = layer(x)
    with pytest.raises(ValueError, match=r'clips \(N, 3, T, H, W\), got shape \(2, 1, 4, 9, 9\)'):
        layer(x[:, :1])
    with pytest.raises(ValueError, match=r'got shape \(2, 3, 9, 9\)'):
        layer(x[:, :, 0])
    with pytest.raises(ValueError, match='at least one step'):
        layer(x[:, :, :0])
    with pytest.raises(ValueError, match=r'needs a state h of shape \(1, 4, 5, 5\), got \(2, 4, 5, 5\)'):
        layer(x[:1], state)
    with pytest.raises(ValueError, match=r'state must be the pair \(h, c\).*got Tensor of length 2'):
        layer(x, state[0])
