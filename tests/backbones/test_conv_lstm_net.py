"""C-LSTM: the paper's counts, the authors' loop written out, batches, streams, checkpointing, and the head."""
import copy

import pytest
import torch
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from torch import nn

from tconv_mmaction.backbones import ConvLSTMNet
from tconv_mmaction.backbones.conv_lstm_net import update_running_statistics
from tconv_mmaction.heads import SequenceHead

EXACT = dict(rtol=0, atol=1e-10)


def clip(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def make(**kwargs):
    """A small float64 network with generic parameters and statistics."""
    net = ConvLSTMNet(**{**dict(num_layers=2, hidden_channels=4, kernel_size=3, stride=1), **kwargs}).double()
    for norm in net.norms:
        nn.init.normal_(norm.weight, 1., 0.2)
        nn.init.normal_(norm.bias, 0., 0.2)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.)
    return net


def naive(net, x, norms):
    """The authors' loop over steps and, inside, layers; BatchNorm modules keep their own running statistics."""
    states, features = [None] * len(net.cells), []
    for t in range(x.shape[2]):
        maps = x[:, :, t]
        for i, cell in enumerate(net.cells):
            h, states[i] = cell(maps[:, :, None], states[i])
            maps = net.pool(norms[i](h[:, :, 0]))
        features.append(maps)
    return torch.stack(features, dim=2)


@pytest.mark.parametrize('layers, shared, classes, head, count', [
    (3, True, 174, dict(clip_len=16), 1_324_014),
    (3, False, 174, dict(clip_len=16), 1_324_142),
    (2, True, 6, dict(clip_len=32), 747_206),
    (2, True, 6, dict(steps='last'), 330_566)])
def test_parameter_counts(layers, shared, classes, head, count):
    backbone = dict(type='ConvLSTMNet', num_layers=layers, shared_norm=shared)
    size = (224, 224) if layers == 3 else (120, 160)
    feature_size = ConvLSTMNet(layers).feature_size(*size)
    assert feature_size == ((3, 3) if layers == 3 else (7, 10))
    model = MODELS.build(dict(
        type='Recognizer3D', backbone=backbone,
        cls_head=dict(type='SequenceHead', num_classes=classes, in_channels=32, feature_size=feature_size, **head)))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_feature_size_is_that_of_the_features():
    net = ConvLSTMNet(3, 4, 5, 2)
    assert net(torch.rand(1, 3, 2, 224, 224)).shape == (1, 4, 2, 3, 3)
    assert net(torch.rand(1, 3, 1, 101, 120)).shape[-2:] == net.feature_size(101, 120)


@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('checkpoint_steps', [None, 2])
def test_outputs_statistics_and_gradients_equal_the_authors_loop(shared, training, checkpoint_steps):
    net = make(shared_norm=shared, checkpoint_steps=checkpoint_steps).train(training)
    norms = copy.deepcopy(net.norms)
    x = clip(2, 3, 5, 12, 9).requires_grad_()
    y = net(x)
    y_ref = naive(net, x, [norms[0], norms[0]] if shared else norms)
    torch.testing.assert_close(y, y_ref, **EXACT)
    for ours, theirs in zip(net.norms.buffers(), norms.buffers()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = clip(*y.shape)
    ours = torch.autograd.grad((y * weights).sum(), [x, *net.cells.parameters(), *net.norms.parameters()])
    theirs = torch.autograd.grad((y_ref * weights).sum(), [x, *net.cells.parameters(), *norms.parameters()])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **EXACT)
    for ours, theirs in zip(net.norms.buffers(), norms.buffers()):  # the second forward of checkpointing adds nothing
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_order_of_layers_matters_for_a_shared_norm():
    """Else the test above would not tell the orders apart."""
    norm, batches = nn.BatchNorm2d(1).double(), [(clip(1), clip(1).abs()) for _ in range(4)]
    orders = []
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        one = copy.deepcopy(norm)
        update_running_statistics(one, [batches[i] for i in order])
        orders.append(one.running_mean)
        by_hand = 0.
        for i in order:
            by_hand = 0.9 * by_hand + 0.1 * batches[i][0]
        torch.testing.assert_close(one.running_mean, by_hand, rtol=0, atol=1e-15)
    assert (orders[0] - orders[1]).abs() > 1e-3


