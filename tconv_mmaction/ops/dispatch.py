"""Several ways to compute the same, and which of them is taken.

An operator has a tuple of :class:`Implementation`. :func:`dispatch` takes the first that supports a call and is the
fastest there as far as was measured; the last one is the reference, the papers' equations in PyTorch's own operations,
which supports everything. To add a way to compute something is a file with its function and a line in the tuple.
"""
import contextlib
import os
from contextvars import ContextVar
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import torch

from .context import answers, context_refusal

AUTO, REFERENCE = 'auto', 'reference'
OPERATORS: Dict[str, Tuple['Implementation', ...]] = {}


class Implementation(NamedTuple):
    """One way to compute an operator; the three functions take the same arguments."""
    name: str
    unsupported: Callable[..., Optional[str]]  # why a call cannot be computed so, or None
    profitable: Callable[..., bool]  # whether it is the fastest; asked first, also about calls that it does not support
    run: Callable


def always(*call) -> bool:
    return True


def supports_all(*call) -> None:
    return None


def operator(name: str, *implementations: Implementation) -> Tuple[Implementation, ...]:
    """Make known, and return, the implementations of an operator, the first choice first and the reference last."""
    if not implementations or implementations[-1].name != REFERENCE:
        raise ValueError(f'The last implementation of {name} must be named {REFERENCE!r}, got '
                         f'{[i.name for i in implementations]}.')
    OPERATORS[name] = implementations
    return implementations


def _checked(name: str, source: str) -> str:
    known = {AUTO, *(i.name for implementations in OPERATORS.values() for i in implementations)}
    if name not in known:
        raise ValueError(f'{source}: there is no implementation {name!r}. Known are {", ".join(sorted(known))}.')
    return name


_requested: ContextVar[Optional[str]] = ContextVar('requested implementation', default=None)
# Every call of a layer asks, and os.environ's own get, which encodes the name anew, takes as long as all other answers.
_VARIABLE = 'TCONV_OPS'
_environment, _key = getattr(os.environ, '_data', os.environ), _VARIABLE
if _environment is not os.environ:
    _key = os.environ.encodekey(_VARIABLE)


def requested() -> str:
    """The name that :func:`use` or the environment variable TCONV_OPS asks for; 'auto' by default."""
    name = _requested.get()
    if name is None:
        if _key not in _environment:
            return AUTO
        name = os.environ.get(_VARIABLE) or AUTO
        if name not in (AUTO, REFERENCE):
            _checked(name, 'TCONV_OPS')
    return name


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Within it, layers of the calling thread are computed by the implementation of that name.

    Calls that it does not support, and operators that have none of that name, take the reference; :func:`explain` says
    which and why. 'auto' is the usual choice. For a whole process, set the environment variable TCONV_OPS. A part of a
    network that is checkpointed runs again in the backward pass, which then has to be within it as well.

    Raises:
        ValueError: if no operator has an implementation of that name.

    >>> import tconv_mmaction
    >>> layer = tconv_mmaction.layers.Conv3T(2, 4, 3)
    >>> with tconv_mmaction.ops.use('reference'):  # PyTorch's convolution with the kernel of the paper's equations
    ...     y = layer(torch.randn(1, 2, 4, 6, 6))
    >>> y.shape
    torch.Size([1, 4, 2, 4, 4])
    """
    token = _requested.set(_checked(name, 'use'))
    try:
        yield
    finally:
        _requested.reset(token)


def dispatch(implementations: Tuple[Implementation, ...], *call, prefer: Sequence[str] = (AUTO, )) -> Implementation:
    """The implementation that a call takes.

    Args:
        implementations: of the operator, see :func:`operator`.
        call: what its functions take.
        prefer: the names that the layer itself asks for, the first that is supported; ``use`` goes before them.
    """
    if torch.compiler.is_compiling():  # first, so that nothing else is traced
        return implementations[-1]
    name = requested()
    names = prefer if name == AUTO else (name, )
    token = answers.set({})
    try:
        # Whether it pays is a look at shapes and takes less time than whether it may; but what traces records a look.
        eager = context_refusal() is None
        for implementation in implementations:
            if AUTO in names:
                if eager and not implementation.profitable(*call):
                    continue
                if implementation.unsupported(*call) is None and (eager or implementation.profitable(*call)):
                    return implementation
            elif implementation.name in names and implementation.unsupported(*call) is None:
                return implementation
    finally:
        answers.reset(token)
    return implementations[-1]


def explain_call(implementations: Tuple[Implementation, ...], *call,
                 prefer: Sequence[str] = (AUTO, )) -> Dict[str, str]:
    """For every implementation 'chosen', or why it is not."""
    chosen = dispatch(implementations, *call, prefer=prefer)
    name = requested()
    asked = name if name != AUTO else ' or '.join(prefer)
    found = {}
    for implementation in implementations:
        why = implementation.unsupported(*call)
        if implementation is chosen:
            found[implementation.name] = 'chosen'
        elif why is not None:
            found[implementation.name] = why
        elif asked != AUTO:
            found[implementation.name] = f'{asked} was asked for'
        elif not implementation.profitable(*call):
            found[implementation.name] = 'not the fastest here'
        else:
            found[implementation.name] = f'{chosen.name} comes before it'
    return found


def explain(layer: torch.nn.Module, x: torch.Tensor) -> Dict[str, str]:
    """How a layer would compute an input: every implementation with 'chosen', or the reason why not.

    Args:
        layer: a layer of this package whose kernel is computed: Conv3T, MultiBranchConv3d or ConvLSTM2d. Of a
            multi-branch layer the names have the branch in front.
        x: its input.

    Raises:
        TypeError: for another layer.

    >>> import tconv_mmaction
    >>> layer = tconv_mmaction.layers.Conv3T(2, 4, 3).eval()
    >>> with torch.no_grad():
    ...     reasons = tconv_mmaction.ops.explain(layer, torch.randn(2, 2, 4, 6, 6))
    >>> reasons['kept_kernel'], reasons['minimal_filtering']
    ('chosen', 'no gradients of parameters are wanted')
    """
    if not hasattr(layer, 'calls'):
        raise TypeError(f'explain: a {type(layer).__name__} is computed in one way only; it takes a layer of '
                        'tconv_mmaction.layers that has a choice: Conv3T, MultiBranchConv3d, ConvLSTM2d.')
    found = {}
    for label, implementations, call, prefer in layer.calls(x):
        for name, reason in explain_call(implementations, *call, prefer=prefer).items():
            found[f'{label}: {name}' if label else name] = reason
    return found
