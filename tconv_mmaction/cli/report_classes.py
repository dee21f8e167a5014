"""Which class the models of a report explain of a clip: the same one for all, so that their maps can be compared."""
from typing import List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ..interpret.access.targets import class_names, read_target, target_of

COMMON = 'common'  # the true class where it is known, else the one with the highest mean score


class Explained(NamedTuple):
    """The class of each model, in its own numbering, and a sentence about it for the page."""
    targets: List[Optional[int]]  # None for a model that lacks the class: it explains its own prediction
    sentence: str


def in_other_classes(index: int, names: Sequence[str], others: Sequence[str]) -> Optional[int]:
    """The class of a model in the numbering of another one: by its name, or by its index where one has no names."""
    if names == others or class_names(None, len(names)) == names or class_names(None, len(others)) == others:
        return index if index < len(others) else None
    return list(others).index(names[index]) if names[index] in others else None


def choose_class(target: Union[str, int], labels: Sequence[int], scores: Sequence[Optional[np.ndarray]],
                 names: Sequence[List[str]]) -> Explained:
    """The class that is explained of one clip.

    Args:
        target: 'common', 'label' or a class of the first model; 'prediction' is left to each model.
        labels: of the clip, in the numbering of the first model.
        scores: of every model (K,), None where it could not read the clip.
        names: of the classes of every model.

    Raises:
        ValueError: for 'label' and a clip with none or several.
    """
    first = names[0]
    if target == 'prediction':
        return Explained([None] * len(names), 'Each model explains its own prediction: the maps are of different '
                         'classes where the predictions differ.' if len(names) > 1 else '')
    if target != COMMON:
        index = target_of(target, labels, first)
        why = 'the true class' if [index] == list(labels) else 'given by --target'
        return _named(index, names, why)
    if len(labels) == 1:
        return _named(labels[0], names, 'the true class')
    index = _highest_mean(scores, names)
    if index is None:
        return Explained([None] * len(names), 'The models have no class in common: each explains its own prediction.')
    return _named(index, names, 'the class with the highest mean score of all models')


def _named(index: int, names: Sequence[List[str]], why: str) -> Explained:
    return Explained([in_other_classes(index, names[0], other) for other in names],
                     f'Explained: “{names[0][index]}”, {why}.')


def _highest_mean(scores: Sequence[Optional[np.ndarray]], names: Sequence[List[str]]) -> Optional[int]:
    """Class of the first model that all have, with the highest mean over the models with scores."""
    best, highest = None, -np.inf
    for index in range(len(names[0])):
        places = [in_other_classes(index, names[0], other) for other in names]
        values = [float(score[place]) for score, place in zip(scores, places)
                  if place is not None and score is not None]
        if None not in places and values and np.mean(values) > highest:
            best, highest = index, np.mean(values)
    return best


def read_report_target(text: Optional[str], models: int, names: List[str]) -> Union[str, int]:
    """--target of a report: without it one class for several models, the prediction of a single one."""
    if text is None:
        return COMMON if models > 1 else 'prediction'
    return read_target(text, names)