def test_statistics_of_the_clip():
    net = make(num_layers=1, norm_statistics='clip', checkpoint_steps=3)
    norm = copy.deepcopy(net.norms[0])
    x = clip(2, 3, 5, 12, 9)
    h = net.cells[0](x)[0]
    reference = norm(h.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 5))  # all N*T maps at once
    torch.testing.assert_close(net(x), net.pool(reference.flatten(0, 1)).unflatten(0, (2, 5)).transpose(1, 2), **EXACT)
    torch.testing.assert_close(net.norms[0].running_mean, norm.running_mean, **EXACT)
    assert net.norms[0].num_batches_tracked == 1
    eval_by_step, eval_by_clip = make(), make(norm_statistics='clip')
    eval_by_clip.load_state_dict(eval_by_step.state_dict())
    torch.testing.assert_close(eval_by_clip.eval()(x), eval_by_step.eval()(x), **EXACT)


def test_norms_with_their_own_books_run_the_authors_loop(monkeypatch):
    """SyncBatchNorm needs a process group; here its place is taken by one that computes as BatchNorm does."""
    class Norm(nn.SyncBatchNorm):
        forward = nn.BatchNorm2d.forward

        def _check_input_dim(self, x):
            assert x.dim() == 4

    net = make()
    other = copy.deepcopy(net)
    other.norms[0] = Norm(4).double()
    other.norms[0].load_state_dict(net.norms[0].state_dict())
    x = clip(2, 3, 3, 12, 9)
    torch.testing.assert_close(other(x), net(x), **EXACT)
    for a, b in zip(other.buffers(), net.buffers()):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_batch_gives_each_sample_what_it_gets_alone_and_streams_in_chunks():
    net = make().eval()
    x = clip(3, 3, 6, 12, 9)
    whole = net(x)
    for n in range(3):
        torch.testing.assert_close(net(x[n:n + 1])[0], whole[n], **EXACT)
    assert net(x[:0]).shape == (0, *whole.shape[1:])
    for lengths in ((2, 4), (1,) * 6):
        state, parts = None, []
        for chunk in x.split(lengths, dim=2):
            part, state = net.stream(chunk, state)
            parts.append(part)
        torch.testing.assert_close(torch.cat(parts, dim=2), whole, **EXACT)


def test_hooks_of_a_cell_see_and_change_its_sequence():
    """Grad-CAM and the like read the last cell, a module, by a forward hook."""
    net, seen = make().eval(), []
    x = clip(2, 3, 4, 12, 9)
    plain = net(x)
    handle = net.cells[-1].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    torch.testing.assert_close(net(x), plain, **EXACT)
    handle.remove()
    assert len(seen) == 1 and seen[0].shape == (2, 4, 4, 6, 4)
    torch.testing.assert_close(net.pool(net.norm(1)(seen[0][:, :, 2])), plain[:, :, 2], **EXACT)
    handle = net.cells[-1].register_forward_hook(lambda module, inputs, output: (output[0] * 0, output[1]))
    assert (net(x) - plain).abs().max() > 0.1
    handle.remove()
    gradient, = torch.autograd.grad(net(x).sum(), net.cells[0].weight_hh)
    net.train()
    net.norms.eval()  # frozen norms in training take the other road to the same numbers
    torch.testing.assert_close(net(x), plain, **EXACT)
    torch.testing.assert_close(torch.autograd.grad(net(x).sum(), net.cells[0].weight_hh)[0], gradient, **EXACT)


@pytest.mark.parametrize('training', [True, False])
def test_compiles_into_one_graph_and_runs_under_autocast(training):
    net = make().train(training)
    x, reference = clip(2, 3, 3, 12, 9), copy.deepcopy(net)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend='aot_eager')(x), reference(x), **EXACT)
    for ours, theirs in zip(net.buffers(), reference.buffers()):
        torch.testing.assert_close(ours, theirs, **EXACT)
    net = net.float()
    exact = net(x.float())
    with torch.autocast('cpu', torch.bfloat16):
        y = net(x.float())
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.15)
    assert all(b.dtype in (torch.float32, torch.int64) for b in net.buffers())


