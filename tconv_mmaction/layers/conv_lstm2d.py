"""Convolutional LSTM over a clip.

Shi et al., "Convolutional LSTM Network" (arXiv:1506.04214), without its peepholes, as in Manttari, Broome et al.,
"Interpreting Video Features" (ACCV 2020). With W_ih, W_hh convolutions and * the elementwise product, step t is

    i, f, g, o = W_ih x_t + W_hh h_{t-1} + b          four gates of F channels each, stacked in this order
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)
"""
import math
from typing import Any, Callable, Iterator, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.utils.checkpoint import checkpoint

from ..maths.conv_lstm import Cell, State
from ..ops.context import transformed
from ..ops.conv_lstm.implementations import CONV_LSTM
from ..ops.dispatch import Implementation, dispatch
from .registry import register_layer

# W_ih x does not depend on the state, so one convolution makes it for several steps; few large convolutions are
# faster than many small ones until their output no longer fits the cache, from which the recurrence reads it at once.
# 8 MiB is a core's share of the last-level cache of today's servers. It also keeps every buffer far below the 2^31
# elements at which convolution libraries stop, however long the clip is.
CHUNK_BYTES = 8 * 2**20
# On a GPU launches count, and the gates of all steps are kept for the backward pass anyway.
GPU_CHUNK_BYTES = 2**30


