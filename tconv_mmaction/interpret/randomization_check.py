"""Does an explanation depend on what the network has learnt? Its maps, as layers are randomised from the top.

Adebayo et al., "Sanity checks for saliency maps" (NeurIPS 2018), the cascading check: the parameters of the last layer
are randomised, then those of the one before as well, down to the first, and after each step the map is compared with
that of the trained network. A map that is still the same when nothing learnt is left shows edges of the clip, or the
middle, and nothing of the network: such a method is named.

Randomised is: the numbers of each parameter and of each running statistic change places at random, and those of the
parameters their signs, so that a layer keeps its scale and its units are as often on as off. (Of weights that are
negative in the mean, places alone would leave every ReLU off.) A network may go silent all the same; then its maps are
constant, and there is no similarity.
"""
import copy
from typing import Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.default_layer import last_map_layer
from .access.modules import Layer, check_clip, choose_target, find_layer, frozen
from .methods import METHODS, explain_clip, find_method

UNCHANGED = 0.5  # from this similarity on, when all is randomised, a method does not change


class RandomizationCheck(NamedTuple):
    """Similarity of maps with those of the trained network; stage 0 is the trained network, the last has no layer left.

    ``rank`` and ``rank_abs`` are Spearman's of the values and of their absolute values (a gradient that only changes
    its sign is the same picture), ``ssim`` is that of the pictures of the absolute values. NaN where a map is the same
    number everywhere, which has no order.
    """
    stages: List[List[str]]  # per stage after the first, the layers that are randomised in it, from the top
    rank: Dict[str, np.ndarray]  # method -> (stages + 1, N)
    rank_abs: Dict[str, np.ndarray]
    ssim: Dict[str, np.ndarray]
    unchanged: List[str]  # methods whose map does not depend on the network


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of all values of two maps; NaN if one is constant."""
    first, second = np.ravel(first), np.ravel(second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float('nan')
    return float(spearmanr(first, second).statistic)


def ssim(first: np.ndarray, second: np.ndarray, window: int = 7) -> float:
    """Mean structural similarity (Wang et al., 2004) of two maps of one shape, each scaled to [0, 1].

    The window is a cube of that side, cut to the axes that are shorter, with equal weights.

    >>> float(ssim(np.eye(9), np.eye(9)))
    1.0
    """
    scaled = []
    for values in (first, second):
        values = np.asarray(values, dtype=np.float64)
        scaled.append((values - values.min()) / max(float(np.ptp(values)), 1e-300))
    size = [min(window, n) for n in scaled[0].shape]

    def mean(values):
        return uniform_filter(values, size)

    x, y = scaled
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mean_x * mean_y + c1) * (2 * covariance + c2))
                  / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def layers_from_the_top(model: nn.Module, clip: Tensor) -> List[str]:
    """Names of the modules with parameters of their own, the last to run first.

    A module that runs more than once counts where it runs first; one that does not run is left out.
    """
    names: List[str] = []
    own = [(name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    handles = [module.register_forward_hook(lambda *_, name=name: names.append(name)) for name, module in own]
    try:
        with frozen(model), torch.no_grad():
            as_score_function(model, 'logits')(clip)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(names))[::-1]


@torch.no_grad()
def randomize(module: nn.Module, generator: torch.Generator) -> None:
    """The numbers of the module's own parameters and floating point buffers change places, of parameters also signs."""
    parameters, buffers = list(module.parameters(recurse=False)), list(module.buffers(recurse=False))
    for i, tensor in enumerate([*parameters, *buffers]):
        if not tensor.is_floating_point():
            continue
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        values = tensor.flatten()[order]
        if i < len(parameters):  # a running variance stays positive
            values = values * (2. * torch.randint(2, (tensor.numel(), ), generator=generator) - 1).to(tensor)
        tensor.copy_(values.view_as(tensor))


def randomization_check(model: nn.Module, clip: Tensor, methods: Optional[Sequence[str]] = None,
                        target: Union[int, str, Tensor, List[int]] = 'prediction', layer: Optional[Layer] = None,
                        stages: int = 5, seed: int = 0, threshold: float = UNCHANGED,
                        settings: Optional[Dict[str, dict]] = None) -> RandomizationCheck:
    """The cascading randomisation of a network, and how similar the maps of each method stay.

    Args:
        model: as for :func:`.explain_clip`; it is copied, and not changed.
        clip: (N, C, T, H, W).
        methods: names of ``METHODS``; by default all but 'centre' and 'random'.
        target: as for :func:`.explain_clip`; 'prediction' is the trained network's at every stage.
        layer: for the methods that look at one.
        stages: the layers are randomised in so many groups of about the same number, from the top; at most one a layer.
        seed: of the randomisation.
        threshold: a method is named if, when all layers are randomised, the mean of ``rank`` over the clips is at least
            this. (``rank_abs`` is high for any method that is 0 where the clip is black.)
        settings: method -> its settings.

    Raises:
        ValueError: if stages is below 1, the network has no parameters, or for an unknown method.

    Anything that is the clip itself does not change:

    >>> from .methods import register_method
    >>> @register_method('edges', 'differences of neighbours')
    ... def edges(model, clip, target, layer):
    ...     return clip.diff(dim=4).abs().sum(1)
    >>> net = nn.Sequential(nn.Conv3d(1, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> randomization_check(net, torch.randn(2, 1, 4, 8, 8), ['edges', 'saliency'], 0).unchanged
    ['edges']
    >>> del METHODS['edges']
    """
    check_clip(clip)
    if stages < 1:
        raise ValueError(f'stages must be at least 1, got {stages}.')
    methods = [name for name, entry in METHODS.items() if not entry.baseline] if methods is None else list(methods)
    needs_layer = any([find_method(name).layer for name in methods])
    score_fn = as_score_function(model, 'logits')
    with frozen(model), torch.no_grad():
        index = choose_target(score_fn(clip), target)
    if needs_layer:
        layer = last_map_layer(model, score_fn, clip) if layer is None else find_layer(model, layer)[0]
    names = layers_from_the_top(model, clip)
    if not names:
        raise ValueError(f'{type(model).__name__} has no parameters to randomise.')
    groups = [list(group) for group in np.array_split(names, min(stages, len(names)))]
    groups = [[str(name) for name in group] for group in groups]

    def maps(network: nn.Module) -> Dict[str, np.ndarray]:
        return {name: explain_clip(network, clip, name, index, layer, **(settings or {}).get(name, {}))
                .cpu().double().numpy() for name in methods}

    trained, generator = maps(model), torch.Generator().manual_seed(seed)
    network = copy.deepcopy(model)
    modules = dict(network.named_modules())
    measures = {measure: {name: [] for name in methods} for measure in ('rank', 'rank_abs', 'ssim')}
    for group in ([], *groups):
        for name in group:
            randomize(modules[name], generator)
        current = maps(network) if group else trained
        for name in methods:
            pairs = list(zip(trained[name], current[name]))
            measures['rank'][name].append([spearman(a, b) for a, b in pairs])
            measures['rank_abs'][name].append([spearman(abs(a), abs(b)) for a, b in pairs])
            measures['ssim'][name].append([ssim(abs(a), abs(b)) for a, b in pairs])
    arrays = {measure: {name: np.array(rows) for name, rows in of.items()} for measure, of in measures.items()}

    def same(name: str) -> bool:
        last = arrays['rank'][name][-1]
        return bool(np.isfinite(last).any() and np.nanmean(last) >= threshold)

    return RandomizationCheck(groups, **arrays, unchanged=[name for name in methods if same(name)])