def test_dropout_acts_before_norm_and_outside_the_recurrence():
    net = make(num_layers=1, dropout_ratio=0.5)
    x = clip(1, 3, 3, 12, 9)
    torch.manual_seed(1)
    y, state = net.stream(x)
    torch.manual_seed(1)
    h, reference_state = net.cells[0](x)
    norm = copy.deepcopy(net.norms[0])
    for t in range(3):
        torch.testing.assert_close(y[:, :, t], net.pool(norm(net.dropout(h[:, :, t]))), **EXACT)
    torch.testing.assert_close(state[0], reference_state, **EXACT)
    assert (net.dropout(h) == 0).float().mean() > 0.3


def test_checkpointing_draws_the_same_dropout_again():
    x = clip(1, 3, 4, 12, 9)
    gradients = []
    for checkpoint_steps in (None, 4):
        torch.manual_seed(2)
        net = make(dropout_ratio=0.5, checkpoint_steps=checkpoint_steps)
        torch.manual_seed(3)
        gradients.append(torch.autograd.grad(net(x).square().sum(), list(net.cells.parameters())))
    torch.testing.assert_close(*gradients, **EXACT)


def test_network_errors():
    net = ConvLSTMNet(3)
    with pytest.raises(ValueError, match='frames of 32x64 are too small.*layer 3 of 3'):
        net(torch.rand(1, 3, 2, 32, 64))
    with pytest.raises(ValueError, match=r'expects clips \(N, C, T, H, W\)'):
        net(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match='one .* per layer, 3, got 1'):
        net.stream(torch.rand(1, 3, 1, 64, 64), [None])
    with pytest.raises(ValueError, match="'step' or 'clip', got 'batch'"):
        ConvLSTMNet(norm_statistics='batch')
    with pytest.raises(ValueError, match='num_layers must be a positive integer, got 0'):
        ConvLSTMNet(0)


def test_head_over_all_steps_by_hand():
    head = SequenceHead(2, 1, (1, 2), clip_len=2)
    head.fc_cls.weight.data = torch.tensor([[1., 2., 3., 4.], [0., 0., 0., 1.]])
    head.fc_cls.bias.data = torch.tensor([10., 20.])
    x = torch.tensor([[5., 6.], [7., 8.]])[None, None, :, None]  # N=1, F=1, T=2, h=1, w=2
    # step 0: 1*5 + 2*6 = 17 and 0; step 1: 3*7 + 4*8 = 53 and 8
    assert head(x).tolist() == [[80., 28.]]
    assert head.step_scores(x[:, :, 0], 0).tolist() == [[17., 0.]]
    assert head.running_scores(x).tolist() == [[[27., 20.], [80., 28.]]]
    assert head.running_scores(x[:, :, :1]).tolist() == [[[27., 20.]]]


@pytest.mark.parametrize('steps', ['all', 'last'])
def test_head_keeps_samples_apart_and_running_scores_end_at_the_score(steps):
    head = SequenceHead(7, 4, (2, 3), clip_len=5 if steps == 'all' else None, steps=steps).double()
    x = clip(3, 4, 5, 2, 3)
    scores = head(x)
    for n in range(3):
        torch.testing.assert_close(head(x[n:n + 1])[0], scores[n], **EXACT)
    running = head.running_scores(x)
    torch.testing.assert_close(running[:, -1], scores, **EXACT)
    if steps == 'last':
        for t in range(1, 6):
            torch.testing.assert_close(running[:, t - 1], head(x[:, :, :t]), **EXACT)
    else:
        first_two = torch.cat([x[:, :, :2], torch.zeros_like(x[:, :, 2:])], dim=2)
        torch.testing.assert_close(running[:, 1], head(first_two), **EXACT)


