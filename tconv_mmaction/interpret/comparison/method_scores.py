"""How good explanations are, as reports show it: {method: (auc_deletion, auc_insertion, interval)} of a model.

The numbers are those of deletion and insertion over clips: the area under the class score while what a method ranks
highest is taken away (low is good) or given back (high is good), and the 95 % interval over clips of insertion minus
deletion. They are measured elsewhere; this reads, checks and lists them.
"""
import math
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...utils.text_files import read_json

COLUMNS = ('method', 'deletion', 'insertion', 'gain', '95 % interval')  # gain: insertion - deletion


class MethodScore(NamedTuple):
    """Of one method over all clips of a model."""
    auc_deletion: float  # low is good
    auc_insertion: float  # high is good
    interval: Optional[Tuple[float, float]] = None  # of insertion - deletion; None for fewer than two clips


MethodScores = Dict[str, MethodScore]


def _number(value, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{what} must be a number, got {value!r}.')
    return float(value)


def _interval(value, what: str) -> Optional[Tuple[float, float]]:
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = value.get('low'), value.get('high')
    if isinstance(value, str) or not hasattr(value, '__len__') or len(value) != 2:
        raise ValueError(f'{what} must be two numbers, low and high, got {value!r}.')
    if any(end is None or isinstance(end, float) and math.isnan(end) for end in value):
        return None
    return _number(value[0], what), _number(value[1], what)


def check_scores(scores: Mapping) -> MethodScores:
    """A mapping as the type says, from tuples, lists or dicts per method (as JSON has them).

    >>> check_scores({'grad_cam': [0.25, 0.75, None]})
    {'grad_cam': MethodScore(auc_deletion=0.25, auc_insertion=0.75, interval=None)}

    Raises:
        ValueError: if it is none; the message names method and value.
    """
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError('scores must be {method: (auc_deletion, auc_insertion, interval)}, got '
                         f'{type(scores).__name__}{" without a method" if scores == {} else ""}.')
    found = {}
    for method, entry in scores.items():
        if isinstance(entry, Mapping):
            entry = [entry.get(name) for name in MethodScore._fields]
        if isinstance(entry, str) or not hasattr(entry, '__len__') or not 2 <= len(entry) <= 3:
            raise ValueError(f'the scores of {method!r} must be auc_deletion, auc_insertion and interval, got '
                             f'{entry!r}.')
        deletion, insertion, interval = [*entry, None][:3]
        found[str(method)] = MethodScore(_number(deletion, f'auc_deletion of {method!r}'),
                                         _number(insertion, f'auc_insertion of {method!r}'),
                                         _interval(interval, f'interval of {method!r}'))
    return found


def read_scores(path: str) -> MethodScores:
    """:func:`check_scores` of a JSON file: the mapping, or one that holds it as 'scores'.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it holds none.
    """
    data = read_json(path)
    try:
        return check_scores(data['scores'] if isinstance(data, dict) and isinstance(data.get('scores'), dict) else data)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def score_rows(scores: MethodScores) -> List[Sequence[str]]:
    """Cells of :data:`COLUMNS`, the method with the largest insertion - deletion first."""
    best = sorted(scores.items(), key=lambda item: item[1].auc_deletion - item[1].auc_insertion)
    return [(method, f'{score.auc_deletion:.3f}', f'{score.auc_insertion:.3f}',
             f'{score.auc_insertion - score.auc_deletion:.3f}',
             '–' if score.interval is None else f'{score.interval[0]:.3f} to {score.interval[1]:.3f}')
            for method, score in best]
