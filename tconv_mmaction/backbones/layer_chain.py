"""A backbone that is a chain of named layers: what GoogLeNet3d, InceptionI3d and R2Plus1d18 have in common.

Which layers are outputs, which are frozen, gradient checkpointing, initialisation and weights. Here a *stage* is what
lies between two pools (or strides), and stage 0 is the stem, as in mmaction2's ResNets.
"""
from typing import Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, constant_init, initialize, kaiming_init
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..layers import share_transforms
from .blocks import recomputed
from .inflation import load_pretrained


def init_layers(module: nn.Module) -> None:
    """He initialisation of ``nn.Conv3d``, gain 1 of norms; a layer with an initialisation of its own keeps that."""
    if isinstance(module, nn.Conv3d):
        kaiming_init(module)
    elif isinstance(module, _BatchNorm):
        constant_init(module, 1)
    elif hasattr(module, 'init_weights') and not isinstance(module, ConvModule):
        module.init_weights()
        return
    for child in module.children():
        init_layers(child)


class LayerChain(BaseModule):
    """Runs the layers that ``stages`` names one after the other.

    A subclass names them, builds each as an attribute after ``super().__init__(...)`` and then calls ``freeze()``.

    Args:
        in_channels: channels of the clip.
        out_layers: names of the layers whose outputs are returned, in the order of the net; layers after the last are
            not run.
        frozen_stages: stages 0 (the stem) to this one get no gradients and keep their running statistics; -1 for none.
        norm_eval: keep the running statistics of all norms in training.
        with_cp: recompute every layer after the stem in the backward pass instead of keeping what it holds.
        pretrained: a checkpoint, see :func:`.inflation.read_state_dict`. The names that were not in the net and those
            that the file lacks are logged; nothing that fits is an error.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` does the same as ``pretrained``.

    Raises:
        ValueError: for a value that does not fit.
    """

    stages: Tuple[Tuple[str, ...], ...] = ()
    smallest_clip = (1, 1, 1)  # (T, H, W)

    def __init__(self, in_channels: int, out_layers: Sequence[str], frozen_stages: int, norm_eval: bool, with_cp: bool,
                 pretrained: Optional[str], init_cfg: Union[dict, list, None]) -> None:
        super().__init__(init_cfg=init_cfg)
        self.chain = tuple(name for stage in self.stages for name in stage)
        out_layers = (out_layers, ) if isinstance(out_layers, str) else tuple(out_layers)
        if not out_layers or list(out_layers) != [name for name in self.chain if name in out_layers]:
            raise ValueError(f'out_layers must be one or more of {self.chain}, in this order; got {out_layers}.')
        if frozen_stages not in range(-1, len(self.stages)):
            raise ValueError(f'frozen_stages must be from -1 (none) to {len(self.stages) - 1}, got {frozen_stages!r}.')
        self.in_channels, self.out_layers = in_channels, out_layers
        self.frozen_stages, self.norm_eval, self.with_cp = frozen_stages, norm_eval, with_cp
        self.pretrained = pretrained

    # -- training ---------------------------------------------------------------------------------------------------

    def _frozen(self) -> Sequence[nn.Module]:
        return [getattr(self, name) for stage in self.stages[:self.frozen_stages + 1] for name in stage]

    def freeze(self) -> None:
        """Take the gradients of the frozen stages away; called once the layers are there."""
        for layer in self._frozen():
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> 'LayerChain':
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        for layer in self._frozen():
            layer.eval()
        return self

    # -- weights ----------------------------------------------------------------------------------------------------

    @staticmethod
    def key_from_2d(name: str) -> Optional[str]:
        """Module of a 2D net -> module here; None everywhere if no 2D net is like this one."""
        return None

    def load(self, source: str, prefix: str) -> None:
        """Load one checkpoint, see :func:`.inflation.load_pretrained`."""
        load_pretrained(self, source, self.key_from_2d, prefix=prefix)

    def init_weights(self) -> None:
        """Initialise from scratch, then load what ``pretrained`` or ``init_cfg`` names.

        Raises:
            ValueError: if both name a checkpoint, or it does not fit.
        """
        for layer in self.children():
            init_layers(layer)
        sources = [(self.pretrained, 'backbone.')] if self.pretrained else []
        for cfg in self.init_cfg if isinstance(self.init_cfg, list) else filter(None, [self.init_cfg]):
            if cfg['type'] == 'Pretrained':
                sources.append((cfg['checkpoint'], (cfg.get('prefix') or 'backbone').rstrip('.') + '.'))
            else:
                initialize(self, cfg)
        if len(sources) > 1:
            raise ValueError(f'More than one checkpoint is named: {[source for source, _ in sources]}. Keep one of '
                             'pretrained and init_cfg.')
        for source, prefix in sources:
            self.load(source, prefix)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """A tensor of another shape is an error; mmengine would write a line to the log and go on."""
        for name, module in self.named_modules():
            key = f'{prefix}{name}.weight'
            if not isinstance(module, (nn.Conv3d, _BatchNorm)) or key not in state_dict:
                continue
            given, own = tuple(state_dict[key].shape), tuple(module.weight.shape)
            if given != own:
                hint = 'Is it a checkpoint of the same net with the same temporal_cfg and in_channels?'
                if len(given) == 4:
                    hint = 'That is a 2D kernel; pretrained= of the backbone inflates it, load_from does not.'
                raise ValueError(f'{key}: the checkpoint has {given}, {type(self).__name__} needs {own}. {hint}')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # -- running ----------------------------------------------------------------------------------------------------

    def _run(self, name: str, x: Tensor) -> Tensor:
        layer = getattr(self, name)
        if not (self.with_cp and torch.is_grad_enabled()) or name in self.stages[0]:
            return layer(x)
        return recomputed(layer, layer, x)

    def forward(self, x: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """(N, C, T, H, W) -> (N, C', T', H', W') of the one layer in ``out_layers``, or a tuple of several.

        Raises:
            ValueError: if the clip has another shape, or is so small that nothing of it would be left.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels or any(
                size < least for size, least in zip(x.shape[2:], self.smallest_clip)):
            raise ValueError(f'{type(self).__name__} takes clips (N, {self.in_channels}, T, H, W), the smallest with '
                             f'(T, H, W) = {self.smallest_clip}; got {tuple(x.shape)}.')
        outs = []
        with share_transforms(self):
            for name in self.chain:
                x = self._run(name, x)
                if name in self.out_layers:
                    outs.append(x)
                if len(outs) == len(self.out_layers):
                    break
        return outs[0] if len(outs) == 1 else tuple(outs)