@pytest.mark.parametrize('average_clips', ['prob', 'score'])
def test_recognizer_averages_clips_and_trains(average_clips):
    model = MODELS.build(dict(
        type='Recognizer3D',
        backbone=dict(type='ConvLSTMNet', num_layers=2, hidden_channels=4, kernel_size=3, stride=1),
        cls_head=dict(type='SequenceHead', num_classes=3, in_channels=4, feature_size=(3, 2), clip_len=4, topk=(1, 2),
                      average_clips=average_clips)))
    clips = torch.rand(2, 3, 3, 4, 12, 9)  # 2 videos of 3 clips
    samples = [ActionDataSample().set_gt_label(label) for label in (0, 2)]
    losses = model(clips[:, :1], samples, mode='loss')
    expected = nn.functional.cross_entropy(
        model.cls_head(model.backbone.train()(clips[:, 0])), torch.tensor([0, 2]))
    torch.testing.assert_close(losses['loss_cls'], expected)
    losses['loss_cls'].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    with torch.no_grad():
        predictions = model(clips, samples, mode='predict')
        scores = torch.stack([model.cls_head(model.backbone(clips[:, i])) for i in range(3)])
    scores = scores.softmax(-1) if average_clips == 'prob' else scores
    torch.testing.assert_close(torch.stack([p.pred_score for p in predictions]), scores.mean(0))
    model.test_cfg = dict(max_testing_views=2)
    with torch.no_grad():
        one_by_one = model(clips[:1], samples[:1], mode='predict')
    torch.testing.assert_close(one_by_one[0].pred_score, scores.mean(0)[0])


def test_head_errors_name_clip_len_and_size():
    head = SequenceHead(6, 32, (7, 10), clip_len=32)
    with pytest.raises(ValueError, match=r'clip_len=32 and feature_size=\(7, 10\), got \(1, 32, 16, 7, 10\).*'
                       r"steps='last'"):
        head(torch.rand(1, 32, 16, 7, 10))
    with pytest.raises(ValueError, match=r'got \(1, 32, 32, 3, 3\)'):
        head(torch.rand(1, 32, 32, 3, 3))
    with pytest.raises(ValueError, match='fcn_test'):
        head(torch.rand(1, 32, 32, 7, 10), fcn_test=True)
    with pytest.raises(ValueError, match="steps='last', clip_len=8"):
        SequenceHead(6, 32, (7, 10), clip_len=8, steps='last')
    with pytest.raises(ValueError, match="'all' or 'last', got 'first'"):
        SequenceHead(6, 32, (7, 10), clip_len=8, steps='first')
    with pytest.raises(ValueError, match='step 32 of a head over 32'):
        head.step_scores(torch.rand(1, 32, 7, 10), 32)
    with pytest.raises(ValueError, match='feature_size must be'):
        SequenceHead(6, 32, (0, 10), clip_len=8)


@pytest.mark.parametrize('norm_statistics', ['step', 'clip'])
def test_it_learns_the_direction_of_motion(norm_statistics):
    """Right against left, from clips whose single frames say nothing; played backwards, every answer flips."""
    def clips(count):
        labels = torch.arange(count) % 2
        x = torch.rand(count, 1, 6, 16, 16) * 0.2
        for n, label in enumerate(labels):
            row, start = torch.randint(0, 12, (2, ))
            for t in range(6):
                column = (start + (2 * t if label else -2 * t)) % 13
                x[n, 0, t, row:row + 4, column:column + 4] += 1
        return x, labels

    net = ConvLSTMNet(2, 8, 3, 1, in_channels=1, norm_statistics=norm_statistics)
    head = SequenceHead(2, 8, net.feature_size(16, 16), steps='last')
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.01)
    for _ in range(60):
        x, labels = clips(32)
        loss = nn.functional.cross_entropy(head(net(x)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    x, labels = clips(64)
    with torch.no_grad():
        forwards, backwards = head(net(x)).argmax(1), head(net(x.flip(2))).argmax(1)
    assert (forwards == labels).float().mean() > 0.9 and (backwards == labels).float().mean() < 0.1
