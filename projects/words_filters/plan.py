"""What is run and in which order, and how a learning rate is chosen."""
from typing import Dict, List, NamedTuple, Optional, Sequence

from nets import NETS  # beside this file

from tconv_mmaction.cli.run_log import Key

LRS = (0.01, 0.03, 0.1)
MOMENTUM, DECAY, BATCH = 0.9, 0.005, 10
EPOCHS = {20: 20}  # {clips per class: epochs}
# Learning rates are tried for two networks, a single filter and branches; the others take that of their kind.
LIKE: Dict[str, str] = {name: '1135' if net.filters == 'single' else 'multi2' for name, net in NETS.items()}


class Stage(NamedTuple):
    nets: Sequence[str]
    per_class: int
    folds: Sequence[int]
    seeds: Sequence[int]


FOLDS = (1, 2, 3)
CORE = ('1135', 'multi2', '1135_both', 'multi2_both', '3333', '1133', 'multi1', 'multi4')
PARTS = ('1135_rate', '1135_ego', 'multi2_rate', 'multi2_ego')
FILTERS = ('3333_both', 'multi2_3333', 'multi2_3333_both')  # with 3333: filters of early and late layers
# in the order in which they run
STAGES = (
    Stage(CORE, 20, (1, ), (0, )),
    Stage(FILTERS, 20, (1, ), (0, )),
    Stage(CORE, 20, (2, 3), (0, )),
    Stage(CORE, 20, FOLDS, (1, )),
    Stage(PARTS, 20, FOLDS, (0, )),
    Stage(CORE, 20, FOLDS, (2, )),
    Stage(FILTERS, 20, (2, 3), (0, )),
    Stage(PARTS, 20, FOLDS, (1, 2)),
)


def key_of(net: str, per_class: int, fold: int, seed: int, lr: float, tuning: bool) -> Key:
    """What identifies a run in the log."""
    return dict(net=net, per_class=per_class, fold=fold, seed=seed, lr=lr, tuning=tuning, epochs=EPOCHS[per_class],
                batch=BATCH, momentum=MOMENTUM, weight_decay=DECAY)


def tuning_keys(nets: Sequence[str]) -> List[Key]:
    """Of the networks whose learning rate these take."""
    tuned = {LIKE[net] for net in nets}
    return [key_of(net, 20, 1, 0, lr, True) for net in NETS if net in tuned for lr in LRS]


def chosen_lr(runs: Sequence[dict], net: str) -> Optional[float]:
    """The learning rate with the best accuracy on the two validation speakers; None: not all tried yet."""
    found = {run['lr']: run['accuracy'] for key in tuning_keys([net]) for run in runs
             if all(run.get(name) == value for name, value in key.items())}
    return max(found, key=found.get) if len(found) == len(LRS) else None
