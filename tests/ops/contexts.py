"""What users do with a layer: functions of a model and a clip that give lists of tensors, for test_conformance.

Each is run with one implementation after the other on the same numbers. ``model`` is
:class:`helpers.layer_cases.OneTensor`; it may be changed. A context that does not apply to a layer returns None.
"""
import copy
import pickle
import threading
from typing import Callable, Dict, List, Optional

import torch
from helpers.layer_cases import noise, shared
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tconv_mmaction.layers import ConvLSTM2d, MultiBranchConv3d

Tensors = Optional[List[Tensor]]
CONTEXTS: Dict[str, Callable] = {}
ROUNDED = set()  # contexts that compute in bfloat16: the reference does too, and rounds elsewhere


def context(function: Callable) -> Callable:
    CONTEXTS[function.__name__] = function
    return function


def rounded(function: Callable) -> Callable:
    ROUNDED.add(function.__name__)
    return context(function)


def loss_of(y: Tensor) -> Tensor:
    return (y * noise(y.shape, 5, y.dtype)).sum() + y.square().sum() / max(1, y.numel())


def trainable(model: nn.Module) -> List[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients(model: nn.Module, x: Tensor, call: Optional[Callable] = None, create_graph: bool = False) -> List[Tensor]:
    """The output, and the gradients of the clip and all parameters that learn."""
    x = x.detach().requires_grad_()
    y = (call or model)(x)
    return [y, *torch.autograd.grad(loss_of(y), [x, *trainable(model)], create_graph=create_graph)]


def second_derivatives(model: nn.Module, x: Tensor, call: Optional[Callable] = None) -> List[Tensor]:
    """First-order gradients with ``create_graph``, and the gradients of a product with them."""
    x = x.detach().requires_grad_()
    inputs = [x, *trainable(model)]
    first = torch.autograd.grad(loss_of((call or model)(x)), inputs, create_graph=True)
    product = sum((g * noise(g.shape, i, g.dtype)).sum() for i, g in enumerate(first))
    second = torch.autograd.grad(product, inputs, allow_unused=True)
    return [*first, *(torch.zeros_like(t) if g is None else g for t, g in zip(inputs, second))]


def step(model: nn.Module, scale: float = .1) -> None:
    """What an optimizer does: all parameters change in place."""
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(noise(p.shape, 40 + i, p.dtype), alpha=scale)


def returns_to_its_size(model: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x).shape == x.shape


def with_weight(model: nn.Module):
    """The module that holds a weight, and the weight's name."""
    if isinstance(model.layer, MultiBranchConv3d):
        return model.layer.branches[1], 'weight'
    return model.layer, 'weight_hh' if isinstance(model.layer, ConvLSTM2d) else 'weight'


def has_norms(model: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@context
def training(model, x):
    return gradients(model.train(), x)


@context
def evaluation(model, x):
    return gradients(model.eval(), x)


@context
def without_gradients(model, x):
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        for train in (False, True, False):
            with mode():
                found.append(model.train(train)(x).clone())
        step(model)
    with torch.no_grad():
        return [*(y.clone() for y in found), model.eval()(x)]


@context
def saliency_after_inference_mode(model, x):
    model.eval().requires_grad_(False)
    with torch.inference_mode():
        model(x)
        model(x.clone())
    first = gradients(model, x)
    model.requires_grad_(True)
    return first + gradients(model, x)


@context
def parameters_made_in_inference_mode(model, x):
    with torch.inference_mode():
        made = copy.deepcopy(model).eval().requires_grad_(False)
        found = [made(x)]
        for p in made.parameters():
            p.mul_(.5)
        return [*found, made(x)]


@context
def parts_frozen(model, x):
    found = []
    parameters = list(model.parameters())
    for chosen in parameters:
        for p in parameters:
            p.requires_grad_(p is chosen)
        found += gradients(model.train(), x) + gradients(model.eval(), x)
        with torch.no_grad():
            found.append(model(x))
    return found


@context
def clip_without_gradient(model, x):
    y = model.train()(x)
    found = [y, *torch.autograd.grad(loss_of(y), trainable(model))]
    model.requires_grad_(False)
    return found + gradients(model, x) + [model(x)]


@context
def only_the_bias_learns(model, x):
    biases = [p for p in model.parameters() if p.dim() == 1]
    if not biases:
        return None
    for p in model.parameters():
        p.requires_grad_(p.dim() == 1)
    y = model.eval()(x)
    return [y, *torch.autograd.grad(loss_of(y), biases)]


@context
def double_backward(model, x):
    return second_derivatives(model.train(), x) + second_derivatives(model.eval(), x)


@context
def layer_used_twice(model, x):
    if not returns_to_its_size(model, x):
        return None

    def twice(x):
        return model(model(x).sin())

    return gradients(model, x, twice) + second_derivatives(model, x, twice)


@context
def input_depends_on_the_parameters(model, x):
    scale = [p.square().mean() for p in model.parameters()]

    def call(x):
        return model(x * (1 + sum(scale)))

    return second_derivatives(model, x, call)


@context
def tied_layers(model, x):
    if not returns_to_its_size(model, x):
        return None
    other = shared(model)

    def both(x):
        return other(model(x).sin()) + model(x)

    return gradients(model, x, both) + second_derivatives(model, x, both)


@context
def two_backward_passes(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    inputs = [x, *trainable(model)]
    passes = [torch.autograd.grad(y, inputs, noise(y.shape, seed, y.dtype), retain_graph=True) for seed in (1, 2, 1)]
    return [g for found in passes for g in found]


@context
def two_graphs_at_once(model, x):
    """A second forward pass before the first backward pass, and the passes the other way round."""
    x = x.detach().requires_grad_()
    inputs = [x, *trainable(model)]
    first, second = model(x), model(2 * x)
    found = [*torch.autograd.grad(loss_of(first), inputs)]
    third = model(3 * x)
    return [*found, *torch.autograd.grad(loss_of(third), inputs), *torch.autograd.grad(loss_of(second), inputs)]


@context
def func_grad(model, x):
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return loss_of(functional_call(model, parameters, (x, )))

    found = []
    for train in (True, False):
        model.train(train and not has_norms(model))
        of_parameters, of_x = torch.func.grad(loss, argnums=(0, 1))(parameters, x)
        found += [of_x, *of_parameters.values()]
    return found


@context
def func_vmap(model, x):
    model.eval()
    return [torch.func.vmap(lambda clip: model(clip[None])[0])(x), model(x)]


@context
def gradients_per_clip(model, x):
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, clip):
        return loss_of(functional_call(model, parameters, (clip[None], )))

    return list(torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x).values())


@context
def func_jvp(model, x):
    model.eval()
    parameters = dict(model.named_parameters())
    tangents = {name: noise(p.shape, 3, p.dtype) for name, p in parameters.items()}

    def call(parameters, x):
        return functional_call(model, parameters, (x, ))

    with torch.no_grad():
        model(x)  # a kernel is kept
    return list(torch.func.jvp(call, (parameters, x), (tangents, noise(x.shape, 4, x.dtype))))


@context
def func_jacfwd_and_hessian(model, x):
    model.eval()
    few = [(name, p) for name, p in model.named_parameters() if p.dim() <= 2]
    if not few:
        return None
    name, bias = few[-1]

    def call(value):
        return functional_call(model, {name: value}, (x[:1], ))

    of_loss = torch.func.grad(lambda value: loss_of(call(value)))
    return [torch.func.jacfwd(call)(bias)[..., :3], torch.func.jacfwd(of_loss)(bias)]


@context
def ensemble(model, x):
    model.eval()
    other = copy.deepcopy(model)
    step(other)
    parameters, buffers = stack_module_state([model, other])

    def call(parameters, buffers, x):
        return functional_call(model, (parameters, buffers), (x, ))

    found = [torch.func.vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)]
    with torch.no_grad():
        found.append(torch.func.vmap(call, in_dims=(0, 0, None))(parameters, buffers, x))
    return [*found, *gradients(model, x)]  # and the layer is as it was


