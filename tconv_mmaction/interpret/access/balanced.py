"""Some clips of a data set that stand for all of it: lists are sorted by class, so the first ones are of one class."""
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np


def balanced_order(labels: Sequence[Optional[Tuple[int, ...]]], seed: int = 0) -> List[int]:
    """Indices of all clips in an order whose first n, for every n, have as many of each class as can be.

    Classes take turns, in an order drawn once; within a class the clips are in a random order. So a larger sample holds
    the smaller one of the same seed. Clips with several labels form classes of their own by the set of their labels,
    and clips without a label one together.

    Args:
        labels: of every clip, see :func:`.targets.labels_of`.
        seed: of both orders; the same on every machine.

    >>> [sum(i < 3 for i in balanced_order([(0,), (0,), (0,), (1,), (1,), (1,)])[:n]) for n in (2, 4, 6)]
    [1, 2, 3]
    """
    rng = np.random.default_rng(seed)
    groups: Dict[Tuple[int, ...], List[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(tuple(label or ()), []).append(index)
    queues = [[groups[label][i] for i in rng.permutation(len(groups[label]))] for label in sorted(groups)]
    queues = [queues[i] for i in rng.permutation(len(queues))]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
