"""A linear classifier over the features of every step of a clip, or of the last one.

Manttari, Broome et al., "Interpreting Video Features" (ACCV 2020), sec. 5.3: "hidden states resulting from the entire
input sequence are sent to the prediction layer". With feature maps f_t of step t, flattened,

    scores = b + sum_t W_t f_t        steps='all', one W_t per step: the linear layer is built for clips of T steps
    scores = b + W f_T                steps='last'

The steps of one sample stay together, whatever the batch size; in the weight (K, T*F*h*w) they come one after the
other.
"""
from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmaction.models.heads import BaseHead
from mmaction.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class SequenceHead(BaseHead):
    """Features (N, F, T, h, w) to class scores (N, K); losses, predictions and clip averaging are mmaction2's.

    Args:
        num_classes: K.
        in_channels: F.
        feature_size: (h, w) of the features. ``ConvLSTMNet(...).feature_size(H, W)`` tells it.
        clip_len: T for ``steps='all'``; any T will do for 'last', and it must be None.
        steps: 'all' or 'last'.
        dropout_ratio: of the flattened features.
        loss_cls, topk, label_smooth_eps, average_clips: as for mmaction2's heads; None is cross entropy.

    Raises:
        ValueError: if the arguments do not go together, or features have another shape than the head was built for.
    """

    def __init__(self, num_classes: int, in_channels: int, feature_size: Sequence[int],
                 clip_len: Optional[int] = None, steps: str = 'all', dropout_ratio: float = 0.,
                 loss_cls: Optional[dict] = None,
                 topk: Union[int, Tuple[int, ...]] = (1, 5), label_smooth_eps: float = 0.,
                 average_clips: Optional[str] = 'prob', init_cfg: Optional[dict] = None) -> None:
        super().__init__(num_classes, in_channels, loss_cls or dict(type='CrossEntropyLoss'),
                         label_smooth_eps=label_smooth_eps, topk=topk, average_clips=average_clips, init_cfg=init_cfg)
        if steps not in ('all', 'last'):
            raise ValueError(f"SequenceHead: steps must be 'all' or 'last', got {steps!r}.")
        if (steps == 'all') != (clip_len is not None):
            raise ValueError(f"SequenceHead: clip_len is the number of steps that steps='all' is built for, and must "
                             f"be None for steps='last'; got steps={steps!r}, clip_len={clip_len!r}.")
        if len(feature_size) != 2 or min(feature_size) < 1 or (clip_len is not None and clip_len < 1):
            raise ValueError('SequenceHead: feature_size must be (h, w) and clip_len a number of steps, all positive, '
                             f'got feature_size={feature_size!r}, clip_len={clip_len!r}.')
        self.feature_size, self.clip_len, self.steps = tuple(feature_size), clip_len, steps
        self.dropout = nn.Dropout(dropout_ratio)
        self.fc_cls = nn.Linear((clip_len or 1) * in_channels * feature_size[0] * feature_size[1], num_classes)

    def _check(self, x: Tensor) -> None:
        expected = (self.in_channels, self.clip_len, *self.feature_size)
        if x.dim() == 5 and all(e is None or e == n for e, n in zip(expected, x.shape[1:])):
            return
        steps = 'any' if self.clip_len is None else self.clip_len
        raise ValueError(
            f'SequenceHead was built for features (N, {self.in_channels}, {steps}, '
            f'{", ".join(map(str, self.feature_size))}), that is in_channels={self.in_channels}, clip_len='
            f'{self.clip_len} and feature_size={self.feature_size}, got {tuple(x.shape)}. Make clip_len and the size '
            'of the frames in the pipeline and clip_len and feature_size of the head agree'
            + (", or use steps='last', which takes clips of any length." if self.clip_len is not None else '.'))

    def forward(self, x: Tensor, loss_aux: Optional[dict] = None, fcn_test: bool = False) -> Tensor:
        """(N, F, T, h, w) -> (N, K).

        ``loss_aux`` and ``fcn_test`` are what mmaction2's recognizers pass to every head. The first is theirs to add;
        fully convolutional testing does not exist for a head of fixed size.
        """
        if fcn_test:
            raise ValueError('SequenceHead: test_cfg=dict(fcn_test=True) needs a head that averages over positions.')
        self._check(x)
        x = x[:, :, -1:] if self.steps == 'last' else x
        return self.fc_cls(self.dropout(x.transpose(1, 2).flatten(1)))  # N, T*F*h*w

    def step_scores(self, x: Tensor, step: int = 0) -> Tensor:
        """What step ``step`` (from 0) adds to the scores, without the bias: (N, F, h, w) -> (N, K)."""
        self._check(x[:, :, None].expand(-1, -1, self.clip_len or 1, -1, -1))
        if self.steps == 'last':
            return F.linear(x.flatten(1), self.fc_cls.weight)
        if not 0 <= step < self.clip_len:
            raise ValueError(f'SequenceHead: step {step} of a head over {self.clip_len} steps.')
        return F.linear(x.flatten(1), self.fc_cls.weight.chunk(self.clip_len, dim=1)[step])

    def running_scores(self, x: Tensor) -> Tensor:
        """Scores after every step seen so far, (N, F, T, h, w) -> (N, T, K).

        With 'last', entry t is the score of the clip that ends there. With 'all' it is b + sum_{s<=t} W_s f_s, the
        score with the features of later steps at 0; T may be less than clip_len, and the last of clip_len entries is
        the clip's score.
        """
        scores = torch.stack([self.step_scores(f, t) for t, f in enumerate(x.unbind(2))], dim=1)
        return self.fc_cls.bias + (scores if self.steps == 'last' else scores.cumsum(dim=1))
