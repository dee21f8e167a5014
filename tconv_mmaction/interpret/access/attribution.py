"""What methods that go back to the clip share: what is explained (a class or a channel), and captum's classes."""
from typing import Callable, List, Optional, Union

import torch
from torch import Tensor, nn

from .adapters import as_score_function
from .feature_maps import layer_output
from .modules import Layer, check_clip, choose_target, find_layer, frozen

REDUCTIONS = ('max', 'sum', 'none')


def captum_method(name: str) -> Callable:
    """The class of that name of ``captum.attr``.

    Raises:
        ImportError: if captum is missing, with the command that installs it.
    """
    try:
        import captum.attr
        return getattr(captum.attr, name)
    except ImportError as error:
        raise ImportError("this method needs captum, which is not installed: pip install captum (or this package's "
                          "extra 'viz').") from error


def mean_positive(output: Tensor) -> Tensor:
    """(N, F, T, H, W) -> (N, F), the mean of the positive part over time and space."""
    return output.relu().mean((2, 3, 4))


def attribute(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]], layer: Optional[Layer],
              run: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]) -> Tensor:
    """What ``run(forward, clip, index)`` says of a class score, or of a channel's mean positive activation.

    Args:
        model, clip, target, layer: as for :func:`.saliency`.
        run: gets a function from clips to scores (N, K), a copy of the clip that takes gradients, and K's index (N,);
            the model is in eval mode and frozen while it runs.

    Raises:
        KeyError, ValueError: as :func:`.saliency`.
    """
    check_clip(clip)
    score_fn = as_score_function(model, 'logits')
    if layer is None:
        forward = score_fn
    else:
        find_layer(model, layer)  # a wrong name is said before anything runs

        def forward(x):
            return mean_positive(layer_output(model, score_fn, layer, x))

    clip = clip.detach().clone().requires_grad_()
    with frozen(model), torch.enable_grad():
        with torch.no_grad():
            index = choose_target(forward(clip), target)
        return run(forward, clip, index).detach()


def over_colours(values: Tensor, reduce: str) -> Tensor:
    """(N, C, T, H, W) -> (N, T, H, W) by 'max' or 'sum', or as it is by 'none'.

    Raises:
        ValueError: for another word.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f'reduce must be one of {REDUCTIONS}, got {reduce!r}.')
    if reduce == 'none':
        return values
    return values.amax(1) if reduce == 'max' else values.sum(1)
