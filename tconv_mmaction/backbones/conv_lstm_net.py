"""C-LSTM: a stack of convolutional LSTMs on raw frames.

Manttari, Broome et al., "Interpreting Video Features: A Comparison of 3D Convolutional Networks and Convolutional LSTM
Networks" (ACCV 2020), sec. 4.2. For every step and layer: cell - dropout - BatchNorm - max pool 2x2; what recurs is
the cell's own output, before the three. With ``SequenceHead``:

==========================  ==============================  =========  ==============
network                     head                            clip       parameters
==========================  ==============================  =========  ==============
3 layers, Something-        all 16 steps, 174 classes       16x224x224      1,324,014
the same, own BatchNorms    all 16 steps, 174 classes       16x224x224      1,324,142
2 layers, KTH               all 32 steps, 6 classes         32x120x160        747,206
2 layers, KTH               last step, 6 classes            32x120x160        330,566
==========================  ==============================  =========  ==============
"""
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers.conv_lstm2d import ConvLSTM2d, State

Statistics = List[Tuple[Tensor, Tensor]]


def normalize_step(norm: nn.BatchNorm2d, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """``norm`` in training mode on ``(N, F, H, W)``, and the mean and unbiased variance ``(F,)`` of this batch.

    The running statistics stay as they are, so this may run twice, as it does under gradient checkpointing.
    """
    mean, var = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
    # running = (1 - momentum) * running + momentum * batch: momentum 1 hands out those of the batch
    y = F.batch_norm(x, mean, var, norm.weight, norm.bias, True, 1., norm.eps)
    return y, mean, var


def normalize_steps(norm: nn.BatchNorm2d, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """:func:`normalize_step` of all steps at once: ``(T, N, F, H, W)`` -> ``(N, T*F, H, W)``, and two ``(T, F)``.

    To a batch norm T*F channels are what F channels of T steps are, each with its own statistics.
    """
    steps, _, features = x.shape[:3]
    mean, var = (torch.zeros_like(s).repeat(steps) for s in (norm.running_mean, norm.running_var))
    weight, bias = (None if p is None else p.repeat(steps) for p in (norm.weight, norm.bias))
    y = F.batch_norm(x.transpose(0, 1).flatten(1, 2), mean, var, weight, bias, True, 1., norm.eps)
    return y, mean.view(steps, features), var.view(steps, features)


@torch.no_grad()
def update_running_statistics(norm: nn.BatchNorm2d, statistics: Statistics) -> None:
    """What K calls of ``norm`` one after the other leave in its running mean and variance, at once."""
    count, keep = len(statistics), 1 - norm.momentum
    ages = torch.arange(count - 1, -1, -1, device=norm.running_mean.device, dtype=norm.running_mean.dtype)
    weights = norm.momentum * keep**ages
    for running, batches in zip((norm.running_mean, norm.running_var), zip(*statistics)):
        running.mul_(keep**count).add_(weights @ torch.stack(batches))
    norm.num_batches_tracked += count


@MODELS.register_module()
class ConvLSTMNet(BaseModule):
    """Stacked ConvLSTM2d cells, each followed by dropout, BatchNorm and a 2x2 max pool.

    In training every step of every layer is normalised with its own mean and variance, over the N maps of that step,
    as in the authors' loop over steps and, inside, layers; the running statistics are updated in that order (step 0
    layer 0, step 0 layer 1, ...), which matters when the layers share one BatchNorm. ``norm_statistics='clip'`` takes
    one mean and variance over all N*T maps of a layer instead, which is less noisy for small batches and nearer to
    eval mode, where all steps are normalised alike.

    With the paper's shared BatchNorm, 'step' and the usual momentum of 0.1, the running statistics forget within one
    clip: 3 layers x 16 steps update them 48 times. In small experiments (docs/clstm_against_i3d.md) a network that had
    learned its training clips lost a third of them in eval mode for that reason; ``shared_norm=False,
    norm_statistics='clip'`` does not have the problem.

    Args:
        num_layers, hidden_channels, kernel_size, stride: cells, their channels F, and the kernel and stride of their
            input convolutions.
        shared_norm: one BatchNorm2d for all layers and steps, as the papers' parameter count has it, or one per
            layer.
        in_channels: channels of a frame.
        dropout_ratio: probability of zeroing a value of a cell's output, before BatchNorm.
        norm_statistics: 'step' or 'clip', see above. After conversion to SyncBatchNorm 'step' runs the authors' loop
            as it stands, slower.
        forget_bias: see :class:`ConvLSTM2d`.
        checkpoint_steps: keep the activations of this many steps at a time in training; the pooled output, h and c at
            every so many steps, and with 'clip' all h, stay. The numbers are the same.

    Raises:
        ValueError: if a number is out of range, or frames are too small for the layers.
    """

    def __init__(self, num_layers: int = 3, hidden_channels: int = 32, kernel_size=5, stride=2,
                 shared_norm: bool = True, in_channels: int = 3, dropout_ratio: float = 0.,
                 norm_statistics: str = 'step', forget_bias: float = 0., checkpoint_steps: Optional[int] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if not isinstance(num_layers, int) or num_layers < 1:
            raise ValueError(f'ConvLSTMNet: num_layers must be a positive integer, got {num_layers!r}.')
        if norm_statistics not in ('step', 'clip'):
            raise ValueError(f"ConvLSTMNet: norm_statistics must be 'step' or 'clip', got {norm_statistics!r}.")
        self.num_layers, self.shared_norm, self.norm_statistics = num_layers, shared_norm, norm_statistics
        channels = [in_channels] + [hidden_channels] * num_layers
        self.cells = nn.ModuleList(
            ConvLSTM2d(channels[i], hidden_channels, kernel_size, stride, forget_bias, checkpoint_steps)
            for i in range(num_layers))
        self.dropout = nn.Dropout(dropout_ratio)
        self.norms = nn.ModuleList(nn.BatchNorm2d(hidden_channels) for _ in range(1 if shared_norm else num_layers))
        self.pool = nn.MaxPool2d(2)

    def norm(self, layer: int) -> nn.Module:
        """The BatchNorm of that layer."""
        return self.norms[0 if self.shared_norm else layer]

    def feature_size(self, height: int, width: int) -> Tuple[int, int]:
        """(h, w) of the features for frames of that size; 224x224 gives (3, 3) after three layers of stride 2.

        Raises:
            ValueError: if nothing is left.
        """
        size = (height, width)
        for i, cell in enumerate(self.cells):
            size = tuple(((n - 1) // s + 1) // 2 for n, s in zip(size, cell.stride))
            if 0 in size:
                raise ValueError(f'ConvLSTMNet: frames of {height}x{width} are too small: nothing is left of '
                                 f'them after the pool of layer {i + 1} of {self.num_layers}. Use larger frames, fewer '
                                 'layers or a smaller stride.')
        return size

    def _finish_clip(self, norm: nn.Module, outputs: Sequence[Tensor]) -> Tensor:
        """Norm and pool of T steps at once: T times (N, F, H, W) -> (N, F, T, h, w)."""
        maps = self.pool(norm(torch.cat(outputs)))  # T*N, F, h, w
        return maps.unflatten(0, (len(outputs), -1)).permute(1, 2, 0, 3, 4)

    def _layer(self, layer: int, x: Tensor, state: Optional[State]) -> Tuple[Tensor, State, Statistics]:
        cell, norm = self.cells[layer], self.norm(layer)
        if not self.training and not norm.training:
            h, state = cell(x, state)  # as a module, so that hooks see the sequence: Grad-CAM reads the last cell
            return self._finish_clip(norm, list(h.unbind(2))), state, []
        if not norm.training:
            outputs, state = cell.unroll(x, state, lambda h: self.pool(norm(self.dropout(h))))
            return torch.stack(outputs).permute(1, 2, 0, 3, 4), state, []
        if self.norm_statistics == 'clip':
            outputs, state = cell.unroll(x, state, self.dropout)
            return self._finish_clip(norm, outputs), state, []

        if x.device.type != 'cpu' and (cell.checkpoint_steps is None or not torch.is_grad_enabled()):
            # on a GPU few launches count, on a CPU small pieces that stay in the cache
            outputs, state = cell.unroll(x, state)
            y, mean, var = normalize_steps(norm, self.dropout(outputs))
            y = self.pool(y).unflatten(1, (len(outputs), -1)).transpose(1, 2)
            return y, state, list(zip(mean, var))

        def finish(h: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
            y, mean, var = normalize_step(norm, self.dropout(h))
            return self.pool(y), mean, var

        outputs, state = cell.unroll(x, state, finish)
        return (torch.stack([y for y, _, _ in outputs]).permute(1, 2, 0, 3, 4), state,
                [(mean, var) for _, mean, var in outputs])

    def _step_by_step(self, x: Tensor, state: list) -> Tuple[Tensor, list]:
        """The authors' loop, for normalisation layers that keep their own books."""
        features = []
        for frame in x.split(1, dim=2):
            for i, cell in enumerate(self.cells):
                frame, state[i] = cell(frame, state[i])
                frame = self.pool(self.norm(i)(self.dropout(frame[:, :, 0])))[:, :, None]
            features.append(frame)
        return torch.cat(features, dim=2), state

    def stream(self, x: Tensor, state: Optional[Sequence[State]] = None) -> Tuple[Tensor, List[State]]:
        """(N, C, T, H, W) -> features (N, F, T, h, w) and the state of every cell.

        Args:
            x: a clip, or the next frames of a stream.
            state: what the call on the frames before returned, or None. In eval mode, chunks of any length give what
                one call on the whole gives, in constant memory.
        """
        if x.dim() != 5:
            raise ValueError(f'ConvLSTMNet expects clips (N, C, T, H, W), got shape {tuple(x.shape)}.')
        if state is not None and len(state) != self.num_layers:
            raise ValueError(f'ConvLSTMNet: a state has one (h, c) per layer, {self.num_layers}, got {len(state)}.')
        self.feature_size(*x.shape[-2:])
        state = list(state) if state is not None else [None] * self.num_layers
        by_step = self.norm_statistics == 'step'
        if by_step and any(isinstance(n, nn.SyncBatchNorm) and n.training for n in self.norms):
            return self._step_by_step(x, state)
        statistics = []
        for i in range(self.num_layers):
            x, state[i], batches = self._layer(i, x, state[i])
            statistics.append(batches)
        if by_step:
            for j, norm in enumerate(self.norms):
                if norm.training:
                    order = zip(*statistics) if self.shared_norm else zip(statistics[j])  # by step, then by layer
                    update_running_statistics(norm, [batch for step in order for batch in step])
        return x, state

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, F, T, h, w), the features of every step."""
        return self.stream(x)[0]