@register_layer
class ConvLSTM2d(nn.Module):
    """A convolutional LSTM that returns its output at every step and the state after the last.

    Parameters: ``weight_ih (4F, C, kH, kW)``, ``weight_hh (4F, F, kH, kW)``, ``bias (4F)``. Both convolutions are
    padded by k // 2; ``stride`` is that of the input convolution, so the state is (F, ceil(H / stride),
    ceil(W / stride)). Nothing depends on H, W or T: each call may have others, as long as the state fits.

    Args:
        in_channels, hidden_channels: C and F.
        kernel_size: odd, one number or (kH, kW), of both convolutions.
        stride: one number or (sH, sW).
        forget_bias: what the forget gate's bias starts with. 1 lets a fresh cell remember (Jozefowicz et al., ICML
            2015); the default 0 is what the paper's network has.
        checkpoint_steps: in training, keep the activations of only this many steps at a time and compute them again
            in the backward pass (:mod:`torch.utils.checkpoint`); what stays is h and c at every so many steps, and
            the output, so about sqrt(T) takes the least memory. The numbers are the same. None keeps all.

    Raises:
        ValueError: if a number is out of range, ``kernel_size`` is even, or an input or state has a wrong shape.

    >>> layer = ConvLSTM2d(3, 8, 5, stride=2)
    >>> outputs, (h, c) = layer(torch.randn(2, 3, 16, 32, 32))
    >>> outputs.shape, h.shape
    (torch.Size([2, 8, 16, 16, 16]), torch.Size([2, 8, 16, 16]))
    """

    def __init__(self, in_channels: int, hidden_channels: int, kernel_size, stride=1, forget_bias: float = 0.,
                 checkpoint_steps: Optional[int] = None, device=None, dtype=None) -> None:
        super().__init__()
        for name, value in dict(in_channels=in_channels, hidden_channels=hidden_channels).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f'ConvLSTM2d: {name} must be a positive integer, got {value!r}.')
        for name, value in dict(kernel_size=kernel_size, stride=stride).items():
            pair = _pair(value)
            if len(pair) != 2 or any(not isinstance(v, int) or v < 1 for v in pair):
                raise ValueError(f'ConvLSTM2d: {name} must be a positive integer or two of them (h, w), got {value!r}.')
        if any(k % 2 == 0 for k in _pair(kernel_size)):
            raise ValueError(f'ConvLSTM2d: kernel_size must be odd, or the state would shrink from step to step, got '
                             f'{kernel_size!r}.')
        if checkpoint_steps is not None and (not isinstance(checkpoint_steps, int) or checkpoint_steps < 1):
            raise ValueError('ConvLSTM2d: checkpoint_steps must be a positive number of steps or None, got '
                             f'{checkpoint_steps!r}.')
        self.in_channels, self.hidden_channels = in_channels, hidden_channels
        self.kernel_size, self.stride = tuple(_pair(kernel_size)), tuple(_pair(stride))
        self.padding = tuple(k // 2 for k in self.kernel_size)
        self.forget_bias, self.checkpoint_steps = forget_bias, checkpoint_steps

        def parameter(*shape):
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight_ih = parameter(4 * hidden_channels, in_channels, *self.kernel_size)
        self.weight_hh = parameter(4 * hidden_channels, hidden_channels, *self.kernel_size)
        self.bias = parameter(4 * hidden_channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Per gate: W_ih Xavier-uniform, W_hh orthogonal as a matrix (F, F*kH*kW); the bias 0 but ``forget_bias``."""
        for weight in self.weight_ih.chunk(4):
            nn.init.xavier_uniform_(weight)
        for weight in self.weight_hh.chunk(4):
            nn.init.orthogonal_(weight)
        nn.init.zeros_(self.bias)
        self.bias.chunk(4)[1].fill_(self.forget_bias)

    # mmengine's BaseModule leaves a layer that has this method to itself.
    init_weights = reset_parameters

    def state_shape(self, x: Tensor) -> Tuple[int, int, int, int]:
        """(N, F, H', W') of h and c for a clip (N, C, T, H, W) or frames (N, C, H, W)."""
        size = ((n - 1) // s + 1 for n, s in zip(x.shape[-2:], self.stride))
        return (x.shape[0], self.hidden_channels, *size)

    def _check(self, x: Tensor, state: Optional[State]) -> None:
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f'ConvLSTM2d expects clips (N, {self.in_channels}, T, H, W), got shape {tuple(x.shape)}.')
        if 0 in x.shape[2:]:
            raise ValueError(f'ConvLSTM2d needs at least one step of at least 1x1 pixels, got {tuple(x.shape)}.')
        if state is None:
            return
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise ValueError('ConvLSTM2d: state must be the pair (h, c) that an earlier call returned, got '
                             f'{type(state).__name__} of length {len(state)}.')
        for name, value in zip('hc', state):
            if tuple(value.shape) != self.state_shape(x):
                raise ValueError(f'ConvLSTM2d: a clip of shape {tuple(x.shape)} needs a state {name} of shape '
                                 f'{self.state_shape(x)}, got {tuple(value.shape)}. A state belongs to the stream it '
                                 'came from; pass None to start another.')

    def _call(self, frames: Tensor, state: Optional[State]) -> tuple:
        cell = Cell(self.weight_ih, self.weight_hh, self.bias, self.stride, self.padding)
        together = len(frames)
        # the number of chunks depends on the batch, and would tie an exported program to one batch size
        if not (torch.jit.is_tracing() or getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)()):
            per_step = 4 * math.prod(self.state_shape(frames[0])) * frames.element_size()
            most = CHUNK_BYTES if frames.device.type == 'cpu' else GPU_CHUNK_BYTES
            together = max(1, most // max(1, per_step))
        return cell, frames, state, together

    def calls(self, x: Tensor) -> Iterator[tuple]:
        """For :func:`tconv_mmaction.ops.explain`: what ``forward`` dispatches for a clip without a state."""
        self._check(x, None)
        yield '', CONV_LSTM, self._call(x.permute(2, 0, 1, 3, 4), None), ('auto', )

    def _run(self, frames: Tensor, state: Optional[State], after: Optional[Callable[[Tensor], Any]],
             implementation: Optional[Implementation] = None) -> Tuple[Any, State]:
        """``frames (T, N, C, H, W)``: outputs, a tensor (T, N, F, H', W') or a list of T of what ``after`` gives."""
        call = self._call(frames, state)
        outputs, state = (implementation or dispatch(CONV_LSTM, *call)).run(*call)
        return outputs if after is None else [after(h) for h in outputs.unbind()], state

    def unroll(self, x: Tensor, state: Optional[State] = None,
               after: Optional[Callable[[Tensor], Any]] = None) -> Tuple[Any, State]:
        """The outputs and the state: a tensor (T, N, F, H', W'), or a list of what ``after`` made of every step's.

        What ``after`` (tensor in; tensor or tuple of tensors out) computes is checkpointed with the steps. It is run
        again in the backward pass, so it must not change anything outside.
        """
        self._check(x, state)
        frames = x.permute(2, 0, 1, 3, 4)  # T, N, C, H, W
        if self.checkpoint_steps is None or not torch.is_grad_enabled() or transformed():
            return self._run(frames, state, after)
        parts = []
        for segment in frames.split(self.checkpoint_steps):
            # chosen now: the backward pass, which does the same again, may be outside of what asked for it (ops.use)
            chosen = dispatch(CONV_LSTM, *self._call(segment, state))
            part, state = checkpoint(self._run, segment, state, after, chosen, use_reentrant=False)
            parts.append(part)
        return torch.cat(parts) if after is None else [y for part in parts for y in part], state

    def forward(self, x: Tensor, state: Optional[State] = None) -> Tuple[Tensor, State]:
        """(N, C, T, H, W) -> (N, F, T, H', W') and the state (h, c), each (N, F, H', W').

        Args:
            x: the clip, or the next chunk of a stream.
            state: what the call on the chunk before returned; None starts with zeros. Chunks give the same as one
                call on the whole. For truncated back-propagation, detach both tensors in between.
        """
        outputs, state = self.unroll(x, state)
        return outputs.permute(1, 2, 0, 3, 4), state  # in memory T, N, F, H', W', as the next layer reads

    def extra_repr(self) -> str:
        text = f'{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, stride={self.stride}'
        for key, default in (('forget_bias', 0.), ('checkpoint_steps', None)):
            value = getattr(self, key)
            if value != default:
                text += f', {key}={value!r}'
        return text