@context
def functional_call_with_tensors(model, x):
    found = []
    for train in (False, True):
        model.train(train)
        tensors = {name: (p.detach() * .5).requires_grad_() for name, p in model.named_parameters()}
        with torch.no_grad():
            found += [model(x), functional_call(model, tensors, (x, )), model(x)]
        y = functional_call(model, tensors, (x, ))
        found += [y, *torch.autograd.grad(loss_of(y), list(tensors.values()))]
    return found


@context
def dual_numbers(model, x):
    found = []
    for train in (True, False):
        model.train(train)
        with torch.no_grad():
            model(x)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(p, noise(p.shape, 3, p.dtype)) for name, p in parameters.items()}
            y = functional_call(model, duals, (forward_ad.make_dual(x, noise(x.shape, 4, x.dtype)), ))
            found += list(forward_ad.unpack_dual(y))
            model.requires_grad_(False)
            found += list(forward_ad.unpack_dual(model(forward_ad.make_dual(x, noise(x.shape, 4, x.dtype)))))
            model.requires_grad_(True)
    return [t for t in found if t is not None]


@context
def batched_gradients(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    grads = noise((3, *y.shape), 6, y.dtype)
    return list(torch.autograd.grad(y, [x, *trainable(model)], grads, is_grads_batched=True))


@context
def jacobian_by_batches(model, x):
    weights = noise((3, model(x).numel()), 8, x.dtype)
    return [torch.autograd.functional.jacobian(lambda x: weights @ model(x).flatten(), x, vectorize=vectorize)
            for vectorize in (True, False)]


@rounded
def autocast(model, x):
    with torch.autocast('cpu', torch.bfloat16):
        found = gradients(model.train(), x)
        found.append(model.eval()(x))
        with torch.no_grad():
            found.append(model(x))
    return [*found, *gradients(model, x)]


@rounded
def backward_within_autocast(model, x):
    x = x.detach().requires_grad_()
    loss = loss_of(model(x))
    with torch.autocast('cpu', torch.bfloat16):
        return list(torch.autograd.grad(loss, [x, *trainable(model)]))


@context
def channels_last(model, x):
    x = x.contiguous(memory_format=torch.channels_last_3d)
    found = gradients(model, x)
    with torch.no_grad():
        found.append(model.eval()(x))
        if not any(p.dim() == 4 for p in model.parameters()):  # which PyTorch cannot convert so
            found.append(model.to(memory_format=torch.channels_last_3d)(x))
    return found


@context
def not_contiguous(model, x):
    def turned(x):
        return model(x.transpose(-1, -2).contiguous().transpose(-1, -2))

    def cut(x):
        return model(torch.cat([x, x], 2)[:, :, ::2][:, :, :x.shape[2]])

    found = gradients(model, x, turned) + gradients(model, x, cut)
    flat = torch.cat([x.new_zeros(1), x.flatten()])[1:]
    with torch.no_grad():
        return [*found, turned(x), model.eval()(flat.view(x.shape))]


@context
def expanded(model, x):
    def call(x):
        return model(x[:1].expand(3, -1, -1, -1, -1))

    found = gradients(model, x, call)
    with torch.no_grad():
        return [*found, call(x), model.eval()(x[:1, :, :1].expand_as(x))]


@context
def expanded_gradient(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    return list(torch.autograd.grad(y.sum(), [x, *trainable(model)], retain_graph=True)) + list(
        torch.autograd.grad(y.transpose(-1, -2).flatten(1)[:, ::2].sum(), [x, *trainable(model)]))


class Marked(Tensor):
    """A subclass that changes nothing."""


@context
def tensor_subclass(model, x):
    found = []
    for train in (True, False):
        model.train(train)
        y = model(x.as_subclass(Marked))
        found += [y.as_subclass(Tensor), *(g.as_subclass(Tensor) for g in torch.autograd.grad(
            loss_of(y), trainable(model)))]
        with torch.no_grad():
            found.append(model(x.as_subclass(Marked)).as_subclass(Tensor))
    return found


class Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class Watching(TorchFunctionMode):

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@context
def modes(model, x):
    with Counting() as mode:
        found = gradients(model, x)
    assert mode.count
    y = model(x)
    with Counting():
        found += torch.autograd.grad(loss_of(y), trainable(model))
    with Watching():
        found += gradients(model, x)
    with torch.device('meta'), torch.no_grad():  # the default device of what is made within
        found.append(model.eval()(x))
    with torch.device('meta'):
        found.append(model.train()(x))
    return found


@context
def checkpointed(model, x):
    found = []
    found += gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False))
    inner = x.detach().requires_grad_()
    loss_of(checkpoint(model, inner, use_reentrant=True)).backward()
    found += [inner.grad, *(p.grad for p in model.parameters())]
    found += second_derivatives(model, x, lambda x: checkpoint(model, x, use_reentrant=False))
    return found


