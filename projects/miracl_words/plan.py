"""What is run and in which order: three settings, the networks of each stage, and how a learning rate is chosen."""
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from nets import NETS  # beside this file

from tconv_mmaction.cli.run_log import Key

TUNE_SEEDS = (0, )
SAME_STEPS = {5: 4., 20: 1., 100: .5}  # epochs relative to those of 20 clips per class


class Setting(NamedTuple):
    """How a training is done. ``lrs`` are tried for each network; ``head_lr`` None: that of the rest."""
    name: str
    title: str
    weights: str  # as it stands in the log
    width: int
    epochs: int  # with 20 clips per class
    batch: int
    lrs: Tuple[float, ...]
    head_lr: Optional[float]
    like: Dict[str, str]  # networks that take the learning rate of another one
    decay: Optional[float] = None  # None: Adam; else SGD with Nesterov momentum 0.9, transforms without decay

    def rate_of(self, net: str) -> str:
        return self.like.get(net, net)


NARROW = Setting(
    'narrow', 'a quarter of the channels, from scratch', 'scratch', width=16, epochs=20, batch=20,
    lrs=(3e-4, 1e-3, 3e-3), head_lr=None, like={'3t_x10': '3t', '3t_moving_x10': '3t_moving'})
SGD = Setting(
    'sgd', 'a quarter of the channels, from scratch, SGD', 'scratch, SGD', width=16, epochs=20, batch=10,
    lrs=(1e-2, 3e-2, 1e-1), head_lr=None, like={}, decay=5e-3)
IMAGENET = Setting(
    'imagenet', 'from ImageNet weights up to layer3', 'ImageNet up to layer3', width=64, epochs=12, batch=10,
    lrs=(1e-4, 3e-4, 1e-3), head_lr=1e-3,
    like={'3t_moving_gain': '3t_gain', '3t_frozen': '3t', '3t_x10': '3t', '3t_moving_x10': '3t_moving'})
SETTINGS = {setting.name: setting for setting in (NARROW, SGD, IMAGENET)}


class Stage(NamedTuple):
    setting: Setting
    nets: Sequence[str]
    per_class: int
    folds: Sequence[int]
    seeds: Sequence[int]


SEVEN = ('3d', '3t_moving', '3t', '3t_moving_gain', '3t_frozen', '2d', 's3d')
CORE, FOLDS = ('3d', '3t_moving', '3t'), (1, 2, 3)
GAINS = ('3t_gain_std', '3t_moving_gain_std')
# in the order in which they run
STAGES = (
    Stage(NARROW, SEVEN, 20, FOLDS, (0, )),
    Stage(SGD, CORE, 20, FOLDS, (0, 1)),
    Stage(SGD, GAINS, 20, FOLDS, (0, 1)),
    Stage(NARROW, GAINS, 20, FOLDS, (0, 1)),
    Stage(IMAGENET, CORE, 20, FOLDS, (0, )),
    Stage(NARROW, SEVEN, 100, FOLDS, (0, )),
    Stage(NARROW, SEVEN, 5, FOLDS, (0, )),
    Stage(NARROW, SEVEN, 20, FOLDS, (1, )),
    Stage(NARROW, ('3t_x10', '3t_moving_x10'), 20, FOLDS, (0, 1)),
    Stage(NARROW, ('3t_paper', '3t_conv3d'), 20, FOLDS, (0, 1)),
    Stage(NARROW, SEVEN, 100, FOLDS, (1, )),
    Stage(IMAGENET, SEVEN, 20, FOLDS, (0, )),
    Stage(NARROW, SEVEN, 20, FOLDS, (2, )),
    Stage(IMAGENET, SEVEN, 20, FOLDS, (1, )),
    Stage(IMAGENET, SEVEN, 5, FOLDS, (0, )),
    Stage(SGD, SEVEN, 20, FOLDS, (0, 1, 2)),
)


def key_of(setting: Setting, net: str, per_class: int, fold: int, seed: int, lr: float, tuning: bool) -> Key:
    """What identifies a run in the log."""
    key = dict(net=net, per_class=per_class, fold=fold, seed=seed, lr=lr, tuning=tuning, weights=setting.weights,
               epochs=round(setting.epochs * SAME_STEPS[per_class]))
    return key if setting is IMAGENET else dict(key, width=setting.width, batch=setting.batch)


def setting_of(run: dict) -> Setting:
    """Of a line of the log."""
    return next(setting for setting in SETTINGS.values() if setting.weights == run['weights'])


def tuning_keys(setting: Setting, nets: Sequence[str]) -> List[Key]:
    own = [net for net in NETS if net in {setting.rate_of(net) for net in nets}]
    return [key_of(setting, net, 20, 1, seed, lr, True) for seed in TUNE_SEEDS for lr in setting.lrs for net in own]


def better_optimiser(runs: Sequence[dict], net: str) -> Optional[Setting]:
    """Of Adam and SGD, from scratch, by the best accuracy on the two validation speakers; Adam if they are level; None:
    not all tried in both."""
    best = []
    for setting in (NARROW, SGD):
        lr = chosen_lr(runs, setting, net)
        if lr is None:
            return None
        key = key_of(setting, setting.rate_of(net), 20, 1, TUNE_SEEDS[0], lr, True)
        best.append(next(run['accuracy'] for run in runs if all(run.get(name) == value for name, value in key.items())))
    return SGD if best[1] > best[0] else NARROW


def chosen_lr(runs: Sequence[dict], setting: Setting, net: str) -> Optional[float]:
    """The learning rate with the best accuracy on the two validation speakers; None: not all tried yet."""
    results = {}
    for key in tuning_keys(setting, [net]):
        found = [run['accuracy'] for run in runs if all(run.get(name) == value for name, value in key.items())]
        results.setdefault(key['lr'], []).extend(found[:1] or [None])
    if any(None in found for found in results.values()):
        return None
    return max(results, key=lambda lr: np.mean(results[lr]))
