"""What is run and in which order, and how a learning rate is chosen."""
from typing import Dict, List, NamedTuple, Optional, Sequence

from nets import NETS  # beside this file

from tconv_mmaction.cli.run_log import Key

LRS = (0.01, 0.03, 0.1)
MOMENTUM, DECAY, BATCH, PER_CLASS = 0.9, 0.005, 10, 20
EPOCHS = (20, 40)
# Learning rates are tried for two networks, a single filter and branches; the others take that of their kind.
LIKE: Dict[str, str] = {name: '1135' if net.filters == 'single' else 'multi2' for name, net in NETS.items()}


class Stage(NamedTuple):
    nets: Sequence[str]
    folds: Sequence[int]
    seeds: Sequence[int]
    epochs: int = EPOCHS[0]


FOLDS = (1, 2, 3)
JOINT = ('1135', 'multi2', '1135_both', 'multi2_both')
OTHERS = ('3333', '1133', 'multi1', 'multi4')
PARTS = ('1135_rate', '1135_ego', 'multi2_rate', 'multi2_ego')
FILTERS = ('3333_both', 'multi2_3333')  # with 3333: filters of early and late layers
# in the order in which they run
STAGES = (
    Stage((*JOINT, *OTHERS, *FILTERS), (1, ), (0, )),
    Stage(JOINT, (2, 3), (0, )),
    Stage(OTHERS, (2, 3), (0, )),
    Stage(JOINT, FOLDS, (0, ), 40),  # does the augmentation only need more time?
    Stage((*JOINT, *OTHERS), FOLDS, (1, )),
    Stage(PARTS, FOLDS, (0, )),
    Stage((*JOINT, *OTHERS), FOLDS, (2, )),
    Stage((*FILTERS, 'multi2_3333_both'), FOLDS, (0, )),
    Stage(PARTS, FOLDS, (1, 2)),
)


def key_of(net: str, fold: int, seed: int, lr: float, tuning: bool = False, epochs: int = EPOCHS[0]) -> Key:
    """What identifies a run in the log."""
    return dict(net=net, per_class=PER_CLASS, fold=fold, seed=seed, lr=lr, tuning=tuning, epochs=epochs, batch=BATCH,
                momentum=MOMENTUM, weight_decay=DECAY)


def tuning_keys(nets: Sequence[str]) -> List[Key]:
    """Of the networks whose learning rate these take."""
    tuned = {LIKE[net] for net in nets}
    return [key_of(net, 1, 0, lr, True) for net in NETS if net in tuned for lr in LRS]


def chosen_lr(runs: Sequence[dict], net: str) -> Optional[float]:
    """The learning rate with the best accuracy on the two validation speakers; None: not all tried yet."""
    found = {run['lr']: run['accuracy'] for key in tuning_keys([net]) for run in runs
             if all(run.get(name) == value for name, value in key.items())}
    return max(found, key=found.get) if len(found) == len(LRS) else None