@context
def saved_tensors_elsewhere(model, x):
    with torch.autograd.graph.save_on_cpu():
        found = gradients(model, x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy):
        found += gradients(model, x)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        found += gradients(model, x)
    return found


def _steps(model, x):
    """Train, eval and change in turn, with what puts the weight in place in between."""
    found = gradients(model.train(), x)
    for _ in range(2):
        with torch.no_grad():
            found += [model.eval()(x), model(x)]
        step(model)
        found += gradients(model.train(), x)
        found += gradients(model.eval(), x)
    with torch.no_grad():
        return [*found, model.eval()(x)]


@context
def pruned(model, x):
    module, name = with_weight(model)
    mask = noise(getattr(module, name).shape, 9, x.dtype).gt(-.5)
    prune.custom_from_mask(module, name, mask)
    found = _steps(model, x)
    prune.remove(module, name)
    return found + _steps(model, x)


class Halved(nn.Module):

    def forward(self, weight):
        return weight / 2


class Masked(nn.Module):
    """A parametrisation that depends on a buffer, which is edited."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.register_buffer('mask', torch.ones(shape))

    def forward(self, weight):
        return weight * self.mask.to(weight.dtype)


@context
def parametrised(model, x):
    module, name = with_weight(model)
    masked = Masked(getattr(module, name).shape)
    parametrize.register_parametrization(module, name, Halved())
    parametrize.register_parametrization(module, name, masked)
    found = _steps(model, x)
    masked.mask[0] = 0
    found += _steps(model, x)
    with parametrize.cached(), torch.no_grad():
        found += [model(x), model(x)]
    return found


@context
def weight_and_spectral_norm(model, x):
    found = []
    for normalise in (nn.utils.weight_norm, parametrizations.weight_norm, nn.utils.spectral_norm,
                      parametrizations.spectral_norm):
        other = copy.deepcopy(model)
        module, name = with_weight(other)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            normalise(module, name)
        for tensor_name, tensor in [*other.named_buffers()]:  # drawn in another type, they would be other numbers
            if tensor_name.endswith(('_u', '_v')):
                start = noise(tensor.shape, 11, tensor.dtype)
                tensor.copy_(start / start.norm())
        if normalise is parametrizations.spectral_norm:
            # in training mode it takes a step of its power iteration whenever the weight is looked at
            found += gradients(other.eval(), x)
            step(other)
            found += gradients(other, x)
        else:
            found += _steps(other, x)
    return found


def replica_of(module: nn.Module) -> nn.Module:
    """What nn.DataParallel calls on a device: computed copies in the parameters' places."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = None if child is None else replica_of(child)
    for name, parameter in module._parameters.items():
        replica._parameters[name] = None
        if parameter is not None:
            del replica._parameters[name]
            setattr(replica, name, parameter * 1)
    return replica


