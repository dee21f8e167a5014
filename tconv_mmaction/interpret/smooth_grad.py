"""SmoothGrad: the gradient of a score, averaged over noisy copies of the clip.

Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017). The gradient at one clip flickers from pixel to
pixel with the network's ReLUs and strides; its mean over a neighbourhood does not. The noise tunnel and the gradients
are captum's (``captum.attr.NoiseTunnel``).
"""
from typing import List, Optional, Union

import torch
from torch import Tensor, nn

from .access.attribution import REDUCTIONS, attribute, captum_method, over_colours
from .access.modules import Layer


def smooth_grad(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]] = 'prediction',
                layer: Optional[Layer] = None, reduce: str = 'max', samples: int = 16, noise: float = 0.1,
                seed: int = 0, chunk_size: int = 8) -> Tensor:
    """Absolute value of the mean gradient over noisy copies of the clip.

    Args:
        model, clip, target, layer, reduce: as for :func:`.saliency`.
        samples: copies per clip.
        noise: standard deviation of the normal noise, as a share of each clip's range (maximum - minimum).
        seed: of the noise; the global random state is left alone.
        chunk_size: copies per forward and backward pass; it bounds the memory.

    Returns:
        (N, T, H, W), or (N, C, T, H, W) with ``reduce='none'``; never negative.

    Raises:
        ValueError: if samples or chunk_size are below 1 or noise is negative, and as :func:`.saliency`.
        ImportError, KeyError: as :func:`.saliency`.

    The gradient of a linear score is the same everywhere, so noise changes nothing:

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = nn.init.constant_(net[1].weight, -3.)
    >>> smooth_grad(net, torch.rand(1, 1, 4, 1, 1), 1).flatten().tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    if samples < 1 or chunk_size < 1 or noise < 0:
        raise ValueError(f'samples and chunk_size must be at least 1 and noise not negative, got {samples}, '
                         f'{chunk_size} and {noise}.')
    if reduce not in REDUCTIONS:
        raise ValueError(f'reduce must be one of {REDUCTIONS}, got {reduce!r}.')
    tunnel, plain = captum_method('NoiseTunnel'), captum_method('Saliency')

    def mean_gradient(forward, x, index):
        method, found = tunnel(plain(forward)), []
        devices = [x.device] if x.device.type == 'cuda' else []
        with torch.random.fork_rng(devices=devices):
            for row, goal in zip(x.split(1), index):
                torch.manual_seed(seed)  # a clip has the same noise alone and beside others
                deviation = noise * float(row.detach().max() - row.detach().min())
                found.append(method.attribute(
                    row, nt_type='smoothgrad', nt_samples=samples, nt_samples_batch_size=min(samples, chunk_size),
                    stdevs=deviation, target=int(goal), abs=False).detach())
        return torch.cat(found).abs() if found else torch.zeros_like(x)

    return over_colours(attribute(model, clip, target, layer, mean_gradient), reduce)