@context
def data_parallel(model, x):
    found = []
    for _ in range(2):
        with torch.no_grad():
            found.append(model.eval()(x))
            found.append(replica_of(model)(x))
        for train in (True, False):
            replica = replica_of(model.train(train))
            found += gradients(model, x, replica)
        step(model)
    return found


@context
def copied(model, x):
    found = []
    for train in (True, False):
        with torch.no_grad():
            model.train(train)(x)
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model.layer)), copy.copy(model)
        step(model)
        for other in copies:
            y = other(x)
            y = y if isinstance(y, Tensor) else y[0]
            found += [y, *torch.autograd.grad(loss_of(y), trainable(other))]
    return found


@context
def hooked(model, x):
    """Hooks of all kinds, which see and change tensors."""
    seen = []
    model.layer.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
    model.layer.register_full_backward_hook(lambda module, of_inputs, of_outputs: seen.append(of_inputs[0].clone()))
    for p in model.parameters():
        p.register_hook(lambda grad: grad * .5)
    return gradients(model, x) + seen


@context
def one_clip_of_four_axes(model, x):
    if isinstance(model.layer, ConvLSTM2d) or has_norms(model):
        return None
    found = gradients(model.train(), x, lambda x: model(x[0]))
    with torch.no_grad():
        return [*found, model.eval()(x[0]), model(x[1:].squeeze(0)) if len(x) == 2 else model(x[1])]


@context
def empty_batch(model, x):
    if has_norms(model):
        model.eval()
    found = gradients(model, x[:0])
    with torch.no_grad():
        return [*found, model.eval()(x[:0]), model(x)]


@context
def one_clip(model, x):
    found = gradients(model, x[:1])
    model.eval()
    with torch.no_grad():
        return [*found, model(x[:1]), model(x), model(x[-1:])]


@context
def other_clips(model, x):
    """Other sizes in turn, as multi-scale tests and streams have them."""
    larger = torch.cat([torch.cat([x, x], -1), torch.cat([x, x], -1)], 2)
    found = []
    with torch.no_grad():
        for clip in (x, larger, x[:1], larger[:1], x, larger):
            found.append(model.eval()(clip))
    for clip in (x, larger, x):
        found += gradients(model.train(), clip)
    return found


@context
def in_place_on_the_output(model, x):
    def call(x):
        return model(x).clone().relu_() if isinstance(model.layer, ConvLSTM2d) else model(x).mul_(2).relu_()

    return gradients(model, x, call)


@context
def in_place_on_the_clip(model, x):
    """After the call in eval mode the clip's memory is used again."""
    x = x.clone()
    with torch.no_grad():
        y = model.eval()(x)
        before = y.clone()
        x.zero_()
        return [y, before, model(x)]


@context
def backward_in_another_thread(model, x):
    found = []
    x = x.detach().requires_grad_()
    y = model(x)

    def work():
        found.extend(torch.autograd.grad(loss_of(y), [x, *trainable(model)]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return [y, *found]


@context
def settings(model, x):
    found = []
    with torch.autograd.set_detect_anomaly(True):
        found += gradients(model, x)
    torch.use_deterministic_algorithms(True)
    try:
        found += gradients(model, x)
    finally:
        torch.use_deterministic_algorithms(False)
    before = torch.get_default_dtype()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            found += gradients(model, x)
            with torch.no_grad():
                found.append(model.eval()(x))
        finally:
            torch.set_default_dtype(before)
        model.train()
    with torch.backends.mkldnn.flags(enabled=False):
        found += gradients(model, x)
        with torch.no_grad():
            found.append(model.eval()(x))
    return found


@context
def steps_of_training(model, x):
    found = []
    optimizer = torch.optim.SGD(model.parameters(), .05)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model.train()(x)).backward()
        optimizer.step()
        with torch.no_grad():
            found.append(model.eval()(x))
        for p in model.parameters():  # an exponential average that is swapped in
            p.data.mul_(.9)
        with torch.no_grad():
            found.append(model(x))
    return found


@context
def accumulated(model, x):
    """Gradients of several passes in ``.grad``, which later passes add to in place."""
    for scale in (1, 2, 1):
        loss_of(model(scale * x)).backward()
    return [p.grad for p in model.parameters()]
